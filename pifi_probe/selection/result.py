"""`SearchResult`: what was chosen, how sure that is, and what it is worth against its controls."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pifi_probe.differences import Runs, between
from pifi_probe.escaping import printable
from pifi_probe.selection.budget import Spent
from pifi_probe.selection.choice import arms_of
from pifi_probe.selection.space import Candidate, Space
from pifi_probe.selection.store import CONFIRM, Record
from pifi_probe.selection.trials import Outcome, Trial
from pifi_probe.stats import Interval, verdict

__all__ = ["Belief", "Gain", "SearchResult", "confirmation_cost", "failures", "gains_of"]


@dataclass(frozen=True)
class Belief:
    """What the search believes of one candidate.

    Parameters
    ----------
    label : str
    depth : float
        From 0 (first layer) to 1 (last).
    mean, sd : float
        Of the validation NLL, in nats.
    p_best : float
        Probability that it is the best.
    """

    label: str
    depth: float
    mean: float
    sd: float
    p_best: float


@dataclass(frozen=True)
class Gain:
    """How much more accurate the choice is than a control, on fresh seeds and untouched test texts.

    Parameters
    ----------
    control, label : str
    interval : Interval
        Of accuracies as shares.
    p_value : float
        Adjusted for the number of controls (Dunnett).
    words : str
    """

    control: str
    label: str
    interval: Interval
    p_value: float
    words: str


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Parameters
    ----------
    chosen : Candidate
    default : bool
        It is the default layer, because no effect of the layer was detected.
    rung : str
        The highest rung that a candidate was run on.
    effect : str
        Whether the layers differ at all, in words; empty where the trials cannot tell.
    posterior : tuple of Belief
        Over single layers, by model and depth; empty for other spaces.
    expected_regret : float or None
        How much higher the NLL of the choice is expected to be than that of the best layer, in nats.
    gains : tuple of Gain
        Empty before the confirmation.
    confirm_rung : str
        On which rung the choice was confirmed; empty before.
    confirm_cost, confirm_seconds : float
        What the confirmation took, in full runs; not part of the budget.
    spent : Spent
        What the selection took.
    failed : dict of str to str
        Message of each candidate that failed.
    """

    chosen: Candidate
    default: bool
    rung: str
    effect: str
    posterior: tuple[Belief, ...]
    expected_regret: float | None
    gains: tuple[Gain, ...]
    confirm_rung: str
    confirm_cost: float
    confirm_seconds: float
    spent: Spent
    failed: dict[str, str]

    @property
    def verdict(self) -> str:
        """Say in words what was found."""
        lines = [f"no detectable layer effect; using the default layer {self.chosen.label}"]
        if not self.default:
            lines = [f"chosen: {self.chosen.label}, after {self._amount()}"]
        if self.effect:
            lines.append(self.effect)
        if self.expected_regret is not None and not self.default:
            sure = max((belief.p_best for belief in self.posterior if belief.label == self.chosen.label), default=0.0)
            lines.append(
                f"it is the best layer with probability {sure:.0%}; expected regret {self.expected_regret:.4f} nats"
            )
            if not self.effect:
                lines.append("too few runs were repeated to know the noise of seeds: take this probability as too high")
        lines += [f"against {gain.control}: {gain.words}" for gain in self.gains]
        if self.gains and self.confirm_rung == "frozen":
            lines.append("measured with a frozen encoder: a full run may differ")
        if not self.gains:
            lines.append("not confirmed on fresh seeds: the gain is not known")
        if self.failed:
            lines.append(f"failed: {', '.join(self.failed)}")
        return "\n".join(lines)

    def _amount(self) -> str:
        runs = f"{self.spent.trials} trial{'s' * (self.spent.trials != 1)} ({self.spent.cost:.2f} C)"
        return f"{runs}, and {self.confirm_cost:.2f} C to confirm" if self.confirm_cost else runs

    def to_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return asdict(self) | {"chosen": self.chosen.to_dict(), "label": self.chosen.label, "verdict": self.verdict}

    def __str__(self) -> str:
        return printable(self.verdict)


def gains_of(records: Iterable[Record], chosen: Candidate, space: Space) -> tuple[Gain, ...]:
    """Return the gain of a choice against each control whose confirmation has ended, paired over seeds and texts."""
    done = [record.trial for record in records if record.phase == CONFIRM and record.trial.state == "complete"]
    candidates = arms_of(chosen, space)
    scores = {name: own for name, candidate in candidates.items() if (own := _scores(done, candidate))}
    seeds = scores.get("chosen", {}).keys()
    asked = {name: between(["chosen"], [name]) for name in scores if name != "chosen" and seeds & scores[name].keys()}
    found = Runs(scores, ["vanilla"] if "vanilla" in scores else []).differences(asked) if asked else {}
    return tuple(
        Gain(name, candidates[name].label, one.interval, one.p_value, verdict(one.interval, "points"))
        for name, one in found.items()
    )


def _scores(trials: Sequence[Trial], candidate: Candidate) -> dict[int, NDArray[np.float64]]:
    """Return 0 or 1 for each test text, by seed."""
    own = [trial for trial in trials if trial.candidate == candidate and trial.outcome is not None]
    return {trial.seed: _correct(trial.outcome) for trial in own if trial.outcome is not None}


def _correct(outcome: Outcome) -> NDArray[np.float64]:
    """Return 0 or 1 for each text of the task's own test split, which stands first."""
    tests = (outcome.result or {})["tests"]
    return np.array(list(next(iter(tests.values()))["correct"]), dtype=np.float64)


def failures(records: Iterable[Record]) -> dict[str, str]:
    """Return the message of each candidate that failed."""
    found: dict[str, str] = defaultdict(str)
    for record in records:
        outcome = record.trial.outcome
        if record.trial.state == "failed" and outcome is not None:
            found[record.trial.candidate.label] = outcome.message
    return dict(found)


def confirmation_cost(records: Iterable[Record]) -> tuple[str, float, float]:
    """Return rung, full runs and seconds of the confirmation."""
    done = [r.trial for r in records if r.phase == CONFIRM and r.trial.outcome is not None]
    outcomes = [trial.outcome for trial in done if trial.outcome is not None]
    cost, seconds = (math.fsum(values) for values in ([o.cost for o in outcomes], [o.seconds for o in outcomes]))
    return (done[0].rung if done else ""), cost, seconds
