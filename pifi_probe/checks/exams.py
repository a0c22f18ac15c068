"""Checks of notebook 15: chance, choices out of scores, and how many questions a claim needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pifi_probe.checks.judge import Report, ask, attempt, require, require_close

__all__ = ["check_chance", "check_chosen", "check_questions_needed"]


def check_chance(function: Callable[..., Any]) -> Report:
    """Check exercise 15.1: ``chance(n_choices)``, the accuracy of guessing."""

    def judge() -> None:
        got = ask(function, [2, 4, 4, 5])
        require(isinstance(got, float | int), "Return a number.")
        likely = {
            "One over the mean number of choices; average the chances of the questions instead.": torch.tensor(4 / 15),
            "The sum is how many guesses are right: divide by the questions.": torch.tensor(1.2),
        }
        require_close(torch.tensor(float(got)), torch.tensor(0.3), "The mean of 1 / choices.", likely)

    return attempt("15.1", function, judge)


def check_chosen(function: Callable[..., Any]) -> Report:
    """Check exercise 15.2: ``chosen(scores, n_choices)`` of (batch * n_choices,), question after question."""

    def judge() -> None:
        scores = torch.tensor([0.1, 0.9, 0.2, 0.5, 0.4, 0.3])  # (batch * n_choices,)
        got = ask(function, scores, 3)
        require(isinstance(got, torch.Tensor), "Return a tensor.")
        likely = {
            "You mixed the questions: the choices of one question lie side by side, so reshape to (-1, n_choices).": (
                scores.reshape(3, 2).T.argmax(1)
            ),
            "Those are the scores; return their positions.": scores.reshape(2, 3).amax(1),
            "You took the lowest score.": scores.reshape(2, 3).argmin(1),
        }
        require_close(got, torch.tensor([1, 0]), "One index for each question.", likely)

    return attempt("15.2", function, judge)


def check_questions_needed(function: Callable[..., Any]) -> Report:
    """Check exercise 15.3: ``questions_needed(chance, margin)``, for a 95 % interval of +- `margin`."""

    def judge() -> None:
        got = ask(function, 0.25, 0.05)  # 1.96^2 * 0.1875 / 0.0025 = 288.12
        require(isinstance(got, int), "Return a whole number: math.ceil.")
        named = {
            288: "Round up: with 288 the interval is a little too wide.",
            289: "",
            15: "The margin is squared: twice as exact needs four times as many questions.",
            76: "Without the 1.96 this is a 68 % interval.",
            75: "Without the 1.96 this is a 68 % interval.",
            666: "The root of p (1 - p) is the standard deviation; its square, p (1 - p), belongs here.",
        }
        require(got == 289, named.get(got, "n = 1.96^2 p (1 - p) / margin^2, rounded up."))

    return attempt("15.3", function, judge)
