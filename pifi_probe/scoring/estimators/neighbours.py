"""Classifiers without a fit: nearest neighbours and nearest class mean, each leaving the example itself out."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from pifi_probe.errors import EstimatorError
from pifi_probe.scoring.estimators.classes import Codes, Floats, chance, class_means, indicators
from pifi_probe.scoring.estimators.memory import block_rows
from pifi_probe.scoring.estimators.registry import Scored, register_estimator
from pifi_probe.scoring.spectrum import Spectrum

__all__ = ["knn", "nearest_mean", "neighbour_weights"]

N_NEIGHBOURS = 10
MAX_TIES = 1 << 25  # beyond k neighbours each; 24 bytes a tie
CHUNK = 64  # columns whose largest similarity is looked at first
TIE = 1e-9  # similarities nearer than this are equal: no rank may hang on rounding


def neighbour_weights(x: Floats, k: int) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """Find each example's k nearest others by the cosine of centred features.

    Parameters
    ----------
    x : ndarray, shape (N, D), float64
        Centred features, or their principal components.
    k : int
        At most N-1 are taken.

    Returns
    -------
    weights, similarities : csr_array, shape (N, N)
        Rows of weights add up to k. Others that tie at the edge of the neighbourhood share what is left of it,
        so that the order of examples does not matter. Similarities have the same entries.

    Raises
    ------
    EstimatorError
        If so many examples are equal that their ties would fill the memory.

    Notes
    -----
    Rows of the (N, N) similarities are made block by block, each of 32 MiB: memory is linear in N.
    """
    n = len(x)
    k = min(k, n - 1)
    lengths = np.sqrt(np.einsum("nd,nd->n", x, x))
    scale = np.where(lengths > 1e-7 * lengths.max(initial=0), 1 / np.where(lengths > 0, lengths, 1), 0)
    unit = x * scale[:, None]
    parts, ties = [], 0
    for start in range(0, n, block_rows(n)):
        parts.append(_neighbours(unit, k, start, min(start + block_rows(n), n)))
        ties += parts[-1][0].nnz
        if ties > k * n + MAX_TIES:
            raise EstimatorError(
                f"more than {ties - k * start:,} pairs of examples are equally near, as equal texts are",
                where=f"N = {n:,}",
                next="leave equal examples out, or this estimator",
            )
    weights, similarities = zip(*parts, strict=True)
    return scipy.sparse.vstack(weights, format="csr"), scipy.sparse.vstack(similarities, format="csr")


def _neighbours(unit: Floats, k: int, start: int, end: int) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """Return the rows from `start` to `end` of `neighbour_weights`; `unit` has rows of length 1, or 0."""
    n, m = len(unit), end - start
    cosine = unit[start:end] @ unit.T  # (m, N)
    cosine[np.arange(m), np.arange(start, end)] = -np.inf
    rows, columns = np.nonzero(cosine >= _below_edge(cosine, k)[:, None] - TIE)
    found = cosine[rows, columns]
    edge = found[np.lexsort((-found, rows))][np.searchsorted(rows, np.arange(m)) + k - 1]  # the k-th largest of a row
    kept = found >= edge[rows] - TIE
    rows, columns, found = rows[kept], columns[kept], found[kept]
    inside = found > edge[rows] + TIE
    places = k - np.bincount(rows, inside, m)  # left for those that tie
    share = places / np.bincount(rows, ~inside, m)
    weights = np.where(inside, 1.0, share[rows])
    where, shape = (rows, columns), (m, n)
    return scipy.sparse.csr_array((weights, where), shape), scipy.sparse.csr_array((found, where), shape)


def _below_edge(cosine: Floats, k: int) -> Floats:
    """Return for each row a number that at least k of its entries reach: the k-th largest of its chunks' maxima.

    One pass over the row in place of a partition of it; only what reaches this number is looked at again.
    """
    n = cosine.shape[1] // CHUNK * CHUNK
    if n // CHUNK < k:
        return np.full(len(cosine), -np.inf)
    tops = cosine[:, :n].reshape(len(cosine), -1, CHUNK).max(axis=2)
    bounds: Floats = np.partition(tops, -k, axis=1)[:, -k]
    return bounds


def _neighbours_correct(spectrum: Spectrum, labels: Codes, k: int = N_NEIGHBOURS) -> Floats:
    """Which examples the vote gets right, shape (P, N)."""
    no_labels = np.empty((0, 0), dtype=np.int64)  # the same neighbours whatever the labels are
    weights, similarities = spectrum.once(
        f"{k} neighbours", no_labels, lambda: neighbour_weights(spectrum.components(), k)
    )
    votes = weights + weights * similarities / (4 * k)  # equal votes go to the nearer class
    onehot = indicators(labels)
    counted = (votes @ onehot.reshape(spectrum.n, -1)).reshape(onehot.shape)
    return (labels == counted.argmax(axis=2).T).astype(np.float64)


def _knn_permuted(spectrum: Spectrum, labels: Codes) -> Floats:
    if not spectrum.rank:
        return np.full(len(labels), chance(labels[0]).value)
    return _neighbours_correct(spectrum, labels).mean(axis=1)


@register_estimator(
    title="k nearest neighbours",
    unit="accuracy",
    range="[0, 1]; chance is the share of the largest class",
    cost="N² log N",
    source="Fix and Hodges 1951; as a score of representations Sorkhei et al. 2025, arXiv 2503.18528",
    in_default=True,
    permuted=_knn_permuted,
    min_per_class=2,
)
def knn(features: Floats, labels: Codes, *, spectrum: Spectrum, k: int = N_NEIGHBOURS) -> Scored:
    """Share of examples that the vote of their k nearest others (cosine, centred) gets right.

    A class of k/2 examples or fewer cannot win a vote: lower k where classes are that small.
    """
    if not spectrum.rank:
        return chance(labels)
    return Scored.mean(_neighbours_correct(spectrum, labels[None], k)[0])


def _means_correct(spectrum: Spectrum, labels: Codes) -> NDArray[np.bool_]:
    """Which examples lie nearest to the mean of their own class, shape (P, N)."""
    classes = class_means(spectrum, labels)
    products = np.einsum("nk,pkc->pnc", spectrum.components(), classes.means, optimize=True)
    distances = spectrum.squared_norms[:, None] - 2 * products + (classes.means**2).sum(axis=1)[:, None, :]
    own = labels[:, :, None]
    counts = np.take_along_axis(classes.counts, labels, axis=1)
    without = np.take_along_axis(distances, own, axis=2)[:, :, 0] * (counts / (counts - 1)) ** 2
    np.put_along_axis(distances, own, without[:, :, None], axis=2)
    return distances.argmin(axis=2) == labels


def _nearest_mean_permuted(spectrum: Spectrum, labels: Codes) -> Floats:
    if not spectrum.rank:
        return np.full(len(labels), chance(labels[0]).value)
    return _means_correct(spectrum, labels).mean(axis=1)


@register_estimator(
    title="nearest class mean",
    unit="accuracy",
    range="[0, 1]; chance is 1/K",
    cost="4 N² K",
    source="Tibshirani et al. 2002; as a score of representations Mensink et al. 2013",
    in_default=True,
    permuted=_nearest_mean_permuted,
    min_per_class=2,
)
def nearest_mean(features: Floats, labels: Codes, *, spectrum: Spectrum) -> Scored:
    """Share of examples nearer to the mean of the others of their class than to any other class mean."""
    if not spectrum.rank:
        return chance(labels)
    return Scored.mean(_means_correct(spectrum, labels[None])[0])
