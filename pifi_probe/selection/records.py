"""What the database holds of a trial, read as what a search writes or refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pifi_probe.errors import CorruptFileError
from pifi_probe.reading import Refused, typed
from pifi_probe.selection.space import Candidate
from pifi_probe.selection.trials import RUNGS, Outcome, Trial

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["Record", "StoredTrial", "identity_of", "read_trial", "record_of"]


@dataclass(frozen=True)
class Record:
    """A stored trial, with what only the search itself needs to know.

    Parameters
    ----------
    trial : Trial
    phase : {"select", "confirm"}
    session : str
        Of the process that ran it.
    elapsed : float
        Seconds from the start of that session to the end of the trial, by the session's monotonic clock.
    """

    trial: Trial
    phase: str
    session: str
    elapsed: float


@dataclass(frozen=True)
class _Done:
    """What a trial says when it has ended."""

    outcome: dict[str, Any]
    elapsed: float


@dataclass(frozen=True)
class _Attributes:
    """What a trial says of itself, as the database holds it."""

    candidate: dict[str, Any]
    phase: Literal["select", "confirm"]
    worker: dict[str, str | int]
    why: str = ""
    done: _Done | None = None
    died: bool = False
    beat: int = 0


@dataclass(frozen=True)
class StoredTrial:
    """The same with its parts."""

    candidate: Candidate
    rung: str
    seed: int
    outcome: Outcome | None
    values: _Attributes


def read_trial(trial: FrozenTrial) -> StoredTrial:
    """Read what a trial says of itself.

    Raises
    ------
    CorruptFileError
        If it was not written by a search, or was altered since.
    """
    try:
        values = typed(_Attributes, trial.user_attrs)
        if not isinstance(values.worker.get("session"), str) or not isinstance(values.worker.get("pid"), int):
            raise Refused("it does not say who runs it")
        outcome = None if values.done is None else Outcome.from_dict(values.done.outcome)
        if values.done is not None and not 0 <= values.done.elapsed < math.inf:
            raise Refused(f"it took {values.done.elapsed} seconds")
        rung, seed = trial.params.get("rung"), trial.params.get("seed")
        if rung not in RUNGS or not isinstance(seed, int) or seed < 0:
            raise Refused(f"rung {rung!r:.40}, seed {seed!r:.40}")
        return StoredTrial(Candidate.from_dict(values.candidate), str(rung), seed, outcome, values)
    except ValueError as error:
        raise CorruptFileError(
            f"trial {trial.number} was not written by a search, or was altered: {error}",
            next="name a study file that pifi-probe made, or restore it from a copy",
        ) from error


def identity_of(trial: FrozenTrial) -> tuple[str, str, int]:
    """Return candidate, rung and seed of a stored trial."""
    read = read_trial(trial)
    return read.candidate.key, read.rung, read.seed


def record_of(trial: FrozenTrial, message: str = "") -> Record | None:
    """Return a stored trial, or None for one that was given back; with a `message`, count it as failed."""
    read = read_trial(trial)
    outcome = read.outcome if trial.state.is_finished() else None
    if outcome is None and message:
        outcome = Outcome(math.nan, message=message)
    if outcome is None and trial.state.is_finished():
        return None
    state = "running" if outcome is None else "failed" if outcome.message else "complete"
    found = Trial(read.candidate, read.rung, read.seed, state, outcome, trial.number, read.values.why)
    elapsed = read.values.done.elapsed if read.values.done is not None and trial.state.is_finished() else 0.0
    return Record(found, read.values.phase, str(read.values.worker["session"]), elapsed)
