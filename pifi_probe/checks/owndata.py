"""Checks of notebook 19: the rule without a model, and the sentence that an interval allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pifi_probe.checks.judge import Report, ask, attempt, require

__all__ = ["check_allowed", "check_majority"]


def check_majority(function: Callable[..., Any]) -> Report:
    """Check exercise 19.1: ``majority(train_labels, test_labels)``, the accuracy of the class frequent in training."""

    def judge() -> None:
        train, test = [1, 1, 1, 0, 1], [0, 0, 0, 1]
        got = ask(function, train, test)
        require(isinstance(got, int | float), "Return a number.")
        named = {
            0.75: "You looked at the test labels to choose the class: choose it in training.",
            0.8: "That is the share in training: count how often the class is right in the test.",
        }
        require(abs(got - 0.25) < 1e-9, named.get(round(float(got), 4), "The most frequent training class, tested."))

    return attempt("19.1", function, judge)


def check_allowed(function: Callable[..., Any]) -> Report:
    """Check exercise 19.2: ``allowed(low, high, margin)``, one of better, worse, similar, open."""

    def judge() -> None:
        cases = (
            ((0.2, 3.0, 1.0), "better", "The whole interval lies above zero."),
            ((-3.0, -0.2, 1.0), "worse", "The whole interval lies below zero."),
            ((-0.4, 0.6, 1.0), "similar", "The whole interval lies within the margin on both sides."),
            ((-2.0, 5.0, 1.0), "open", "An interval that includes zero and more than the margin says neither."),
            ((-0.5, 1.5, 1.0), "open", "Its upper end lies beyond the margin: similar is not shown."),
        )
        for numbers, right, why in cases:
            got = ask(function, *numbers)
            require(got == right, f"For the interval {numbers[0]} to {numbers[1]} you said {got!r}. {why}")

    return attempt("19.2", function, judge)
