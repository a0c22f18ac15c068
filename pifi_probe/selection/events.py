"""What a search reports while it runs: one small record for each event, for the command line and the widget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pifi_probe.selection.budget import Budget, Estimate, Spent
from pifi_probe.selection.trials import Proposal, Trial
from pifi_probe.units import duration

__all__ = [
    "Estimated",
    "Event",
    "Failed",
    "Finished",
    "OnEvent",
    "Phase",
    "Started",
    "Stopped",
    "TrialFinished",
    "TrialStarted",
]


@dataclass(frozen=True)
class Event:
    """Base of all events; they come from the thread that runs the search."""


@dataclass(frozen=True)
class Started(Event):
    """The study is on disk and open; `study` can be paused and stopped from another thread from now on."""

    study: Any


@dataclass(frozen=True)
class Estimated(Event):
    """Time and memory that the search will take, before its first trial."""

    estimate: Estimate


@dataclass(frozen=True)
class Phase(Event):
    """A part of the search begins: ``"select"`` or ``"confirm"``."""

    name: str


@dataclass(frozen=True)
class TrialStarted(Event):
    """A trial is on disk as running."""

    proposal: Proposal
    number: int


@dataclass(frozen=True)
class TrialFinished(Event):
    """A trial is on disk as complete; `share` of the budget is spent.

    `confirmed` runs of about `to_confirm` have confirmed the choice; `remaining` seconds are left for both parts, if
    that is known.
    """

    trial: Trial
    spent: Spent
    share: float
    confirmed: int = 0
    to_confirm: int = 0
    remaining: float | None = None

    def progress(self, budget: Budget) -> str:
        """Return how far both parts are, in words."""
        amounts = {
            "C": f"{self.spent.cost:.2f} of {budget.amount:g} C",
            "trials": f"{self.spent.trials} of {budget.amount:g} trials",
            "seconds": f"{self.spent.trials} trials ({self.spent.cost:.2f} C)",
        }
        parts = [f"choose {amounts[budget.unit]}"]
        if self.to_confirm:
            parts.append(f"confirm {self.confirmed} of {self.to_confirm} runs")
        if self.remaining is not None:
            parts.append(f"about {duration(self.remaining, short=True)} left")
        return ", ".join(parts)


@dataclass(frozen=True)
class Failed(Event):
    """A trial failed and is in the table with its message; the search continues."""

    trial: Trial
    message: str


@dataclass(frozen=True)
class Stopped(Event):
    """The search stopped early: ``"paused"`` or ``"stopped"``."""

    reason: str


@dataclass(frozen=True)
class Finished(Event):
    """Nothing is left to do; `why` in words."""

    why: str


OnEvent = Callable[[Event], None]
