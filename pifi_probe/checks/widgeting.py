"""Checks of notebook 17: what to press, what was spent, and reading the table of trials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from pifi_probe.checks.answers import as_number
from pifi_probe.checks.judge import Report, ask, attempt, require, require_close

__all__ = ["check_button_for", "check_spent_on", "check_steady_best"]

BUTTONS = {
    "lunch break, the same search goes on later": "pause",
    "the kernel was restarted, the study's file is there": "resume",
    "enough is known, whatever is left of the budget": "stop",
    "how long will it take?": "estimate",
}


def check_button_for(answer: Any) -> Report:
    """Check exercise 17.1: a dict from each situation to ``"pause"``, ``"resume"``, ``"stop"`` or ``"estimate"``."""

    def judge() -> None:
        require(isinstance(answer, dict), "Answer with a dict: situation to button.")
        missing = [situation for situation in BUTTONS if answer.get(situation, ...) is ...]
        require(not missing, f"Not answered: {', '.join(missing)}.")
        for situation, button in BUTTONS.items():
            said = answer[situation]
            require(said in BUTTONS.values(), f"There is no button {said!r} in this exercise.")
            require(
                not (button == "pause" and said == "stop"),
                "Stop is for good: only a new budget continues the search. Pause keeps the search open.",
            )
            require(said == button, f"Not {said!r} for: {situation}.")

    attempted = answer is not ... and not (isinstance(answer, dict) and all(v is ... for v in answer.values()))
    return attempt("17.1", answer if attempted else ..., judge)


def _trials() -> pd.DataFrame:
    """Return a table of trials as ``w.results`` has it."""
    return pd.DataFrame(
        {
            "label": ["A[0]", "A[1]", "A[2]", "A[0]", "A[0]", "A[1]", "A[1]", "A[2]", "vanilla"],
            "fidelity": ["frozen"] * 3 + ["full"] * 5 + ["full"],
            "seed": [0, 0, 0, 0, 1, 0, 1, 0, 1000],
            "phase": ["select"] * 8 + ["confirm"],
            "state": ["complete"] * 7 + ["failed", "complete"],
            "value": [0.69, 0.60, 0.61, 0.55, 0.65, 0.57, 0.58, None, 0.54],
            "cost": [0.01] * 3 + [1.0] * 4 + [0.4, 1.0],
        }
    )


def check_spent_on(function: Callable[..., Any]) -> Report:
    """Check exercise 17.2: ``spent_on(results, fidelity)``: full runs spent at a fidelity, failed trials too."""

    def judge() -> None:
        table = _trials()
        own = table[table["fidelity"] == "full"]
        likely = {
            "A failed trial was paid for too.": own[own["state"] == "complete"]["cost"].sum(),
            "That is the cost of all fidelities.": table["cost"].sum(),
            "That is a number of trials; add up their cost.": float(len(own)),
            "Trials that confirm the choice cost as well.": own[own["phase"] == "select"]["cost"].sum(),
        }
        got = as_number(ask(function, table, "full"))
        wrong = {words: as_number(value) for words, value in likely.items()}
        require_close(
            got, as_number(own["cost"].sum()), "The sum of cost where fidelity is the one asked.", wrong, 1e-9
        )

    return attempt("17.2", function, judge)


def check_steady_best(function: Callable[..., Any]) -> Report:
    """Check exercise 17.3: ``steady_best(results)``: lowest mean over seeds of full runs that were to select."""

    def judge() -> None:
        got = ask(function, _trials())
        require(isinstance(got, str), f"Return a label, not {type(got).__name__}.")
        mistakes = {
            "A[0]": "One lucky seed: take the mean over the seeds of each label first.",
            "vanilla": "That trial confirms the choice, it is not a candidate: keep phase 'select'.",
            "A[2]": "That layer's full run failed, or you looked at another fidelity.",
        }
        require(got == "A[1]", mistakes.get(got, "Full runs of phase 'select', mean value by label, the lowest."))

    return attempt("17.3", function, judge)
