"""Differences between arms that share seeds: one model for all runs of an experiment.

The score of arm a with seed s is ``y[a, s] = arm[a] + seed[s] + noise[a, s]``; a cell may be missing. Arms differ
in how much they spread from seed to seed, and two or three runs say little of how much. So the spread of every arm
is moderated by that of the others (an empirical Bayes estimate, as in limma [1]_), within bounds that keep the
intervals honest where arms are unlike:

1. Least squares removes what a seed does to all arms alike. An arm's own variance comes from its residuals, once as if
   all arms were alike, and once unbiased whatever the others do (Grubbs' estimator [2]_, MINQUE [3]_ where cells miss).
2. The prior has the scale of limma's or of the pooled variance, whichever is larger, and weighs at most about one run:
   ``d0 = min(limma's, 0.9 (9 / arms)^(1/4))``. More arms make it likelier that one of them is unlike the rest.
3. No arm is said to vary less than its own runs do. The baseline enters every comparison: its variance
   is at least 10 % above that of its own runs.
4. An arm whose runs vary more than chance explains (F test, Bonferroni) is named, and keeps its own variance alone.
5. Student's t, with Welch's degrees of freedom [4]_, never more than the whole layout has.

Weights and factors were set by simulation, at equal width against coverage; `benchmarks/intervals.py` measures both,
and the page on methods of the book shows the table.

References
----------
.. [1] Smyth (2004), Linear models and empirical Bayes methods for assessing differential expression.
.. [2] Grubbs (1948), On estimating precision of measuring instruments and product variability.
.. [3] Rao (1971), Estimation of variance and covariance components: MINQUE theory.
.. [4] Welch (1947), The generalization of Student's problem when several different population variances are involved.
.. [5] Dunnett (1955), A multiple comparison procedure for comparing several treatments with a control.
.. [6] Westfall and Young (1993), Resampling-based multiple testing: the step-down minimum of p-values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pifi_probe.errors import PifiProbeError

__all__ = ["Contrasts", "Layout", "dunnett", "moderate"]

Floats = NDArray[np.float64]

PRIOR_WEIGHT = 0.9  # degrees of freedom that the other arms' spread counts for, at most, with up to nine arms
PRIOR_SCALE = 0.75
BASELINE_FACTOR = 1.1
STANDS_OUT = 0.05  # family-wise error of naming an arm that is like the others


@dataclass(frozen=True)
class Contrasts:
    """Differences that a layout estimates, one entry each.

    Parameters
    ----------
    means : array of float, shape (K,)
    errors : array of float, shape (K,)
        Standard errors over seeds.
    dfs : array of float, shape (K,)
        Degrees of freedom of the errors.
    cells : array of float, shape (K, A, S)
        The weight of every run: ``means = (cells * scores).sum()``, zero where a run is missing.
    covariance : array of float, shape (K, K)
        Of the means, over seeds.
    """

    means: Floats
    errors: Floats
    dfs: Floats
    cells: Floats
    covariance: Floats

    def half_widths(self, level: float = 0.95) -> Floats:
        """Return the half-widths of the intervals over seeds, shape (K,)."""
        from scipy.stats import t

        return np.asarray(t.isf((1 - level) / 2, self.dfs) * self.errors, dtype=np.float64)


class Layout:
    """A two-way layout of arms and seeds, fitted.

    Parameters
    ----------
    scores : array of float, shape (A, S)
        One score a run, larger is better; NaN where an arm did not run with a seed.
    baselines : sequence of int
        Arms that others are compared with.

    Attributes
    ----------
    variances : array of float, shape (A,)
        Of one run of each arm, moderated.
    dfs : array of float, shape (A,)
        What these variances are worth, in degrees of freedom.
    df : int
        Residual degrees of freedom of the layout; at least one is needed.
    spread : array of float, shape (A,)
        Each arm's standard deviation over seeds, in units of the others'.
    stands_out : array of bool, shape (A,)
        Arms that vary more than chance explains.

    Raises
    ------
    PifiProbeError
        If there are fewer than three arms, no arm has two seeds, or a score is infinite.
    """

    def __init__(self, scores: ArrayLike, baselines: Sequence[int] = ()) -> None:
        y = np.asarray(scores, dtype=np.float64)
        if y.ndim != 2 or len(y) < 3 or np.isinf(y).any():
            raise PifiProbeError(
                f"scores of shape {y.shape} are not laid out as arms and seeds",
                next="give at least three arms; two are compared by stats.paired_difference",
            )
        present = np.isfinite(y)
        self._design = _design(present.tobytes(), y.shape)
        self._scores = np.where(present, y, 0.0)
        self.df = self._design.df
        if self.df < 1:
            raise PifiProbeError("no arm can be compared over seeds", next="run at least two arms with two seeds each")
        self._variances(present.sum(axis=1), baselines)

    def _variances(self, runs: NDArray[np.int_], baselines: Sequence[int]) -> None:
        from scipy.stats import f

        n_arms, design = len(runs), self._design
        residuals = design.residuals @ self._scores[design.present]
        sums = design.arm @ residuals**2  # of squared residuals, by arm
        own_df = np.maximum(runs - 1, 0)
        seen = (own_df > 0) & (design.share > 1e-9)
        alike = np.where(seen, sums / np.where(seen, design.share, 1.0), 0.0)
        unbiased = np.where(seen, np.maximum(np.linalg.pinv(design.expected) @ sums, 0.0), 0.0)
        pooled = float(sums.sum() / self.df)
        scale, weight = moderate(alike[seen], own_df[seen])
        # the layout knows its own spread with `df` degrees of freedom only: the fewer, the wider
        scale = max(scale, pooled) * (1 + 1.5 / self.df)
        weight = min(weight, PRIOR_WEIGHT * min(1.0, 9 / n_arms) ** 0.25)
        prior = PRIOR_SCALE * scale
        variances = (weight * prior + own_df * alike) / (weight + own_df)
        own = np.maximum(alike, unbiased)
        own[list(baselines)] *= BASELINE_FACTOR
        self.variances: Floats = np.where(seen, np.maximum(variances, own), scale)
        self.dfs: Floats = np.where(seen, weight + own_df, min(2.0, float(self.df)))
        rest = np.maximum((sums.sum() - sums) / np.maximum(self.df - design.share, 1e-9), 1e-300)
        ratio = np.where(seen & (self.df > design.share + 1e-9), alike / rest, 1.0)
        p_values = f.sf(ratio, np.maximum(own_df, 1), np.maximum(self.df - own_df, 1))
        others = (unbiased.sum() - unbiased) / max(int(seen.sum()) - 1, 1)  # without what an arm leaks into the rest
        self.spread: Floats = np.sqrt(unbiased / np.maximum(others, 1e-4 * max(pooled, 1e-300)))
        self.stands_out: NDArray[np.bool_] = seen & (pooled > 0) & (p_values * n_arms < STANDS_OUT)
        self.dfs = np.where(self.stands_out, own_df, self.dfs)

    def estimates(self, weights: ArrayLike) -> bool:
        """Return whether every row of weights, shape (K, A), can be estimated; see `contrasts`."""
        return self._design.estimates(np.atleast_2d(np.asarray(weights, dtype=np.float64)))

    def contrasts(self, weights: ArrayLike) -> Contrasts:
        """Return differences between arms or between groups of arms.

        Parameters
        ----------
        weights : array of float, shape (K, A)
            Each row sums to zero, such as +1 for an arm and -1 for its baseline.

        Raises
        ------
        PifiProbeError
            If a difference cannot be estimated, because its arms share no seed and none links them.
        """
        c = np.atleast_2d(np.asarray(weights, dtype=np.float64))
        design = self._design
        if np.abs(c.sum(axis=1)).max(initial=0.0) > 1e-9 or not self.estimates(c):
            raise PifiProbeError("the arms share no seed", next="run them with the same seeds")
        flat = c @ design.effects  # (K, cells)
        parts = (flat**2) @ design.arm.T * self.variances  # (K, A): each arm's share of the variance
        variance = parts.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            dfs = np.where(variance > 0, variance**2 / (parts**2 / self.dfs).sum(axis=1), self.df)
        cells = np.zeros((len(c), *design.present.shape))
        cells[:, design.present] = flat
        by_cell = self.variances @ design.arm
        return Contrasts(
            means=flat @ self._scores[design.present],
            errors=np.sqrt(variance),
            dfs=np.minimum(dfs, self.df),
            cells=cells,
            covariance=(flat * by_cell) @ flat.T,
        )


def moderate(variances: ArrayLike, dfs: ArrayLike) -> tuple[float, float]:
    """Return scale and degrees of freedom of the prior that limma's ``fitFDist`` finds, `s0^2` and `d0`.

    If variances of arms are drawn from a scaled inverse chi-square distribution with `d0` degrees of freedom around
    `s0^2`, the logarithm of a sample variance has a known mean and variance; both are solved for (Smyth 2004, 6.2).

    Parameters
    ----------
    variances, dfs : array of float, shape (A,)
        Sample variances and their degrees of freedom.

    Returns
    -------
    tuple of float
        `d0` is infinite where the variances differ no more than chance explains.
    """
    from scipy.special import digamma, polygamma

    s2, d = np.asarray(variances, dtype=np.float64), np.asarray(dfs, dtype=np.float64)
    if len(s2) == 0 or not (s2 > 0).any():
        return 0.0, np.inf
    middle = float(np.median(s2)) or float(s2[s2 > 0].min())
    logs = np.log(np.maximum(s2, 1e-5 * middle)) - digamma(d / 2) + np.log(d / 2)
    mean = float(logs.mean())
    extra = float(((logs - mean) ** 2).sum() / max(len(s2) - 1, 1) - polygamma(1, d / 2).mean())
    if extra <= 0 or len(s2) < 2:
        return float(np.exp(mean)), np.inf
    half = _trigamma_inverse(extra)
    return float(np.exp(mean + digamma(half) - np.log(half))), 2 * half


def _trigamma_inverse(value: float) -> float:
    """Solve ``trigamma(x) = value`` by Newton's method on 1 / trigamma, which is nearly straight (Smyth, appendix)."""
    from scipy.special import polygamma

    if value > 1e7:
        return float(value**-0.5)
    if value < 1e-6:
        return 1 / value
    x = 0.5 + 1 / value
    for _ in range(50):
        now = float(polygamma(1, x))
        step = now * (1 - now / value) / float(polygamma(2, x))
        x += step
        if -step / x < 1e-8:
            break
    return x


def dunnett(
    p_values: ArrayLike, covariance: ArrayLike, *, level: float = 0.95, n_draws: int = 20_000, seed: int = 0
) -> tuple[list[float], float]:
    """Return p-values adjusted for all that were looked at, given how their differences move together.

    Differences to one baseline share its noise, so that Bonferroni's and Holm's corrections count too much [5]_. The
    chance that the smallest of the p-values would be as small by luck is simulated for normal differences with this
    covariance, and the steps go down from the smallest (free step-down [6]_).

    Parameters
    ----------
    p_values : array of float, shape (K,)
        Two-sided.
    covariance : array of float, shape (K, K)
        Of the differences.
    level : float
        Nominal coverage of the simultaneous intervals.
    n_draws, seed : int
        Of the simulation.

    Returns
    -------
    tuple of list of float, float
        The p-values, and by which factor intervals must be wider to hold for all differences at once.
    """
    from scipy.stats import norm

    p, v = np.asarray(p_values, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    sd = np.sqrt(np.diag(v))
    if len(p) < 2 or (sd <= 0).any():  # where nothing varies there is no chance to correct for
        return [float(value) for value in p], 1.0
    values, vectors = np.linalg.eigh(v / np.outer(sd, sd))
    # The symmetric root: where eigenvalues are equal, rounding picks the eigenvectors, and each machine others.
    root = (vectors * np.sqrt(np.where(values > 1e-12 * values.max(), values, 0.0))) @ vectors.T
    draws = np.abs(np.random.default_rng(seed).standard_normal((n_draws, len(p))) @ root)
    order = np.argsort(p, kind="stable")
    largest = np.maximum.accumulate(draws[:, order[::-1]], axis=1)[:, ::-1]  # over each p-value and all above it
    limits = norm.isf(np.maximum(p[order], 1e-300) / 2)
    chance = (largest >= limits).mean(axis=0)
    floor = np.minimum(p[order] * np.arange(len(p), 0, -1), 1.0)  # below what the draws can resolve: Holm's
    stepped = np.where(chance * n_draws < 100, floor, np.maximum(chance, p[order]))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    factor = float(np.quantile(largest[:, 0], level)) / float(norm.isf((1 - level) / 2))
    return [float(value) for value in adjusted], max(factor, 1.0)


@dataclass(frozen=True, eq=False)
class _Design:
    """What least squares makes of a pattern of runs, whatever their scores.

    Shapes: present (A, S); arm (A, cells), which cells are an arm's; effects (A, cells), the estimates of the arms;
    residuals (cells, cells); share (A,), the residual degrees of freedom that fall to each arm; expected (A, A), by
    which the true variances make the expected sums of squared residuals.
    """

    present: NDArray[np.bool_]
    arm: Floats
    effects: Floats
    residuals: Floats
    share: Floats
    expected: Floats
    df: int
    known: Floats  # (A + S, A + S): projection onto what can be estimated

    def estimates(self, weights: Floats) -> bool:
        """Return whether every row of weights, shape (K, A), can be estimated."""
        padded = np.zeros((len(weights), len(self.known)))
        padded[:, : weights.shape[1]] = weights
        return bool(np.allclose(padded @ self.known, padded, atol=1e-8))


@lru_cache(maxsize=64)
def _design(pattern: bytes, shape: tuple[int, int]) -> _Design:
    present = np.frombuffer(pattern, dtype=np.bool_).reshape(shape)
    arms, seeds = np.nonzero(present)
    arm = (np.arange(shape[0])[:, None] == arms).astype(np.float64)
    columns = np.concatenate([arm, (np.arange(shape[1])[:, None] == seeds).astype(np.float64)]).T  # (cells, A + S)
    inverse = np.linalg.pinv(columns)
    residuals = np.eye(len(arms)) - columns @ inverse
    return _Design(
        present=present,
        arm=arm,
        effects=inverse[: shape[0]],
        residuals=residuals,
        share=arm @ np.diag(residuals),
        expected=arm @ residuals**2 @ arm.T,
        df=len(arms) - int(np.linalg.matrix_rank(columns)),
        known=inverse @ columns,
    )
