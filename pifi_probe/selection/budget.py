"""`Budget`: how much a search may spend, in full runs, in trials or in time."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pifi_probe.errors import SearchError

__all__ = ["DEFAULT", "Budget", "Spent"]

DEFAULT = "20m"

_SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = re.compile(r"^\s*(?P<amount>\d+(\.\d*)?|\.\d+)\s*(?P<unit>[a-zA-Z]*)\s*$")


@dataclass(frozen=True)
class Spent:
    """What the finished trials of a search took, the confirmation left out unless it is said to be in.

    Parameters
    ----------
    cost : float
        In full runs.
    trials : int
    seconds : float
        Wall time of all processes that worked on the study, added up.
    """

    cost: float = 0.0
    trials: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Budget:
    """An amount and its unit.

    Parameters
    ----------
    amount : float
        Above 0.
    unit : {"C", "trials", "seconds"}
        ``"C"``: full runs. Seconds are wall time, added up over the processes that work on a study. A time is for
        everything, the confirmation too; runs and trials are for the selection, and the confirmation comes on top.
    """

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str | float | Budget) -> Budget:
        """Read ``"12"`` (full runs), ``"20 trials"``, ``"90s"``, ``"45m"`` or ``"2h"``.

        Raises
        ------
        SearchError
            If it is none of these, or not above 0.
        """
        if isinstance(text, Budget):
            return text
        match = _FORM.match(str(text))
        unit = match["unit"].lower() if match else ""
        amount = float(match["amount"]) if match else math.nan
        if match and amount > 0:
            if unit in ("", "c", "runs"):
                return cls(amount, "C")
            if unit in ("trial", "trials") and amount == int(amount):
                return cls(amount, "trials")
            if unit in _SECONDS:
                return cls(amount * _SECONDS[unit], "seconds")
        raise SearchError(
            f"{str(text)!r} is no budget",
            where="budget",
            next='write full runs ("12"), trials ("20 trials") or a time ("45m", "2h")',
        )

    def __str__(self) -> str:
        if self.unit == "seconds":
            name, size = next((n, _SECONDS[n]) for n in ("h", "m", "s") if self.amount >= _SECONDS[n] or n == "s")
            return f"{self.amount / size:g}{name}"
        return f"{self.amount:g} trials" if self.unit == "trials" else f"{self.amount:g} C"

    @property
    def covers_all(self) -> bool:
        """Whether the confirmation has to fit, too."""
        return self.unit == "seconds"

    def left(self, spent: Spent) -> float:
        """Return what is left, in the budget's own unit; never below 0."""
        used = {"C": spent.cost, "trials": spent.trials, "seconds": spent.seconds}[self.unit]
        return max(self.amount - used, 0.0)

    def share(self, spent: Spent) -> float:
        """Return the share that is spent, from 0 to 1."""
        return 1.0 - self.left(spent) / self.amount

    def fits(self, spent: Spent, cost: float, seconds: float | None) -> bool:
        """Return whether a trial of `cost` full runs, which takes `seconds` (None: unknown), still fits."""
        left = self.left(spent)
        if self.unit == "C":
            return cost <= left + 1e-9
        if self.unit == "trials":
            return left >= 1
        return left > 0 and (seconds is None or seconds <= left)
