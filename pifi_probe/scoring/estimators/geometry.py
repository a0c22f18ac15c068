"""Scores without labels: how many directions features use, and how alike two feature sets are."""

from __future__ import annotations

import numpy as np

from pifi_probe.errors import EstimatorError
from pifi_probe.scoring.estimators.classes import Floats
from pifi_probe.scoring.estimators.neighbours import N_NEIGHBOURS, neighbour_weights
from pifi_probe.scoring.estimators.registry import Scored, register_estimator
from pifi_probe.scoring.spectrum import Spectrum, centred

__all__ = ["cka", "effective_rank", "mutual_knn"]


@register_estimator(
    title="effective rank",
    unit="directions",
    range="[0, min(N-1, D)]; 0 for constant features; no direction of its own",
    cost="N",
    source="Roy and Vetterli 2007, of eigenvalues as by Skean et al. 2025, arXiv 2502.02013",
    in_default=True,
)
def effective_rank(features: Floats, *, spectrum: Spectrum) -> float:
    """Exponential of the entropy of the shares of variance: how many directions the features use."""
    if not spectrum.rank:
        return 0.0
    share = spectrum.values / spectrum.values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


@register_estimator(
    title="CKA",
    unit="",
    range="[-1/(N-3), 1]; 0 means no likeness",
    cost="2 N² (D2 + rank), or 2 N D2 rank where that is less",
    source="Kornblith et al. 2019, linear, with the unbiased HSIC of Song et al. 2012",
    in_default=True,
)
def cka(features: Floats, *, other: Floats, spectrum: Spectrum) -> float:
    """Linear centred kernel alignment of two feature sets, without the bias of few examples and many dimensions."""
    if spectrum.n < 4:
        raise EstimatorError(f"unbiased CKA of {spectrum.n} examples", next="pass at least four")
    x = centred(other)
    if spectrum.n > max(x.shape[1], spectrum.rank):
        return _cka_of_features(spectrum.components(), x)
    mine = spectrum.components()
    first, second = _u_centred(mine @ mine.T), _u_centred(x @ x.T)
    scale = np.linalg.norm(first) * np.linalg.norm(second)
    return float(np.vdot(first, second) / scale) if scale > 0 else 0.0


def _cka_of_features(x: Floats, y: Floats) -> float:
    """Return the same number with (D, D2) matrices only, for more examples than features."""
    own = _unbiased_product(x, x) * _unbiased_product(y, y)
    return _unbiased_product(x, y) / float(np.sqrt(own)) if own > 0 else 0.0


def _unbiased_product(x: Floats, y: Floats) -> float:
    """Return the inner product of two U-centred Gram matrices (Song et al. 2012, equation 5, times n (n - 3)).

    Of K = X Xᵀ and L = Y Yᵀ without their diagonals: tr(KL) + 1ᵀK1 1ᵀL1 / ((n-1)(n-2)) - 2 1ᵀKL1 / (n-2).
    """
    n = len(x)
    lengths, others = np.einsum("nd,nd->n", x, x), np.einsum("nd,nd->n", y, y)
    trace = np.square(x.T @ y).sum() - np.vdot(lengths, others)
    rows, other_rows = x @ x.sum(axis=0) - lengths, y @ y.sum(axis=0) - others  # K1 and L1
    return float(trace + rows.sum() * other_rows.sum() / ((n - 1) * (n - 2)) - 2 * np.vdot(rows, other_rows) / (n - 2))


def _u_centred(gram: Floats) -> Floats:
    """Centre a Gram matrix without its diagonal, so that inner products of such matrices are unbiased."""
    n = len(gram)
    k = gram.copy()
    np.fill_diagonal(k, 0)
    row = k.sum(axis=1) / (n - 2)
    k += row.sum() / (n - 1) - row - row[:, None]
    np.fill_diagonal(k, 0)
    return k


@register_estimator(
    title="mutual nearest neighbours",
    unit="share",
    range="[0, 1]; chance is k/(N-1)",
    cost="2 N² (D2 + rank) + N² log N",
    source="Huh et al. 2024, arXiv 2405.07987",
    in_default=True,
)
def mutual_knn(features: Floats, *, other: Floats, spectrum: Spectrum, k: int = N_NEIGHBOURS) -> Scored:
    """Share of an example's k nearest neighbours (cosine, centred) that two feature sets have in common."""
    x = centred(other)
    mine, _ = neighbour_weights(spectrum.components(), k)
    theirs, _ = neighbour_weights(x, k)
    return Scored.mean(mine.minimum(theirs).sum(axis=1) / min(k, spectrum.n - 1))
