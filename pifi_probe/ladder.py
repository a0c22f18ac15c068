"""The ladder of effects: what the projections, the block, the language model's weights and the choice of layer do.

Each step is a difference between groups of arms of one wiring, so that all runs of a group count:

=============  ===================================================  ========================================
effect         difference                                           question
=============  ===================================================  ========================================
plugging in    real layers - vanilla                                does the whole plug-in help?
projections    linear - vanilla                                     do two linear maps help, without a layer?
twins          random and shuffled twins - vanilla                  does a plug-in without knowledge help?
block          random and shuffled twins - linear                   does a block of this shape help?
knowledge      real layers - twins                                  do the language model's own weights help?
choice         best layer - mean of layers; after a search, the     does it matter which layer?
               chosen layer - the last layer
depth          last layer - first layer, on a straight line         do later layers help more?
=============  ===================================================  ========================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pifi_probe.differences import Difference, Runs, between
from pifi_probe.kinds import metric_named
from pifi_probe.stats import MIN_SEEDS, of_few_seeds
from pifi_probe.units import scale_of
from pifi_probe.vocabulary import BARE, TWINS

__all__ = ["LAST", "Arm", "Effect", "answer", "control_seeds", "effects_of", "missing", "needed"]

Floats = NDArray[np.float64]
Scores = Mapping[str, Mapping[int, Floats]]

LAST = "last layer"  # which a search sets next to its choice
MANY = 4  # layers, from which a trend over depth is told


@dataclass(frozen=True)
class Arm:
    """What the ladder needs to know of an arm: its wiring, its control (None: real layers), the depth of its layer."""

    wiring: str
    control: str | None
    depth: int | None
    tuned: bool = False


def control_seeds(n_seeds: int, n_layers: int) -> int:
    """Return how many seeds the encoder alone, the projections and the twins should have with so many layers.

    They are in every comparison. With r times as many runs the noise of a difference is 1/1 + 1/r of a layer's, and
    for a fixed number of runs it is least where r is the square root of the number of layers (Dunnett 1955).
    """
    return round(n_seeds * math.sqrt(max(n_layers, 1)))


@dataclass(frozen=True)
class Effect:
    """One step of the ladder.

    Parameters
    ----------
    name : str
        "plugging in", "projections", "twins", "block", "knowledge", "choice" or "depth".
    test, wiring, metric : str
    of, against : tuple of str
        Labels of the arms whose means are compared; for "depth" the later and the earlier half of the layers.
    mean, low, high : float
        In the unit of the metric; positive is better, even where the metric is an error or a loss. For "choice" the
        mean is shrunk towards zero, since the best of several is partly lucky, and the interval allows for having
        picked it.
    p_value : float
        Two-sided, taken alone ("choice": adjusted for the number of layers).
    verdict : {"better", "worse", "equivalent", "undecided"}
        "equivalent": no difference larger than `margin`, by two one-sided tests.
    margin : float or None
        In the unit of the metric.
    n_seeds : int
        The fewest seeds of the arms.
    over_seeds : bool
        Whether the interval covers the noise of seeds.
    seed_error, example_error : float
        Standard errors over seeds and over test examples.
    """

    name: str
    test: str
    wiring: str
    metric: str
    of: tuple[str, ...]
    against: tuple[str, ...]
    mean: float
    low: float
    high: float
    p_value: float
    verdict: str
    margin: float | None
    n_seeds: int
    over_seeds: bool
    seed_error: float
    example_error: float

    def interval(self, unit: str = "") -> str:
        """Return mean and interval as text, such as ``"+1.2 [-0.3, +2.7]"``; points are hundredths of a share.

        Parameters
        ----------
        unit : str
            As in `Comparison.unit`; empty: the metric's own.
        """
        scale, digits = scale_of(unit or metric_named(self.metric).of_differences)
        mean, low, high = (scale * value for value in (self.mean, self.low, self.high))
        return f"{mean:+z.{digits}f} [{low:+z.{digits}f}, {high:+z.{digits}f}]"


def effects_of(
    scores: Scores, arms: Mapping[str, Arm], test: str, metric: str, *, level: float, margin: float | None
) -> list[Effect]:
    """Return the effects that these arms can tell, wiring by wiring; the rest is named by `missing`."""
    found: list[Effect] = []
    bases = [label for label, arm in arms.items() if arm.control in BARE]
    runs = Runs(scores, bases)
    for wiring in dict.fromkeys(arm.wiring for arm in arms.values()):
        groups = _groups(arms, wiring)
        pairs = {name: pair for name, pair in _pairs(groups).items() if all(pair) and runs.linked(between(*pair))}
        judged = runs.differences({name: between(*pair) for name, pair in pairs.items()}, level=level)
        for name, pair in pairs.items():
            verdict = _verdict(judged[name], margin)
            found.append(_effect(name, test, wiring, metric, pair, judged[name], verdict, margin))
        found += _layers(runs, groups["real"], arms, test, wiring, metric, level, margin)
    return found


def _groups(arms: Mapping[str, Arm], wiring: str) -> dict[str, list[str]]:
    own = {label: arm for label, arm in arms.items() if arm.wiring == wiring and not arm.tuned}
    return {
        "real": [label for label, arm in own.items() if arm.control is None],
        "twins": [label for label, arm in own.items() if arm.control in TWINS],
        "linear": [label for label, arm in own.items() if arm.control == "linear"],
        "vanilla": [label for label, arm in own.items() if arm.control == "vanilla"],
        LAST: [label for label, arm in own.items() if arm.control == LAST],
    }


def _pairs(groups: Mapping[str, list[str]]) -> dict[str, tuple[list[str], list[str]]]:
    return {
        "plugging in": (groups["real"], groups["vanilla"]),
        "projections": (groups["linear"], groups["vanilla"]),
        "twins": (groups["twins"], groups["vanilla"]),
        "block": (groups["twins"], groups["linear"]),
        "knowledge": (groups["real"], groups["twins"]),
        "choice": (groups["real"], groups[LAST]),
    }


def _effect(
    name: str,
    test: str,
    wiring: str,
    metric: str,
    pair: tuple[Sequence[str], Sequence[str]],
    found: Difference,
    verdict: str,
    margin: float | None,
) -> Effect:
    interval = found.interval
    return Effect(
        name=name,
        test=test,
        wiring=wiring,
        metric=metric,
        of=tuple(pair[0]),
        against=tuple(pair[1]),
        mean=interval.mean,
        low=interval.low,
        high=interval.high,
        p_value=interval.p_value,
        verdict=verdict,
        margin=margin,
        n_seeds=interval.n_seeds,
        over_seeds=interval.over_seeds,
        seed_error=found.limits.seed_error,
        example_error=found.example_error,
    )


def _verdict(found: Difference, margin: float | None) -> str:
    """Judge by the interval; two one-sided tests at 1 - level mean that of level 2 level - 1 lies inside the margin."""
    if found.interval.excludes_zero:
        return "better" if found.interval.mean > 0 else "worse"
    low, high = found.limits.at(2 * (1 - found.interval.level))
    if margin is not None and found.interval.over_seeds and -margin < low and high < margin:
        return "equivalent"
    return "undecided"


def _layers(
    runs: Runs,
    real: Sequence[str],
    arms: Mapping[str, Arm],
    test: str,
    wiring: str,
    metric: str,
    level: float,
    margin: float | None,
) -> list[Effect]:
    """Return what the choice among several layers is worth, and the trend over depth."""
    if len(real) < 2 or not all(runs.linked(between([label], list(real))) for label in real):
        return []
    found = runs.differences({label: between([label], list(real)) for label in real}, level=level)
    values = np.array([found[label].interval.mean for label in real])
    variances = np.array([found[label].limits.seed_error ** 2 + found[label].example_error ** 2 for label in real])
    best = int(values.argmax())
    # James and Stein: what the layers differ by beyond their noise, as a share of all that they differ by
    between_layers = max(float(values.var(ddof=1) - variances.mean()), 0.0)
    shrink = between_layers / (between_layers + float(variances[best])) if between_layers > 0 else 0.0
    chosen = found[real[best]]
    # simultaneous over the layers: the interval must hold for whichever of them was picked
    raw, wider = chosen.interval, chosen.critical
    limits = (raw.mean - wider * (raw.mean - raw.low), raw.mean + wider * (raw.high - raw.mean))
    verdict = "better" if limits[0] > 0 else "undecided"
    if verdict == "undecided" and margin is not None and raw.over_seeds and limits[1] < margin:
        verdict = "equivalent"
    effect = _effect("choice", test, wiring, metric, ([real[best]], real), chosen, verdict, margin)
    mean = shrink * effect.mean
    low, high = min(limits[0], mean), max(limits[1], mean)
    effects = [replace(effect, mean=mean, low=low, high=high, p_value=chosen.p_value)]
    depths = {label: arms[label].depth for label in real}
    if len({depth for depth in depths.values() if depth is not None}) >= MANY and None not in depths.values():
        effects.append(_trend(runs, depths, test, wiring, metric, level, margin))
    return effects


def _trend(
    runs: Runs,
    depths: Mapping[str, int | None],
    test: str,
    wiring: str,
    metric: str,
    level: float,
    margin: float | None,
) -> Effect:
    """Return the difference between the last and the first layer on the least-squares line over depth."""
    labels = list(depths)
    x = np.array([float(depths[label] or 0) for label in labels])
    slope = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    weights = dict(zip(labels, slope * (x.max() - x.min()), strict=True))
    found = runs.differences({"depth": weights}, level=level)["depth"]
    later, earlier = (tuple(label for label in labels if sign * weights[label] > 0) for sign in (1, -1))
    verdict = _verdict(found, margin)
    return _effect("depth", test, wiring, metric, (later, earlier), found, verdict, margin)


def missing(arms: Mapping[str, Arm]) -> dict[str, list[str]]:
    """Return by wiring which groups of the ladder have no arm: "vanilla", "linear", "twins" or "real"."""
    found = {}
    for wiring in dict.fromkeys(arm.wiring for arm in arms.values()):
        lacking = [name for name, own in _groups(arms, wiring).items() if not own and name != LAST]
        if lacking:
            found[wiring] = lacking
    return found


def answer(
    effects: Sequence[Effect],
    unit: str = "points",
    plugged: str = "",
    lacking: Sequence[str] = (*BARE, "twins"),
) -> str:
    """Say in one to three plain sentences what the plain steps of one test set and wiring found.

    Parameters
    ----------
    effects : sequence of Effect
    unit : str
    plugged : str
        The layer that is plugged in, where there is one.
    lacking : sequence of str
        Groups of arms without which nothing can be told; see `missing`.
    """
    by_name = {effect.name: effect for effect in effects if effect.name in ("plugging in", "projections", "knowledge")}
    sentences = []
    if whole := by_name.get("plugging in"):
        subject = f"Plugging in {plugged}".strip()
        sentences.append(f"{subject} {_phrase(whole, unit, 'the encoder alone')}.")
    if own := by_name.get("projections"):
        sentences.append(f"Two projections without any layer {_phrase(own, unit, 'the encoder alone')}.")
    if own := by_name.get("knowledge"):
        twins = "random or shuffled layers of the same shape"
        sentences.append(f"The language model's own weights {_phrase(own, unit, twins)}.")
    few = [effect.n_seeds for effect in by_name.values() if not effect.over_seeds]
    if few:
        sentences[-1] = f"{sentences[-1][:-1]}; intervals are over test examples only: {of_few_seeds(min(few))}."
    if sentences:
        return " ".join(sentences)
    names = " and ".join(part for part in (", ".join(lacking[:-1]), *lacking[-1:]) if part)
    why = f"{names} {'is' if len(lacking) == 1 else 'are'} missing" if lacking else "they share no seed"
    return f"No effect can be told from these arms: {why}."


def _phrase(effect: Effect, unit: str, other: str) -> str:
    scale, digits = scale_of(unit)
    low, high = sorted(scale * value for value in (effect.low, effect.high))
    if effect.verdict == "better":
        gains = f"{scale * effect.mean:z.{digits}f} {unit} [{low:z.{digits}f}, {high:z.{digits}f}]"
        return f"gain{_s(effect)} {gains} over {other}"
    if effect.verdict == "worse":
        costs = f"{-scale * effect.mean:z.{digits}f} {unit} [{-high:z.{digits}f}, {-low:z.{digits}f}]"
        return f"cost{_s(effect)} {costs} against {other}"
    shown = effect.interval(unit)
    if effect.verdict == "equivalent":
        margin = scale * (effect.margin or 0)
        size = f"{margin:g} {unit.removesuffix('s') if margin == 1 else unit}"
        return f"make{_s(effect)} no difference larger than {size} to {other} ({shown})"
    return f"{'is' if _s(effect) else 'are'} undecided against {other} ({shown} {unit})"


def _s(effect: Effect) -> str:
    """Return the ending of the verb: "Plugging in gains", "weights gain"."""
    return "s" if effect.name == "plugging in" else ""


def needed(effect: Effect, *, seconds_a_run: float, level: float = 0.95) -> tuple[int, int, float] | None:
    """Return what would decide an effect: further seeds, arms that need them, seconds; None where seeds cannot.

    The effect is taken to be as large as it looks, and the interval to shrink with the root of the number of seeds;
    the spread over test examples stays.

    Parameters
    ----------
    effect : Effect
        An undecided one.
    seconds_a_run : float
        Mean wall time of a run.
    """
    from scipy.stats import norm

    n_arms = len({*effect.of, *effect.against})
    if not effect.over_seeds:  # nothing is known of the noise of seeds yet
        more = max(MIN_SEEDS - effect.n_seeds, 1)
        return more, n_arms, more * n_arms * seconds_a_run
    z = float(norm.isf((1 - level) / 2))
    room = abs(effect.mean)  # the half-width that would exclude zero
    if effect.margin is not None and effect.margin - abs(effect.mean) > room:
        room = effect.margin - abs(effect.mean)  # sooner shown to be small
    left = room**2 - (z * effect.example_error) ** 2
    if left <= 0 or effect.seed_error <= 0:
        return None
    total = math.ceil(effect.n_seeds * (1.1 * z * effect.seed_error) ** 2 / left)
    more = max(total, effect.n_seeds + 1) - effect.n_seeds
    return more, n_arms, more * n_arms * seconds_a_run
