"""Usable information is what a second feature set adds to a first, held out; the logistic scores are one fit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pifi_probe.errors import EstimatorError
from pifi_probe.scoring.estimators.information import usable_information
from pifi_probe.scoring.estimators.logistic import logistic_accuracy, logistic_nll
from pifi_probe.scoring.linear import cross_validated
from pifi_probe.scoring.spectrum import Spectrum

Floats = NDArray[np.float64]
EVERY = [logistic_accuracy, logistic_nll, usable_information]


def sample(
    known: float, added: float, *, n: int = 120, dim: int = 30, k: int = 2, seed: int = 0
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Features z and h with class means `added` and `known` apart, otherwise independent, and labels."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % k)
    z = rng.normal(size=(n, dim)) + added * rng.normal(size=(k, dim))[y] / np.sqrt(dim)
    h = rng.normal(size=(n, 20)) + known * rng.normal(size=(k, 20))[y] / np.sqrt(20)
    return z, h, y


def test_it_is_the_nll_of_h_minus_the_nll_of_both_scaled_and_side_by_side() -> None:
    z, h, y = sample(1, 6)
    h, z = h * 100, z / 100
    both = np.hstack([(h - h.mean(0)) / (h - h.mean(0)).std(), (z - z.mean(0)) / (z - z.mean(0)).std()])
    first, second = cross_validated([h, both], y)
    scored = usable_information.score(z, y, other=h)
    assert (second.chosen_by < first.chosen_by).all()
    np.testing.assert_allclose(scored.per_example, first.nll - second.nll, atol=1e-6)
    assert scored.value == pytest.approx(first.nll.mean() - second.nll.mean())
    assert np.array_equal(first.folds, second.folds)


def test_what_h_knows_already_is_not_counted_again() -> None:
    new, known = [], []
    for seed in range(4):
        z, h, y = sample(0, 4, seed=seed)
        new.append(usable_information(z, y, other=h))
        rotation = np.linalg.qr(np.random.default_rng(9).normal(size=(30, 30)))[0]
        known.append(usable_information(z @ rotation * 3 + 1, y, other=z))
    assert min(new) > 0.2
    assert max(np.abs(known)) < 0.02


def test_features_that_do_not_help_in_training_are_ignored() -> None:
    """Without that, four hundred useless features would drown the twenty that tell something."""
    z, h, y = sample(4, 0, n=60, dim=400, seed=1)
    both = np.hstack([(h - h.mean(0)) / (h - h.mean(0)).std(), (z - z.mean(0)) / (z - z.mean(0)).std()])
    first, second = cross_validated([h, both], y)
    assert (first.nll - second.nll).mean() < -0.1
    ignored = (second.chosen_by >= first.chosen_by)[first.folds]
    assert ignored.any()
    assert not usable_information.score(z, y, other=h).per_example[ignored].any()


@pytest.mark.parametrize(("n", "dim"), [(120, 30), (60, 400)])
def test_it_tells_signal_from_noise(n: int, dim: int) -> None:
    noise = [usable_information(z, y, other=h) for z, h, y in (sample(2, 0, n=n, dim=dim, seed=s) for s in range(6))]
    signal = [usable_information(z, y, other=h) for z, h, y in (sample(2, 6, n=n, dim=dim, seed=s) for s in range(6))]
    assert min(signal) > max(noise)
    assert abs(np.mean(noise)) < 0.05


@pytest.mark.parametrize("k", [2, 5])
def test_more_signal_in_z_gives_more_and_never_more_than_the_entropy(k: int) -> None:
    levels = [
        np.mean([usable_information(z, y, other=h) for z, h, y in (sample(1, s, n=90, k=k, seed=i) for i in range(2))])
        for s in (0, 2, 4, 8)
    ]
    assert (np.diff(levels) > 0).all()
    assert levels[-1] <= np.log(k)


@pytest.mark.parametrize("estimator", EVERY)
def test_order_rotation_scale_and_offset_change_nothing(estimator: object) -> None:
    z, h, y = sample(1, 2)
    rng = np.random.default_rng(0)
    order, rotation = rng.permutation(len(y)), np.linalg.qr(rng.normal(size=(30, 30)))[0]
    before, after = ({"other": each} if estimator is usable_information else {} for each in (h, h[order] * 1e3 - 4))
    value = estimator(z, y, **before)  # type: ignore[operator]
    changed = estimator(z[order] @ rotation * 1e-3 + 2, y[order], **after)  # type: ignore[operator]
    assert changed == pytest.approx(value, rel=1e-6, abs=1e-9)


ODD = {
    "constant": lambda z: np.full_like(z, 0.1),
    "one column": lambda z: z[:, :1],
    "each example twice": lambda z: np.repeat(z[::2], 2, axis=0),
    "huge": lambda z: z * 1e200,
    "tiny": lambda z: z * 1e-200,
    "float32": lambda z: z.astype(np.float32),
    "one outlier": lambda z: z * np.where(np.arange(len(z)) == 3, 1e6, 1)[:, None],
    "columns of very different size": lambda z: z * np.logspace(-8, 8, z.shape[1]),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("estimator", [logistic_nll, usable_information])
def test_odd_features_give_finite_scores_of_fits_that_converged(
    estimator: object, odd: str, caplog: pytest.LogCaptureFixture
) -> None:
    for k in (2, 20):
        z, h, y = sample(1, 2, n=100, k=k)
        other = {"other": h} if estimator is usable_information else {}
        assert np.isfinite(estimator(ODD[odd](z), y, **other))  # type: ignore[operator]
    assert not caplog.records


def test_constant_features_add_nothing_and_score_chance() -> None:
    z, h, y = sample(1, 2, n=100)
    constant = np.full((100, 7), 2.0)
    assert logistic_nll(constant, y) == pytest.approx(np.log(2))
    assert logistic_accuracy(constant, y) == pytest.approx(0.5)
    assert abs(usable_information(constant, y, other=h)) < 0.02
    alone = usable_information(z, y, other=constant)
    assert alone == pytest.approx(np.log(2) - logistic_nll(z, y), abs=0.05)


def test_rare_classes_and_twenty_classes_are_found() -> None:
    rng = np.random.default_rng(0)
    y = (np.arange(100) < 5).astype(int)
    z = rng.normal(size=(100, 40)) + 2 * y[:, None]
    assert logistic_nll(z, y) < 0.05 < -(0.05 * np.log(0.05) + 0.95 * np.log(0.95))
    z, h, y = sample(0, 12, n=200, k=20)
    assert logistic_accuracy(z, y) > 0.5
    assert usable_information(z, y, other=h) > 1


def test_both_logistic_scores_come_from_one_cross_validation() -> None:
    z, _, y = sample(0, 2)
    result = cross_validated([z], y)[0]
    for spectrum in (None, Spectrum.of(z)):
        assert np.array_equal(logistic_accuracy.score(z, y, spectrum=spectrum).per_example, result.correct)
        np.testing.assert_allclose(logistic_nll.score(z, y, spectrum=spectrum).per_example, result.nll, rtol=1e-9)
    assert logistic_nll(z, y, n_folds=4) != logistic_nll(z, y) != logistic_nll(z, y, seed=1)


@pytest.mark.parametrize("estimator", EVERY)
def test_a_class_with_one_example_is_refused_with_what_to_do(estimator: object) -> None:
    z, h, y = sample(1, 1)
    y[0] = 2
    other = {"other": h} if estimator is usable_information else {}
    with pytest.raises(EstimatorError, match="class 2") as caught:
        estimator(z, y, **other)  # type: ignore[operator]
    assert "next: add examples" in str(caught.value)
