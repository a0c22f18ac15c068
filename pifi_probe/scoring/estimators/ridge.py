"""Ridge regression on one-hot labels with exact leave-one-out predictions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pifi_probe.scoring.estimators.classes import Codes, Floats, indicators
from pifi_probe.scoring.estimators.registry import Scored, register_estimator
from pifi_probe.scoring.spectrum import Spectrum

__all__ = ["ridge_accuracy", "ridge_mse"]

PENALTIES = np.logspace(-4, 4, 15)  # times the mean eigenvalue
NEARBY = range(-2, 3)  # penalties tried around the best one of generalised cross-validation


def leave_one_out(spectrum: Spectrum, labels: Codes) -> tuple[Floats, Floats]:
    """Predict each example by a ridge regression (with intercept) fitted to all others.

    Parameters
    ----------
    spectrum : Spectrum
        Of features (N, D).
    labels : ndarray, shape (P, N), int64
        Codes of P labellings.

    Returns
    -------
    targets, residuals : ndarray, shape (N, P, K), float64
        One-hot labels, and what the prediction lacks to them, with the penalty (of 15, from 1e-4 to 1e4 of the
        mean eigenvalue) that has the smallest leave-one-out squared error of that labelling.

    Notes
    -----
    With H = 1/N + U diag(s/(s+λ)) Uᵀ the residual is (y - Hy)_j / (1 - H_jj): no model is fitted again.
    Generalised cross-validation, which needs no product with U, finds the neighbourhood of the best penalty; within
    two steps of it the exact error decides. One-hot columns add up to one, so the last column of residuals is minus
    the sum of the others.
    """
    return spectrum.once("ridge", labels, lambda: _leave_one_out(spectrum, labels))


def _leave_one_out(spectrum: Spectrum, labels: Codes) -> tuple[Floats, Floats]:
    u, values, n = spectrum.vectors, spectrum.values, spectrum.n
    targets = indicators(labels)
    y = (targets - targets.mean(axis=0))[:, :, :-1]  # (N, P, K-1)
    projected = (u.T @ y.reshape(n, -1)).reshape(len(values), *y.shape[1:])  # (rank, P, K-1)
    penalties = PENALTIES * (values.mean() if len(values) else 1.0)
    kept = values[:, None] / (values[:, None] + penalties)  # (rank, 15)
    free = 1 - 1 / n - u**2 @ kept  # 1 - H_jj, (N, 15)
    start = _cross_validated(y, projected, kept, free)
    best = np.full(y.shape[1], np.inf)
    residuals = np.zeros_like(y)
    for offset in NEARBY:
        chosen = np.clip(start + offset, 0, len(penalties) - 1)  # (P,)
        fitted = (u @ (kept[:, chosen, None] * projected).reshape(len(values), y[0].size)).reshape(y.shape)
        left_out = (y - fitted) / free[:, chosen, None]
        error = _squares(left_out)
        better = error < best
        best[better] = error[better]
        residuals[:, better] = left_out[:, better]
    return targets, np.concatenate([residuals, -residuals.sum(axis=2, keepdims=True)], axis=2)


def _squares(columns: Floats) -> Floats:
    """Sum of squares over rows and all K columns, of which the last one is minus the sum of those given."""
    return np.einsum("npk,npk->p", columns, columns) + (columns.sum(axis=2) ** 2).sum(axis=0)


def _cross_validated(y: Floats, projected: Floats, kept: Floats, free: Floats) -> NDArray[np.intp]:
    """Index of the penalty with the smallest generalised cross-validation error, shape (P,)."""
    energy = (projected**2).sum(axis=2) + projected.sum(axis=2) ** 2  # (rank, P)
    error = _squares(y) - (1 - (1 - kept.T) ** 2) @ energy  # (15, P)
    return (error / free.mean(axis=0)[:, None] ** 2).argmin(axis=0)


def _correct(spectrum: Spectrum, labels: Codes) -> NDArray[np.bool_]:
    """Which examples are recognised, shape (P, N)."""
    if not spectrum.rank:
        return np.broadcast_to(labels == np.bincount(labels[0]).argmax(), labels.shape)
    targets, residuals = leave_one_out(spectrum, labels)
    mean = targets.mean(axis=0)
    predictions = targets - residuals + (targets - mean) / (spectrum.n - 1)  # class shares of all N, see the docstring
    return labels == predictions.argmax(axis=2).T


def _squared(spectrum: Spectrum, labels: Codes) -> Floats:
    """Mean squared error of each example, shape (P, N)."""
    return (leave_one_out(spectrum, labels)[1] ** 2).mean(axis=2).T


@register_estimator(
    title="ridge accuracy",
    unit="accuracy",
    range="[0, 1]; chance is the share of the largest class",
    cost="12 N² K",
    source="Hoerl and Kennard 1970; leave-one-out by Allen 1974 (PRESS)",
    in_default=True,
    permuted=lambda spectrum, labels: _correct(spectrum, labels).mean(axis=1),
    min_per_class=2,
)
def ridge_accuracy(features: Floats, labels: Codes, *, spectrum: Spectrum) -> Scored:
    """Share of examples whose class has the largest ridge prediction when they are left out.

    Leaving an example out also lowers the share of its class among the rest, by 1/N. With useless features and equal
    classes that alone decides, wrongly: the plain form gives noise 0.09 where 0.5 is chance (N = 200, D = 400). The
    intercept therefore keeps the class shares of all N examples; slopes and means of features are those of the others.
    """
    return Scored.mean(_correct(spectrum, labels[None])[0])


@register_estimator(
    title="ridge error",
    unit="squared error",
    larger_is_better=False,
    range="[0, inf); chance is the mean variance of the one-hot labels, times (N/(N-1))²",
    cost="12 N² K",
    source="Hoerl and Kennard 1970; leave-one-out by Allen 1974 (PRESS)",
    in_default=True,
    permuted=lambda spectrum, labels: _squared(spectrum, labels).mean(axis=1),
    min_per_class=2,
)
def ridge_mse(features: Floats, labels: Codes, *, spectrum: Spectrum) -> Scored:
    """Leave-one-out squared error of ridge regression on one-hot labels, mean over classes."""
    return Scored.mean(_squared(spectrum, labels[None])[0])
