"""Checks of notebook 05: an interval over seeds, the parts of a gain, and which control removes what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pifi_probe.checks.answers import as_number, as_numbers, name_likely
from pifi_probe.checks.judge import Report, ask, attempt, require, require_close

__all__ = ["check_control_for", "check_gain_parts", "check_seed_interval"]

PARTS = ("projections", "block", "knowledge")
CONTROL_FOR = {
    "two linear maps": "linear",
    "a random block of this shape": "random",
    "the sizes of the weights, not their order": "shuffled",
    "more trained weights": "mlp",
}
WRONG_CONTROL = {
    "vanilla": "it has no block at all, so it removes everything at once",
    "linear": "it has the two projections and nothing between them",
    "random": "its layer has the shape, and weights that were drawn afresh",
    "shuffled": "its layer has the same weights in another order",
    "unfrozen": "it starts with the language model's weights, so its knowledge is still there",
    "mlp": "its layer is replaced by trained weights, as many as the projections have",
}


def check_seed_interval(function: Callable[..., Any]) -> Report:
    """Check exercise 05.1: ``seed_interval(differences, t)`` of one difference a seed, shape (S,)."""

    def judge() -> None:
        differences, t = np.array([0.03, -0.01, 0.02, 0.05]), 3.18
        mean, n = differences.mean(), len(differences)

        def around(half: float) -> Any:
            return as_numbers((mean - half, mean + half), 2, "")

        error = differences.std(ddof=1) / np.sqrt(n)
        likely = {
            "The spread of S seeds divides by S - 1: std(ddof=1).": around(t * differences.std() / np.sqrt(n)),
            "That is the spread of single seeds; the mean of S seeds varies less, by the root of S.": around(
                t * differences.std(ddof=1)
            ),
            "Divide by the root of S, not by S.": around(t * differences.std(ddof=1) / n),
            "1.96 is for many seeds; with few use the t that is given.": around(1.96 * error),
            "That is one standard error: multiply it by t.": around(error),
        }
        got = as_numbers(ask(function, differences, t), 2, "low and high")
        require_close(got, around(t * error), "The mean plus and minus t standard errors.", likely, tolerance=1e-6)

    return attempt("05.1", function, judge)


def check_gain_parts(function: Callable[..., Any]) -> Report:
    """Check exercise 05.2: ``gain_parts(accuracy)`` returns what each step of the ladder of controls adds."""

    def judge() -> None:
        accuracy = {"vanilla": 0.80, "linear": 0.79, "random": 0.83, "real": 0.86}
        found = ask(function, dict(accuracy))
        require(isinstance(found, dict), "Return a dict.")
        require(set(found) == set(PARTS), f"Its keys are {', '.join(PARTS)}.")
        got = {key: float(as_number(value)) for key, value in found.items()}
        right = {
            "projections": accuracy["linear"] - accuracy["vanilla"],
            "block": accuracy["random"] - accuracy["linear"],
            "knowledge": accuracy["real"] - accuracy["random"],
        }
        likely = {
            "The knowledge is what is left beyond the random layer, not beyond vanilla.": {
                "knowledge": accuracy["real"] - accuracy["vanilla"]
            },
            "The knowledge is what is left beyond the random layer, not beyond the projections.": {
                "knowledge": accuracy["real"] - accuracy["linear"]
            },
            "The block is measured against the projections, not against vanilla.": {
                "block": accuracy["random"] - accuracy["vanilla"]
            },
            "The signs are flipped: later step minus earlier one.": {key: -value for key, value in right.items()},
        }
        name_likely(got, likely)
        total = accuracy["real"] - accuracy["vanilla"]
        require(abs(sum(got.values()) - total) < 1e-9, "The three parts must add up to real minus vanilla.")
        require(
            all(abs(got[key] - right[key]) < 1e-9 for key in PARTS), "Each part is a step: vanilla, linear, random."
        )

    return attempt("05.2", function, judge)


def check_control_for(answer: Any) -> Report:
    """Check exercise 05.3: which control has the same gain if the gain comes from this."""

    def judge() -> None:
        require(isinstance(answer, dict), "Give a dict: reason to control.")
        missing = [reason for reason in CONTROL_FOR if reason not in answer]
        require(not missing, f"A reason is missing: {', '.join(missing)}.")
        for reason, control in CONTROL_FOR.items():
            given = answer[reason]
            require(given in WRONG_CONTROL, f"{given!r} is not a control; choose among {', '.join(WRONG_CONTROL)}.")
            require(given == control, f"For {reason!r}, {given!r} is not the one: {WRONG_CONTROL[given]}.")

    return attempt("05.3", answer, judge)
