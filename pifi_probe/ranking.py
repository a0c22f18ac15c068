"""Whether arms differ at all, which of many may be the best, and what a score that ranks them is worth.

With 31 depths the highest mean is partly luck, so :func:`best_set` returns every arm that the data cannot tell from
the best. An arm leaves only if some other arm beats it by more than chance explains, allowing for having looked at
all the others ("multiple comparisons with the best" [1]_). The set holds the true best with the stated probability,
because only one of the tests, that of the true best itself, has to hold; testing every arm costs nothing on top.

How often the 95 % set holds the true best (1,000 simulated data sets a row, so +-1.4; 31 arms, standard deviations
0.3 of examples, shared and own, and 0.05 of seeds; among tied arms the one in brackets is followed;
`python -m pytest tests/test_ranking.py -k coverage` repeats a part):

=====  ========  ==================================================  =========  ============
seeds  examples  arms                                                held (%)   share in set
=====  ========  ==================================================  =========  ============
1      200       all tied                                            95.2       0.95
1      30        all tied                                            94.6       0.94
1      200       each 0.02 below the one before                      99.9       0.14
1      200       all tied, spread of one arm x 3 (it)                95.6       0.94
1      200       all tied, spread of every second arm x 3 (wide)     95.2       0.94
1      200       all tied, spread of every second arm x 3 (narrow)   94.3       0.94
3      200       all tied                                            98.5       0.99
3      200       each 0.02 below the one before                      99.9       0.25
3      200       all tied, seed spread of one arm x 3 (it)           95.4       0.98
3      200       all tied, seed spread of every second x 3 (wide)    93.8       0.96
3      200       all tied, seed spread of every second x 3 (narrow)  98.1       0.96
5      200       all tied, seed spread of every second x 3 (wide)    95.7       0.97
=====  ========  ==================================================  =========  ============

References
----------
.. [1] Hsu (1984), Constrained simultaneous confidence intervals for multiple comparisons with the best.
.. [2] Romano and Wolf (2005), Stepwise multiple testing as formalized data snooping (the max-t bootstrap).
.. [3] Dunnett (1955), A multiple comparison procedure for comparing several treatments with a control.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pifi_probe.errors import PifiProbeError
from pifi_probe.stats import MIN_SEEDS

__all__ = [
    "ALPHA",
    "LayerEffect",
    "best_set",
    "chance_regret",
    "layer_effect",
    "noise_ceiling",
    "rank_agreement",
    "regret_at",
    "smooth_null",
]

Floats = NDArray[np.float64]
MAX_DRAWN = 1 << 22  # examples drawn at once, 32 MiB of numbers


def best_set(scores: ArrayLike, level: float = 0.95, *, n_boot: int = 2_000, seed: int = 0) -> NDArray[np.bool_]:
    """Return which arms cannot be told from the best.

    For arm i, the largest of the standardised differences ``(mean_j - mean_i) / se_ij`` over all other arms j is
    compared with its bootstrap distribution over examples [2]_, the same draws for all arms. With three or more
    seeds, the limit of each difference is widened, in quadrature, by Dunnett's limit [3]_ for the noise of seeds, whose
    spread is pooled over arms; what an arm's own spread has above it counts in addition, with Student's t.

    Parameters
    ----------
    scores : array of float, shape (A, N) or (A, S, N)
        Of A arms on the same N examples (and the same S seeds); larger is better.
    level : float
        Probability that the set holds the true best, in (0, 1).
    n_boot : int
        Bootstrap draws.
    seed : int
        Of the draws.

    Returns
    -------
    array of bool, shape (A,)
        True for the arms in the set; the arm with the highest mean always is. With 1 or 2 seeds the noise of seeds
        is not covered.

    Raises
    ------
    PifiProbeError
        If there is no arm or fewer than two examples, a score is NaN or infinite, or `level` is out of range.
    """
    values = _checked(scores, level)
    examples = values.mean(axis=1)  # (A, N)
    means = examples.mean(axis=1)
    shift = means[None, :] - means[:, None]  # [i, j]: by how much j is better than i
    limits = _over_examples(examples, level, n_boot, seed)
    if values.shape[1] >= MIN_SEEDS and len(values) > 1:
        limits = np.hypot(limits, _over_seeds(values.mean(axis=2), level))
    rounding = 1e-12 * np.abs(means).max()
    kept: NDArray[np.bool_] = (shift <= limits + rounding).all(axis=1)
    return kept


def _checked(scores: ArrayLike, level: float) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim == 2:
        values = values[:, None, :]
    if values.ndim != 3 or min(values.shape[:2]) < 1 or values.shape[2] < 2:
        raise PifiProbeError(
            f"scores of shape {np.shape(scores)} give no set of best arms",
            next="give (arms, examples) or (arms, seeds, examples), at least two examples",
        )
    if not np.isfinite(values).all():
        raise PifiProbeError("a score is NaN or infinite", next="leave out arms that diverged, and say so")
    if not 0 < level < 1:
        raise PifiProbeError(f"a level of {level} is not a probability", next="give one between 0 and 1, such as 0.95")
    return values


def _over_examples(scores: Floats, level: float, n_boot: int, seed: int) -> Floats:
    """Return how large each difference [i, j] may be by chance, by a max-t bootstrap over examples."""
    n_arms, n = scores.shape
    centred = scores - scores.mean(axis=1, keepdims=True)
    cov = centred @ centred.T / (n - 1)
    variance = np.diag(cov)[:, None] + np.diag(cov)[None, :] - 2 * cov
    error = np.sqrt(np.maximum(variance, 0.0) / n)  # of mean_j - mean_i
    error[error <= 1e-9 * np.sqrt(np.diag(cov).max() / n)] = 0.0  # the same scores, up to rounding
    drawn = _draws(centred, n_boot, seed)  # (n_boot, A)
    limits = np.empty((n_arms, n_arms))
    for i in range(n_arms):
        others = error[i] > 0
        t = (drawn[:, others] - drawn[:, i, None]) / error[i, others]
        limits[i] = error[i] * _small_sample(np.quantile(t.max(axis=1), level), n) if others.any() else 0.0
    return limits


def _small_sample(limit: float, n: int) -> float:
    """Return the limit of Student's t that has the tail of `limit` in the normal distribution.

    The bootstrap knows the spread of its draws, the data only estimate theirs.
    """
    from scipy.stats import norm, t

    return float(t.isf(norm.sf(limit), n - 1)) * (n / (n - 1)) ** 0.5


def _draws(centred: Floats, n_boot: int, seed: int) -> Floats:
    """Return `n_boot` means (n_boot, A) of N examples drawn with replacement, the same examples for every arm."""
    rng, n = np.random.default_rng(seed), centred.shape[1]
    means, chunk = [], max(1, min(500, MAX_DRAWN // n))
    for start in range(0, n_boot, chunk):
        size = min(chunk, n_boot - start)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        means.append(np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n) @ centred.T / n)
    return np.concatenate(means)


def _over_seeds(means: Floats, level: float) -> Floats:
    """Return how large each difference [i, j] may be by the noise of seeds, from seed means (A, S)."""
    from scipy.stats import t

    n_arms, n_seeds = means.shape
    rest = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
    freedom = (n_arms - 1) * (n_seeds - 1)
    pooled = (rest**2).sum() / freedom
    above = np.maximum((rest**2).sum(axis=1) / (n_seeds - 1) - pooled, 0.0)  # of arms noisier than the rest
    own = float(t.isf((1 - level) / 2, n_seeds - 1)) ** 2 * (above[:, None] + above[None, :])
    limits: Floats = np.sqrt((_dunnett(n_arms, freedom, level) ** 2 * pooled + own) / n_seeds)
    return limits


@lru_cache
def _dunnett(n_arms: int, freedom: int, level: float, n_draws: int = 20_000) -> float:
    """Return the quantile of the largest of A - 1 differences to one arm, over the estimated spread of an arm."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((n_draws, n_arms))
    spread = np.sqrt(rng.chisquare(freedom, n_draws) / freedom)
    return float(np.quantile((normal[:, 1:].max(axis=1) - normal[:, 0]) / spread, level))


def rank_agreement(a: ArrayLike, b: ArrayLike) -> dict[str, float]:
    """Return how alike two scores rank the same items.

    Parameters
    ----------
    a, b : array of float, shape (A,)
        Scores of the same items, such as the layers; turn a score over first if smaller is better in one of them.

    Returns
    -------
    dict
        ``kendall`` (tau-b) and ``spearman``, in [-1, 1], both with ties shared out; NaN where one of the scores is
        the same for all items. ``n``: the items counted; those with a NaN in either score are left out.

    Raises
    ------
    PifiProbeError
        If the scores are not two lists of one length.
    """
    from scipy.stats import kendalltau, rankdata

    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise PifiProbeError(
            f"scores of shapes {first.shape} and {second.shape} rank different items",
            next="give two lists with one score for each item",
        )
    both = ~(np.isnan(first) | np.isnan(second))
    first, second = first[both], second[both]
    if len(first) < 2 or np.ptp(rankdata(first)) == 0 or np.ptp(rankdata(second)) == 0:
        return {"kendall": float("nan"), "spearman": float("nan"), "n": int(both.sum())}
    return {
        "kendall": float(kendalltau(first, second).statistic),
        "spearman": float(np.corrcoef(rankdata(first), rankdata(second))[0, 1]),
        "n": int(both.sum()),
    }


# Is a score of the layers worth anything? Scores and qualities are arrays (layers,), by depth; larger is better.


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

    Parameters
    ----------
    score, quality : array of float, shape (layers,)
        Larger is better in both.
    k : int
        Layers that are tried.

    Returns
    -------
    float
        In the unit of `quality`, not below 0. Ties of the score count by expectation over their order when `k` is 1,
        and by depth otherwise.
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


# Do layers differ at all? Two-way analysis of layers and seeds (book/methods.md, Search)


ALPHA = 0.05


@dataclass(frozen=True)
class LayerEffect:
    """What a table of layers and seeds says.

    Parameters
    ----------
    p_value : float
        Of the F test of layers, seeds as blocks; NaN with fewer than two layers or seeds.
    friedman_p : float
        Of Friedman's test, by ranks; NaN with fewer than three layers.
    icc : float
        Share of the variance between layers that is not noise, for the mean of all seeds; not below 0.
    something_to_select : bool
        False only when the test could be made and found nothing.
    verdict : str
        Such as "layers differ: p = 0.003, reliability of the means 0.71".
    """

    p_value: float
    friedman_p: float
    icc: float
    something_to_select: bool
    verdict: str


def layer_effect(table: NDArray[np.float64]) -> LayerEffect:
    """Test whether layers differ by more than seeds make them differ.

    Parameters
    ----------
    table : array of float, shape (layers, seeds)
        Any measure of quality, each seed shared by all layers.

    Returns
    -------
    LayerEffect
        With one layer or one seed nothing is tested: its numbers are NaN, and there may be something to select.
    """
    from scipy.stats import f as f_distribution
    from scipy.stats import friedmanchisquare

    values = np.asarray(table, dtype=np.float64)
    n_layers, n_seeds = values.shape
    if n_layers < 2 or n_seeds < 2:
        few = "one layer" if n_layers < 2 else "one seed"
        return LayerEffect(math.nan, math.nan, math.nan, True, f"a layer effect cannot be tested with {few}")
    rest = values - values.mean(1, keepdims=True) - values.mean(0, keepdims=True) + values.mean()
    noise = float((rest**2).sum()) / ((n_layers - 1) * (n_seeds - 1))
    between = n_seeds * float(values.mean(1).var(ddof=1))
    if noise <= 1e-18 * max(float((values**2).mean()), 1e-300):
        p_value, icc = (1.0, 0.0) if between <= noise else (0.0, 1.0)
    else:
        p_value = float(f_distribution.sf(between / noise, n_layers - 1, (n_layers - 1) * (n_seeds - 1)))
        icc = max(0.0, 1 - noise / between) if between > 0 else 0.0
    by_rank = float(friedmanchisquare(*values).pvalue) if n_layers > 2 and values.std() > 0 else math.nan
    found = p_value < ALPHA
    words = "layers differ" if found else "no layer effect is detectable"
    return LayerEffect(p_value, by_rank, icc, found, f"{words}: p = {p_value:.2g}, reliability of the means {icc:.2f}")
