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
layers         the layer farthest from the mean of all layers       do layers differ at all?
depth          last layer - first layer, on a straight line         do later layers help more?
=============  ===================================================  ========================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pifi_probe.differences import Difference, Runs, between
from pifi_probe.kinds import metric_named
from pifi_probe.stats import MIN_SEEDS, of_few_seeds, settle
from pifi_probe.units import scale_of, size_of
from pifi_probe.vocabulary import BARE, TWINS

__all__ = [
    "LAST",
    "Arm",
    "Effect",
    "answer",
    "baselines_of",
    "control_seeds",
    "effects_of",
    "missing",
    "needed",
]

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
        "plugging in", "projections", "twins", "block", "knowledge", "choice", "layers" or "depth".
    test, wiring, metric : str
    of, against : tuple of str
        Labels of the arms whose means are compared; for "depth" the later and the earlier half of the layers.
    mean, low, high : float
        In the unit of the metric; positive is better, even where the metric is an error or a loss. For "choice" the
        mean is shrunk towards zero, since the best of several is partly lucky, and the interval allows for having
        picked it. For "layers" the interval holds for all layers at once (an analysis of means [1]_).
    p_value : float
        Two-sided, taken alone ("choice" and "layers": adjusted for the number of layers).
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

    References
    ----------
    .. [1] Nelson (1982), Exact critical points for the analysis of means: each mean against the mean of all.
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

    def __post_init__(self) -> None:
        settle(self)

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


def baselines_of(arms: Mapping[str, Arm]) -> list[str]:
    """Return the arms that enter every step of the ladder: the encoder alone, and the two projections."""
    return [label for label, arm in arms.items() if arm.control in BARE]


def effects_of(
    runs: Runs, arms: Mapping[str, Arm], test: str, metric: str, *, level: float, margin: float | None
) -> list[Effect]:
    """Return the effects that these arms can tell, wiring by wiring; the rest is named by `missing`."""
    found: list[Effect] = []
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
    if found.interval.excludes_zero:
        return "better" if found.interval.mean > 0 else "worse"
    return "equivalent" if found.within(margin) else "undecided"


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
    """Return what the choice among several layers is worth, whether they differ, and the trend over depth."""
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
    limits = _for_all(chosen)  # it must hold for whichever of them was picked
    verdict = "better" if limits[0] > 0 else "undecided"
    if verdict == "undecided" and margin is not None and chosen.interval.over_seeds and limits[1] < margin:
        verdict = "equivalent"
    effect = _effect("choice", test, wiring, metric, ([real[best]], real), chosen, verdict, margin)
    mean = shrink * effect.mean
    low, high = min(limits[0], mean), max(limits[1], mean)
    effects = [replace(effect, mean=mean, low=low, high=high, p_value=chosen.p_value)]
    effects.append(_farthest(found, real, test, wiring, metric, margin))
    depths = {label: arms[label].depth for label in real}
    if len({depth for depth in depths.values() if depth is not None}) >= MANY and None not in depths.values():
        effects.append(_trend(runs, depths, test, wiring, metric, level, margin))
    return effects


def _for_all(found: Difference) -> tuple[float, float]:
    """Return the limits that hold for all differences that were asked for at once."""
    one, wider = found.interval, found.critical
    return one.mean - wider * (one.mean - one.low), one.mean + wider * (one.high - one.mean)


def _farthest(
    found: Mapping[str, Difference],
    real: Sequence[str],
    test: str,
    wiring: str,
    metric: str,
    margin: float | None,
) -> Effect:
    """Return the layer farthest from the mean of all: if not even it differs from the mean, none is seen to."""
    label = min(real, key=lambda one: (found[one].p_value, -abs(found[one].interval.mean)))
    own = found[label]
    low, high = _for_all(own)
    verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
    if verdict == "undecided" and all(found[one].within(margin, found[one].critical) for one in real):
        verdict = "equivalent"
    effect = _effect("layers", test, wiring, metric, ([label], real), own, verdict, margin)
    return replace(effect, low=low, high=high, p_value=own.p_value)


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
    told = ("plugging in", "projections", "knowledge", "layers")
    by_name = {effect.name: effect for effect in effects if effect.name in told}
    sentences = []
    if whole := by_name.get("plugging in"):
        subject = f"Plugging in {plugged}".strip()
        sentences.append(f"{subject} {_phrase(whole, unit, 'the encoder alone')}.")
    if own := by_name.get("projections"):
        sentences.append(f"Two projections without any layer {_phrase(own, unit, 'the encoder alone')}.")
    if own := by_name.get("knowledge"):
        twins = "random or shuffled layers of the same shape"
        sentences.append(f"The language model's own weights {_phrase(own, unit, twins)}.")
    if sentences and (own := by_name.get("layers")):
        sentences[-1] = f"{sentences[-1][:-1]}; {_layers_phrase(own, unit)}."
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
        size = size_of(effect.margin or 0, unit)
        return f"make{_s(effect)} no difference larger than {size} to {other} ({shown})"
    return f"{'is' if _s(effect) else 'are'} undecided against {other} ({shown} {unit})"


def _layers_phrase(effect: Effect, unit: str) -> str:
    if effect.verdict == "equivalent":
        return f"no layer differs from the mean of all by more than {size_of(effect.margin or 0, unit)}"
    if effect.verdict == "undecided":
        return "that layers differ from one another is not shown"
    return f"layers differ: {effect.of[0]} by {effect.interval(unit)} {unit} from the mean of all"


def _s(effect: Effect) -> str:
    """Return the ending of the verb: "Plugging in gains", "weights gain"."""
    return "s" if effect.name == "plugging in" else ""


def needed(effect: Effect, *, seconds_a_run: float, level: float = 0.95) -> tuple[int, int, float] | None:
    """Return what would decide an effect: further seeds, arms that need them, seconds; None where seeds cannot.

    The effect is taken to be as large as it looks, and the interval to shrink with the root of the number of seeds;
    the spread over test examples stays. The interval of a layer against the mean of all, which must hold for all layers
    at once, is taken to be Bonferroni's: about as wide.

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
    asked = len(effect.against) if {*effect.of} <= {*effect.against} else 1  # at once
    z = float(norm.isf((1 - level) / 2 / asked))
    room = abs(effect.mean)  # the half-width that would exclude zero
    if effect.margin is not None and effect.margin - abs(effect.mean) > room:
        room = effect.margin - abs(effect.mean)  # sooner shown to be small
    left = room**2 - (z * effect.example_error) ** 2
    if left <= 0 or effect.seed_error <= 0:
        return None
    total = math.ceil(effect.n_seeds * (1.1 * z * effect.seed_error) ** 2 / left)
    more = max(total, effect.n_seeds + 1) - effect.n_seeds
    return more, n_arms, more * n_arms * seconds_a_run
