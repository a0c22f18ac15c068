"""The logistic probe with few labels: how many a layer's states need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pifi_probe.alignment.readout import fit_block
from pifi_probe.progress import bar_options
from pifi_probe.scoring.points import Kind, Measured
from pifi_probe.scoring.threads import side_by_side
from pifi_probe.tasks.splitting import label_counts
from pifi_probe.tasks.task import nested_order

if TYPE_CHECKING:
    from pifi_probe.features.feature_set import Features

__all__ = ["kinds_with_few_labels", "score_with_few_labels", "sizes_of"]

Labels = NDArray[np.int64]


def sizes_of(fractions: Sequence[float], labels: Labels, where: str) -> list[int]:
    """Return numbers of labelled examples, ascending: at most half of all, so that the other half can be scored.

    Raises
    ------
    TaskError
        If one is larger than half of the examples, or has not two examples a class.
    """
    return sorted(set(label_counts(fractions, len(labels) // 2, 2 * len(np.unique(labels)), where)))


def kinds_with_few_labels(sizes: Sequence[int]) -> dict[str, Kind]:
    """Return what a reader must know of these scores, by name."""
    return {_name(size): Kind(f"Logistic probe, {size:,} labels", "accuracy", True) for size in sizes}


def score_with_few_labels(
    features: Features,
    labels: Labels,
    places: Sequence[dict[str, Any]],
    sizes: Sequence[int],
    *,
    n_draws: int,
    seed: int,
    progress: bool = False,
) -> list[Measured]:
    """Fit the probe to few examples at every point, several times, and score it on the same half of all examples.

    Parameters
    ----------
    features : Features
    labels : array of int, shape (N,)
    places : sequence of dict, one a point
        Depth, layer and position.
    sizes : sequence of int
        Labelled examples; see `sizes_of`.
    n_draws : int
        Draws of them, by class; the same at every point, and smaller ones within larger ones.
    seed : int

    Returns
    -------
    list of Measured
        By size, then by point: accuracy of each held-out example and draw, (draws, N / 2 rounded up).
    """
    order = _by_class(labels, np.random.default_rng(seed))
    pool, scored = order[: len(labels) // 2], np.sort(order[len(labels) // 2 :])
    chosen = [pool[_by_class(labels[pool], np.random.default_rng([seed, draw + 1]))] for draw in range(n_draws)]

    def score(point: int) -> list[Measured]:
        states = np.array(features[point], dtype=np.float32)
        found = []
        for size in sizes:
            right = np.empty((n_draws, len(scored)))
            for draw, rows in enumerate(chosen):
                few = np.sort(rows[:size])
                fitted = fit_block(states[few], labels[few], int(labels.max()) + 1, seed=seed)
                right[draw] = fitted(states[scored]).argmax(1) == labels[scored]
            place = places[point]
            found.append(Measured(_name(size), float(right.mean()), **place, per_example=right))
        return found

    points = range(features.n_points)
    bar = tqdm(side_by_side(score, points), total=len(points), desc="few labels", leave=False, **bar_options(progress))
    measured = [one for found in bar for one in found]
    return [one for size in sizes for one in measured if one.estimator == _name(size)]


def _name(size: int) -> str:
    return f"logistic_accuracy, {size} labels"


def _by_class(labels: Labels, draw: np.random.Generator) -> Labels:
    return np.array(nested_order(draw.permutation(len(labels)).tolist(), labels.tolist()))
