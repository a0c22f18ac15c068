"""Views of a search's records: its table, its plots, and which texts a candidate changes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pifi_probe.errors import SearchError
from pifi_probe.selection.conclude import SearchResult, selected, top_fidelity
from pifi_probe.selection.space import Candidate, Space, place_of
from pifi_probe.selection.store import CONFIRM, Record
from pifi_probe.selection.trials import FIDELITIES, Trial

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pifi_probe.tasks.task import Task
    from pifi_probe.training.result import RunResult

__all__ = ["Change", "Changed", "changed", "confirmed_runs", "leaderboard", "plot"]

NLL = "validation NLL (nats)"


def leaderboard(records: Iterable[Record], result: SearchResult | None) -> pd.DataFrame:
    """Return one row per candidate, fidelity and phase.

    Columns: ``candidate``, ``fidelity``, ``phase``, ``seeds`` (complete), ``nll`` and its ``sd`` over seeds,
    ``accuracy`` on the validation split, ``p_best`` (single layers), ``cost`` in full runs, ``message`` of a failure.
    The highest fidelity comes first, and the lowest NLL within it.
    """
    import pandas as pd

    groups: dict[tuple[str, Candidate, str], list[Trial]] = defaultdict(list)
    for record in records:
        groups[record.phase, record.trial.candidate, record.trial.fidelity].append(record.trial)
    sure = {posterior.label: posterior.p_best for posterior in result.posterior} if result is not None else {}
    rows = [_row(phase, candidate, fidelity, trials, sure) for (phase, candidate, fidelity), trials in groups.items()]
    columns = ["candidate", "fidelity", "phase", "seeds", "nll", "sd", "accuracy", "p_best", "cost", "message"]
    frame = pd.DataFrame(rows, columns=columns)
    order = frame.assign(height=[-FIDELITIES.index(fidelity) for fidelity in frame["fidelity"]])
    return order.sort_values(["height", "phase", "nll"], kind="stable").drop(columns="height").reset_index(drop=True)


def _row(
    phase: str, candidate: Candidate, fidelity: str, trials: Sequence[Trial], sure: dict[str, float]
) -> dict[str, object]:
    outcomes = [t.outcome for t in trials if t.state == "complete" and t.outcome is not None]
    values = [outcome.value for outcome in outcomes]
    accuracies = [outcome.accuracy for outcome in outcomes if outcome.accuracy is not None]
    messages = [t.outcome.message for t in trials if t.outcome is not None and t.outcome.message]
    return {
        "candidate": candidate.label,
        "fidelity": fidelity,
        "phase": phase,
        "seeds": len(values),
        "nll": float(np.mean(values)) if values else math.nan,
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
        "accuracy": float(np.mean(accuracies)) if accuracies else math.nan,
        "p_best": sure.get(candidate.label, math.nan),
        "cost": math.fsum(outcome.cost for outcome in outcomes),
        "message": messages[0] if messages else "",
    }


def confirmed_runs(records: Iterable[Record]) -> list[RunResult]:
    """Return the full runs of the confirmation.

    Raises
    ------
    SearchError
        If there are none.
    """
    from pifi_probe.training.result import RunResult

    done = [
        r.trial for r in records if r.phase == CONFIRM and r.trial.fidelity == "full" and r.trial.state == "complete"
    ]
    runs = [RunResult.from_dict(t.outcome.result) for t in done if t.outcome is not None and t.outcome.result]
    if not runs:
        raise SearchError(
            "the choice was not confirmed with full runs",
            where="Study.compare",
            next="read study.result.gains, or search with a strategy that makes full runs",
        )
    return runs


def plot(kind: str, records: Sequence[Record], result: SearchResult | None, space: Space) -> Figure:
    """Plot a search; see `Study.plot`."""
    kinds: dict[str, Callable[[Sequence[Trial], SearchResult, Space], Figure]] = {
        "depth": partial(_depth, confirmed=[r.trial for r in records if r.phase == CONFIRM]),
        "regret": _regret,
        "fidelities": _fidelities,
        "pareto": _pareto,
    }
    if kind not in kinds:
        raise SearchError(f"unknown plot {kind!r}", where="kind", next=f"use one of {', '.join(kinds)}")
    if result is None:
        raise SearchError("there is nothing to plot: no trial is complete", where="Study.plot", next="resume the study")
    done = [trial for trial in selected(records) if trial.state == "complete"]
    return kinds[kind](done, result, space)


def _depth(trials: Sequence[Trial], result: SearchResult, space: Space, confirmed: Sequence[Trial] = ()) -> Figure:
    """Plot what was measured at the highest fidelity, the confirmation with its controls, and the posterior band.

    Where the highest fidelity holds one or two candidates alone, the one below it is shown, too.
    """
    import pandas as pd

    from pifi_probe.reporting.searches import depth_with_band

    single = [(t, t.outcome.value) for t in trials if t.outcome is not None and not t.candidate.surveys]
    fidelities = [result.fidelity]
    if len({t.candidate for t, _ in single if t.fidelity == result.fidelity}) < 3:
        fidelities += [
            fidelity
            for fidelity in FIDELITIES[: FIDELITIES.index(result.fidelity)]
            if any(t.fidelity == fidelity for t, _ in single)
        ][-1:]
    measured = [
        {
            "depth": space.depth(t.candidate),
            "series": _series(t, space) + (f", {t.fidelity} runs" if t.fidelity != result.fidelity else ""),
            "value": value,
        }
        for t, value in single
        if t.fidelity in fidelities
    ]
    measured += [
        {
            "depth": space.depth(t.candidate),
            "series": t.candidate.control or "the choice, fresh seeds",
            "value": t.outcome.value,
        }
        for t in confirmed
        if t.fidelity == result.fidelity and t.outcome is not None and t.state == "complete"
    ]
    band = [
        {
            "depth": posterior.depth,
            "mean": posterior.mean,
            "low": posterior.mean - 2 * posterior.sd,
            "high": posterior.mean + 2 * posterior.sd,
        }
        for posterior in result.posterior
    ]
    return depth_with_band(pd.DataFrame(measured), pd.DataFrame(band), value_label=f"{NLL}, {result.fidelity} runs")


def _series(trial: Trial, space: Space) -> str:
    if trial.candidate.control is not None:
        return trial.candidate.control
    if trial.candidate.design != "single":
        return trial.candidate.design
    return place_of(trial.candidate.layers[0])[0] if len(space.models) > 1 else "layer"


def _regret(trials: Sequence[Trial], result: SearchResult, space: Space) -> Figure:
    """Plot the final mean NLL of whoever led at each moment, above that of the final best."""
    import pandas as pd

    from pifi_probe.reporting.searches import steps

    top = top_fidelity(trials)
    final = _means(t for t in trials if t.fidelity == top)
    best = min(final.values())
    rows, cost = [], 0.0
    for number, trial in enumerate(trials):
        cost += trial.outcome.cost if trial.outcome is not None else 0.0
        so_far = _means(t for t in trials[: number + 1] if t.fidelity == top)
        if so_far:
            leader = min(so_far, key=lambda candidate: so_far[candidate])
            rows.append({"cost": cost, "value": final[leader] - best})
    return steps(pd.DataFrame(rows), x_label="spent (full runs)", value_label=f"{NLL} above the final best")


def _fidelities(trials: Sequence[Trial], result: SearchResult, space: Space) -> Figure:
    """Plot each fidelity against the next one that was used."""
    import pandas as pd

    from pifi_probe.ranking import rank_agreement
    from pifi_probe.reporting.searches import scatter_panels

    used = [fidelity for fidelity in FIDELITIES if any(trial.fidelity == fidelity for trial in trials)]
    rows: list[dict[str, object]] = []
    for lower, upper in zip(used, used[1:], strict=False):
        below, above = (_means(t for t in trials if t.fidelity == fidelity) for fidelity in (lower, upper))
        both = [candidate for candidate in below if candidate in above]
        found = rank_agreement([below[c] for c in both], [above[c] for c in both]) if len(both) > 1 else {}
        panel = f"{lower} to {upper}: Kendall {found.get('kendall', math.nan):.2f} (n={len(both)})"
        rows += [{"panel": panel, "x": below[c], "y": above[c], "series": "candidate"} for c in both]
    if not rows:
        raise SearchError(
            "no candidate was run at two fidelities",
            where='plot("fidelities")',
            next='search with a strategy that uses several, such as "auto", into another study',
        )
    return scatter_panels(pd.DataFrame(rows), x_label="lower fidelity", y_label=NLL)


def _pareto(trials: Sequence[Trial], result: SearchResult, space: Space) -> Figure:
    """Plot NLL against latency at the highest fidelity; filled: nothing is better in both."""
    import pandas as pd

    from pifi_probe.reporting.searches import scatter_panels

    own = [
        t for t in trials if t.fidelity == result.fidelity and t.outcome is not None and t.outcome.latency is not None
    ]
    latency: dict[Candidate, list[float]] = defaultdict(list)
    for trial in own:
        if trial.outcome is not None and trial.outcome.latency is not None:
            latency[trial.candidate].append(trial.outcome.latency)
    values = _means(own)
    points = {candidate: (float(np.median(latency[candidate])), values[candidate]) for candidate in values}
    if not points:
        raise SearchError(
            "no latency was measured",
            where='plot("pareto")',
            next="read study.leaderboard(), or search again with this version, into another study",
        )
    rows = [
        {
            "panel": "",
            "x": x,
            "y": y,
            "series": "control" if candidate.control else candidate.design,
            "best": not any((a <= x and b < y) or (a < x and b <= y) for a, b in points.values()),
        }
        for candidate, (x, y) in points.items()
    ]
    return scatter_panels(pd.DataFrame(rows), x_label="one text (ms)", y_label=NLL)


def _means(trials: Iterable[Trial]) -> dict[Candidate, float]:
    """Return the mean value of each candidate that may be chosen, and of controls."""
    values: dict[Candidate, list[float]] = defaultdict(list)
    for trial in trials:
        if trial.outcome is not None and not trial.candidate.surveys:
            values[trial.candidate].append(trial.outcome.value)
    return {candidate: float(np.mean(own)) for candidate, own in values.items()}


# Which texts a candidate gets right that the projections alone get wrong, and the other way round


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
    """What a candidate changes compared with the projections alone, on the task's test texts.

    Parameters
    ----------
    label, fidelity : str
    n : int
        Texts.
    seeds, other_seeds : int
        Runs of the candidate and of the projections.
    fixed, broken : tuple of Change
        The surest first.
    confirmed : bool
        The candidate was confirmed; otherwise nothing has used its test texts so far.
    """

    label: str
    fidelity: str
    n: int
    seeds: int
    other_seeds: int
    fixed: tuple[Change, ...]
    broken: tuple[Change, ...]
    confirmed: bool

    def __str__(self) -> str:
        seeds = f"{self.fidelity} runs, {_seeds(self.seeds)}, against {_seeds(self.other_seeds)} of the projections"
        found = f"fixes {len(self.fixed)} and breaks {len(self.broken)} of {self.n} test texts ({seeds})"
        warning = (
            ""
            if self.confirmed
            else "; do not choose a layer by its test texts: only the confirmed one is judged on them"
        )
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
    """Return what a candidate changes, from the stored results of its runs and of the projections at one fidelity.

    Parameters
    ----------
    records : sequence of Record
    label : str
        `Candidate.label`.

    Returns
    -------
    Changed or None
        None where the texts of one of them are not stored, or they have no fidelity in common. The confirmation comes
        first; within it both have the same seeds.
    """
    for phases in ({CONFIRM}, None):
        own_records = [one for one in records if phases is None or one.phase in phases]
        for fidelity in reversed(FIDELITIES):
            trials = [
                one.trial for one in own_records if one.trial.fidelity == fidelity and one.trial.state == "complete"
            ]
            own = _right(one for one in trials if one.candidate.label == label)
            other = _right(one for one in trials if one.candidate.control == "linear")
            if len(own) and len(other) and own.shape[1] == other.shape[1]:
                return _compared(label, fidelity, own, other, confirmed=phases is not None)
    return None


def _compared(label: str, fidelity: str, own: Right, other: Right, *, confirmed: bool) -> Changed:
    mine, theirs = own.mean(0), other.mean(0)
    rows = sorted(range(len(mine)), key=lambda row: (-abs(mine[row] - theirs[row]), row))
    told = [Change(row, float(mine[row]), float(theirs[row])) for row in rows]
    fixed = tuple(one for one in told if one.own > 0.5 > one.other)
    broken = tuple(one for one in told if one.own < 0.5 < one.other)
    return Changed(label, fidelity, len(mine), len(own), len(other), fixed, broken, confirmed)


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
