"""What runs a trial, as the search sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from pifi_probe.selection.estimate import Measure
from pifi_probe.selection.space import Candidate
from pifi_probe.selection.trials import Outcome

__all__ = ["Evaluator"]


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

    def evaluate(self, candidate: Candidate, rung: str, seed: int, stop: Callable[[], bool]) -> Outcome:
        """Run one trial; equal arguments give equal values on one machine.

        Parameters
        ----------
        candidate : Candidate
        rung : str
            One of `pifi_probe.selection.trials.RUNGS`.
        seed : int
        stop : callable
            Asked at every training step; when it says True, the trial leaves off.

        Raises
        ------
        RunInterrupted
            When it was told to stop.
        """

    def cost(self, candidate: Candidate, rung: str) -> float:
        """Return what a trial costs, in full runs, before it runs."""

    def measure(self) -> Measure:
        """Return how long a full run takes here, and how much memory, from a few timed steps."""
