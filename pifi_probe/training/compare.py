"""`compare`: arms against their baseline, paired over seeds and test examples, with a verdict in words."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pifi_probe.errors import PifiProbeError, PlugInError, RecipeError, TaskError
from pifi_probe.files import write_text
from pifi_probe.stats import Interval, holm, mean_interval, paired_difference, verdict
from pifi_probe.training.result import RunResult

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "Row", "compare"]

METRICS = ("accuracy", "nll")
Arms = dict[str, dict[int, RunResult]]


@dataclass(frozen=True)
class Row:
    """One arm on one test set.

    Parameters
    ----------
    test, arm, baseline : str
        `baseline` is empty for an arm that is one.
    seeds : tuple of int
        Of the arm.
    mean, low, high : float
        Mean of the metric over seeds and examples, and its interval.
    difference, difference_low, difference_high, p_value : float or None
        To the baseline, over the seeds both have; positive is better, for the NLL too. The p-value is adjusted
        for the number of arms on this test set (Holm).
    balanced_accuracy, auroc : float or None
        Means over seeds.
    verdict : str
    """

    test: str
    arm: str
    baseline: str
    seeds: tuple[int, ...]
    mean: float
    low: float
    high: float
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None
    balanced_accuracy: float | None = None
    auroc: float | None = None
    verdict: str = "baseline"


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns.

    Parameters
    ----------
    rows : tuple of Row
    metric : {"accuracy", "nll"}
    level : float
        Nominal coverage of the intervals.
    sizes : dict
        Rows of the splits of the task.
    """

    rows: tuple[Row, ...]
    metric: str
    level: float
    sizes: dict[str, int]

    @property
    def frame(self) -> pd.DataFrame:
        """One row per test set and arm; the columns are the fields of `Row`."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    def verdict(self) -> str:
        """Say in words, one line per test set and arm, what was found."""
        found = [
            f"{row.test}, {row.arm}: {row.verdict} (against {row.baseline})"
            for row in self.rows
            if row.baseline
        ]
        return "\n".join(found) or "one arm alone: nothing to compare"

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the comparison as JSON, and write it to `path`, atomically, when one is given."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        if path is not None:
            write_text(path, text)
        return text

    @property
    def size_note(self) -> str:
        """What the table was made from: rows of the splits, and seeds."""
        seeds = sorted({len(row.seeds) for row in self.rows})
        counts = ", ".join(f"{count} {name}" for name, count in self.sizes.items())
        return f"{counts} texts; {' to '.join(map(str, seeds[:1] + seeds[1:][-1:]))} seeds; {self.level:.0%} intervals"

    def __str__(self) -> str:
        return self.verdict()

    def _repr_html_(self) -> str:
        unit = 100.0 if self.metric == "accuracy" else 1.0
        digits = 1 if self.metric == "accuracy" else 3
        head = "".join(f"<th>{name}</th>" for name in ("test", "arm", self.metric, "difference", "verdict"))
        body = "".join(_html_row(row, unit, digits) for row in self.rows)
        return f"<table><caption>{html.escape(self.size_note)}</caption><tr>{head}</tr>{body}</table>"


def _html_row(row: Row, unit: float, digits: int) -> str:
    def shown(middle: float | None, low: float | None, high: float | None) -> str:
        if middle is None or low is None or high is None:
            return ""
        return f"{unit * middle:.{digits}f} [{unit * low:.{digits}f}, {unit * high:.{digits}f}]"

    difference = shown(row.difference, row.difference_low, row.difference_high)
    cells = (row.test, row.arm, shown(row.mean, row.low, row.high), difference, row.verdict)
    return f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"


def compare(
    results: Iterable[RunResult], baseline: str = "vanilla", *, metric: str = "accuracy", level: float = 0.95
) -> Comparison:
    """Compare the arms of an experiment.

    Runs with the same label are seeds of one arm. Every arm is compared with the baseline of its own wiring,
    paired over the seeds that both have and over test examples.

    Parameters
    ----------
    results : iterable of RunResult
        Of one task, one encoder and one recipe but for the seed.
    baseline : str
        A control, such as "vanilla" or "linear", or the label of an arm.
    metric : {"accuracy", "nll"}
    level : float
        Nominal coverage of the intervals.

    Returns
    -------
    Comparison

    Raises
    ------
    RecipeError
        If recipes differ in more than the seed, or an arm has a seed twice.
    TaskError
        If tasks, sizes or test sets differ.
    PlugInError
        If encoders differ, or no arm or several are the baseline.

    Examples
    --------
    >>> compare(runs).frame  # doctest: +SKIP
    """
    runs = list(results)
    if not runs:
        raise PifiProbeError("no runs were given", where="compare", next="give the results of pp.fine_tune")
    if metric not in METRICS:
        raise PifiProbeError(
            f"unknown metric {metric!r}", where="compare", next=f"use one of {', '.join(METRICS)}"
        )
    _check_alike(runs)
    arms = _grouped(runs)
    bases = {arm: _baseline_of(arm, arms, baseline) for arm in arms}
    rows: list[Row] = []
    for test in runs[0].tests:
        rows += _rows_of(test, arms, bases, metric, level)
    return Comparison(tuple(rows), metric, level, runs[0].task["sizes"])


def _check_alike(runs: Sequence[RunResult]) -> None:
    first = runs[0]
    for run in runs[1:]:
        where = f"{first.label} and {run.label}"
        for name in ("name", "fingerprint", "sizes"):
            if run.task[name] != first.task[name]:
                raise TaskError(
                    f"the runs have different tasks: {name} {first.task[name]} and {run.task[name]}",
                    where=where,
                    next="compare runs of one task with one size",
                )
        prints = [{name: test.fingerprint for name, test in one.tests.items()} for one in (first, run)]
        if prints[0] != prints[1]:
            raise TaskError(
                f"the runs were tested on different rows: {', '.join(prints[0])} and {', '.join(prints[1])}",
                where=where,
                next="give every run the same also=",
            )
        if run.model["slm"] != first.model["slm"]:
            raise PlugInError(
                f"the runs have different encoders: {first.model['slm']} and {run.model['slm']}",
                where=where,
                next="compare one encoder at a time",
            )
        _check_recipes(first, run, where)


def _check_recipes(first: RunResult, run: RunResult, where: str) -> None:
    own, other = first.recipe.to_dict(), run.recipe.to_dict()
    free = {"seed", *first.tuned, *run.tuned}
    names = [name for name in own if name not in free and own[name] != other[name]]
    if names:
        shown = ", ".join(f"{name} {own[name]!r} and {other[name]!r}" for name in names)
        raise RecipeError(
            f"the runs have different recipes: {shown}",
            where=where,
            next="compare runs that differ in the seed only",
        )


def _grouped(runs: Sequence[RunResult]) -> Arms:
    arms: Arms = {}
    for run in runs:
        seeds = arms.setdefault(run.label, {})
        if run.seed in seeds:
            raise RecipeError(
                "an arm has the same seed twice",
                where=f"{run.label}, seed {run.seed}",
                next="give each run once",
            )
        seeds[run.seed] = run
    return {arm: dict(sorted(seeds.items())) for arm, seeds in arms.items()}


def _baseline_of(arm: str, arms: Arms, baseline: str) -> str:
    """Return the label of the arm to compare with: of the same wiring, else of the same pooling, else the only one."""
    if baseline in arms:
        return baseline
    own = _model(arms, arm)
    found = [name for name in arms if _model(arms, name)["control"] == baseline]
    plain = [name for name in found if not next(iter(arms[name].values())).tuned]
    for mode in ("wiring", "pooling"):
        alike = [name for name in plain if _model(arms, name)[mode] == own[mode]]
        if arm in alike:
            return arm
        if len(alike) == 1:
            return alike[0]
    if len(plain or found) == 1:
        return (plain or found)[0]
    raise PlugInError(
        f"{'several arms are' if found else 'no arm is'} the baseline {baseline!r}",
        where=arm,
        next=f"give baseline= one of these labels: {', '.join(found or arms)}",
    )


def _model(arms: Arms, arm: str) -> dict[str, Any]:
    return next(iter(arms[arm].values())).model


def _scores(runs: dict[int, RunResult], seeds: Iterable[int], test: str, metric: str) -> NDArray[np.float64]:
    """Return (seeds, examples), larger is better."""
    sign = 1.0 if metric == "accuracy" else -1.0
    return np.stack([sign * runs[seed].tests[test].per_example(metric) for seed in seeds])


def _rows_of(test: str, arms: Arms, bases: dict[str, str], metric: str, level: float) -> list[Row]:
    differences: dict[str, Interval] = {}
    for arm, base in bases.items():
        if arm != base:
            shared = [seed for seed in arms[arm] if seed in arms[base]]
            if not shared:
                raise RecipeError(
                    "the arms share no seed", where=f"{arm} and {base}", next="run both with one seed"
                )
            pair = [_scores(arms[name], shared, test, metric) for name in (arm, base)]
            differences[arm] = paired_difference(*pair, level=level)
    adjusted = dict(zip(differences, holm([found.p_value for found in differences.values()]), strict=True))
    return [
        _row(test, arm, arms[arm], bases[arm], differences.get(arm), adjusted, metric=metric, level=level)
        for arm in arms
    ]


def _row(
    test: str,
    arm: str,
    runs: dict[int, RunResult],
    base: str,
    found: Interval | None,
    adjusted: dict[str, float],
    *,
    metric: str,
    level: float,
) -> Row:
    scores = _scores(runs, runs, test, metric)
    own = mean_interval(scores if metric == "accuracy" else -scores, level=level)
    values = {
        "test": test,
        "arm": arm,
        "baseline": "",
        "seeds": tuple(runs),
        "mean": own.mean,
        "low": own.low,
        "high": own.high,
        "balanced_accuracy": _mean(runs, test, "balanced_accuracy"),
        "auroc": _mean(runs, test, "auroc"),
    }
    if found is None:
        return Row(**values)
    values |= {
        "baseline": base,
        "difference": found.mean,
        "difference_low": found.low,
        "difference_high": found.high,
        "p_value": adjusted[arm],
        "verdict": _words(found, adjusted[arm], len(adjusted), metric),
    }
    return Row(**values)


def _words(found: Interval, adjusted: float, n_arms: int, metric: str) -> str:
    words = verdict(found, "points" if metric == "accuracy" else "nats")
    if found.excludes_zero and adjusted >= 1 - found.level:
        return f"{words} taken alone, but not detectable among {n_arms} arms (Holm p = {adjusted:.2f})"
    return words


def _mean(runs: dict[int, RunResult], test: str, metric: str) -> float | None:
    values = [run.tests[test].metrics.get(metric) for run in runs.values()]
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if len(numbers) == len(values) else None
