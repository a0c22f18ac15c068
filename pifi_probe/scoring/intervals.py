"""Intervals, nulls and the best set of one estimator at many layers.

Three sources of an interval, by what an estimator can say:

- a score for each example: a percentile bootstrap over the examples, the same draws for all layers, and with
  three or more seeds Student's t over them, added in quadrature (as in `pifi_probe.stats`);
- only a score for all examples: the estimator on five disjoint stratified fifths of them. Its spread, divided by
  the square root of five, stands for that of the whole, which holds where spread falls as 1/sqrt(n) (batch means);
- neither: no interval.

All of them take the layer's features as given and the held-out predictions as independent. They say how the score
would move with other examples, not with another language model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pifi_probe.stats import MIN_SEEDS

__all__ = [
    "N_FIFTHS",
    "adjusted_p_values",
    "best_by_fifths",
    "difference_p_values",
    "example_half_widths",
    "fifth_half_width",
    "stratified_fifths",
]

N_FIFTHS = 5
LEVEL = 0.95
N_BOOT = 4000
MAX_DRAWN = 1 << 22  # examples drawn at once, 32 MiB of numbers
Floats = NDArray[np.float64]


def stratified_fifths(labels: NDArray[np.int64], seed: int = 0) -> NDArray[np.int64]:
    """Return for every example which of five disjoint fifths it is in, (N,); class shares are equal to within one."""
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(labels)), labels))  # by class, at random within
    fifths = np.empty(len(labels), dtype=np.int64)
    fifths[order] = np.arange(len(labels)) % N_FIFTHS
    return fifths


def example_half_widths(scores: Floats, *, seed: int = 0) -> tuple[Floats, Floats]:
    """Return how far below and above the mean the interval of every arm reaches.

    Parameters
    ----------
    scores : array of float, shape (A, S, N)
        By arm (layer), seed and example.
    seed : int
        Of the draws, which all arms share.

    Returns
    -------
    below, above : array of float, shape (A,)
        Not negative.
    """
    from scipy.stats import t

    _, n_seeds, n = scores.shape
    by_example = scores.mean(axis=1)  # (A, N)
    deviations = _deviations((by_example - by_example.mean(axis=1, keepdims=True)).T, seed)  # (boot, A)
    low, high = np.quantile(deviations, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    seeds = np.zeros(len(scores))
    if n_seeds >= MIN_SEEDS:
        error = scores.mean(axis=2).std(axis=1, ddof=1) / np.sqrt(n_seeds)
        seeds = error * float(t.ppf((1 + LEVEL) / 2, n_seeds - 1))
    return np.hypot(np.minimum(low, 0), seeds), np.hypot(np.maximum(high, 0), seeds)


def _deviations(centred: Floats, seed: int) -> Floats:
    """Return the means (N_BOOT, A) of bootstrap samples of centred scores (N, A), as matrix products block by block."""
    rng, n = np.random.default_rng(seed), len(centred)
    step = max(1, min(N_BOOT, MAX_DRAWN // n))
    found = []
    for start in range(0, N_BOOT, step):
        size = min(step, N_BOOT - start)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)  # how often each is drawn
        found.append(counts.astype(np.float64) @ centred / n)
    return np.concatenate(found)


def fifth_half_width(fifths: Floats) -> float:
    """Return half of the 95 % interval of an estimator that scored five disjoint fifths, (5,)."""
    from scipy.stats import t

    quantile = float(t.ppf((1 + LEVEL) / 2, N_FIFTHS - 1))
    return quantile * float(np.std(fifths, ddof=1)) / float(np.sqrt(N_FIFTHS))


def best_by_fifths(values: Floats, fifths: Floats) -> NDArray[np.bool_]:
    """Return which layers cannot be told from the best, larger being better.

    A layer is left out when another one is better by a one-sided t-test on the paired differences of the fifths,
    with Bonferroni's correction for the number of others: the true best stays in with at least 95 %.

    Parameters
    ----------
    values : array of float, shape (A,)
        On all examples.
    fifths : array of float, shape (A, 5)
        The same layers on the same fifths.
    """
    from scipy.stats import t

    count = len(values)
    if count < 2:
        return np.ones(count, dtype=bool)
    quantile = float(t.isf((1 - LEVEL) / (count - 1), N_FIFTHS - 1))
    behind = values[None, :] - values[:, None]  # (A, A): how much better the column is than the row
    spread = (fifths[None, :, :] - fifths[:, None, :]).std(axis=2, ddof=1) / np.sqrt(N_FIFTHS)
    return ~(behind > quantile * spread).any(axis=1)


def adjusted_p_values(values: Floats, nulls: Floats) -> Floats:
    """Return p-values corrected for the number of layers, larger being better (Westfall and Young, maximum t).

    The null scores of a layer are standardised by their own mean and spread; a layer's score is compared with the
    largest among all layers under the same permutation.

    Parameters
    ----------
    values : array of float, shape (A,)
    nulls : array of float, shape (A, P)
        Column p is the same permutation of the labels at every layer.

    Returns
    -------
    array of float, shape (A,)
        In [1 / (P + 1), 1].
    """
    middle, spread = nulls.mean(axis=1), nulls.std(axis=1) + 1e-12 * (1 + np.abs(nulls).max(axis=1))
    largest = ((nulls - middle[:, None]) / spread[:, None]).max(axis=0)  # (P,)
    found = (values - middle) / spread
    p_values: Floats = (1 + (largest[None, :] >= found[:, None]).sum(axis=1)) / (1 + nulls.shape[1])
    return p_values


def difference_p_values(values: Floats, below: Floats, above: Floats, *, by_fifths: bool) -> Floats:
    """Return two-sided p-values of no difference between two arms, from 95 % intervals; NaN without an interval.

    Parameters
    ----------
    values, below, above : array of float, shape (A,)
        Differences, and how far below and above them their intervals reach.
    by_fifths : bool
        Whether the intervals are those of `fifth_half_width` (t with 4 degrees of freedom; else normal).
    """
    from scipy.stats import norm, t

    shape = t(N_FIFTHS - 1) if by_fifths else norm
    half = np.where(values > 0, below, above)  # the side on which zero lies
    distance = np.abs(values) / np.where(half > 0, half, np.where(values == 0, np.inf, 1e-300))
    p_values: Floats = np.where(np.isnan(half), np.nan, 2 * shape.sf(distance * shape.ppf((1 + LEVEL) / 2)))
    return p_values
