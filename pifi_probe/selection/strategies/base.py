"""What all strategies share: the table of what was observed, and the choice by it."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from pifi_probe.errors import SearchError
from pifi_probe.registry import Registry, home_of, lacking, told_how
from pifi_probe.selection.gp import layer_posterior
from pifi_probe.selection.space import Candidate, Space
from pifi_probe.selection.trials import FIDELITIES, Proposal, Trial

__all__ = ["STRATEGIES", "Base", "register_strategy"]


class Base:
    """A strategy that proposes the first run of its plan that has not been made.

    The plan is a pure function of what was observed, so that a search resumes by observing its trials again. Values are
    losses, and lower is better: validation NLL in nats or, at the fidelity "estimator", minus the score.

    Parameters
    ----------
    space : Space
    seeds : int
        Runs of a candidate at the fidelity that decides.
    seed : int
        Of the strategy's own random numbers.
    """

    name = ""  # what users write: search(strategy=...)
    fidelity = "full"  # the one that decides

    def __init__(self, space: Space, seeds: int = 3, seed: int = 0) -> None:
        self.space, self.seeds, self.seed = space, seeds, seed
        self.trials: list[Trial] = []
        self._seen: set[tuple[str, str, int]] = set()
        self._failed: set[tuple[Candidate, str]] = set()

    def observe(self, trial: Trial) -> None:
        """Take note of a finished trial."""
        if trial.state == "running" or trial.candidate.control is not None:
            return
        self.trials.append(trial)
        self._seen.add(trial.identity)
        if trial.state == "failed":
            self._failed.add((trial.candidate, trial.fidelity))

    def propose(self, running: Sequence[Proposal], left: float) -> Proposal | None:
        """Return the next run of the plan, or None when there is nothing to do now."""
        busy = self._seen | {one.identity for one in running}
        for proposal in self.plan():
            failed = (proposal.candidate, proposal.fidelity) in self._failed
            if not failed and proposal.identity not in busy:
                return proposal
        return None

    def plan(self) -> Iterable[Proposal]:
        """Return the runs to make, in order, those already made too.

        The plan may end where it depends on runs that have not finished (`waits`): it is asked again when they have.
        """
        raise NotImplementedError(self.name)

    def choose(self) -> Candidate | None:
        """Return the best at the highest fidelity.

        Where only single layers are compared: of those that were run, the lowest mean of the process over depth.
        Otherwise, of the candidates with the most seeds, the lowest mean.
        """
        for fidelity in reversed(FIDELITIES):
            means, counts = self.means(fidelity), self.counts(fidelity)
            if means and self.space.max_layers == 1 and self.space.modes == ((),):
                return self._smoothest(fidelity)
            if means:
                most = max(counts.values())
                sure = [candidate for candidate in means if counts[candidate] == most]
                return min(sure, key=lambda candidate: means[candidate])
        return None

    def _smoothest(self, fidelity: str) -> Candidate | None:
        layers = self.space.singles()
        values = {one: own for one, own in self.outcomes(fidelity).items() if self.works(one, fidelity)}
        found = layer_posterior(layers, values, self.space)
        if found is None:
            return next(iter(values), None)
        return min(values, key=lambda one: float(found.mean[layers.index(one)]))

    def outcomes(self, fidelity: str) -> dict[Candidate, dict[int, float]]:
        """Return the values of complete trials by candidate and seed; lower is better."""
        found: dict[Candidate, dict[int, float]] = defaultdict(dict)
        for trial in self.trials:
            whole = trial.state == "complete" and trial.outcome is not None and not trial.candidate.surveys
            if whole and trial.fidelity == fidelity and trial.outcome is not None and np.isfinite(trial.outcome.value):
                found[trial.candidate][trial.seed] = trial.outcome.value
        return dict(found)

    def means(self, fidelity: str) -> dict[Candidate, float]:
        """Return the mean value of each candidate; lower is better."""
        return {candidate: float(np.mean(list(own.values()))) for candidate, own in self.outcomes(fidelity).items()}

    def counts(self, fidelity: str) -> dict[Candidate, int]:
        """Return the number of seeds of each candidate."""
        return {candidate: len(own) for candidate, own in self.outcomes(fidelity).items()}

    def works(self, candidate: Candidate, fidelity: str) -> bool:
        """Return whether a candidate has not failed at a fidelity."""
        return (candidate, fidelity) not in self._failed

    def all_seeds(self, candidate: Candidate, fidelity: str, why: str, first: int = 0) -> Iterable[Proposal]:
        """Yield the runs of a candidate with all seeds."""
        for seed in range(first, self.seeds):
            yield Proposal(candidate, fidelity, seed, why)

    def waits(self, proposals: Iterable[Proposal]) -> bool:
        """Return whether some of these runs are still to be made."""
        return any(p.identity not in self._seen and self.works(p.candidate, p.fidelity) for p in proposals)


S = TypeVar("S", bound=type[Base])
STRATEGIES: Registry[type[Base]] = Registry("strategy", SearchError)


@told_how(SearchError, "@register_strategy")
def register_strategy(cls: S) -> S:
    """Add a strategy of search; a class decorator.

    Raises
    ------
    SearchError
        If the class does not derive from `Base`, lacks a name or a plan, or its name is taken.
    """
    where = home_of(cls) or repr(cls)
    if not (isinstance(cls, type) and issubclass(cls, Base)):
        raise SearchError("a strategy is a class derived from Base", where=where, next="derive it")
    missing = lacking(cls, Base, ("name", "fidelity"))
    if not missing and "rung" in vars(cls):
        missing = "names a rung, which is called fidelity now"
    if not missing and cls.plan is Base.plan:
        missing = "lacks plan()"
    if not missing:
        try:
            inspect.signature(cls).bind(None, 3, seed=0)
        except TypeError as error:
            missing = f"cannot be made as {cls.__name__}(space, seeds, seed=0): {error}"
    if not missing and cls.fidelity not in FIDELITIES:
        missing = f"decides at a fidelity {cls.fidelity!r}, which is none of {', '.join(FIDELITIES)}"
    if missing:
        named = cls.name or cls.__name__
        raise SearchError(f"the strategy {named!r} {missing}", where=where, next="book/extending/strategy.md shows how")
    STRATEGIES.add(cls.name, cls)
    return cls
