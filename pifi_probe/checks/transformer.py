"""Checks of notebook 01: the three pieces of a layer, written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from pifi_probe.checks.judge import Report, ask, attempt, require, require_close

__all__ = ["check_causal_weights", "check_gated_mlp", "check_rms_norm"]

EPS = 0.1  # large, so that its place shows


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check_rms_norm(function: Callable[..., Any]) -> Report:
    """Check exercise 01.1: ``rms_norm(x, gain, eps)`` of (batch, seq, d)."""

    def judge() -> None:
        x, gain = _random(2, 3, 8) + 0.5, _random(8, seed=1)
        square = x.square().mean(-1, keepdim=True)
        centred = x - x.mean(-1, keepdim=True)
        expected = x * (square + EPS).rsqrt() * gain
        likely = {
            "Is eps inside the root? It is added to the mean square.": x / (square.sqrt() + EPS) * gain,
            "The gain is missing.": x * (square + EPS).rsqrt(),
            "You took the sum of squares; RMSNorm takes their mean.": x
            * (x.square().sum(-1, keepdim=True) + EPS).rsqrt()
            * gain,
            "You subtracted the mean: that is LayerNorm.": centred
            * (centred.square().mean(-1, keepdim=True) + EPS).rsqrt()
            * gain,
            "The mean goes over the last axis only: each token is normalised on its own.": x
            * (x.square().mean() + EPS).rsqrt()
            * gain,
        }
        require_close(ask(function, x, gain, EPS), expected, "Compare with the equation, step by step.", likely)

    return attempt("01.1", function, judge)


def check_causal_weights(function: Callable[..., Any]) -> Report:
    """Check exercise 01.2: ``causal_weights(scores)`` of (heads, seq, seq)."""

    def judge() -> None:
        scores = _random(2, 5, 5)
        future = torch.ones(5, 5, dtype=torch.bool).triu(1)
        expected = scores.masked_fill(future, -torch.inf).softmax(-1)
        got = ask(function, scores.clone())
        likely = {
            "No mask: each token looks at later ones.": scores.softmax(-1),
            "Wrong axis: the weights of one query, a row, must sum to one.": scores.masked_fill(
                future, -torch.inf
            ).softmax(-2),
            "Mask before the softmax: set to zero after it, the rows no longer sum to one.": scores.softmax(
                -1
            ).masked_fill(future, 0),
            "The mask is transposed: it keeps the future and hides the past.": scores.masked_fill(
                future.T, -torch.inf
            ).softmax(-1),
            "Zero is not a mask: exp(0) is 1. Use minus infinity.": scores.masked_fill(future, 0).softmax(-1),
        }
        if isinstance(got, torch.Tensor) and got.isnan().any():
            require(False, "NaN in the first row: a token must be allowed to look at itself (triu(1), not triu(0)).")
        require_close(got, expected, "Each row sums to one, and weights on later tokens are zero.", likely)

    return attempt("01.2", function, judge)


def check_gated_mlp(function: Callable[..., Any]) -> Report:
    """Check exercise 01.3: ``gated_mlp(x, W_gate, W_up, W_down)`` with weights as torch stores them, (out, in)."""

    def judge() -> None:
        x = _random(3, 6)
        gate, up, down = _random(10, 6, seed=1), _random(10, 6, seed=2), _random(6, 10, seed=3)
        expected = (F.silu(x @ gate.T) * (x @ up.T)) @ down.T
        likely = {
            "SiLU goes on the gate, not on the up projection.": ((x @ gate.T) * F.silu(x @ up.T)) @ down.T,
            "SiLU goes on the gate alone, before the product.": F.silu((x @ gate.T) * (x @ up.T)) @ down.T,
            "The gate multiplies; you added.": (F.silu(x @ gate.T) + (x @ up.T)) @ down.T,
            "The activation is missing.": ((x @ gate.T) * (x @ up.T)) @ down.T,
            "This layer uses SiLU (x times sigmoid of x), not GELU.": (F.gelu(x @ gate.T) * (x @ up.T)) @ down.T,
        }
        require_close(ask(function, x, gate, up, down), expected, "Compare with the equation.", likely)

    return attempt("01.3", function, judge)
