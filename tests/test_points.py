"""Scores of points: planted features through every estimator, their fifths, nulls and notes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pifi_probe.scoring import estimators, points
from pifi_probe.scoring.intervals import stratified_fifths
from pifi_probe.scoring.null import permutation_null


class Planted:
    """Features of which only some depths know the labels."""

    def __init__(self, labels: NDArray[np.int64], strength: tuple[float, ...], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(len(labels), 12))
        self._points = []
        for level in strength:
            states = noise + 0.1 * rng.normal(size=noise.shape)
            states[:, 0] += level * (2 * labels - 1)
            self._points.append(states.astype(np.float32))
        self.n_points = len(strength)

    def __len__(self) -> int:
        return self.n_points

    def __getitem__(self, point: int) -> NDArray[np.float32]:
        return self._points[point]


def scored(strength: tuple[float, ...], names: str, n: int = 100, **options: Any) -> list[points.Measured]:
    labels = np.arange(n) % 2
    settings = {"n_permutations": 19, "n_folds": 5, "seed": 0} | options
    return points.score_points(Planted(labels, strength), labels, estimators.resolve(names), **settings)


def test_the_depth_that_knows_the_labels_is_found() -> None:
    for name in ("ridge_accuracy", "logme", "hscore", "knn", "nearest_mean"):
        values = [one.value for one in scored((0.0, 0.3, 3.0), name)]
        assert np.argmax(values) == 2


def test_every_score_and_null_is_that_of_the_estimator_itself() -> None:
    labels = np.arange(100) % 2
    features = Planted(labels, (0.2, 1.0))
    for one in scored((0.2, 1.0), "ridge_mse,hscore"):
        states = features[one.depth or 0]
        assert one.value == pytest.approx(estimators.get(one.estimator)(states, labels))
        null = permutation_null(one.estimator, states, labels, n=19, seed=0)
        assert one.null is not None and one.null.tolist() == pytest.approx(null.tolist())


def test_scores_without_examples_are_made_on_five_fifths() -> None:
    labels = np.arange(100) % 2
    fifths = stratified_fifths(labels, 0)
    one = scored((1.0,), "logme")[0]
    states = Planted(labels, (1.0,))[0]
    expected = [estimators.logme(states[fifths == k], labels[fifths == k]) for k in range(5)]
    assert one.fifths is not None and one.fifths.tolist() == pytest.approx(expected)
    assert one.per_example is None


def test_scores_of_examples_need_no_fifths() -> None:
    one = scored((1.0,), "knn")[0]
    assert one.fifths is None
    assert one.per_example is not None and one.per_example.mean() == pytest.approx(one.value)


def test_a_class_too_small_for_fifths_leaves_out_the_interval_only() -> None:
    one = scored((1.0,), "logme", n=18)[0]
    assert one.fifths is None and np.isfinite(one.value)


def test_estimators_without_labels_have_no_null() -> None:
    one = scored((1.0,), "effective_rank")[0]
    assert one.null is None and one.fifths is not None


def test_the_logistic_probe_of_all_depths_is_that_of_each() -> None:
    labels = np.arange(100) % 2
    found = scored((1.0, 0.2), "logistic_nll,knn,logistic_accuracy")
    assert [one.estimator for one in found] == ["logistic_nll"] * 2 + ["knn"] * 2 + ["logistic_accuracy"] * 2
    first = Planted(labels, (1.0,))[0]
    for one in (found[0], found[4]):
        assert one.value == pytest.approx(estimators.get(one.estimator)(first, labels))
        assert one.per_example is not None and one.per_example.mean() == pytest.approx(one.value)
        assert one.null is None


def test_only_the_logistic_score_that_is_asked_for_comes_back() -> None:
    assert {one.estimator for one in scored((1.0,), "logistic_nll")} == {"logistic_nll"}


def test_a_fit_that_did_not_converge_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    real = points.cross_validate

    def stuck(*args: Any, **options: Any) -> Any:
        return replace(real(*args, **options), converged=False)

    monkeypatch.setattr(points, "cross_validate", stuck)
    assert "did not converge" in scored((1.0,), "logistic_nll")[0].note


def test_rows_come_by_estimator_in_the_order_asked_for() -> None:
    found = [(one.estimator, one.depth) for one in scored((0.0, 1.0), "logme,ridge_accuracy")]
    assert found == [("logme", 0), ("logme", 1), ("ridge_accuracy", 0), ("ridge_accuracy", 1)]
