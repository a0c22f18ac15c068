"""`Budget`: how much a search may spend; and what its trials take, before it starts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pifi_probe.errors import SearchError
from pifi_probe.units import duration

__all__ = ["DEFAULT", "Budget", "Estimate", "Measure", "Spent", "Work", "estimate"]

DEFAULT = "20m"

_SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = re.compile(r"^\s*(?P<amount>\d+(\.\d*)?|\.\d+)\s*(?P<unit>[a-zA-Z]*)\s*$")


@dataclass(frozen=True)
class Spent:
    """What the finished trials of a search took, without the confirmation unless stated otherwise.

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
        ``"C"``: full runs. Seconds are wall time, added up over the processes that work on a study. A time covers
        everything, the confirmation too; runs and trials cover the selection, and the confirmation comes on top.
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
            f"{str(text)!r} is not a budget",
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
        """Whether the confirmation has to fit as well."""
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


@dataclass(frozen=True)
class Measure:
    """What a full run takes on this machine.

    Parameters
    ----------
    full_seconds : float
        Wall time.
    memory_bytes : int
        The most resident memory.
    """

    full_seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What a search will take.

    Parameters
    ----------
    full_seconds : float
        Of one full run.
    select_cost, confirm_cost : float
        In full runs: selection takes at most what is left of the budget; the confirmation is on fresh seeds.
    select_seconds, confirm_seconds : float
    memory_bytes : int
        Of each process that runs trials.
    confirm_fidelity : str
        "full", or "frozen" where the budget does not pay for full runs and their confirmation.
    covers_all : bool
        The budget covers both parts; otherwise the confirmation comes on top.
    """

    full_seconds: float
    select_cost: float
    confirm_cost: float
    select_seconds: float
    confirm_seconds: float
    memory_bytes: int
    confirm_fidelity: str = "full"
    covers_all: bool = False

    def __str__(self) -> str:
        one, choose, confirm = (
            duration(seconds, short=True) for seconds in (self.full_seconds, self.select_seconds, self.confirm_seconds)
        )
        parts = [f"a full run takes about {one} (1 C)", f"choosing takes at most {_cost(self.select_cost)} ({choose})"]
        how = []
        if self.confirm_cost:
            parts[-1] += f", confirming then about {_cost(self.confirm_cost)} ({confirm})"
            how.append("both within the budget" if self.covers_all else "the second on top of the budget")
        if self.covers_all and self.confirm_fidelity == "frozen":
            how.append("with a frozen encoder")
        parts += [", ".join(how)] if how else []
        return "; ".join([*parts, f"memory about {self.memory_bytes / 2**30:.1f} GiB a process"])


def estimate(
    measure: Measure, budget: Budget, spent: Spent, confirm_cost: float, slots: int = 1, confirm_fidelity: str = "full"
) -> Estimate:
    """Return the estimate of what is left of a search.

    Parameters
    ----------
    measure : Measure
    budget : Budget
    spent : Spent
        With the confirmation, where the budget covers it too.
    confirm_cost : float
        In full runs.
    slots : int
        Trials that run at the same time.
    confirm_fidelity : str
    """
    left = budget.left(spent)
    confirm_seconds = confirm_cost * measure.full_seconds / slots
    if budget.covers_all:
        seconds = max(left - confirm_seconds, 0.0)
        cost = seconds / max(measure.full_seconds, 1e-9) * slots
    else:  # a trial is at most a full run
        cost, seconds = left, left * measure.full_seconds / slots
    return Estimate(
        measure.full_seconds,
        cost,
        confirm_cost,
        seconds,
        confirm_seconds,
        measure.memory_bytes,
        confirm_fidelity,
        budget.covers_all,
    )


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of training, from which the cost of each fidelity follows.

    Parameters
    ----------
    encoder, block : float
        Weights of the whole encoder without embeddings, and of the blocks that "last-block" trains.
    layer : float
        Weights of a donor's layer that a single token meets.
    tail : float
        Weights of projections and head.
    tokens : float
        Mean length of a text.
    train, validation, test : int
        Texts of each split.
    frozen_train, frozen_score : int
        Texts that the fidelities "estimator" and "frozen" use.
    epochs, frozen_epochs : int
    """

    encoder: float
    block: float
    layer: float
    tail: float
    tokens: float
    train: int
    validation: int
    test: int
    frozen_train: int
    frozen_score: int
    epochs: int
    frozen_epochs: int

    def cost(self, fidelity: str, n_layers: int = 1) -> float:
        """Return the cost of a trial with this many layers, in full runs with one layer."""
        return self._work(fidelity, n_layers) / self._work("full", 1)

    def _work(self, fidelity: str, n: int) -> float:
        if fidelity == "estimator":  # one pass, and the spectrum of a Gram matrix
            return self.frozen_train * n * self.layer + self.frozen_train**3 / 3
        if fidelity == "frozen":
            train = self.frozen_epochs * self.frozen_train * (2 * n * self.layer + 3 * self.tail)
            return train + self.frozen_score * (n * self.layer + self.tail)
        trained = self.block if fidelity == "last-block" else self.encoder
        epochs = 1 if fidelity == "short" else self.epochs
        step = 3 * trained * self.tokens + 2 * n * self.layer + 3 * self.tail
        score = trained * self.tokens + n * self.layer + self.tail
        tested = self.test if fidelity == "full" else 0
        return epochs * (self.train * step + self.validation * score) + tested * score


def _cost(cost: float) -> str:
    return f"{cost:.1f} C" if cost < 10 else f"{cost:.0f} C"
