"""How far examples of one class lie apart, against how far the classes do."""

from __future__ import annotations

import numpy as np

from pifi_probe.scoring.estimators.classes import Codes, Floats, class_means
from pifi_probe.scoring.estimators.hscore import shrinkage
from pifi_probe.scoring.estimators.registry import register_estimator
from pifi_probe.scoring.spectrum import Spectrum

__all__ = ["fisher_ratio", "hidden_state_variability"]


def _variability(spectrum: Spectrum, labels: Codes) -> Floats:
    between = class_means(spectrum, labels).between  # M, (P, rank, K)
    n_classes = between.shape[2]
    variances = spectrum.values / spectrum.n
    gram = between.transpose(0, 2, 1) @ between  # MᵀM has the eigenvalues of Σ_b
    total = between.transpose(0, 2, 1) @ (variances[:, None] * between)  # MᵀΣM
    eigenvalues, vectors = np.linalg.eigh(gram)
    within = np.einsum("pkc,pkl,plc->pc", vectors, total, vectors) - eigenvalues**2
    real = eigenvalues > 1e-12 * variances.sum()
    real &= np.arange(n_classes) > 0  # weighted by the classes' sizes, the means add up to zero
    ratios = np.where(real, within / np.where(real, eigenvalues, 1) ** 2, 0).sum(axis=1) / n_classes
    return np.where(real.any(axis=1), ratios, spectrum.n)


@register_estimator(
    title="hidden-state variability",
    unit="",
    larger_is_better=False,
    range="[0, inf); N where no class mean differs from another",
    cost="2 N² K",
    source="Xie et al. 2022, arXiv 2210.10041",
    in_default=True,
    permuted=_variability,
)
def hidden_state_variability(features: Floats, labels: Codes, *, spectrum: Spectrum) -> float:
    """Within-class over between-class variance along the directions of the class means: tr(Σ_w Σ_b⁺) / K.

    With two classes it is a variance along one direction over a squared gap, and noisy: read `fisher_ratio` next to it.
    """
    return float(_variability(spectrum, labels[None])[0])


def _fisher(spectrum: Spectrum, labels: Codes) -> Floats:
    if not spectrum.rank:
        return np.zeros(len(labels))
    classes = class_means(spectrum, labels)
    between = classes.between
    variances = spectrum.values / spectrum.n
    gram = between.transpose(0, 2, 1) @ between
    total = between.transpose(0, 2, 1) @ (variances[:, None] * between)
    trace = variances.sum() - np.trace(gram, axis1=1, axis2=2)
    norm = (variances**2).sum() - 2 * np.trace(total, axis1=1, axis2=2) + (gram**2).sum(axis=(1, 2))
    weight = shrinkage(norm, trace, _within_lengths(spectrum, labels, classes.means), spectrum.dim)
    # Σ_w shrunk is a diagonal matrix minus (1-a) MMᵀ; with G = Mᵀ diag⁻¹ M its inverse needs K x K matrices only
    diagonal = (1 - weight)[:, None] * variances + (weight * trace / spectrum.dim)[:, None]  # (P, rank)
    g = np.linalg.eigvalsh(between.transpose(0, 2, 1) @ (between / diagonal[:, :, None])).clip(0)
    return (g / (1 - (1 - weight)[:, None] * g)).sum(axis=1)


def _within_lengths(spectrum: Spectrum, labels: Codes, means: Floats) -> Floats:
    """Squared distance of each example to the mean of its class, shape (P, N)."""
    products = np.einsum("nk,pkc->pnc", spectrum.components(), means, optimize=True)
    own = np.take_along_axis(products, labels[:, :, None], axis=2)[:, :, 0]
    lengths = np.take_along_axis((means**2).sum(axis=1), labels, axis=1)
    return np.maximum(spectrum.squared_norms - 2 * own + lengths, 0)


@register_estimator(
    title="Fisher ratio",
    unit="",
    range="[0, inf); 0 means no signal",
    cost="4 N² K",
    source="Fisher 1936, tr(S_w⁻¹ S_b); S_w shrunk as by Ledoit and Wolf 2004",
    in_default=True,
    permuted=_fisher,
)
def fisher_ratio(features: Floats, labels: Codes, *, spectrum: Spectrum) -> float:
    """Between-class variance in units of the (Ledoit-Wolf) within-class covariance."""
    return float(_fisher(spectrum, labels[None])[0])
