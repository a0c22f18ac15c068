"""Scores that set the geometry of features against the labels, or against an even spread."""

from __future__ import annotations

import numpy as np
import scipy.stats

from pifi_probe.scoring.estimators.classes import Codes, Floats, class_means
from pifi_probe.scoring.estimators.memory import square
from pifi_probe.scoring.estimators.registry import register_estimator
from pifi_probe.scoring.estimators.ridge import leave_one_out
from pifi_probe.scoring.spectrum import Spectrum

__all__ = ["gradient_coherence", "loes", "parc"]


@register_estimator(
    title="PARC",
    unit="",
    range="[-1, 1]; 0 means no signal",
    cost="N² log N",
    source="Bolya et al. 2021, arXiv 2111.06977; with cosines of 32 principal components, since correlations would "
    "hang on the components' signs",
    memory=square(40),
)
def parc(features: Floats, labels: Codes, *, spectrum: Spectrum) -> float:
    """Rank correlation, over pairs of examples, of the likeness of features and of labels.

    With two classes almost all pairs tie in the labels.
    """
    x = spectrum.components(32)
    if not x.size:
        return 0.0
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12 * np.linalg.norm(x))
    pairs = np.tril_indices(spectrum.n, -1)
    likeness = np.round((x @ x.T)[pairs], 9)  # rounding must not decide between ties
    if np.ptp(likeness) == 0:
        return 0.0
    return float(scipy.stats.spearmanr(likeness, (labels[:, None] == labels)[pairs])[0])


@register_estimator(
    title="LOES",
    unit="",
    larger_is_better=False,
    range="[0, inf); about 1 and the lack of spread for no signal",
    cost="12 N² K",
    source="Batra et al. 2026, arXiv 2605.23033, for one layer; the error is left out and relative to no features, the "
    "penalty chosen, and the isotropy bounded",
    min_per_class=2,
)
def loes(features: Floats, labels: Codes, *, spectrum: Spectrum, alpha: float = 0.1) -> float:
    """Leave-one-out ridge error plus `alpha` times the lack of an even spread, 1 - m/(m + sd) of the eigenvalues.

    The published form has `alpha` 1, by which even noise beats a strong signal along one direction, and takes the error
    of the examples that were fitted: with N <= D it is zero for any features.
    """
    targets, residuals = leave_one_out(spectrum, labels[None])
    constant = (targets - targets.mean(axis=0)) * spectrum.n / (spectrum.n - 1)
    error = float((residuals**2).mean() / (constant**2).mean())
    eigenvalues = np.zeros(min(spectrum.n - 1, spectrum.dim))
    eigenvalues[: spectrum.rank] = spectrum.values[: len(eigenvalues)]
    spread = eigenvalues.mean() / (eigenvalues.mean() + eigenvalues.std()) if spectrum.rank else 0.0
    return error + alpha * (1 - spread)


def _coherence(spectrum: Spectrum, labels: Codes) -> Floats:
    if not spectrum.rank:
        return np.zeros(len(labels))
    classes = class_means(spectrum, labels)
    share = classes.counts / spectrum.n  # (P, K)
    mean = ((share[:, None, :] * classes.means) ** 2).sum(axis=(1, 2))  # ‖E g‖²; means of centred features
    size = 1 - 2 * np.take_along_axis(share, labels, axis=1) + (share**2).sum(axis=1, keepdims=True)  # ‖p - y‖²
    each = (size * spectrum.squared_norms).mean(axis=1)  # E ‖g‖²
    return (spectrum.n * mean / each - 1) / (spectrum.n - 1)


@register_estimator(
    title="gradient coherence",
    unit="",
    range="[-1/(N-1), 1]; 0 means no signal",
    cost="2 N² K",
    source="Chatterjee 2020, arXiv 2002.10657, of a linear head before training; Bai et al. 2025 relate it to "
    "frozen layers",
    permuted=_coherence,
)
def gradient_coherence(features: Floats, labels: Codes, *, spectrum: Spectrum) -> float:
    """Mean inner product of two examples' gradients over the mean square of one.

    Gradients are those of the cross-entropy for the weights of a linear head that starts at zero, with the class shares
    as its intercept.
    """
    return float(_coherence(spectrum, labels[None])[0])
