"""`compare`: arms against their baseline, paired over seeds and test examples, with a verdict in words."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pifi_probe.differences import Difference, Runs, between
from pifi_probe.errors import PifiProbeError, PlugInError, RecipeError, TaskError
from pifi_probe.kinds import KINDS, metric_named
from pifi_probe.ladder import Arm, Effect, baselines_of, effects_of, missing
from pifi_probe.stats import mean_interval, verdict
from pifi_probe.tags import tags_of, with_tags
from pifi_probe.training.comparison import Comparison, Row
from pifi_probe.training.result import RunResult, runs_in
from pifi_probe.training.sight import plugged_in

__all__ = ["Comparison", "compare"]

MARGIN = 0.01  # one point
_ALSO = ("accuracy", "nll")  # the ladder is told in both where both are known
_NOT_OF_THE_MODEL = ("recipe", "task", "tests")  # checked before, with words of their own
Arms = dict[str, dict[int, RunResult]]


def compare(
    results: Iterable[RunResult],
    baseline: str = "vanilla",
    *,
    metric: str | None = None,
    level: float = 0.95,
    margin: float | None = None,
    tags: str | Iterable[str] = (),
) -> Comparison:
    """Compare the arms of an experiment.

    Runs with the same label are seeds of one arm. Every arm is compared with the baseline of its own wiring over
    seeds and test examples; from three arms on, all runs together tell how much seeds matter
    (`pifi_probe.two_way`). Groups of arms are compared too: see `Comparison.effects` and `Comparison.answer`.

    Parameters
    ----------
    results : iterable of RunResult
        Of one task, one encoder and one recipe but for the seed.
    baseline : str
        A control, such as "vanilla" or "linear", or the label of an arm.
    metric : str, optional
        A score that every example has: "accuracy" or "nll" for classes and choices, "squared_error" or
        "absolute_error", "f1" or "exact_match" of answers, "token_accuracy", "chrf" or "nll" of written text. None:
        the first of these for the kind of the task. Differences are positive where an arm is better.
    level : float
        Nominal coverage of the intervals, between 0 and 1.
    margin : float, optional
        What counts as no difference, in the unit of the metric: an effect whose interval lies within it is
        "equivalent", and an arm's verdict says so. None: one point (0.01) for shares such as accuracy, and nothing for
        other metrics.
    tags : str or iterable of str
        Words of your own for the comparison; those that all runs share are added.

    Returns
    -------
    Comparison

    Raises
    ------
    PifiProbeError
        If there are no runs, `results` holds anything else, or `metric`, `level`, `margin` or a tag is unusable.
    RecipeError
        If recipes differ in more than the seed, or an arm has a seed twice.
    TaskError
        If tasks, sizes or test sets differ.
    PlugInError
        If encoders differ, runs of one label differ in more than the seed draws, or no arm or several are the
        baseline.

    Examples
    --------
    >>> compare(runs).frame  # doctest: +SKIP
    """
    runs, tags = runs_in(results, "compare"), tags_of(tags)
    if not runs:
        raise PifiProbeError("no runs were given", where="compare", next="give the results of pp.fine_tune")
    if not isinstance(level, numbers.Real) or not 0 < level < 1:
        raise PifiProbeError(f"level={level!r} is not between 0 and 1", where="compare", next="the default is 0.95")
    known = next(iter(runs[0].tests.values())).score_names
    if margin is not None and not (isinstance(margin, numbers.Real) and 0 < margin < np.inf):
        raise PifiProbeError(
            f"margin={margin!r} is not a positive number", where="compare", next="margin=0.01 is one point of accuracy"
        )
    metric = metric or known[0]
    if metric not in known:
        raise PifiProbeError(f"unknown metric {metric!r}", where="compare", next=f"use one of {', '.join(known)}")
    if margin is not None and metric_named(metric).is_share and margin >= 1:
        raise PifiProbeError(
            f"margin={margin!r} is all that {metric} can differ by",
            where="compare",
            next="margin=0.01 is one point of accuracy",
        )
    _check_alike(runs)
    arms = _grouped(runs)
    bases = {arm: _baseline_of(arm, arms, baseline) for arm in arms}
    rows: list[Row] = []
    kinds = {label: _kind(own) for label, own in arms.items()}
    effects: list[Effect] = []
    compared_with = list(dict.fromkeys((*bases.values(), *baselines_of(kinds))))
    for test in runs[0].tests:
        for name in dict.fromkeys((metric, *(other for other in _ALSO if other in known))):
            scores = {arm: _scores(own, test, name) for arm, own in arms.items()}
            near = (margin if name == metric else None) or (MARGIN if metric_named(name).is_share else None)
            together = Runs(scores, compared_with)
            if name == metric:
                rows += _rows_of(test, arms, bases, scores, together, metric, level, near)
            effects += effects_of(together, kinds, test, name, level=level, margin=near)
    seconds = float(np.mean([sum(run.seconds.values()) for run in runs]))
    lacking = missing(kinds)
    tags = with_tags(tags, [tag for tag in runs[0].tags if all(tag in run.tags for run in runs)])
    donors = plugged_in(run.model for run in runs)
    return Comparison(tuple(rows), metric, level, runs[0].task["sizes"], tuple(effects), lacking, seconds, donors, tags)


def _kind(runs: dict[int, RunResult]) -> Arm:
    run = next(iter(runs.values()))
    indices = [layer["index"] for layer in run.model["layers"]]
    depth = int(indices[0]) if len(indices) == 1 else None
    return Arm(run.model["wiring"], run.model["control"], depth, bool(run.tuned))


def _check_alike(runs: Sequence[RunResult]) -> None:
    if "kind" in runs[0].task:
        KINDS.named(runs[0].task["kind"], f"{runs[0].label}: import the module that registers the kind")
    first = next((run for run in runs if not run.tuned), runs[0])  # what one run tuned is free in the others, too
    for run in runs:
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
        raise RecipeError(
            f"the runs have different recipes: {_both(names, own, other)}",
            where=where,
            next="compare runs that differ in the seed only",
        )


def _grouped(runs: Sequence[RunResult]) -> Arms:
    arms: Arms = {}
    for run in runs:
        seeds = arms.setdefault(run.label, {})
        if seeds:
            _check_one_arm(next(iter(seeds.values())), run)
        if run.seed in seeds:
            raise RecipeError(
                "an arm has the same seed twice",
                where=f"{run.label}, seed {run.seed}",
                next="give each run once, and train each with a Recipe(seed=...) of its own",
            )
        seeds[run.seed] = run
    return {arm: dict(sorted(seeds.items())) for arm, seeds in arms.items()}


def _check_one_arm(first: RunResult, run: RunResult) -> None:
    own, other = (dict(one.key.without_draws().without(*_NOT_OF_THE_MODEL).entries) for one in (first, run))
    names = [name for name in own if name in other and own[name] != other[name]]  # older results say less
    if names:
        raise PlugInError(
            f"runs of one label have different models: {_both(names, own, other)}",
            where=f"{run.label}, seed {first.seed} and seed {run.seed}",
            next="leave one of them out, or name it apart: "
            'dataclasses.replace(run, model=run.model | {"label": "another name"})',
        )


def _both(names: Iterable[str], own: dict[str, Any], other: dict[str, Any]) -> str:
    """Name entries that differ, with both values."""
    return ", ".join(f"{name} {own[name]!r} and {other[name]!r}" for name in names)


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


def _scores(runs: dict[int, RunResult], test: str, metric: str) -> dict[int, NDArray[np.float64]]:
    """Return the score of every example by seed, larger is better."""
    sign = metric_named(metric).sign
    return {seed: sign * run.tests[test].per_example(metric) for seed, run in runs.items()}


def _rows_of(
    test: str,
    arms: Arms,
    bases: dict[str, str],
    scores: Mapping[str, dict[int, NDArray[np.float64]]],
    judged: Runs,
    metric: str,
    level: float,
    margin: float | None,
) -> list[Row]:
    asked = {arm: between([arm], [base]) for arm, base in bases.items() if arm != base}
    found = judged.differences(asked, level=level)
    rows = []
    for arm, runs in arms.items():
        values = np.stack(list(scores[arm].values()))
        own = mean_interval(metric_named(metric).sign * values, level=level)
        difference = found.get(arm)
        interval = difference.interval if difference else None
        rows.append(
            Row(
                test=test,
                arm=arm,
                baseline=bases[arm] if difference else "",
                seeds=tuple(runs),
                mean=own.mean,
                low=own.low,
                high=own.high,
                difference=interval.mean if interval else None,
                difference_low=interval.low if interval else None,
                difference_high=interval.high if interval else None,
                p_value=difference.p_value if difference else None,
                balanced_accuracy=_mean(runs, test, "balanced_accuracy"),
                auroc=_mean(runs, test, "auroc"),
                verdict=_words(difference, len(found), metric, margin, judged.unlike.get(arm))
                if difference
                else "baseline",
                tags=with_tags((), [tag for run in runs.values() for tag in run.tags]),
            )
        )
    return rows


def _words(found: Difference, n_arms: int, metric: str, margin: float | None, spread: float | None) -> str:
    small = margin if found.within(margin) else None
    words = verdict(found.interval, metric_named(metric).of_differences, within=small)
    if found.interval.excludes_zero and found.p_value >= 1 - found.interval.level:
        words += f" taken alone; not detectable among {n_arms} arms (adjusted p = {found.p_value:.2f})"
    if spread is not None:
        words += f"; its runs spread {spread:.0f} times as much as the others'"
    return words


def _mean(runs: dict[int, RunResult], test: str, metric: str) -> float | None:
    values = [run.tests[test].metrics.get(metric) for run in runs.values()]
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if len(numbers) == len(values) else None
