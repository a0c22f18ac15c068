"""What a search concludes: which candidate, what runs again on fresh seeds, what that is worth, and how sure it is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pifi_probe.differences import Runs, between
from pifi_probe.escaping import printable
from pifi_probe.ladder import Arm, Effect, baselines_of, control_seeds, effects_of, missing
from pifi_probe.ranking import layer_effect
from pifi_probe.reporting.result import Result, plain
from pifi_probe.reporting.tables import Table
from pifi_probe.selection.budget import Spent
from pifi_probe.selection.gp import layer_posterior
from pifi_probe.selection.space import Candidate, Space
from pifi_probe.selection.store import CONFIRM, SELECT, Record
from pifi_probe.selection.trials import FIDELITIES, Outcome, Proposal, Strategy, Trial
from pifi_probe.stats import Interval, verdict
from pifi_probe.telling import Tells
from pifi_probe.vocabulary import BARE

__all__ = [
    "CONFIRM_SEED",
    "Gain",
    "LayerPosterior",
    "SearchResult",
    "arms_of",
    "conclude",
    "confirm_fidelity",
    "confirmation_cost",
    "confirmations",
    "default_layer",
    "effects_found",
    "failures",
    "gains_of",
    "last_layer",
    "layer_seed_table",
    "pick",
    "selected",
    "top_fidelity",
]

CONFIRM_SEED = 1000  # seeds from here on are never used for selection
LEVEL = 0.95
MARGINS = {"accuracy": 0.01, "nll": None}  # what counts as no difference: one point


# The choice, and what confirms it


def selected(records: Iterable[Record]) -> list[Trial]:
    """Return the finished trials of selection, by number."""
    return [record.trial for record in records if record.phase == SELECT and record.trial.outcome is not None]


def top_fidelity(trials: Iterable[Trial]) -> str | None:
    """Return the highest fidelity with a complete trial; None before there is one."""
    reached = {trial.fidelity for trial in trials if trial.state == "complete"}
    return next((fidelity for fidelity in reversed(FIDELITIES) if fidelity in reached), None)


def default_layer(space: Space) -> Candidate:
    """Return the last layer of the first model that the search may choose: without `layers`, the paper's choice."""
    model, _ = space.models[0]
    return Candidate((f"{model}[{space.layers[0][-1]}]",), modes=space.modes[0])


def last_layer(space: Space) -> Candidate:
    """Return the paper's choice, which every choice is compared with: the last layer of the first model."""
    model, n_layers = space.models[0]
    return Candidate((f"{model}[{n_layers - 1}]",))


def arms_of(chosen: Candidate, space: Space) -> dict[str, Candidate]:
    """Return the chosen candidate, and the controls that its gain is measured against."""

    def control(name: str) -> Candidate:
        return Candidate(chosen.layers, chosen.design, chosen.modes, name)

    arms = {
        "chosen": chosen,
        "vanilla": Candidate((), modes=chosen.modes, control="vanilla"),
        "linear": control("linear"),
        "random": control("random"),
        "shuffled": control("shuffled"),
        "last layer": Candidate(last_layer(space).layers, modes=chosen.modes),
    }
    if arms["last layer"] == chosen:
        del arms["last layer"]
    return arms


def confirm_fidelity(top: str) -> str:
    """Return the fidelity at which a choice made at `top` is confirmed."""
    return "frozen" if top in ("estimator", "frozen") else "full"


def confirmations(trials: Sequence[Trial], chosen: Candidate | None, space: Space, n_seeds: int) -> list[Proposal]:
    """Return the runs of the choice and its controls on fresh seeds, seed by seed.

    The encoder alone, the projections and the twins are in every comparison, so they get further seeds; see
    `control_seeds`.
    """
    top = top_fidelity(trials)
    if chosen is None or top is None:
        return []
    arms = arms_of(chosen, space)
    n_layers = sum(candidate.control is None for candidate in arms.values())
    return [
        Proposal(candidate, confirm_fidelity(top), CONFIRM_SEED + seed, f"confirms the choice: {name}, fresh seed")
        for seed in range(control_seeds(n_seeds, n_layers))
        for name, candidate in arms.items()
        if seed < n_seeds or candidate.control is not None
    ]


def layer_seed_table(
    trials: Iterable[Trial], fidelity: str, space: Space
) -> tuple[list[Candidate], list[int], NDArray[np.float64]]:
    """Return single layers, seeds, and the value of each layer with each seed, (layers, seeds).

    The seeds are those that give the largest table without a gap; empty below 3 layers, 2 seeds, or half of the
    space.
    """
    values: dict[Candidate, dict[int, float]] = defaultdict(dict)
    for trial in trials:
        candidate = trial.candidate
        single = candidate.design == "single" and candidate.control is None
        if single and trial.fidelity == fidelity and trial.state == "complete" and trial.outcome is not None:
            values[candidate][trial.seed] = trial.outcome.value
    seeds = sorted({seed for own in values.values() for seed in own})
    best: tuple[list[Candidate], list[int]] = ([], [])
    by_use = sorted(seeds, key=lambda seed: (-sum(seed in own for own in values.values()), seed))
    for n in range(2, len(seeds) + 1):
        rows = [candidate for candidate, own in values.items() if all(seed in own for seed in by_use[:n])]
        if len(rows) >= max(3, len(space.singles()) / 2) and len(rows) * n > len(best[0]) * len(best[1]):
            best = rows, sorted(by_use[:n])
    table = np.array([[values[candidate][seed] for seed in best[1]] for candidate in best[0]])
    return best[0], best[1], table


# What was found


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


@dataclass(frozen=True, repr=False)
class SearchResult(Result, Tells):
    """What a search found.

    Parameters
    ----------
    chosen : Candidate
    default : bool
        The choice is the default layer, because no effect of the layer was detected.
    fidelity : str
        The highest one at which a candidate was run.
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
        Groups of arms without which some effects cannot be measured.
    confirm_runs : int
    texts : str
        On how many texts the search ran, where the task has more.
    confirm_fidelity : str
        At which the choice was confirmed; empty before.
    confirm_cost, confirm_seconds : float
        What the confirmation took, in full runs and in seconds of runs.
    spent : Spent
        What the selection took.
    failed : dict of str to str
        Message of each candidate that failed.
    """

    chosen: Candidate
    default: bool
    fidelity: str
    effect: str
    posterior: tuple[LayerPosterior, ...]
    expected_regret: float | None
    gains: tuple[Gain, ...]
    confirm_fidelity: str
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
    noun: ClassVar[str] = "what a search found"
    _trained_by: ClassVar[str] = "study resume runs them"

    @property
    def answer(self) -> str:
        """One to three plain sentences: what plugging in the choice gains, and what of that is knowledge."""
        if self.effects:
            return super().answer
        return f"Chosen so far: {self.chosen.label}; what it gains is not known until it is confirmed on fresh seeds."

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
        """What follows the answer: how the choice was made, and every control."""
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
                lines.append(
                    "too few runs were repeated to know the noise of seeds: this probability is probably too high"
                )
        lines += [f"against {gain.control}: {gain.words}" for gain in self.gains]
        if self.gains and self.confirm_fidelity == "frozen":
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
        runs = f"{self.spent.trials} trial{'s' * (self.spent.trials != 1)} ({self.spent.cost:.2f} full runs)"
        return f"{runs}, and {self.confirm_cost:.2f} to confirm" if self.confirm_cost else runs

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        words = {"answer": self.answer, "verdict": self.verdict, "needed": self.needed()}
        return super().to_dict() | words | {"chosen": self.chosen.to_dict(), "label": self.chosen.label}

    @classmethod
    def _read(cls, values: Mapping[str, Any]) -> SearchResult:
        chosen = Candidate.from_dict(values["chosen"])
        return super()._read({**values, "chosen": plain(chosen)})

    def said(self) -> list[str]:
        """Return the answer, then how sure the choice is."""
        return self.verdict.splitlines()

    def tables(self) -> list[Table]:
        """Return the gains of the choice; empty before the confirmation."""
        import pandas as pd

        rows = [
            {
                "against": gain.control,
                "gain (points)": f"{100 * gain.interval.mean:+z.1f}",
                "interval": f"[{100 * gain.interval.low:+z.1f}, {100 * gain.interval.high:+z.1f}]",
                "p": f"{gain.p_value:.2g}",
                "verdict": gain.words,
            }
            for gain in self.gains
        ]
        return [Table(pd.DataFrame(rows), self.chosen.label, below=["verdict"])] if rows else []

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
    found = Runs(scores, [name for name in BARE if name in scores]).differences(asked) if asked else {}
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
        runs = Runs(scores, baselines_of(arms))
        effects += effects_of(runs, arms, _test_of(kept), metric, level=LEVEL, margin=margin)
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
    """Return fidelity, full runs, seconds and number of runs of the confirmation."""
    done = [r.trial for r in records if r.phase == CONFIRM and r.trial.outcome is not None]
    outcomes = [trial.outcome for trial in done if trial.outcome is not None]
    cost, seconds = (math.fsum(values) for values in ([o.cost for o in outcomes], [o.seconds for o in outcomes]))
    return (done[0].fidelity if done else ""), cost, seconds, len(done)


# From the trials to what was found


def pick(strategy: Strategy, trials: Sequence[Trial], space: Space) -> tuple[Candidate | None, bool, str]:
    """Return the choice, whether it is the default layer for want of an effect, and the effect in words.

    Parameters
    ----------
    strategy : Strategy
        That has observed the trials.
    trials : sequence of Trial
        Finished, of selection.
    space : Space
    """
    chosen = strategy.choose()
    if chosen is None:
        return None, False, ""
    for fidelity in reversed(FIDELITIES):
        layers, _, table = layer_seed_table(trials, fidelity, space)
        if layers:
            effect = layer_effect(table)
            words = f"{effect.verdict} ({fidelity} runs, {table.shape[0]} layers, {table.shape[1]} seeds)"
            if effect.something_to_select or space.max_layers > 1:
                return chosen, False, words
            default = default_layer(space)
            broken = any(trial.candidate == default and trial.state == "failed" for trial in trials)
            return (chosen, False, words) if broken else (default, True, words)
    return chosen, False, ""


def conclude(strategy: Strategy, records: Sequence[Record], space: Space, spent: Spent) -> SearchResult | None:
    """Return what a search found so far; None before a trial of selection is complete."""
    trials = selected(records)
    fidelity = top_fidelity(trials)
    chosen, default, effect = pick(strategy, trials, space)
    if chosen is None or fidelity is None:
        return None
    posterior, regret = _posterior(trials, fidelity, chosen, space)
    confirm_fidelity, cost, seconds, n_runs = confirmation_cost(records)
    effects, lacking = effects_found(records, chosen, space)
    return SearchResult(
        chosen=chosen,
        default=default,
        fidelity=fidelity,
        effect=effect,
        posterior=posterior,
        expected_regret=regret,
        gains=gains_of(records, chosen, space),
        confirm_fidelity=confirm_fidelity,
        confirm_cost=cost,
        confirm_seconds=seconds,
        spent=spent,
        failed=failures(records),
        effects=effects,
        missing=lacking,
        confirm_runs=n_runs,
    )


def _posterior(
    trials: Sequence[Trial], fidelity: str, chosen: Candidate, space: Space
) -> tuple[tuple[LayerPosterior, ...], float | None]:
    """Return what is believed of every single layer, and the expected regret of the choice."""
    if space.max_layers > 1 or space.modes != ((),):
        return (), None
    layers = space.singles()
    values: dict[Candidate, dict[int, float]] = {}
    for trial in trials:
        if trial.fidelity == fidelity and trial.state == "complete" and trial.outcome is not None:
            values.setdefault(trial.candidate, {})[trial.seed] = trial.outcome.value
    found = layer_posterior(layers, values, space)
    if found is None:
        return (), None
    shares = found.p_best
    posteriors = tuple(
        LayerPosterior(
            label=one.label,
            depth=space.depth(one),
            mean=float(found.mean[i]),
            sd=float(found.sd[i]),
            p_best=float(shares[i]),
        )
        for i, one in enumerate(layers)
    )
    return posteriors, found.regret(layers.index(chosen)) if chosen in layers else None
