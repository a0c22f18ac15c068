"""From runs to what was measured of each claim, with interval and verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pifi_probe import differences as judging
from pifi_probe.experiments.plan import Claim
from pifi_probe.experiments.runner import Runs
from pifi_probe.kinds import metric_named
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
        Such as "holds here" or "open: the interval includes zero".
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

    Parameters
    ----------
    claim : Claim
        Which arms are compared, in which blocks, and what the paper expects.
    runs : Runs
        Of the experiment.

    Returns
    -------
    Finding
        In points for shares, else in the unit of the metric. Nothing is measured where a block lacks an arm; the
        verdict names the block.

    Notes
    -----
    Within a block, arms are paired over seeds and test examples and judged together (`pifi_probe.differences`).
    Blocks have test sets of their own, so what their intervals reach below and above their means is joined in
    quadrature. Two arms are similar where two one-sided tests at 5 % lay their difference within the margin.
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
    measured, low, high = (scale * value for value in _joined(own, off, 0.05))
    _, *inner = (scale * value for value in _joined(own, off, 0.10))
    unit = metric_named(metric).of_differences
    over_seeds = all(one.interval.over_seeds for one in own + off)
    words = _verdict(claim, (low, high), inner) + ("" if over_seeds else _FEW_SEEDS)
    return Finding(claim.says, claim.source, claim.value, unit, measured, low, high, words)


def _tested(claim: Claim, runs: Runs, block: str) -> bool:
    return claim.test is None or claim.test in runs.results[block][claim.arm][0].tests


def _tests_of(claim: Claim, runs: Sequence[RunResult]) -> list[TestResult]:
    return [run.tests[claim.test] if claim.test else next(iter(run.tests.values())) for run in runs]


def _difference(claim: Claim, arms: dict[str, list[RunResult]], metric: str) -> judging.Difference:
    """Judge a difference together with all arms of its block, which tell how much seeds matter."""
    sign = metric_named(metric).sign
    scores = {
        arm: {run.seed: sign * test.per_example(metric) for run, test in zip(own, _tests_of(claim, own), strict=True)}
        for arm, own in arms.items()
        if claim.test is None or all(claim.test in run.tests for run in own)
    }
    together = judging.Runs(scores, [claim.against])
    asked = {"claim": judging.between([claim.arm], [claim.against])}
    return together.differences(asked)["claim"]


def _joined(
    plus: Sequence[judging.Difference], minus: Sequence[judging.Difference], alpha: float
) -> tuple[float, float, float]:
    """Return the mean over some blocks less that over others, with its limits at error `alpha`.

    What lies below and above a mean is joined apart, in quadrature; a block that is subtracted has the two exchanged.
    """
    middle, below, above = 0.0, 0.0, 0.0
    for sign, blocks in ((1, plus), (-1, minus)):
        for block in blocks:
            low, high = block.limits.at(alpha)
            mean, n = block.interval.mean, len(blocks)
            middle += sign * mean / n
            down, up = ((mean - low) / n, (high - mean) / n)[::sign]
            below, above = math.hypot(below, down), math.hypot(above, up)
    return middle, middle - below, middle + above


def _verdict(claim: Claim, limits: Sequence[float], inner: Sequence[float]) -> str:
    """Judge a claim by its limits at 95 %; similar by those at 90 %, as two one-sided tests at 5 % do."""
    low, high = limits
    if claim.expects == "similar":
        if -claim.margin < inner[0] and inner[1] < claim.margin:
            return f"holds here: within {claim.margin:g}"
        if low > claim.margin or high < -claim.margin:
            return f"does not hold here: further apart than {claim.margin:g}"
        return f"open: the interval is wider than {claim.margin:g}"
    if low > 0:
        return "holds here"
    if high < 0:
        return "does not hold here: the opposite was found"
    return "open: the interval includes zero"
