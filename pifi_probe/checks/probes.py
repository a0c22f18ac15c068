"""Checks of notebook 07: pooling, a score next to its null, and residuals of held-out examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pifi_probe.checks.answers import as_number
from pifi_probe.checks.judge import Report, ask, attempt, require_close

__all__ = ["check_left_out_residuals", "check_p_value", "check_pool_tokens"]


def check_pool_tokens(function: Callable[..., Any]) -> Report:
    """Check exercise 07.1: ``pool_tokens(states, mask)``, one text, tokens (seq, d), mask (seq,)."""

    def judge() -> None:
        generator = torch.Generator().manual_seed(0)
        states = torch.randn(6, 4, generator=generator) * torch.tensor([50.0, 1, 2, 9, 3, 3])[:, None]  # (seq, d)
        mask = torch.tensor([1, 1, 1, 1, 0, 0])
        scaled = states / states.square().mean(-1, keepdim=True).sqrt()
        likely = {
            "Padding is in your mean: leave out tokens with mask 0.": scaled[1:].mean(0),
            "The first token is in your mean; it is a sink, not a part of the text.": scaled[:4].mean(0),
            "Padding and the first token are in your mean.": scaled.mean(0),
            "Tokens are not divided by their own length, so the longest one decides.": states[1:4].mean(0),
            "You divided by the norm; the root mean square is the norm over the root of d.": scaled[1:4].mean(0) / 2,
            "That is a sum: divide by the number of tokens that count.": scaled[1:4].sum(0),
        }
        got = ask(function, states, mask)
        require_close(got, scaled[1:4].mean(0), "Scale each token, then take the mean of those that count.", likely)

    return attempt("07.1", function, judge)


def check_p_value(function: Callable[..., Any]) -> Report:
    """Check exercise 07.2: ``p_value(score, null)`` with the scores under permuted labels, shape (n,)."""

    def judge() -> None:
        null = np.array([0.5, 0.52, 0.48, 0.55, 0.6, 0.61, 0.47, 0.55, 0.66])
        score, n = 0.6, len(null)
        reached = int((null >= score).sum())
        likely = {
            "The real labels are one order too: add one above and below. No p-value is zero.": reached / n,
            "A permutation that reaches the score counts: >=, not >.": (1 + (null > score).sum()) / (1 + n),
            "Add one above and below, the real order being one of all.": reached / (1 + n),
            "You counted the permutations that are worse.": (1 + (null <= score).sum()) / (1 + n),
            "Take the share, not the number.": 1.0 + reached,
        }
        got = as_number(ask(function, score, null))
        message = "One plus the permutations that reach the score, over one plus all of them."
        right = as_number((1 + reached) / (1 + n))
        require_close(got, right, message, {words: as_number(wrong) for words, wrong in likely.items()}, 1e-6)

    return attempt("07.2", function, judge)


def check_left_out_residuals(function: Callable[..., Any]) -> Report:
    """Check exercise 07.3: ``left_out_residuals(X, y, penalty)`` of ridge regression without intercept."""

    def judge() -> None:
        generator = torch.Generator().manual_seed(0)
        X = torch.randn(7, 12, generator=generator, dtype=torch.float64)  # (N, D): more features than examples
        y = torch.randn(7, generator=generator, dtype=torch.float64)
        penalty = 2.0
        hat = X @ torch.linalg.solve(X.T @ X + penalty * torch.eye(12, dtype=torch.float64), X.T)  # (N, N)
        own, residual = hat.diagonal(), y - hat @ y
        likely = {
            "These are residuals of the training examples: divide each by one minus its own weight.": residual,
            "Divide by one minus the weight, not by the weight.": residual / own,
            "You divided by the mean of one minus the weights; each example has its own.": residual / (1 - own).mean(),
            "These are predictions, not residuals.": y - residual / (1 - own),
            "The sign is flipped: what was seen minus what was predicted.": -residual / (1 - own),
        }
        got = ask(function, X, y, penalty)
        require_close(got, residual / (1 - own), "(y - H y) / (1 - diagonal of H).", likely, tolerance=1e-6)

    return attempt("07.3", function, judge)
