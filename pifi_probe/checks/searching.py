"""Checks of notebook 10: chance to be the best, a Thompson draw, a race with paired seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pifi_probe.checks.answers import as_numbers
from pifi_probe.checks.judge import Report, ask, attempt, require, require_close

__all__ = ["check_chance_to_be_best", "check_next_layer", "check_paired_error"]


def check_chance_to_be_best(function: Callable[..., Any]) -> Report:
    """Check exercise 10.1: ``chance_to_be_best(draws)`` of losses, (draws, layers): one probability a layer."""

    def judge() -> None:
        draws = np.random.default_rng(0).normal([0.60, 0.61, 0.58, 0.66], [0.01, 0.05, 0.02, 0.01], (400, 4))
        shares = np.bincount(draws.argmin(1), minlength=4) / len(draws)
        likely = {
            "Losses: the best layer is the lowest one.": np.bincount(draws.argmax(1), minlength=4) / len(draws),
            "Divide by the number of draws.": shares * len(draws),
            "Choose within every draw, not by the mean of all draws.": np.eye(4)[draws.mean(0).argmin()],
        }
        got = torch.as_tensor(np.asarray(ask(function, draws), dtype=np.float64))
        require(got.ndim == 1 and len(got) == 4, "Return one number a layer, shape (layers,).")
        wrong = {words: torch.as_tensor(value) for words, value in likely.items()}
        require_close(got, torch.as_tensor(shares), "The share of the draws in which a layer is lowest.", wrong, 1e-6)

    return attempt("10.1", function, judge)


def check_next_layer(function: Callable[..., Any]) -> Report:
    """Check exercise 10.2: ``next_layer(mean, sd, rng)``: one Thompson draw of independent layers, lowest wins."""

    def judge() -> None:
        mean, sd = np.array([0.60, 0.62, 0.61]), np.array([0.001, 0.05, 0.001])
        chosen = [int(ask(function, mean, sd, np.random.default_rng(seed))) for seed in range(200)]
        shares = np.bincount(chosen, minlength=3) / len(chosen)
        require(len(shares) == 3, "Return the number of a layer.")
        require(shares.max() < 1, "It is always the same layer: draw one value a layer first, then take the lowest.")
        require(
            abs(shares[1] - 0.34) < 0.15 and shares[0] > shares[2],
            "Draw each layer's loss from its own mean and sd, rng.normal(mean, sd), and take the lowest.",
        )

    return attempt("10.2", function, judge)


def check_paired_error(function: Callable[..., Any]) -> Report:
    """Check exercise 10.3: ``paired(a, b)``, losses of two layers with the same seeds: mean, standard error."""

    def judge() -> None:
        seed = np.array([0.0, 0.08, -0.05, 0.02, 0.06])
        a = 0.60 + seed + np.array([0.002, -0.001, 0.003, 0.0, -0.002])
        b = 0.61 + seed + np.array([-0.001, 0.002, 0.001, -0.003, 0.001])
        d, n = a - b, len(a)
        error = d.std(ddof=1) / math.sqrt(n)
        likely = {
            "Subtract seed by seed first; what a seed does to both cancels.": (
                d.mean(),
                math.sqrt(a.var(ddof=1) / n + b.var(ddof=1) / n),
            ),
            "That is the spread of one difference: divide by the root of the number of seeds.": (
                d.mean(),
                d.std(ddof=1),
            ),
            "Divide by n - 1 in the variance: ddof=1.": (d.mean(), d.std() / math.sqrt(n)),
            "The sign is flipped: a minus b.": (-d.mean(), error),
        }
        got = as_numbers(ask(function, a, b), 2, "mean and standard error")
        wrong = {words: as_numbers(pair, 2, "") for words, pair in likely.items()}
        require_close(got, as_numbers((d.mean(), error), 2, ""), "Mean and error of a - b.", wrong, tolerance=1e-5)

    return attempt("10.3", function, judge)
