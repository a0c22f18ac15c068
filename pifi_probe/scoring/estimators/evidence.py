"""LogME, with the evidence that its definition asks for."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pifi_probe.scoring.estimators.classes import Codes, Floats, indicators
from pifi_probe.scoring.estimators.registry import register_estimator
from pifi_probe.scoring.spectrum import Spectrum

__all__ = ["Evidence", "log_evidence", "logme"]

LOG_RATIOS = np.linspace(-18.0, 18.0, 73)  # of noise to mean signal, natural logarithm; steps of one half
NEWTON_STEPS = 4  # from a grid point within half a unit of the maximum: enough for float64


class Evidence(NamedTuple):
    """Largest log evidence per degree of freedom, and where it is reached; each of shape (M,)."""

    value: Floats
    alpha: Floats
    beta: Floats


def log_evidence(spectrum: Spectrum, targets: Floats) -> Evidence:
    """Evidence of Bayesian linear regression with an intercept of flat prior.

    Parameters
    ----------
    spectrum : Spectrum
        Of features X (N, D), centred and scaled.
    targets : ndarray, shape (N, M), float64
        M regressions.

    Returns
    -------
    Evidence
        ln N(Qᵀy; 0, I/β + QᵀXXᵀQ/α) / (N-1) at its maximum over α and β, with Q an orthonormal basis of the
        N-1 contrasts that a mean leaves; α and β are in units of the scaled features.

    Notes
    -----
    With t = α/β the best β is known: 1/β = yᵀ(I + XXᵀ/t)⁻¹y / (N-1). What remains is a function of ln t, maximised
    on a grid (one matrix product for all targets) and by Newton steps. The fixed-point iteration of the original
    stops at the same point, if it gets there.
    """
    values, dof = spectrum.values, spectrum.n - 1
    y = targets - targets.mean(axis=0)
    z = (spectrum.vectors.T @ y) ** 2  # (rank, M)
    total = (y**2).sum(axis=0)
    # rounding must not pass for noise: what is left is zero with a full rank, and never under 1e-12 with another
    unexplained = np.zeros(len(total)) if spectrum.rank == dof else np.maximum(total - z.sum(axis=0), 1e-12 * total)
    grid = LOG_RATIOS + np.log(values.mean() if spectrum.rank else 1.0)
    noise = 1 / (1 + values * np.exp(-grid)[:, None])  # share t/(s+t) of each direction, (T, rank)
    profile = -0.5 * np.log(noise @ z + unexplained) + 0.5 * np.log(noise).sum(axis=1)[:, None] / dof
    start = grid[profile.argmax(axis=0)]
    log_t = _newton(start, values, z, unexplained, dof, grid[[0, -1]])
    noise = 1 / (1 + values[:, None] * np.exp(-log_t))  # (rank, M)
    quadratic = (z * noise).sum(axis=0) + unexplained
    beta = dof / quadratic
    value = 0.5 * (np.log(beta) - np.log(2 * np.pi) - 1 + np.log(noise).sum(axis=0) / dof)
    return Evidence(value, beta * np.exp(log_t), beta)


def _newton(start: Floats, values: Floats, z: Floats, unexplained: Floats, dof: int, ends: Floats) -> Floats:
    """Climb the profile evidence from grid points; a step is never longer than the grid's."""
    log_t = start
    for _ in range(NEWTON_STEPS):
        noise = 1 / (1 + values[:, None] * np.exp(-log_t))
        slope = noise * (1 - noise)
        quadratic = (z * noise).sum(axis=0) + unexplained
        first = (z * slope).sum(axis=0) / quadratic
        second = (z * slope * (1 - 2 * noise)).sum(axis=0) / quadratic - first**2
        gradient = -first + (1 - noise).sum(axis=0) / dof
        curvature = -second - slope.sum(axis=0) / dof
        step = np.where(curvature < 0, -gradient / np.minimum(curvature, -1e-300), np.sign(gradient))
        log_t = np.clip(log_t + np.clip(step, -0.5, 0.5), start - 0.5, start + 0.5)
    return np.clip(log_t, *ends)


def _logme(spectrum: Spectrum, labels: Codes) -> Floats:
    onehot = indicators(labels)  # (N, P, K)
    return log_evidence(spectrum, onehot.reshape(spectrum.n, -1)).value.reshape(onehot.shape[1:]).mean(axis=1)


@register_estimator(
    title="LogME",
    unit="nats",
    range="(-inf, inf); chance is the evidence without features, -ln(sd of a one-hot label) - 1.42 on average",
    cost="2 N² K + 100 N K",
    source="You et al. 2021, arXiv 2102.11005, with D/2 ln(alpha) of the released code corrected to rank/2 ln(alpha)",
    in_default=True,
    permuted=_logme,
)
def logme(features: Floats, labels: Codes, *, spectrum: Spectrum) -> float:
    """Log evidence of one-hot labels under Bayesian linear regression, per example, mean over classes.

    Labels are centred as features are (an intercept with a flat prior): raw one-hot labels would keep their mean as
    noise that no feature explains.
    """
    return float(_logme(spectrum, labels[None])[0])
