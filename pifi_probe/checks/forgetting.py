"""Checks of notebook 06: what one token can train, how far weights moved, and what was forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pifi_probe.checks.answers import as_number
from pifi_probe.checks.judge import Report, ask, attempt, require, require_close

__all__ = ["check_forgetting", "check_relative_change", "check_trainable_on_one_token"]

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
STILL = {"q_proj", "k_proj"}


def check_trainable_on_one_token(answer: Any) -> Report:
    """Check exercise 06.1: the set of matrices that a sequence of one token can train."""

    def judge() -> None:
        require(isinstance(answer, set | frozenset | list | tuple), "Return a set of names.")
        unknown = sorted(set(answer) - set(MATRICES))
        require(not unknown, f"{', '.join(unknown)}: no such matrix; they are {', '.join(MATRICES)}.")
        wrong = sorted(set(answer) & STILL)
        require(
            not wrong,
            f"{' and '.join(wrong)}: the softmax over one score is one whatever the score is, so its gradient is zero.",
        )
        missing = [name for name in MATRICES if name not in {*answer, *STILL}]
        require(not missing, f"{', '.join(missing)}: the output depends on it, so it gets a gradient.")

    return attempt("06.1", answer, judge)


def check_relative_change(function: Callable[..., Any]) -> Report:
    """Check exercise 06.2: ``relative_change(before, after)`` of two dicts of tensors."""

    def judge() -> None:
        generator = torch.Generator().manual_seed(0)
        before = {name: torch.randn(n, n, generator=generator) for name, n in (("a", 2), ("b", 6))}
        after = {name: value + 0.3 * torch.randn(value.shape, generator=generator) for name, value in before.items()}
        moved = {name: after[name] - before[name] for name in before}

        def length(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
            return torch.stack([value.square().sum() for value in tensors.values()]).sum().sqrt().double()

        right = length(moved) / length(before)
        each = torch.stack([(moved[name].norm() / before[name].norm()).double() for name in before])
        likely = {
            "A mean over tensors counts a small one as much as a large one: add up squares first.": each.mean(),
            "That is the change of the length; weights that turn keep theirs. Take the length of the change.": (
                length(after) - length(before)
            )
            / length(before),
            "Divide by the length before.": length(moved),
            "Take the root of the sums of squares.": right**2,
            "You divided by the length after; the layer before is the reference.": length(moved) / length(after),
        }
        got = as_number(ask(function, before, after))
        require_close(got, right, "The length of the change over the length before, of all tensors.", likely, 1e-5)

    return attempt("06.2", function, judge)


def check_forgetting(function: Callable[..., Any]) -> Report:
    """Check exercise 06.3: ``forgetting(before, after)`` of the losses of the same texts, nats per token."""

    def judge() -> None:
        before, after = np.array([3.0, 4.0, 5.0, 3.5]), np.array([3.4, 4.1, 4.8, 3.9])
        change = after - before
        likely = {
            "The sign is flipped: a loss that rose is forgetting, and positive.": as_number(-change.mean()),
            "Some texts got easier; keep their sign.": as_number(np.abs(change).mean()),
            "That is a ratio; losses are logarithms already, so subtract.": as_number((after / before).mean()),
            "That is the change of the perplexity, which its worst text decides. Stay with nats.": as_number(
                (np.exp(after) - np.exp(before)).mean()
            ),
            "A sum grows with the number of texts: take the mean.": as_number(change.sum()),
        }
        got = as_number(ask(function, before, after))
        require_close(got, as_number(change.mean()), "The mean of after minus before.", likely, tolerance=1e-6)

    return attempt("06.3", function, judge)
