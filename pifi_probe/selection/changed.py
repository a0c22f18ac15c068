"""`changed`: which texts a candidate gets right that the projections alone get wrong, and the other way round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pifi_probe.selection.store import CONFIRM, Record
from pifi_probe.selection.trials import RUNGS, Trial

if TYPE_CHECKING:
    from pifi_probe.tasks.task import Task

__all__ = ["Changed", "Change", "changed"]

Right = NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """A text that is right in most seeds of one and wrong in most of the other.

    Parameters
    ----------
    row : int
        In the test split, as far as it was scored.
    own, other : float
        Shares of seeds in which the candidate, and the projections, are right.
    """

    row: int
    own: float
    other: float


@dataclass(frozen=True)
class Changed:
    """What a candidate changes against the projections alone, on the task's test texts.

    Parameters
    ----------
    label, rung : str
    n : int
        Texts.
    seeds, other_seeds : int
        Runs of the candidate and of the projections.
    fixed, broken : tuple of Change
        The surest first.
    confirmed : bool
        The candidate was confirmed; else its test texts have been read by nothing so far.
    """

    label: str
    rung: str
    n: int
    seeds: int
    other_seeds: int
    fixed: tuple[Change, ...]
    broken: tuple[Change, ...]
    confirmed: bool

    def __str__(self) -> str:
        seeds = f"{self.rung} runs, {_seeds(self.seeds)}, against {_seeds(self.other_seeds)} of the projections"
        found = f"fixes {len(self.fixed)} and breaks {len(self.broken)} of {self.n} test texts ({seeds})"
        warning = "" if self.confirmed else "; choose no layer by test texts: only the confirmed one is judged on them"
        return f"{self.label} {found}{warning}"

    def shown(self, task: Task, most: int = 5) -> dict[str, Any]:
        """Return values for a page: words, and `most` texts of each kind with their labels.

        Raises
        ------
        TaskError
            If the task has other test texts.
        """
        rows = task.subset(test=self.n).splits["test"]
        names = task.label_names

        def told(changes: Sequence[Change]) -> list[dict[str, Any]]:
            found = []
            for one in changes[:most]:
                label = rows.labels[one.row]
                texts = [rows.texts[one.row], *([rows.pairs[one.row]] if rows.pairs else [])]
                name = names[label] if names and isinstance(label, int) else str(label)
                runs = f"right in {one.own:.0%} of its seeds, {one.other:.0%} of theirs"
                found.append({"text": " / ".join(texts)[:400], "label": name, "runs": runs})
            return found

        return {"words": str(self), "fixed": told(self.fixed), "broken": told(self.broken)}


def changed(records: Sequence[Record], label: str) -> Changed | None:
    """Return what a candidate changes, from the stored results of its runs and of the projections on one rung.

    Parameters
    ----------
    records : sequence of Record
    label : str
        `Candidate.label`.

    Returns
    -------
    Changed or None
        None where the texts of one of them are not stored, or they were run on different rungs only. The confirmation
        comes first; within it both have the same seeds.
    """
    for phases in ({CONFIRM}, None):
        own_records = [one for one in records if phases is None or one.phase in phases]
        for rung in reversed(RUNGS):
            trials = [one.trial for one in own_records if one.trial.rung == rung and one.trial.state == "complete"]
            own = _right(one for one in trials if one.candidate.label == label)
            other = _right(one for one in trials if one.candidate.control == "linear")
            if len(own) and len(other) and own.shape[1] == other.shape[1]:
                return _compared(label, rung, own, other, confirmed=phases is not None)
    return None


def _compared(label: str, rung: str, own: Right, other: Right, *, confirmed: bool) -> Changed:
    mine, theirs = own.mean(0), other.mean(0)
    rows = sorted(range(len(mine)), key=lambda row: (-abs(mine[row] - theirs[row]), row))
    told = [Change(row, float(mine[row]), float(theirs[row])) for row in rows]
    fixed = tuple(one for one in told if one.own > 0.5 > one.other)
    broken = tuple(one for one in told if one.own < 0.5 < one.other)
    return Changed(label, rung, len(mine), len(own), len(other), fixed, broken, confirmed)


def _right(trials: Iterable[Trial]) -> Right:
    """Return whether each text of the task's own test split is right, (runs, texts); empty where it is not stored."""
    found: list[str] = []
    for trial in trials:
        tests = ((trial.outcome.result if trial.outcome else None) or {}).get("tests") or {}
        correct = next((own.get("correct") for own in tests.values()), None)
        if correct:
            found.append(correct)
    if not found or len({len(one) for one in found}) > 1:
        return np.empty((0, 0))
    return np.array([list(one) for one in found], dtype=np.float64)


def _seeds(n: int) -> str:
    return f"{n} seed{'s' * (n != 1)}"
