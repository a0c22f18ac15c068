"""`SearchResult`: what was chosen, what it is worth against its controls, and how sure that is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pifi_probe.differences import Runs, between
from pifi_probe.escaping import printable
from pifi_probe.ladder import Arm, Effect, effects_of, missing
from pifi_probe.selection.budget import Spent
from pifi_probe.selection.choice import arms_of
from pifi_probe.selection.space import Candidate, Space
from pifi_probe.selection.store import CONFIRM, Record
from pifi_probe.selection.trials import Outcome, Trial
from pifi_probe.stats import Interval, verdict
from pifi_probe.telling import Tells

__all__ = ["LayerPosterior", "Gain", "SearchResult", "confirmation_cost", "effects_found", "failures", "gains_of"]

LEVEL = 0.95
MARGINS = {"accuracy": 0.01, "nll": None}  # what counts as no difference: one point


@dataclass(frozen=True)
class LayerPosterior:
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
class SearchResult(Tells):
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
    posterior : tuple of LayerPosterior
        Over single layers, by model and depth; empty for other spaces.
    expected_regret : float or None
        How much higher the NLL of the choice is expected to be than that of the best layer, in nats.
    gains : tuple of Gain
        Empty before the confirmation.
    effects : tuple of Effect
        The ladder of the confirmation, in accuracy and in nats; empty before. Here "choice" is the chosen layer
        against the last one.
    missing : dict of str to list of str
        Groups of arms without which some effects cannot be told.
    confirm_runs : int
    texts : str
        On how many texts the search ran, where there are more.
    confirm_rung : str
        On which rung the choice was confirmed; empty before.
    confirm_cost, confirm_seconds : float
        What the confirmation took, in full runs and in seconds of runs.
    spent : Spent
        What the selection took.
    failed : dict of str to str
        Message of each candidate that failed.
    """

    chosen: Candidate
    default: bool
    rung: str
    effect: str
    posterior: tuple[LayerPosterior, ...]
    expected_regret: float | None
    gains: tuple[Gain, ...]
    confirm_rung: str
    confirm_cost: float
    confirm_seconds: float
    spent: Spent
    failed: dict[str, str]
    effects: tuple[Effect, ...] = ()
    missing: dict[str, list[str]] = field(default_factory=dict)
    confirm_runs: int = 0
    texts: str = ""
    metric: str = "accuracy"
    level: float = LEVEL
    _trained_by: ClassVar[str] = "study resume runs them"

    @property
    def answer(self) -> str:
        """One to three plain sentences: what plugging in the choice gains, and what of that is knowledge."""
        if self.effects:
            return super().answer
        return f"Chosen so far: {self.chosen.label}; what it gains is not known before it is confirmed on fresh seeds."

    def answers(self, test: str | None = None) -> list[tuple[str, str]]:
        """Return the answer; a search has one wiring."""
        return super().answers(test) if self.effects else [("", self.answer)]

    def _plugged(self) -> str:
        return self.chosen.label

    def _seconds_a_run(self) -> float:
        return self.confirm_seconds / max(self.confirm_runs, 1)

    @property
    def verdict(self) -> str:
        """Say in words what was found: the answer first, then how sure the choice is."""
        return "\n".join([self.answer, *self.details])

    @property
    def details(self) -> list[str]:
        """What stands below the answer: how the choice was made, and every control."""
        lines = [f"no detectable layer effect; using the default layer {self.chosen.label}"]
        if not self.default:
            lines = [f"chosen: {self.chosen.label}, after {self._amount()}"]
        if self.effect:
            lines.append(self.effect)
        if self.expected_regret is not None and not self.default:
            sure = max(
                (posterior.p_best for posterior in self.posterior if posterior.label == self.chosen.label), default=0.0
            )
            lines.append(
                f"it is the best layer with probability {sure:.0%}; expected regret {self.expected_regret:.4f} nats"
            )
            if not self.effect:
                lines.append("too few runs were repeated to know the noise of seeds: take this probability as too high")
        lines += [f"against {gain.control}: {gain.words}" for gain in self.gains]
        if self.gains and self.confirm_rung == "frozen":
            lines.append("measured with a frozen encoder: a full run may differ")
        if self.texts:
            lines.append(self.texts)
        if not self.gains:
            lines.append("not confirmed on fresh seeds: the gain is not known")
        lines += [f"to decide {line}" for line in self.needed()]
        if self.failed:
            lines.append(f"failed: {', '.join(self.failed)}")
        return lines

    def _amount(self) -> str:
        runs = f"{self.spent.trials} trial{'s' * (self.spent.trials != 1)} ({self.spent.cost:.2f} C)"
        return f"{runs}, and {self.confirm_cost:.2f} C to confirm" if self.confirm_cost else runs

    def to_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        words = {"answer": self.answer, "verdict": self.verdict, "needed": self.needed()}
        return words | asdict(self) | {"chosen": self.chosen.to_dict(), "label": self.chosen.label}

    def __str__(self) -> str:
        return printable(self.verdict)

    def __repr__(self) -> str:
        return str(self)


def gains_of(records: Iterable[Record], chosen: Candidate, space: Space) -> tuple[Gain, ...]:
    """Return the gain of a choice against each control whose confirmation has ended, paired over seeds and texts."""
    candidates = arms_of(chosen, space)
    scores = _confirmed(records, candidates, "accuracy")
    seeds = scores.get("chosen", {}).keys()
    asked = {name: between(["chosen"], [name]) for name in scores if name != "chosen" and seeds & scores[name].keys()}
    found = Runs(scores, ["vanilla"] if "vanilla" in scores else []).differences(asked) if asked else {}
    return tuple(
        Gain(name, candidates[name].label, one.interval, one.p_value, verdict(one.interval, "points"))
        for name, one in found.items()
    )


def effects_found(
    records: Iterable[Record], chosen: Candidate, space: Space
) -> tuple[tuple[Effect, ...], dict[str, list[str]]]:
    """Return the ladder of the confirmation, and which groups of arms it lacks."""
    kept = list(records)
    candidates = arms_of(chosen, space)
    effects: list[Effect] = []
    lacking: dict[str, list[str]] = {}
    for metric, margin in MARGINS.items():
        scores = _confirmed(kept, candidates, metric)
        if len(scores.get("chosen", {})) == 0 or len(scores) == 1:
            continue
        arms = {name: Arm("", None if name == "chosen" else name, None) for name in scores}
        lacking = missing(arms)
        effects += effects_of(scores, arms, _test_of(kept), metric, level=LEVEL, margin=margin)
    return tuple(effects), lacking


def _confirmed(
    records: Iterable[Record], candidates: dict[str, Candidate], metric: str
) -> dict[str, dict[int, NDArray[np.float64]]]:
    """Return the score of each test text by arm and seed, larger is better; arms that did not run are left out."""
    done = [record.trial for record in records if record.phase == CONFIRM and record.trial.state == "complete"]
    return {name: own for name, candidate in candidates.items() if (own := _scores(done, candidate, metric))}


def _scores(trials: Sequence[Trial], candidate: Candidate, metric: str) -> dict[int, NDArray[np.float64]]:
    found = {}
    for trial in trials:
        if trial.candidate == candidate and trial.outcome is not None:
            values = _score(trial.outcome, metric)
            if values is not None:
                found[trial.seed] = values
    return found


def _score(outcome: Outcome, metric: str) -> NDArray[np.float64] | None:
    """Return the score of each text of the task's own test split, which stands first; None where it is not there."""
    tests = (outcome.result or {})["tests"]
    own = next(iter(tests.values()))
    if metric == "accuracy":
        return np.array(list(own["correct"]), dtype=np.float64)
    return -np.array(own["nll"].split(), dtype=np.float64) if own.get("nll") else None


def _test_of(records: Iterable[Record]) -> str:
    tests = ((r.trial.outcome.result or {}).get("tests", {}) for r in records if r.phase == CONFIRM and r.trial.outcome)
    return next((name for own in tests for name in own), "")


def failures(records: Iterable[Record]) -> dict[str, str]:
    """Return the message of each candidate that failed."""
    found: dict[str, str] = defaultdict(str)
    for record in records:
        outcome = record.trial.outcome
        if record.trial.state == "failed" and outcome is not None:
            found[record.trial.candidate.label] = outcome.message
    return dict(found)


def confirmation_cost(records: Iterable[Record]) -> tuple[str, float, float, int]:
    """Return rung, full runs, seconds and number of runs of the confirmation."""
    done = [r.trial for r in records if r.phase == CONFIRM and r.trial.outcome is not None]
    outcomes = [trial.outcome for trial in done if trial.outcome is not None]
    cost, seconds = (math.fsum(values) for values in ([o.cost for o in outcomes], [o.seconds for o in outcomes]))
    return (done[0].rung if done else ""), cost, seconds, len(done)
