"""Checks of notebook 20: paired differences, Holm's correction, and what answers which objection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pifi_probe.checks.judge import Report, ask, attempt, require

__all__ = ["check_found_by_holm", "check_objections", "check_paired"]

OBJECTIONS = {
    "more features": "twins",
    "near copies": "texts unlike the training texts",
    "chosen where tested": "other tasks",
    "read before": "later texts",
}


def check_paired(answer: Callable[..., Any]) -> Report:
    """Check exercise 20.1: mean of the differences and its standard error, in points."""

    def judge() -> None:
        draw = np.random.default_rng(20)
        second = (draw.random(400) < 0.7).astype(int)
        first = np.where(draw.random(400) < 0.9, second, 1 - second)
        gain, error = (float(value) for value in ask(answer, first, second))
        d = 100.0 * (first - second)
        require(abs(gain + d.mean()) > 1e-9 or abs(d.mean()) < 1e-9, "The first arm minus the second.")
        require(abs(gain - d.mean() / 100) > 1e-9, "In points: a hundred times the difference of the shares.")
        require(abs(gain - d.mean()) < 1e-9, "The gain is the mean of the differences, text by text.")
        apart = np.hypot(*(100 * arm.std(ddof=1) / 20 for arm in (first, second)))
        require(abs(error - apart) > 1e-6, "That is unpaired: most texts are alike in both arms. Take the differences.")
        require(abs(error - d.std(ddof=1)) > 1e-6, "That is the spread of one text: divide by sqrt(n).")
        require(abs(error - d.std(ddof=1) / 20) < 2e-3, "The standard deviation of the differences over sqrt(n).")

    return attempt("20.1", answer, judge)


def check_found_by_holm(answer: Callable[..., Any]) -> Report:
    """Check exercise 20.2: Holm's step-down procedure."""

    def judge() -> None:
        def found(p_values: list[float]) -> list[bool]:
            return [bool(one) for one in ask(answer, p_values, 0.05)]

        require(found([0.001]) == [True], "A single p-value is compared with the level itself.")
        require(found([0.04, 0.03]) == [False, False], "The smallest of two has to be below half of the level.")
        require(
            found([0.03, 0.001, 0.02]) == [True, True, True],
            "Each that is found makes the next bound wider: level / 3, then level / 2, then the level. (Bonferroni "
            "would keep level / 3.)",
        )
        require(
            found([0.04, 0.001, 0.03]) == [False, True, False],
            "Stop at the first that fails: what is larger is not found either, in the order of the p-values given.",
        )

    return attempt("20.2", answer, judge)


def check_objections(answer: Any) -> Report:
    """Check exercise 20.3: what would show each objection."""

    def judge() -> None:
        given = dict(answer)
        missing = sorted(set(OBJECTIONS) - set(given))
        require(not missing, f"Nothing is said about {missing}.")
        unknown = sorted({str(value) for value in given.values()} - set(OBJECTIONS.values()))
        require(not unknown, f"There is no {unknown}: choose from {sorted(OBJECTIONS.values())}.")
        hints = {
            "more features": "Which arm has as many features and other weights?",
            "near copies": "Where could a readout not remember?",
            "chosen where tested": "Which texts had no part in the choice?",
            "read before": "Twins forget the texts and the skill at once. Which texts cannot have been read?",
        }
        wrong = next((name for name, hint in hints.items() if given[name] != OBJECTIONS[name]), "")
        require(not wrong, hints.get(wrong, ""))

    return attempt("20.3", answer, judge)
