"""The null: the same score with permuted labels."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from pifi_probe.errors import EstimatorError
from pifi_probe.scoring import estimators
from pifi_probe.scoring.estimators import registry
from pifi_probe.scoring.null import permutation_null, permutations
from pifi_probe.scoring.spectrum import Spectrum
from tests.planted import better, sample

BATCHED = [name for name in estimators.names() if estimators.get(name).permuted is not None]


def test_the_estimators_of_one_eigendecomposition_have_a_batched_null() -> None:
    expected = {"ridge_accuracy", "ridge_mse", "knn", "nearest_mean", "logme", "hscore"}
    assert expected <= set(BATCHED)
    assert all(estimators.get(name).null for name in BATCHED)


@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize(("dim", "k"), [(20, 3), (90, 2)])
def test_the_batched_null_is_the_score_of_each_permutation(name: str, dim: int, k: int) -> None:
    data = sample(1.0, n=48, dim=dim, k=k)
    null = permutation_null(name, data.x, data.y, n=12, seed=3)
    one_by_one = [estimators.get(name)(data.x, data.y[order]) for order in permutations(48, 12, 3)]
    np.testing.assert_allclose(null, one_by_one, rtol=1e-8)


@pytest.mark.parametrize("name", BATCHED)
def test_a_planted_signal_is_beyond_the_null(name: str) -> None:
    data = sample(3.0, n=60, dim=200)
    null = permutation_null(name, data.x, data.y)
    assert better(name, estimators.get(name)(data.x, data.y)) > max(better(name, value) for value in null)


@pytest.mark.parametrize("name", BATCHED)
def test_noise_is_anywhere_within_the_null(name: str) -> None:
    places = []
    for seed in range(30):
        data = sample(0.0, n=40, dim=80, seed=seed)
        value = better(name, estimators.get(name)(data.x, data.y))
        null = np.array([better(name, v) for v in permutation_null(name, data.x, data.y, n=39, seed=seed)])
        places.append((null < value).mean() + 0.5 * (null == value).mean())
    assert 0.3 < np.mean(places) < 0.7  # standard error 0.05
    assert np.mean(np.array(places) > 0.9) < 0.35


@pytest.mark.parametrize("name", BATCHED)
def test_the_null_of_constant_features_is_their_score(name: str) -> None:
    y = sample().y
    value = estimators.get(name)(np.ones((60, 4)), y)
    np.testing.assert_allclose(permutation_null(name, np.ones((60, 4)), y, n=5), value, rtol=1e-12)


def test_a_seed_draws_the_same_permutations_for_every_layer() -> None:
    first, second = sample(seed=1), sample(seed=2)
    assert (permutations(60, 8, 0) == permutations(60, 8, 0)).all()
    assert (permutations(60, 8, 0) != permutations(60, 8, 1)).any()
    same = permutation_null("logme", first.x, first.y, n=8)
    np.testing.assert_array_equal(same, permutation_null("logme", first.x, first.y, Spectrum.of(first.x), n=8))
    assert (same != permutation_null("logme", second.x, first.y, n=8)).all()
    assert (same != permutation_null("logme", first.x, first.y, n=8, seed=1)).any()


def test_an_estimator_without_a_batched_null_is_scored_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ESTIMATORS", copy.copy(registry.ESTIMATORS))

    @estimators.estimator(title="gap", unit="", range="[0, inf)", cost="N D", source="this test")
    def gap(features: np.ndarray, labels: np.ndarray, *, other: np.ndarray) -> float:
        """Distance of the means of two classes, in both feature sets."""
        both = np.hstack([features, other])
        return float(np.linalg.norm(both[labels == 0].mean(axis=0) - both[labels == 1].mean(axis=0)))

    data = sample(3.0)
    null = permutation_null(gap, data.x, data.y, n=20, other=data.z)
    expected = [gap(data.x, data.y[order], other=data.z) for order in permutations(60, 20, 0)]
    np.testing.assert_allclose(null, expected)
    assert gap(data.x, data.y, other=data.z) > null.max()


def test_an_estimator_that_uses_no_labels_has_no_null() -> None:
    data = sample()
    with pytest.raises(EstimatorError, match="effective_rank uses no labels"):
        permutation_null("effective_rank", data.x, data.y)


def test_bad_input_is_refused() -> None:
    data = sample()
    with pytest.raises(EstimatorError, match="0 permutations"):
        permutation_null("knn", data.x, data.y, n=0)
    with pytest.raises(EstimatorError, match="59 labels for 60 examples"):
        permutation_null("knn", data.x, data.y[1:])
    with pytest.raises(EstimatorError, match="NaN"):
        permutation_null("knn", data.x * np.nan, data.y)
    with pytest.raises(EstimatorError, match="unknown estimator 'kn'"):
        permutation_null("kn", data.x, data.y)
