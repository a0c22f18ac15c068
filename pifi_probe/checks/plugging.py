"""Checks of notebook 03: the shapes of the projections, the order of the block, and what is frozen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pifi_probe.checks.judge import Report, ask, attempt, require, require_close

__all__ = ["check_freeze", "check_pifi_forward", "check_projections"]


class _Toy(nn.Module):
    """A stand-in for a frozen layer: doubles, adds one, mixes with what stands before, and insists on three axes."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if states.dim() != 3:
            raise ValueError(f"a layer takes (batch, seq, d_llm), got {states.dim()} axes: make h a sequence of one")
        before = states.cumsum(1) - states  # what a causal layer sees besides the token itself: nothing, of one token
        return 2 * states + 1 + before


def check_projections(function: Callable[..., Any]) -> Report:
    """Check exercise 03.1: ``projections(d_slm, d_llm)`` returns L_in and L_out."""

    def judge() -> None:
        L_in, L_out = ask(function, 768, 4096)
        require(isinstance(L_in, nn.Linear) and isinstance(L_out, nn.Linear), "Both are nn.Linear.")
        require(
            L_in.weight.shape != (768, 4096),
            "L_in is the wrong way round: torch stores (out, in), so from 768 to 4096 its weight is (4096, 768).",
        )
        require(L_in.weight.shape == (4096, 768), f"L_in's weight is {tuple(L_in.weight.shape)}, not (4096, 768).")
        require(L_out.weight.shape == (768, 4096), "L_out goes back: from d_llm to d_slm.")
        require(L_in.bias is None and L_out.bias is None, "The reference code has no bias: pass bias=False.")

    return attempt("03.1", function, judge)


def check_pifi_forward(function: Callable[..., Any]) -> Report:
    """Check exercise 03.2: ``pifi_forward(h, L_in, layer, L_out)`` of a pooled (batch, d_slm)."""

    def judge() -> None:
        generator = torch.Generator().manual_seed(0)
        L_in, L_out, layer = nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False), _Toy()
        for part in (L_in, L_out):
            nn.init.normal_(part.weight, generator=generator)
        h = torch.randn(3, 4, generator=generator)  # (batch, d_slm)
        got = ask(function, h, L_in, layer, L_out)
        expected = L_out(layer(L_in(h)[:, None]))[:, 0]
        require(
            not (isinstance(got, torch.Tensor) and got.dim() == 3),
            "The result still has the sequence axis: take its only token, [:, 0].",
        )
        likely = {
            "The layer is left out.": L_out(L_in(h)),
            "You added h: the paper's wiring has no bypass.": h + expected,
            "The batch went in as one sequence, x[None]: every text saw those before it. Each text is a sequence of "
            "one, x[:, None].": L_out(layer(L_in(h)[None]))[0],
        }
        require_close(got, expected, "The order is L_in, layer, L_out.", likely)
        reached = got.requires_grad and torch.autograd.grad(got.sum(), L_in.weight, allow_unused=True)[0] is not None
        require(reached, "No gradient reaches L_in: do not detach, and do not use no_grad around the layer.")

    return attempt("03.2", function, judge)


def check_freeze(function: Callable[..., Any]) -> Report:
    """Check exercise 03.3: ``freeze(module)`` lets no weight train and lets gradients pass."""

    def judge() -> None:
        module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4))
        module.train()
        frozen = ask(function, module)
        require(isinstance(frozen, nn.Module), "Return the module.")
        left = sum(p.requires_grad for p in frozen.parameters())
        require(left == 0, f"{left} tensors still train: call requires_grad_(False) on all of them.")
        require(not frozen.training, "Dropout is still active: eval() puts the module into evaluation mode.")
        x = torch.ones(2, 4, requires_grad=True)
        out = frozen(x)
        require(out.requires_grad, "No gradient passes through: freezing weights must not stop it.")
        out.sum().backward()
        require(x.grad is not None, "The gradient does not reach the input of the frozen module.")

    return attempt("03.3", function, judge)
