"""H-score with a shrunk covariance."""

from __future__ import annotations

import numpy as np

from pifi_probe.scoring.estimators.classes import Codes, Floats, class_means
from pifi_probe.scoring.estimators.registry import register_estimator
from pifi_probe.scoring.spectrum import Spectrum

__all__ = ["hscore", "shrinkage"]


def shrinkage(squared_norm: Floats, trace: float, lengths: Floats, dim: int) -> Floats:
    """Ledoit-Wolf weight of the scaled identity.

    Parameters
    ----------
    squared_norm : ndarray, shape (...)
        Squared Frobenius norm of the covariance (1/N).
    trace : ndarray, shape (...)
        Its trace.
    lengths : ndarray, shape (..., N)
        Squared lengths of the centred examples.
    dim : int
        D.

    Returns
    -------
    ndarray, shape (...)
        In [0, 1]; 1 where the covariance is a multiple of the identity.
    """
    n = lengths.shape[-1]
    distance = squared_norm - trace**2 / dim
    noise = ((lengths**2).sum(axis=-1) / n - squared_norm) / n
    return np.where(distance > 1e-12 * squared_norm, np.clip(noise / np.maximum(distance, 1e-300), 0, 1), 1.0)


def _hscore(spectrum: Spectrum, labels: Codes) -> Floats:
    if not spectrum.rank:
        return np.zeros(len(labels))
    between = class_means(spectrum, labels).between
    variances = spectrum.values / spectrum.n
    weight = shrinkage((variances**2).sum(), variances.sum(), spectrum.squared_norms, spectrum.dim)
    shrunk = (1 - weight) * variances + weight * variances.sum() / spectrum.dim
    return ((1 - weight) * (between**2 / shrunk[:, None])).sum(axis=(1, 2))


@register_estimator(
    title="H-score",
    unit="",
    range="[0, K-1]; 0 means no signal",
    cost="2 N² K",
    source="Bao et al. 2019, shrunk as by Ibrahim et al. 2021, arXiv 2110.06893",
    in_default=True,
    permuted=_hscore,
)
def hscore(features: Floats, labels: Codes, *, spectrum: Spectrum) -> float:
    """Between-class variance in units of the Ledoit-Wolf covariance: tr(Σ_a⁻¹ (1-a) Σ_b).

    Without shrinkage it is K-1 for any features with N <= D. Features without structure (a near 1) score near 0
    whatever the labels are; compare with the permutation null.
    """
    return float(_hscore(spectrum, labels[None])[0])
