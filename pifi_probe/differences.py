"""Differences between arms or groups of arms, from the per-example scores of all runs, judged together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pifi_probe.errors import RecipeError
from pifi_probe.stats import Interval, joined_interval, mean_interval
from pifi_probe.two_way import Contrasts, Layout, dunnett

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
    seed_error : float
        Standard error over seeds; 0 where too few seeds tell it.
    example_error : float
        Standard error over test examples.
    """

    interval: Interval
    p_value: float
    seed_error: float
    example_error: float


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
        together = self._together(weights) if self._layout is not None else None
        values = np.nan_to_num(self._values)
        found: list[tuple[Interval, float]] = []
        rows: list[Floats] = []
        for k, (name, own) in enumerate(asked.items()):
            if together is not None:
                row = np.tensordot(together.cells[k], values, axes=2)
                n_seeds = min(int(self._present[self._arms.index(arm)].sum()) for arm, w in own.items() if w)
                error = float(together.errors[k])
                found.append((joined_interval(row, error, float(together.dfs[k]), n_seeds, level=level), error))
            else:
                by_seed = self._paired(name, weights[k])
                row = by_seed.mean(axis=0)
                interval = mean_interval(by_seed, level=level)
                over = by_seed.mean(axis=1).std(ddof=1) / len(by_seed) ** 0.5 if interval.over_seeds else 0.0
                found.append((interval, float(over)))
            rows.append(row)
        covariance = np.atleast_2d(np.cov(np.array(rows))) / len(rows[0])
        if together is not None:
            covariance = covariance + together.covariance
        adjusted = dunnett([interval.p_value for interval, _ in found], covariance)
        return {
            name: Difference(interval, p, error, float(row.std(ddof=1) / len(row) ** 0.5))
            for name, (interval, error), p, row in zip(asked, found, adjusted, rows, strict=True)
        }

    def _together(self, weights: Floats) -> Contrasts:
        assert self._layout is not None
        return self._layout.contrasts(weights)

    def _paired(self, name: str, weights: Floats) -> Floats:
        """Return the difference for each seed that all its arms have, shape (S, N)."""
        arms = np.flatnonzero(weights)
        shared = self._present[arms].all(axis=0)
        if not shared.any():
            raise RecipeError("the arms share no seed", where=name, next="run both with the same seeds")
        return np.asarray(np.tensordot(weights[arms], self._values[arms][:, shared], axes=1), dtype=np.float64)
