"""Is there a layer effect at all? Two-way analysis of layers and seeds (book/methods.md, Search)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALPHA", "LayerEffect", "layer_effect"]

ALPHA = 0.05


@dataclass(frozen=True)
class LayerEffect:
    """What a table of layers and seeds says.

    Parameters
    ----------
    p_value : float
        Of the F test of layers, seeds as blocks; NaN with fewer than two layers or seeds.
    friedman_p : float
        Of Friedman's test, by ranks; NaN with fewer than three layers.
    icc : float
        Share of the variance between layers that is not noise, for the mean of all seeds; not below 0.
    something_to_select : bool
        False only when the test could be made and found nothing.
    verdict : str
        In words.
    """

    p_value: float
    friedman_p: float
    icc: float
    something_to_select: bool
    verdict: str


def layer_effect(table: NDArray[np.float64]) -> LayerEffect:
    """Test whether layers differ by more than seeds make them differ.

    Parameters
    ----------
    table : array (layers, seeds)
        Any measure of quality, each seed shared by all layers.
    """
    from scipy.stats import f as f_distribution
    from scipy.stats import friedmanchisquare

    values = np.asarray(table, dtype=np.float64)
    n_layers, n_seeds = values.shape
    if n_layers < 2 or n_seeds < 2:
        few = "one layer" if n_layers < 2 else "one seed"
        return LayerEffect(math.nan, math.nan, math.nan, True, f"a layer effect cannot be tested with {few}")
    rest = values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + values.mean()
    noise = float((rest**2).sum()) / ((n_layers - 1) * (n_seeds - 1))
    between = n_seeds * float(values.mean(1).var(ddof=1))
    if noise <= 1e-18 * max(float((values**2).mean()), 1e-300):
        p_value, icc = (1.0, 0.0) if between <= noise else (0.0, 1.0)
    else:
        p_value = float(f_distribution.sf(between / noise, n_layers - 1, (n_layers - 1) * (n_seeds - 1)))
        icc = max(0.0, 1 - noise / between) if between > 0 else 0.0
    by_rank = float(friedmanchisquare(*values).pvalue) if n_layers > 2 and values.std() > 0 else math.nan
    found = p_value < ALPHA
    words = "layers differ" if found else "no layer effect is detectable"
    return LayerEffect(p_value, by_rank, icc, found, f"{words}: p = {p_value:.2g}, reliability of the means {icc:.2f}")
