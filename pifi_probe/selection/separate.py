"""`Separation`: what would tell the two best candidates of a search apart, and the strategy that runs it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pifi_probe.escaping import printable
from pifi_probe.ladder import Effect, needed
from pifi_probe.selection.conclude import LEVEL, SearchResult, selected
from pifi_probe.selection.gp import seed_adjusted
from pifi_probe.selection.space import Candidate
from pifi_probe.selection.store import Record
from pifi_probe.selection.trials import Proposal, Trial
from pifi_probe.units import duration

__all__ = ["Listed", "Separation", "separation"]

MOST_SEEDS = 50  # of each candidate; beyond, either is as good
_TOLD = 1.96  # standard errors

Values = dict[Candidate, dict[int, float]]


@dataclass(frozen=True)
class Separation:
    """What would tell the two best candidates apart.

    Parameters
    ----------
    best, next : Candidate
        The likeliest and the second.
    fidelity : str
        On which both are run.
    difference : float
        By which the loss of `next` is higher, in nats, as far as it was measured.
    noise : float
        Standard deviation of a run over seeds, in nats; NaN where no run was repeated.
    seeds : int
        Further seeds of each; 0: their runs already tell them apart.
    seconds : float
        Wall time of all runs.
    runs : tuple of Proposal
        Empty where there is nothing to run, or more than anybody would want to.
    """

    best: Candidate
    next: Candidate
    fidelity: str
    difference: float
    noise: float
    seeds: int
    seconds: float
    runs: tuple[Proposal, ...]

    def __str__(self) -> str:
        pair = f"{self.best.label} and {self.next.label}"
        found = f"{pair} differ by {abs(self.difference):.4f} nats ({self.fidelity} runs)"
        found += (
            f"; another seed moves a run by {self.noise:.4f}" if math.isfinite(self.noise) else "; no run was repeated"
        )
        if not self.seeds:
            return printable(f"{found}. Their runs already tell them apart.")
        time = f"{duration(self.seconds)}"
        if not self.runs:
            return printable(
                f"{found}. About {self.seeds} more seeds of each would be needed, {time}: take either one."
            )
        more = f"{self.seeds} more seed{'s' * (self.seeds != 1)} of each would"
        sure = (
            "tell whether the difference is noise"
            if not math.isfinite(self.noise)
            else "tell them apart, if the difference is real"
        )
        return printable(f"{found}. About {more} {sure}: {self._amount} in {time}.")

    @property
    def _amount(self) -> str:
        return f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}"

    @property
    def offer(self) -> str:
        """The label of a button; empty where there is nothing to run."""
        return f"Run these seeds: {self._amount}, {duration(self.seconds, short=True)}" if self.runs else ""


def separation(records: Sequence[Record], result: SearchResult | None) -> Separation | None:
    """Return what would tell the two best candidates apart; None before two of them were run at the highest fidelity.

    The difference is taken to be as large as it looks, which is more than it is, since the best looks better than it
    is; the noise of seeds is that of all candidates (`seed_adjusted`).
    """
    if result is None or result.fidelity == "estimator":  # which has no seeds
        return None
    trials = [one for one in selected(records) if one.fidelity == result.fidelity and _compared(one.candidate)]
    values: Values = {}
    for trial in trials:
        if trial.state == "complete" and trial.outcome is not None and math.isfinite(trial.outcome.value):
            values.setdefault(trial.candidate, {})[trial.seed] = trial.outcome.value
    if len(values) < 2:
        return None
    place = {candidate: i for i, candidate in enumerate(values)}
    table = {(place[one], seed): value for one, own in values.items() for seed, value in own.items()}
    _, means, variances = seed_adjusted(table)
    noise = math.sqrt(float(variances[0]) * len(values[next(iter(values))]))
    sure = {one.label: one.p_best for one in result.posterior}
    best, other = sorted(values, key=lambda one: (-sure.get(one.label, 0.0), means[place[one]]))[:2]
    difference = float(means[place[other]] - means[place[best]])
    n = min(len(values[best]), len(values[other]))
    spent = [trial.outcome.seconds for trial in trials if trial.outcome is not None]
    effect = _effect(best, other, result.fidelity, difference, n, noise)
    if math.isfinite(noise) and abs(difference) > _TOLD * effect.seed_error > 0:
        return Separation(best, other, result.fidelity, difference, noise, 0, 0.0, ())
    asked = needed(effect, seconds_a_run=float(np.mean(spent)), level=LEVEL)
    more = MOST_SEEDS + 1 if asked is None else asked[0]
    why = f"tells {best.label} and {other.label} apart"
    runs = tuple(
        Proposal(one, result.fidelity, seed, why)
        for seed in range(n + more if more <= MOST_SEEDS else 0)
        for one in (best, other)
        if seed not in values[one]
    )
    seconds = (len(runs) or 2 * more) * float(np.mean(spent))
    return Separation(best, other, result.fidelity, difference, noise, more, seconds, runs)


def _compared(candidate: Candidate) -> bool:
    return candidate.control is None and not candidate.surveys


def _effect(best: Candidate, other: Candidate, fidelity: str, difference: float, n: int, noise: float) -> Effect:
    """Return the difference as an undecided effect, so that `needed` can say what would decide it."""
    known = math.isfinite(noise)
    return Effect(
        name="separation",
        test=fidelity,
        wiring="",
        metric="nll",
        of=(best.label,),
        against=(other.label,),
        mean=difference,
        low=math.nan,
        high=math.nan,
        p_value=math.nan,
        verdict="undecided",
        margin=None,
        n_seeds=n,
        over_seeds=known,
        seed_error=noise * math.sqrt(2 / n) if known else math.nan,
        example_error=0.0,  # the validation texts are the same for both
    )


@dataclass
class Listed:
    """A strategy that runs what it was given, and nothing else; what is chosen then is up to the study's own."""

    runs: Sequence[Proposal]
    name: str = "more seeds"
    seen: set[tuple[str, str, int]] = field(default_factory=set)

    def observe(self, trial: Trial) -> None:
        """Take note of a finished trial."""
        self.seen.add(trial.identity)

    def propose(self, running: Sequence[Proposal], left: float) -> Proposal | None:
        """Return the next of the given runs."""
        taken = self.seen | {one.identity for one in running}
        return next((one for one in self.runs if one.identity not in taken), None)

    def choose(self) -> Candidate | None:
        """Return nothing."""
        return None
