"""From the features of every point to single measurements: what one estimator says at one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pifi_probe.progress import bar_options
from pifi_probe.scoring.estimators.memory import refuse_too_large
from pifi_probe.scoring.estimators.registry import Estimator
from pifi_probe.scoring.folds import stratified_folds
from pifi_probe.scoring.intervals import N_FIFTHS, stratified_fifths
from pifi_probe.scoring.linear import CVResult, cross_validate
from pifi_probe.scoring.null import permutation_null
from pifi_probe.scoring.spectrum import Spectrum
from pifi_probe.scoring.threads import side_by_side

__all__ = ["LOGISTIC", "Kind", "Measured", "Points", "place_of_point", "refuse_too_many", "score_points"]

Floats = NDArray[np.float64]
LOGISTIC = ("logistic_accuracy", "logistic_nll")
MIN_PER_FIFTH = 2  # examples of each class that a fifth needs


@dataclass(frozen=True)
class Kind:
    """What a reader must know of an estimator: a title, the unit of its values, and which direction is better."""

    title: str
    unit: str
    larger_is_better: bool


@dataclass(frozen=True)
class Measured:
    """One estimator at one place.

    Parameters
    ----------
    estimator : str
        Its name in the registry, or in the `kinds` that `build_table` is given.
    value : float
        The score; NaN where the estimator could not say anything, with the reason in `note`.
    depth : int or None
        0 to L; None for a control without a layer.
    layer : int or None
        Index of the layer that the row belongs to.
    position : {"input", "output"}
        Of that layer.
    arm : str
        "real" (the layer itself), "real - shuffled", or a control.
    projection : str
        How the encoder's vectors came to the layer's width; empty for own states.
    per_example : array of float, shape (N,) or (S, N), optional
        Scores of each example (and seed), in the unit of `value`, which is their mean.
    fifths : array of float, shape (5,), optional
        The estimator on five disjoint stratified fifths of the examples, the same for all layers.
    null : array of float, shape (P,), optional
        The estimator under permuted labels; the same permutations for all layers.
    note : str
        What a reader of this row must know.
    """

    estimator: str
    value: float
    depth: int | None
    layer: int | None
    position: str = "input"
    arm: str = "real"
    projection: str = ""
    per_example: Floats | None = None
    fifths: Floats | None = None
    null: Floats | None = None
    note: str = ""


class Points(Protocol):
    """Features of every point, one array (N, d) each; the last point is the output of the last layer."""

    @property
    def n_points(self) -> int:
        """How many points there are."""

    def __getitem__(self, point: int) -> NDArray[np.float32]: ...


def score_points(
    features: Points,
    labels: NDArray[np.int64],
    chosen: Sequence[Estimator],
    *,
    n_permutations: int,
    n_folds: int,
    seed: int,
    progress: bool = False,
) -> list[Measured]:
    """Score every point of `features` with every estimator; one point for each thread is in memory at a time."""
    refuse_too_many(chosen, labels, features[0].shape[1])
    single = [each for each in chosen if each.name not in LOGISTIC]
    fifths = stratified_fifths(labels, seed)
    folds = None  # of the logistic probe, the same at every point
    if len(single) < len(chosen):
        folds = stratified_folds(labels, n_folds, seed, keys=Spectrum.of(features[0]).squared_norms)

    def score(point: int) -> list[Measured]:
        states, place = features[point], place_of_point(features, point)  # (N, d_llm)
        spectrum = Spectrum.of(states)
        parts = _fifths(states, labels, fifths) if single else []
        found = [_score(each, states, labels, spectrum, parts, place, n_permutations, seed) for each in single]
        if folds is not None:
            found += _logistic(cross_validate(spectrum, labels, folds, name=f"depth {point}"), place)
        return found

    scored = side_by_side(score, range(features.n_points))
    bar = tqdm(scored, total=features.n_points, desc="scores", leave=False, **bar_options(progress))
    measured = [one for found in bar for one in found]
    order = {each.name: i for i, each in enumerate(chosen)}
    return sorted((one for one in measured if one.estimator in order), key=lambda one: order[one.estimator])


def refuse_too_many(chosen: Sequence[Estimator], labels: NDArray[np.int64], dim: int = 1) -> None:
    """Refuse, with the number, an estimator that would need more memory for so many examples than is free."""
    for each in chosen:
        refuse_too_large(each.name, each.memory, len(labels), dim, int(labels.max()) + 1)


def place_of_point(features: Points, point: int) -> dict[str, Any]:
    """Return depth, layer and position of a point: the input of layer `point`, or the output of the last one."""
    last = features.n_points - 1
    return {
        "depth": point,
        "layer": min(point, last - 1),
        "position": "input" if point < last else "output",
    }


Part = tuple[NDArray[np.float32], NDArray[np.int64], Spectrum]


def _fifths(states: NDArray[np.float32], labels: NDArray[np.int64], fifths: NDArray[np.int64]) -> list[Part]:
    """Return features, labels and spectrum of each fifth; none where a class is too small to be in all of them."""
    if np.bincount(labels).min() < N_FIFTHS * MIN_PER_FIFTH:
        return []
    kept = [fifths == number for number in range(N_FIFTHS)]
    return [(states[rows], labels[rows], Spectrum.of(states[rows])) for rows in kept]


def _score(
    each: Estimator,
    states: NDArray[np.float32],
    labels: NDArray[np.int64],
    spectrum: Spectrum,
    parts: list[Part],
    place: dict[str, Any],
    n_permutations: int,
    seed: int,
) -> Measured:
    scored = each.score(states, labels, spectrum=spectrum)
    fifths = null = None
    if scored.per_example is None and parts:
        fifths = np.array([each(x, y, spectrum=part) for x, y, part in parts])
    if n_permutations and each.null and each.needs_labels:
        null = permutation_null(each, states, labels, spectrum, n=n_permutations, seed=seed)
    return Measured(each.name, scored.value, **place, per_example=scored.per_example, fifths=fifths, null=null)


def _logistic(result: CVResult, place: dict[str, Any]) -> list[Measured]:
    """Return both scores of one cross-validated fit."""
    note = "" if result.converged else "a logistic fit did not converge: its score is not reliable"
    scores = zip(LOGISTIC, (result.correct.astype(np.float64), result.nll), strict=True)
    return [Measured(name, float(parts.mean()), **place, per_example=parts, note=note) for name, parts in scores]
