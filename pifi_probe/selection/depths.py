"""What measured layers say of all layers of a space: the process over depth, from runs with different seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pifi_probe.selection.gp import Posterior, fit_depths, places, seed_adjusted
from pifi_probe.selection.space import Candidate, Space

__all__ = ["layer_posterior", "model_number"]


def layer_posterior(
    layers: Sequence[Candidate],
    values: Mapping[Candidate, Mapping[int, float]],
    space: Space,
    scores: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> Posterior | None:
    """Return what is believed of `layers`; None before two of them were run.

    Parameters
    ----------
    layers : sequence of Candidate
        Single layers.
    values : mapping of Candidate to mapping of seed to float
        What was measured, lower being better; candidates that are not among the layers are left out.
    space : Space
    scores : array (layers,), optional
        A cheap score of each: its regression line is the mean of the process.
    seed : int
        Of the draws.
    """
    place = {one: i for i, one in enumerate(layers)}
    table = {(place[one], s): v for one, runs in values.items() if one in place for s, v in runs.items()}
    if len({layer for layer, _ in table}) < 2:
        return None
    rows, means, variances = seed_adjusted(table)
    measured = rows.astype(int)
    grid = places([(model_number(one, space), space.depth(one)) for one in layers])
    prior = None if scores is None else (scores[measured], scores)
    return fit_depths(grid[measured], means, variances, grid, prior, seed=seed)


def model_number(one: Candidate, space: Space) -> int:
    """Return the place of a single layer's model among those of the space."""
    name = one.layers[0].rpartition("[")[0]
    return [model for model, _ in space.models].index(name)
