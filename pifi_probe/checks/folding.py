"""Checks of notebook 04: what attention is for one token, and how grouped heads become one matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pifi_probe.checks.judge import Report, ask, attempt, require_close, require_shape

__all__ = ["check_group_sum", "check_one_token_attention"]

N_KV, GROUP, D_HEAD, D = 2, 3, 4, 10


def _weights() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, D, generator=generator)  # (batch, d_llm)
    W_v = torch.randn(N_KV * D_HEAD, D, generator=generator)  # (n_kv * d_head, d_llm)
    W_o = torch.randn(D, N_KV * GROUP * D_HEAD, generator=generator)  # (d_llm, n_heads * d_head)
    return x, W_v, W_o


def check_one_token_attention(function: Callable[..., Any]) -> Report:
    """Check exercise 04.1: ``one_token_attention(x, W_v, W_o, group, d_head)`` of (batch, d_llm)."""

    def judge() -> None:
        x, W_v, W_o = _weights()
        heads = (x @ W_v.T).unflatten(-1, (N_KV, D_HEAD))  # (batch, n_kv, d_head)
        repeated = heads.repeat_interleave(GROUP, dim=-2).flatten(-2)  # (batch, n_heads * d_head)
        tiled = heads.repeat(1, GROUP, 1).flatten(-2)
        likely = {
            "The heads are in the wrong order: each key-value head serves neighbours, so repeat_interleave, "
            "not repeat.": tiled @ W_o.T,
        }
        got = ask(function, x, W_v, W_o, GROUP, D_HEAD)
        require_close(got, repeated @ W_o.T, "With one token the softmax is 1: values, repeated, then W_o.", likely)

    return attempt("04.1", function, judge)


def check_group_sum(function: Callable[..., Any]) -> Report:
    """Check exercise 04.2: ``group_sum(W_o, group, d_head)`` sums the columns that read the same value."""

    def judge() -> None:
        _, _, W_o = _weights()
        blocks = W_o.unflatten(1, (N_KV, GROUP, D_HEAD))  # (d_llm, n_kv, group, d_head)
        likely = {
            "You took the mean; the outputs of the heads add up.": blocks.mean(2).flatten(1),
            "You grouped heads that lie apart: the heads of one group are neighbours.": W_o.unflatten(
                1, (GROUP, N_KV, D_HEAD)
            )
            .sum(1)
            .flatten(1),
        }
        got = ask(function, W_o, GROUP, D_HEAD)
        require_shape(got, (D, N_KV * D_HEAD), "Columns that read the same value become one.")
        require_close(got, blocks.sum(2).flatten(1), "Unflatten the columns to (n_kv, group, d_head) first.", likely)

    return attempt("04.2", function, judge)
