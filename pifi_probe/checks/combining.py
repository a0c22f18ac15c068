"""Checks of notebook 11: a mix of layers, a vote of seeds, and the gain that is more than an ensemble's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pifi_probe.checks.answers import as_number
from pifi_probe.checks.judge import Report, ask, attempt, require, require_close

__all__ = ["check_majority_vote", "check_mix", "check_more_than_ensemble"]


def _layers() -> list[Callable[[torch.Tensor], torch.Tensor]]:
    return [lambda x: x + x.square(), lambda x: x + torch.sin(x), lambda x: x - 0.5 * x.abs()]


def check_mix(function: Callable[..., Any]) -> Report:
    """Check exercise 11.1: ``mix(x, layers, weights)``: the first layer, and what the others add to ``x``, weighted."""

    def judge() -> None:
        x = torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(0))
        layers, weights = _layers(), torch.tensor([0.3, -0.2])
        branches = [layer(x) - x for layer in layers]
        right = layers[0](x) + weights[0] * branches[1] + weights[1] * branches[2]
        likely = {
            "Add the others' branches, layer(x) - x, not their outputs: x would be counted again.": (
                layers[0](x) + weights[0] * layers[1](x) + weights[1] * layers[2](x)
            ),
            "That is a series: every branch of a mix gets x itself, not the output so far.": _series(
                x, layers, weights
            ),
            "The first layer counts in full; the weights belong to the layers after it.": (
                weights[0] * branches[1] + weights[1] * branches[2]
            ),
            "Start from the first layer's output, not from its branch.": right - x,
        }
        got = ask(function, x, layers, weights)
        require_close(got, right, "layers[0](x) + sum of weights[j] * (layers[j + 1](x) - x).", likely)
        zero = ask(function, x, layers, torch.zeros(2))
        require(torch.equal(zero, layers[0](x)), "With weights of zero it must be the first layer alone, exactly.")

    return attempt("11.1", function, judge)


def _series(
    x: torch.Tensor, layers: list[Callable[[torch.Tensor], torch.Tensor]], weights: torch.Tensor
) -> torch.Tensor:
    y = layers[0](x)
    for weight, layer in zip(weights, layers[1:], strict=True):
        y = y + weight * (layer(y) - y)
    return y


def check_majority_vote(function: Callable[..., Any]) -> Report:
    """Check exercise 11.2: ``majority_vote(correct)`` of an odd number of models on two classes, (models, texts)."""

    def judge() -> None:
        correct = np.array([[1, 0, 1, 1, 0], [1, 0, 0, 1, 0], [0, 1, 1, 1, 0]])
        right = (correct.mean(0) > 0.5).mean()
        likely = {
            "That is the mean of the members: count a text as right when most of them are right.": correct.mean(),
            "One right member is not enough, most must be.": correct.max(0).mean(),
            "Most is enough, not all.": correct.min(0).mean(),
        }
        got = as_number(ask(function, correct))
        wrong = {words: as_number(value) for words, value in likely.items()}
        require_close(got, as_number(right), "Share of texts on which more than half are right.", wrong, 1e-9)

    return attempt("11.2", function, judge)


def check_more_than_ensemble(function: Callable[..., Any]) -> Report:
    """Check exercise 11.3: ``more_than_ensemble(accuracy)``, from a dict of points to points."""

    def judge() -> None:
        points = {
            "single": 79.0,
            "combination": 81.0,
            "repeated": 80.2,
            "shuffled": 79.8,
            "ensemble": 80.7,
            "mlp": 79.5,
        }
        best = max(points[name] for name in ("repeated", "shuffled", "ensemble", "mlp"))
        likely = {
            "That is the gain over one layer; the controls of equal size have a gain too.": 2.0,
            "Compare with the best control, not with their mean.": 81.0 - np.mean([80.2, 79.8, 80.7, 79.5]),
            "The sign is flipped: the combination minus the best control.": best - 81.0,
            "Shuffled layers are one of four controls: take the best of all.": 81.0 - 79.8,
        }
        got = as_number(ask(function, points))
        wrong = {words: as_number(value) for words, value in likely.items()}
        require_close(got, as_number(81.0 - best), "combination - max of the four controls.", wrong, 1e-6)

    return attempt("11.3", function, judge)
