"""Checks of notebook 14: what the decoder is fed, and the precision that BLEU is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pifi_probe.checks.judge import Report, ask, attempt, require, require_close

__all__ = ["check_clipped_precision", "check_decoder_inputs"]


def check_decoder_inputs(function: Callable[..., Any]) -> Report:
    """Check exercise 14.1: ``decoder_inputs(labels, start, pad)`` of (batch, target_seq) with -100 for no token."""

    def judge() -> None:
        labels = torch.tensor([[7, 8, 9, 3], [5, 3, -100, -100]])  # (batch, target_seq)
        expected = torch.tensor([[2, 7, 8, 9], [2, 5, 3, 0]])
        likely = {
            "-100 is not a token that can be embedded: put the padding token there.": torch.tensor(
                [[2, 7, 8, 9], [2, 5, 3, -100]]
            ),
            "The decoder would see the token that it has to predict: shift by one to the right.": torch.tensor(
                [[7, 8, 9, 3], [5, 3, 0, 0]]
            ),
            "Shifted to the left: the decoder would see the future.": torch.tensor([[8, 9, 3, 2], [3, 0, 0, 2]]),
        }
        before = labels.clone()
        got = ask(function, labels, 2, 0)
        require(torch.equal(labels, before), "You changed the labels themselves: clone them first.")
        require_close(got, expected, "Start token first, then the labels without their last one.", likely)

    return attempt("14.1", function, judge)


def check_clipped_precision(function: Callable[..., Any]) -> Report:
    """Check exercise 14.2: ``clipped_precision(written, target, n)`` of lists of words."""

    def judge() -> None:
        written, target = ["the", "cat", "the", "cat", "the", "mat"], ["the", "cat", "sat", "on", "the", "mat"]
        for n, right, wrong in (
            (1, 4 / 6, {"Not clipped: each word of the target can be matched once only.": 1.0}),
            (2, 2 / 5, {"Not clipped: each pair of the target can be matched once only.": 3 / 5}),
        ):
            got = ask(function, written, target, n)
            require(isinstance(got, float | int), "Return a number.")
            likely = {message: torch.tensor(float(value)) for message, value in wrong.items()}
            message = f"For n = {n}: matched n-grams, clipped, over the n-grams that were written."
            require_close(torch.tensor(float(got)), torch.tensor(right), message, likely)
        short = ask(function, ["the"], target, 1)
        require(short == 1.0, "You divided by the target's n-grams: that is recall. Divide by those that were written.")

    return attempt("14.2", function, judge)
