"""Checks of notebook 08: what a layer adds, a gain with its error, and the evidence that does not see the scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pifi_probe.checks.answers import as_number, as_numbers
from pifi_probe.checks.judge import Report, ask, attempt, require, require_close

__all__ = ["check_added", "check_gain_with_error", "check_log_volume"]


def _layer(states: torch.Tensor) -> torch.Tensor:
    """Stand in for a layer: insist on three axes and add the squares."""
    if states.dim() != 3:
        raise ValueError(f"a layer takes (batch, seq, d_llm), got {states.dim()} axes: make x a sequence of one")
    return states + states.square()


def check_added(function: Callable[..., Any]) -> Report:
    """Check exercise 08.1: ``added(h, P, layer, size)``, what the layer adds to a projected vector of a given size."""

    def judge() -> None:
        generator = torch.Generator().manual_seed(0)
        h, P, size = torch.randn(5, 3, generator=generator), torch.randn(4, 3, generator=generator), 2.0
        x = h @ P.T  # (batch, d_llm)
        x = size * x / x.square().mean().sqrt()
        likely = {
            "That is the layer's output; subtract its input, which the encoder has already.": x + x.square(),
            "The input does not have the asked size: its root mean square over all vectors is `size`.": (
                h @ P.T
            ).square(),
            "Scale all vectors by one number; each by its own loses their lengths.": (
                size * (h @ P.T) / (h @ P.T).square().mean(-1, keepdim=True).sqrt()
            ).square(),
        }
        got = ask(function, h, P, _layer, size)
        require(
            not (isinstance(got, torch.Tensor) and got.dim() == 3),
            "The result still has the sequence axis: take its only token, [:, 0].",
        )
        require_close(got, x.square(), "Project, scale, layer(x) - x.", likely, tolerance=1e-3)

    return attempt("08.1", function, judge)


def check_gain_with_error(function: Callable[..., Any]) -> Report:
    """Check exercise 08.2: ``gain_with_error(real, shuffled)``, both (draws, examples): mean and standard error."""

    def judge() -> None:
        rng = np.random.default_rng(0)
        ease, effect = rng.random(40), rng.normal(0.1, 0.4, 40)  # of an example, the same in every draw
        shuffled = ease + rng.normal(0, 0.1, (3, 40))
        real = ease + effect + rng.normal(0, 0.1, (3, 40))
        difference = real - shuffled
        own, n = difference.mean(axis=0), difference.shape[1]
        mean, error = own.mean(), own.std(ddof=1) / math.sqrt(n)
        apart = math.sqrt(sum(arm.mean(axis=0).var(ddof=1) / n for arm in (real, shuffled)))
        likely = {
            "Draws of one example are not examples of their own: average over draws first.": (
                mean,
                difference.std(ddof=1) / math.sqrt(difference.size),
            ),
            "Both arms saw the same examples: subtract example by example before you take the spread.": (mean, apart),
            "That is the spread of single examples: divide it by the root of their number.": (mean, own.std(ddof=1)),
            "The sign is flipped: real minus shuffled.": (-mean, error),
        }
        got = as_numbers(ask(function, real, shuffled), 2, "mean and standard error")
        wrong = {words: as_numbers(pair, 2, "") for words, pair in likely.items()}
        require(
            abs(float(got[0]) - mean) < 1e-6 or abs(float(got[0]) + mean) < 1e-6, "The mean is real minus shuffled."
        )
        message = "Average over draws, then the spread over examples by the root of their number."
        require_close(got, as_numbers((mean, error), 2, ""), message, wrong, tolerance=2e-3)

    return attempt("08.2", function, judge)


def check_log_volume(function: Callable[..., Any]) -> Report:
    """Check exercise 08.3: ``log_volume(alpha, beta, eigenvalues, n_features)``, the evidence's two alpha terms."""

    def judge() -> None:
        eigenvalues, alpha, beta, n_features = np.array([4.0, 2.0, 0.5]), 0.01, 3.0, 10
        rank = len(eigenvalues)
        logs = np.log(alpha + beta * eigenvalues).sum()
        likely = {
            "That is the released form: D factors alpha above, k below. What no example has must cancel.": (
                0.5 * n_features * math.log(alpha) - 0.5 * logs
            ),
            "The first term is missing.": -0.5 * logs,
            "Take half of each: these are logarithms of square roots.": rank * math.log(alpha) - logs,
            "The signs are flipped.": 0.5 * logs - 0.5 * rank * math.log(alpha),
        }
        right = 0.5 * rank * math.log(alpha) - 0.5 * logs
        got = as_number(ask(function, alpha, beta, eigenvalues, n_features))
        wrong = {words: as_number(value) for words, value in likely.items()}
        require_close(got, as_number(right), "k/2 ln(alpha) - 1/2 sum of ln(alpha + beta s).", wrong, tolerance=1e-6)

    return attempt("08.3", function, judge)
