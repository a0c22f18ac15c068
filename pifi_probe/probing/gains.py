"""What something adds to the encoder's own vectors, under many estimators; always larger is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pifi_probe.errors import EstimatorError
from pifi_probe.features.feature_set import Features
from pifi_probe.scoring.estimators import Estimator, get, names, resolve
from pifi_probe.scoring.points import Kind, Measured, score_points
from pifi_probe.tasks.task import Split

__all__ = ["Score", "Scorer", "applicable", "arms_of", "encoder_rows", "gain_kinds", "mean_of"]

DEFAULT = ("ridge_accuracy", "ridge_mse", "logme", "hscore", "usable_information")
LIKENESS = ("cka", "mutual_knn")
OF_STATES = (*LIKENESS, "span")  # of the encoder's vectors and the language model's own states
CONDITIONAL = "usable_information"  # by definition the gain in minus the logistic probe's NLL
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A score with all that its interval is made from; scores are subtracted part by part.

    Parameters
    ----------
    value : float
    per_example : array of float, shape (N,), optional
    fifths : array of float, shape (5,), optional
    null : array of float, shape (P,), optional
        Under permuted labels; lost when scores are subtracted or averaged. With labels that mean nothing the encoder's
        vectors say nothing either and every gain nearly vanishes, so that almost any real gain would look significant.
        The null of a gain is the shuffled layer.
    """

    value: float
    per_example: Floats | None = None
    fifths: Floats | None = None
    null: Floats | None = None

    def __sub__(self, other: Score) -> Score:
        pairs = zip(self._parts, other._parts, strict=True)
        return Score(self.value - other.value, *(None if a is None or b is None else a - b for a, b in pairs))

    def times(self, factor: float) -> Score:
        """Return the score in another direction or unit."""
        arrays = (None if part is None else factor * part for part in (*self._parts, self.null))
        return Score(factor * self.value, *arrays)

    def measured(self, estimator: str, arm: str, projection: str, layer: int | None, note: str = "") -> Measured:
        """Return the score as a measurement of a layer (None: of a control without one)."""
        return Measured(
            estimator,
            self.value,
            depth=layer,
            layer=layer,
            arm=arm,
            projection=projection,
            per_example=self.per_example,
            fifths=self.fifths,
            null=self.null,
            note=note,
        )

    @property
    def _parts(self) -> tuple[Floats | None, Floats | None]:
        return self.per_example, self.fifths


def mean_of(scores: Sequence[Score]) -> Score:
    """Return the mean of scores that were made alike."""
    value = float(np.mean([one.value for one in scores]))
    columns = zip(*(one._parts for one in scores), strict=True)
    return Score(value, *(None if column[0] is None else np.mean(column, axis=0) for column in columns))


@dataclass(frozen=True)
class Scorer:
    """Scores feature sets of the same rows.

    Parameters
    ----------
    rows : Split
    labels : array of int, shape (N,)
    chosen : tuple of Estimator
        Without those of `OF_STATES`.
    n_folds, seed : int
        As in `pifi_probe.probe`.
    """

    rows: Split
    labels: NDArray[np.int64]
    chosen: tuple[Estimator, ...]
    n_folds: int
    seed: int

    def __call__(self, sets: Sequence[NDArray[Any]], n_permutations: int = 0) -> list[dict[str, Score]]:
        """Score feature sets (N, D), on the same folds, which the first set decides; larger is better."""
        used = dict.fromkeys(get("logistic_nll") if each.name == CONDITIONAL else each for each in self.chosen)
        measured = score_points(
            Features(list(sets), self.rows, {}),
            self.labels,
            list(used),
            n_permutations=n_permutations,
            n_folds=self.n_folds,
            seed=self.seed,
        )
        found: list[dict[str, Score]] = [{} for _ in sets]
        for one in measured:
            assert one.depth is not None
            score = Score(one.value, one.per_example, one.fifths, one.null)
            found[one.depth][one.estimator] = score.times(1.0 if get(one.estimator).larger_is_better else -1.0)
        return [{each.name: scores[_source(each.name)] for each in self.chosen} for scores in found]

    def gains(self, base: NDArray[Any], sets: Sequence[NDArray[Any]]) -> list[dict[str, Score]]:
        """Return how much better each set scores than `base`."""
        alone, *scores = self([base, *sets])
        return [{name: score - alone[name] for name, score in one.items()} for one in scores]


def _source(name: str) -> str:
    return "logistic_nll" if name == CONDITIONAL else name


def applicable(wanted: str | Sequence[str]) -> tuple[tuple[Estimator, ...], tuple[Estimator, ...]]:
    """Return the estimators whose gain is measured, and those that compare the encoder with the language model.

    Raises
    ------
    EstimatorError
        If a named one is unknown, or is neither.
    """
    default = [name for name in (*DEFAULT, *LIKENESS) if name in names()]
    chosen = resolve(default if wanted == "default" else wanted)
    compared = LIKENESS if wanted in ("default", "all") else OF_STATES  # alignment texts may have no labels of use
    likeness = tuple(each for each in chosen if each.name in compared)
    gains = tuple(each for each in chosen if each.name == CONDITIONAL or each.family == "supervised")
    if wanted not in ("default", "all"):
        for each in chosen:
            if each not in gains and each not in likeness:
                raise EstimatorError(
                    f"{each.name} does not score what a layer adds to an encoder",
                    where="probe_plugin",
                    next=f"use one that uses labels, or {' or '.join(OF_STATES)}",
                )
    return gains, likeness


def arms_of(
    real: Mapping[str, Score], twin: Mapping[str, Score], layer: int, *, projection: str = "", prefix: str = ""
) -> list[Measured]:
    """Return the gains of a layer, of its shuffled twin, and their difference."""
    measured = []
    for name, score in real.items():
        arms = {"real": score, "shuffled": twin[name], "real - shuffled": score - twin[name]}
        measured += [one.measured(prefix + name, arm, projection, layer) for arm, one in arms.items()]
    return measured


def encoder_rows(base: Mapping[str, Score], projection: str, *, prefix: str = "") -> list[Measured]:
    """Return the scores of the encoder alone, each in its estimator's own direction."""
    rows = []
    for name, score in base.items():
        own = get(_source(name))
        alone = score if own.larger_is_better else replace(score.times(-1.0), null=None)  # gains point the other way
        note = f"not a gain, but the {own.title} of the encoder's vectors alone"
        rows.append(alone.measured(prefix + name, "encoder", projection, None, note))
    return rows


def gain_kinds(chosen: Sequence[Estimator], prefix: str = "", what: str = "") -> dict[str, Kind]:
    """Return title, unit and direction of gains."""
    titles = {each: each.title if each.name == CONDITIONAL else f"gain in {each.title}" for each in chosen}
    return {prefix + each.name: Kind(what + title, each.unit, True) for each, title in titles.items()}
