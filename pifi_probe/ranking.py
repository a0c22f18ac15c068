"""Which of many arms may be the best, and whether two scores rank them alike.

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

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pifi_probe.errors import PifiProbeError
from pifi_probe.stats import MIN_SEEDS

__all__ = ["best_set", "rank_agreement"]

Floats = NDArray[np.float64]
MAX_DRAWN = 1 << 22  # examples drawn at once, 32 MiB of numbers


def best_set(scores: ArrayLike, level: float = 0.95, *, n_boot: int = 2_000, seed: int = 0) -> NDArray[np.bool_]:
    """Return which arms cannot be told from the best.

    For arm i, the largest of the standardised differences ``(mean_j - mean_i) / se_ij`` over all other arms j is
    compared with its bootstrap distribution over examples [2]_, the same draws for all arms. With three or more
    seeds, the limit of each difference is widened, in squares, by Dunnett's limit [3]_ for the noise of seeds, whose
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
        raise PifiProbeError(f"a level of {level} is no probability", next="give one between 0 and 1, such as 0.95")
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


def _draws(centred: Floats, n_boot: int, seed: int, chunk: int = 500) -> Floats:
    """Return `n_boot` means (n_boot, A) of N examples drawn with replacement, the same examples for every arm."""
    rng, n = np.random.default_rng(seed), centred.shape[1]
    means, chunk = [], max(1, min(chunk, MAX_DRAWN // n))
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
