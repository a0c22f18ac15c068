"""Differences between arms or groups of arms, from the per-example scores of all runs, judged together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pifi_probe.errors import RecipeError
from pifi_probe.stats import Interval, Limits, example_draws, joined_interval, mean_interval, seed_error
from pifi_probe.two_way import Layout, dunnett

__all__ = ["Difference", "Runs", "between"]

Floats = NDArray[np.float64]
Weights = Mapping[str, float]


@dataclass(frozen=True)
class Difference:
    """One difference, alone and among all that were asked for with it.

    Parameters
    ----------
    interval : Interval
        Taken alone.
    p_value : float
        Adjusted for the others (step-down Dunnett).
    limits : Limits
        For intervals of other levels.
    example_error : float
        Standard error over test examples.
    critical : float
        How much wider an interval must be to hold for all that were asked for at once, as a factor.
    """

    interval: Interval
    p_value: float
    limits: Limits
    example_error: float
    critical: float

    def within(self, margin: float | None, factor: float = 1.0) -> bool:
        """Return whether it is shown to be smaller than a margin: two one-sided tests, at one minus its level each.

        They ask that the limits at twice the error lie inside. Nothing is shown where seeds were too few, or without
        a margin.

        Parameters
        ----------
        margin : float or None
            In the unit of the scores.
        factor : float
            How much wider the limits are made; `critical` lets it hold for all that were asked for at once.
        """
        if margin is None or not self.interval.over_seeds:
            return False
        low, high = self.limits.at(2 * (1 - self.interval.level))
        mean = self.interval.mean
        return -margin < mean - factor * (mean - low) and mean + factor * (high - mean) < margin


def between(group: Sequence[str], other: Sequence[str]) -> dict[str, float]:
    """Return the weights of the mean of a group of arms minus that of another."""
    weights = dict.fromkeys((*group, *other), 0.0)
    for arm in group:
        weights[arm] += 1 / len(group)
    for arm in other:
        weights[arm] -= 1 / len(other)
    return weights


class Runs:
    """The scores of all runs of an experiment on one test set.

    With three arms or more, of which some ran with two seeds, the noise of seeds is judged from all arms together
    (`pifi_probe.two_way`); else each difference by the seeds that its own arms share.

    Parameters
    ----------
    scores : mapping of str to mapping of int to array of float, shape (N,)
        By arm and seed, the score of every test example; larger is better.
    baselines : sequence of str
        Arms that others are compared with.
    """

    def __init__(self, scores: Mapping[str, Mapping[int, Floats]], baselines: Sequence[str] = ()) -> None:
        self._arms = list(scores)
        self._seeds = sorted({seed for runs in scores.values() for seed in runs})
        n = len(next(iter(next(iter(scores.values())).values())))
        self._values = np.full((len(self._arms), len(self._seeds), n), np.nan)
        for a, runs in enumerate(scores.values()):
            for seed, values in runs.items():
                self._values[a, self._seeds.index(seed)] = values
        self._present = ~np.isnan(self._values[:, :, 0])
        self._layout: Layout | None = None
        if len(self._arms) > 2 and self._linked():
            self._layout = Layout(self._values.mean(axis=2), [self._arms.index(name) for name in baselines])

    def _linked(self) -> bool:
        """Whether the layout has residuals at all: some two arms share two seeds, counting chains of arms."""
        cells = int(self._present.sum())
        n_arms, n_seeds = self._present.shape
        return cells > n_arms + n_seeds - 1

    @property
    def unlike(self) -> dict[str, float]:
        """Arms whose runs spread more than chance explains: how many times as much as those of the others."""
        if self._layout is None:
            return {}
        found = zip(self._arms, self._layout.stands_out, self._layout.spread, strict=True)
        return {arm: float(spread) for arm, out, spread in found if out}

    def linked(self, weights: Weights) -> bool:
        """Whether a difference can be judged: its arms share a seed, or others link them."""
        own = np.array([[weights.get(arm, 0.0) for arm in self._arms]])
        return self._layout.estimates(own) if self._layout is not None else bool(self._shared(own[0]).any())

    def differences(self, asked: Mapping[str, Weights], *, level: float = 0.95) -> dict[str, Difference]:
        """Return every difference that was asked for, by its name.

        Parameters
        ----------
        asked : mapping of str to mapping of str to float
            For each name the weights of the arms, which sum to zero; see `between`.
        level : float
            Nominal coverage of the intervals.

        Raises
        ------
        RecipeError
            If the arms of a difference share no seed.
        """
        if not asked:
            return {}
        weights = np.array([[own.get(arm, 0.0) for arm in self._arms] for own in asked.values()])
        if self._layout is not None:
            contrasts = self._layout.contrasts(weights)
            rows = self._rounded(np.einsum("kas,asn->kn", contrasts.cells, np.nan_to_num(self._values)))
            errors, dfs, covariance = contrasts.errors, contrasts.dfs, contrasts.covariance
            n_seeds = [int(self._present[own != 0].sum(axis=1).min()) for own in weights]
        else:
            paired = [self._paired(name, own) for name, own in zip(asked, weights, strict=True)]
            rows = np.stack([values.mean(axis=0) for values in paired])
            n_seeds = [len(values) for values in paired]
            errors = np.array([seed_error(values) for values in paired])
            dfs = np.array(n_seeds, dtype=np.float64) - 1
            covariance = np.zeros((len(rows), len(rows)))
        drawn = example_draws(rows)
        limits = [
            Limits(float(r.mean()), float(e), float(d), x) for r, e, d, x in zip(rows, errors, dfs, drawn, strict=True)
        ]
        if self._layout is not None:
            made = [joined_interval(one, n, rows.shape[1], level=level) for one, n in zip(limits, n_seeds, strict=True)]
        else:
            made = [mean_interval(values, level=level) for values in paired]
        whole = np.atleast_2d(np.cov(rows)) / rows.shape[1] + covariance
        adjusted, critical = dunnett([interval.p_value for interval in made], whole, level=level)
        spread = rows.std(axis=1, ddof=1) / rows.shape[1] ** 0.5
        return {
            name: Difference(interval, p, one, float(error), critical)
            for name, interval, p, one, error in zip(asked, made, adjusted, limits, spread, strict=True)
        }

    def _paired(self, name: str, weights: Floats) -> Floats:
        """Return the difference for each seed that all its arms have, shape (S, N)."""
        arms, shared = np.flatnonzero(weights), self._shared(weights)
        if not shared.any():
            raise RecipeError("the arms share no seed", where=name, next="run both with the same seeds")
        return self._rounded(np.tensordot(weights[arms], self._values[arms][:, shared], axes=1))

    def _rounded(self, differences: Floats) -> Floats:
        """Return differences with those that are an error of rounding set to zero: equal arms differ by nothing."""
        least = 1e-12 * float(np.nanmax(np.abs(self._values)))
        return np.where(np.abs(differences) > least, differences, 0.0)

    def _shared(self, weights: Floats) -> NDArray[np.bool_]:
        """Return which seeds all arms of a difference have, shape (S,)."""
        return np.asarray(self._present[np.flatnonzero(weights)].all(axis=0))
