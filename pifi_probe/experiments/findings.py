"""From runs to what was measured of each claim, with interval and verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pifi_probe import differences as judging
from pifi_probe.experiments.plan import Claim
from pifi_probe.experiments.runner import Runs
from pifi_probe.kinds import metric_named
from pifi_probe.stats import Interval
from pifi_probe.training import RunResult
from pifi_probe.training.result import TestResult

__all__ = ["Finding", "finding_of"]

_FEW_SEEDS = "; with so few seeds the interval says nothing about seed noise"


@dataclass(frozen=True)
class Finding:
    """What was measured of a claim.

    Parameters
    ----------
    says, source : str
        The claim and where the paper makes it.
    paper : float or None
        What the paper reports, in points; None where it gives no number.
    unit : str
        ``"points"`` (hundredths) for shares, else the metric's name.
    measured, low, high : float or None
        The difference and its interval; positive where the first arm is better. None when a part was left out.
    verdict : str
        In words.
    """

    says: str
    source: str
    paper: float | None
    unit: str
    measured: float | None
    low: float | None
    high: float | None
    verdict: str


def finding_of(claim: Claim, runs: Runs) -> Finding:
    """Measure a claim, with an interval of 95 %.

    Notes
    -----
    Within a block, arms are paired over seeds and test examples and judged together (`pifi_probe.differences`).
    Blocks have test sets of their own, so the half-widths of their intervals are joined by squares.
    """
    able = [name for name, arms in runs.results.items() if {claim.arm, claim.against} <= arms.keys()]
    plus = claim.blocks or tuple(name for name in able if name not in claim.minus and _tested(claim, runs, name))
    missing = [name for name in (*plus, *claim.minus) if name not in able] or ([] if plus else ["its runs"])
    if missing:
        words = f"not measured: {', '.join(missing)} left out"
        return Finding(claim.says, claim.source, claim.value, "points", None, None, None, words)
    metric = claim.metric or _tests_of(claim, runs.results[plus[0]][claim.arm])[0].score_names[0]
    scale = metric_named(metric).scale
    own = [_difference(claim, runs.results[name], metric) for name in plus]
    off = [_difference(claim, runs.results[name], metric) for name in claim.minus]
    middle = _mean(own) - (_mean(off) if off else 0.0)
    half = math.hypot(_half(own), _half(off) if off else 0.0)
    measured, low, high = (scale * value for value in (middle, middle - half, middle + half))
    unit = metric_named(metric).of_differences
    words = _verdict(claim, low, high) + ("" if all(one.over_seeds for one in own + off) else _FEW_SEEDS)
    return Finding(claim.says, claim.source, claim.value, unit, measured, low, high, words)


def _tested(claim: Claim, runs: Runs, block: str) -> bool:
    return claim.test is None or claim.test in runs.results[block][claim.arm][0].tests


def _tests_of(claim: Claim, runs: Sequence[RunResult]) -> list[TestResult]:
    return [run.tests[claim.test] if claim.test else next(iter(run.tests.values())) for run in runs]


def _difference(claim: Claim, arms: dict[str, list[RunResult]], metric: str) -> Interval:
    """Judge a difference together with all arms of its block, which tell how much seeds matter."""
    sign = metric_named(metric).sign
    scores = {
        arm: {seed: sign * test.per_example(metric) for seed, test in enumerate(_tests_of(claim, own))}
        for arm, own in arms.items()
        if claim.test is None or all(claim.test in run.tests for run in own)
    }
    together = judging.Runs(scores, [claim.against])
    asked = {"claim": judging.between([claim.arm], [claim.against])}
    return together.differences(asked)["claim"].interval


def _mean(intervals: Sequence[Interval]) -> float:
    return float(np.mean([one.mean for one in intervals]))


def _half(intervals: Sequence[Interval]) -> float:
    return math.hypot(*((one.high - one.low) / 2 for one in intervals)) / len(intervals)


def _verdict(claim: Claim, low: float, high: float) -> str:
    if claim.expects == "similar":
        if -claim.margin <= low and high <= claim.margin:
            return f"holds here: within {claim.margin:g}"
        if low > claim.margin or high < -claim.margin:
            return f"does not hold here: further apart than {claim.margin:g}"
        return f"open: the interval is wider than {claim.margin:g}"
    if low > 0:
        return "holds here"
    if high < 0:
        return "does not hold here: the opposite was found"
    return "open: the interval includes zero"
