"""What many estimators need of labels: one-hot codes, and class means in the principal axes; for many labellings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pifi_probe.scoring.estimators.registry import Scored
from pifi_probe.scoring.spectrum import Spectrum

__all__ = ["ClassMeans", "chance", "class_means", "indicators"]

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]


def indicators(labels: Codes) -> Floats:
    """Return P labellings (P, N) with codes 0..K-1 as one-hot labels (N, P, K), float64, the examples first."""
    return (labels.T[:, :, None] == np.arange(labels.max() + 1)).astype(np.float64)


@dataclass(frozen=True)
class ClassMeans:
    """Means of the classes of P labellings.

    Parameters
    ----------
    counts : ndarray, shape (P, K)
        Examples in each class.
    means : ndarray, shape (P, rank, K)
        Coordinates in the principal axes of the (centred, scaled) features.
    """

    counts: Floats
    means: Floats

    @property
    def between(self) -> Floats:
        """M with M Mᵀ the between-class covariance Σ_c (n_c/N) μ_c μ_cᵀ, shape (P, rank, K)."""
        share = self.counts / self.counts.sum(axis=1, keepdims=True)
        return self.means * np.sqrt(share)[:, None, :]


def class_means(spectrum: Spectrum, labels: Codes) -> ClassMeans:
    """Return the class means of labellings, shape (P, N); one matrix product for all of them."""
    return spectrum.once("class means", labels, lambda: _class_means(spectrum, labels))


def _class_means(spectrum: Spectrum, labels: Codes) -> ClassMeans:
    onehot = indicators(labels)  # (N, P, K)
    counts = onehot.sum(axis=0)
    sums = (spectrum.vectors.T @ onehot.reshape(spectrum.n, -1)).reshape(spectrum.rank, *counts.shape)
    means = sums * np.sqrt(spectrum.values)[:, None, None] / counts
    return ClassMeans(counts, np.ascontiguousarray(means.transpose(1, 0, 2)))


def chance(labels: Codes) -> Scored:
    """Score the best guess without features, the largest class: what constant features are worth."""
    return Scored.mean(labels == np.bincount(labels).argmax())
