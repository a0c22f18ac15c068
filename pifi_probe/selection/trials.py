"""What a search does and learns: `Proposal`, `Outcome`, `Trial`; and who proposes and runs: `Strategy`, `Evaluator`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from pifi_probe.reading import Refused, typed
from pifi_probe.selection.budget import Measure
from pifi_probe.selection.space import Candidate
from pifi_probe.vocabulary import FIDELITIES

__all__ = ["FIDELITIES", "Evaluator", "Outcome", "Proposal", "Strategy", "Trial"]


@dataclass(frozen=True)
class Outcome:
    """What a trial found.

    Parameters
    ----------
    value : float
        Validation NLL in nats, lower is better; at the fidelity "estimator", minus the score.
    accuracy : float or None
        On the validation split, a share.
    cost : float
        In full runs.
    seconds : float
        Wall time.
    result : dict or None
        ``RunResult.to_dict()``, or what the frozen run found; for a one-shot run ``{"weights": {layer: share}}``.
    message : str
        Why it failed, if it did.
    latency : float or None
        Milliseconds for one text, where it was measured.
    bytes : int or None
        Size of the plugged model, where it is known.
    """

    value: float
    accuracy: float | None = None
    cost: float = 0.0
    seconds: float = 0.0
    result: dict[str, Any] | None = None
    message: str = ""
    latency: float | None = None
    bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Outcome:
        """Rebuild an outcome from `to_dict`.

        Raises
        ------
        Refused
            If a value is missing, of another type, or one that no trial can have; a ValueError.
        """
        outcome = typed(cls, values)
        good = outcome.message or math.isfinite(outcome.value)
        shares = outcome.accuracy is None or 0 <= outcome.accuracy <= 1
        amounts = (outcome.cost, outcome.seconds, outcome.latency or 0, outcome.bytes or 0)
        if not good or not shares or not all(0 <= amount < math.inf for amount in amounts):
            shown = {"value": outcome.value, "accuracy": outcome.accuracy, "cost, seconds, latency, bytes": amounts}
            raise Refused(f"an outcome that cannot be: {shown}")
        return outcome


@dataclass(frozen=True)
class Proposal:
    """What to run next, and why, in words."""

    candidate: Candidate
    fidelity: str
    seed: int
    why: str = ""

    @property
    def identity(self) -> tuple[str, str, int]:
        """Candidate, fidelity and seed: two proposals that agree in them are the same run."""
        return self.candidate.key, self.fidelity, self.seed


@dataclass(frozen=True)
class Trial:
    """One run of a candidate at a fidelity with a seed.

    Parameters
    ----------
    candidate : Candidate
    fidelity : str
        One of `FIDELITIES`.
    seed : int
    state : {"complete", "failed", "running"}
    outcome : Outcome or None
        None while it runs.
    number : int
        Order in which trials were started.
    why : str
        Why this one came next.
    """

    candidate: Candidate
    fidelity: str
    seed: int
    state: str
    outcome: Outcome | None
    number: int
    why: str = ""

    @property
    def identity(self) -> tuple[str, str, int]:
        """Candidate, fidelity and seed."""
        return self.candidate.key, self.fidelity, self.seed


class Strategy(Protocol):
    """Decides what to run next.

    A strategy is a pure function of space, options, seed, and the finished trials it was told of, taken by number:
    a search resumes by building it again and telling it all of them. It never proposes what is running or was
    observed, nor a candidate that failed at that fidelity.
    """

    name: str

    def observe(self, trial: Trial) -> None:
        """Take note of a finished trial, complete or failed."""

    def propose(self, running: Sequence[Proposal], left: float) -> Proposal | None:
        """Return the next run.

        Parameters
        ----------
        running : sequence of Proposal
            What other workers are doing.
        left : float
            Budget that is left, in full runs; infinite when it is counted otherwise.

        Returns
        -------
        Proposal or None
            None: nothing more to do now; with nothing running, the strategy is done.
        """

    def choose(self) -> Candidate | None:
        """Return the candidate that it would pick now, never a control; None before anything is known."""


class Evaluator(Protocol):
    """Runs trials. It travels to worker processes, so it can be pickled."""

    def check(self) -> Mapping[str, str]:
        """Make sure that this machine has models and texts.

        Returns
        -------
        mapping
            For every model a name and a digest of its weights, which have to be the same in all sessions of a study.

        Raises
        ------
        PifiProbeError
            If something is missing; no trial has been touched then.
        """

    def evaluate(self, candidate: Candidate, fidelity: str, seed: int, stop: Callable[[], bool]) -> Outcome:
        """Run one trial; equal arguments give equal values on one machine.

        Parameters
        ----------
        candidate : Candidate
        fidelity : str
            One of `pifi_probe.selection.trials.FIDELITIES`.
        seed : int
        stop : callable
            Asked at every training step; when it says True, the trial stops.

        Raises
        ------
        RunInterrupted
            When it was told to stop.
        """

    def cost(self, candidate: Candidate, fidelity: str) -> float:
        """Return what a trial costs, in full runs, before it runs."""

    def measure(self) -> Measure:
        """Return how long a full run takes here, and how much memory, from a few timed steps."""
