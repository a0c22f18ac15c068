"""Is a score of the layers worth anything? Ceilings, nulls, regret and chance for a curve over depth.

Scores and qualities are arrays (layers,), by depth; larger is better in both.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pifi_probe.ranking import rank_agreement

__all__ = ["chance_regret", "noise_ceiling", "regret_at", "smooth_null"]

Array = NDArray[np.float64]


def noise_ceiling(icc: float) -> float:
    """Return the Kendall tau that a perfect score can expect against noisy means.

    Parameters
    ----------
    icc : float
        Share of the variance between the layers' means that is not noise, as `layer_effect` estimates it.

    Notes
    -----
    A perfect score correlates with the means by the root of `icc`; for normal values tau is ``2/pi asin(rho)``
    (Greiner).
    """
    return 2 / math.pi * math.asin(math.sqrt(min(max(icc, 0.0), 1.0)))


def smooth_null(score: ArrayLike, quality: ArrayLike, n_draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % limit of |tau| of curves as smooth as the score, and the p-value of its own.

    Two unrelated curves that are smooth over depth agree by chance far more often than permuted values do. The null
    draws random-phase surrogates of the score: its spectrum, mirrored at both ends, with random phases.

    Parameters
    ----------
    score, quality : array (layers,)
    n_draws : int
    seed : int
        Of the phases.

    Returns
    -------
    tuple of float
        Both NaN where the score is constant.
    """
    own, other = np.asarray(score, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    found = rank_agreement(own, other)["kendall"]
    if math.isnan(found):
        return math.nan, math.nan
    drawn = [abs(rank_agreement(curve, other)["kendall"]) for curve in _surrogates(own, n_draws, seed)]
    p_value = (1 + sum(tau >= abs(found) - 1e-12 for tau in drawn)) / (n_draws + 1)
    return float(np.quantile(drawn, 0.95)), p_value


def _surrogates(curve: Array, n_draws: int, seed: int) -> Array:
    """Return curves (draws, layers) with the spectrum of `curve`."""
    mirrored = np.concatenate([curve, curve[::-1]])
    size = np.abs(np.fft.rfft(mirrored - mirrored.mean()))
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, (n_draws, len(size)))
    drawn = np.fft.irfft(size * np.exp(1j * phases), n=len(mirrored))
    return np.asarray(drawn[:, : len(curve)], dtype=np.float64)


def regret_at(score: ArrayLike, quality: ArrayLike, k: int = 1) -> float:
    """Return how much better the best layer is than the best of the `k` layers with the highest scores.

    Ties of the score count by expectation over their order when ``k`` is 1, and by depth otherwise.
    """
    own, other = np.asarray(score, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    if k == 1:
        return float(other.max() - other[own == own.max()].mean())
    chosen = np.argsort(-own, kind="stable")[:k]
    return float(other.max() - other[chosen].max())


def chance_regret(quality: ArrayLike, k: int = 1) -> float:
    """Return the expected `regret_at` of a score drawn at random, exactly.

    Notes
    -----
    The best of k layers drawn without replacement is the j-th worst with probability ``C(j-1, k-1) / C(L, k)``.
    """
    values = np.sort(np.asarray(quality, dtype=np.float64))
    n = len(values)
    weights = np.array([math.comb(j, k - 1) for j in range(n)], dtype=np.float64) / math.comb(n, k)
    return float(values.max() - weights @ values)
