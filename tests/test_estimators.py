"""The contract that every registered estimator keeps: one table, then what is particular to one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pifi_probe.scoring import estimators
from pifi_probe.scoring.estimators.evidence import log_evidence
from pifi_probe.scoring.spectrum import Spectrum
from tests import estimator_references as references
from tests.planted import Sample, better, call, sample, second

# relative tolerance against the function of the same name in `estimator_references`
TOLERANCE = {
    "ridge_accuracy": 1e-9,
    "ridge_mse": 1e-9,
    "logistic_accuracy": 1e-9,
    "logistic_nll": 1e-4,
    "usable_information": 1e-3,
    "logme": 1e-6,
    "hscore": 1e-9,
    "knn": 1e-9,
    "nearest_mean": 1e-9,
    "hidden_state_variability": 1e-7,
    "fisher_ratio": 1e-9,
    "effective_rank": 1e-9,
    "cka": 1e-9,
    "mutual_knn": 1e-9,
    "transrate": 1e-9,
    "gbc": 1e-9,
    "nleep": 1e-6,
    "parc": 1e-6,
    "loes": 1e-9,
    "mdl": 1e-4,
    "mlp": 1e-9,
    "gradient_coherence": 1e-9,
    "span": 1e-3,
}
EVERY = list(TOLERANCE)
LABELLED = [name for name in EVERY if name != "effective_rank"]  # it has no signal to find


def test_every_registered_estimator_is_in_the_table() -> None:
    assert set(estimators.names()) == set(EVERY)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("n", "dim", "k"), [(24, 60, 2), (40, 12, 2), (30, 50, 3)])
def test_it_agrees_with_its_definition(name: str, n: int, dim: int, k: int) -> None:
    data = sample(1.0, n=n, dim=dim, k=k)
    assert call(name, data) == pytest.approx(getattr(references, name)(data), rel=TOLERANCE[name])


@pytest.mark.parametrize("name", EVERY)
def test_it_does_not_depend_on_the_order_of_the_examples(name: str) -> None:
    data = sample()
    order = np.random.default_rng(1).permutation(len(data.y))
    assert call(name, Sample(data.x[order], data.y[order], data.z[order], data.h[order])) == pytest.approx(
        call(name, data), rel=1e-8
    )


@pytest.mark.parametrize("name", EVERY)
def test_it_does_not_depend_on_the_names_of_the_classes(name: str) -> None:
    data = sample(k=3)
    assert call(name, replace(data, y=2 - data.y)) == pytest.approx(call(name, data), rel=1e-8)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dim", [30, 120])
def test_it_does_not_depend_on_rotation_or_offset(name: str, dim: int) -> None:
    data = sample(dim=dim)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(dim, dim)))[0]
    assert call(name, replace(data, x=data.x @ rotation + 3)) == pytest.approx(call(name, data), rel=1e-7)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_it_does_not_depend_on_scale(name: str, scale: float) -> None:
    data = sample()
    assert call(name, replace(data, x=data.x * scale, z=data.z / scale)) == pytest.approx(call(name, data), rel=1e-8)


@pytest.mark.parametrize("name", EVERY)
def test_a_given_spectrum_changes_nothing(name: str) -> None:
    data = sample()
    assert call(name, data, spectrum=Spectrum.of(data.x)) == pytest.approx(call(name, data), rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", LABELLED)
def test_with_fewer_examples_than_dimensions_it_tells_signal_from_noise(name: str) -> None:
    noise = [better(name, call(name, sample(0.0, n=60, dim=400, seed=seed))) for seed in range(4)]
    signal = [better(name, call(name, sample(3.0, n=60, dim=400, seed=seed))) for seed in range(4)]
    assert np.median(signal) > max(noise)
    assert np.mean(signal) - np.mean(noise) > 2 * np.std(noise)


@pytest.mark.slow
@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("k", [2, 4])
def test_more_signal_never_lowers_it(name: str, k: int) -> None:
    levels = [np.mean([better(name, call(name, sample(s, k=k, seed=i))) for i in range(3)]) for s in (0, 1.5, 4)]
    assert np.all(np.diff(levels) >= 0)
    assert levels[-1] > levels[0]


def test_effective_rank_counts_directions() -> None:
    rng = np.random.default_rng(0)
    for directions in (1, 5, 25):
        x = np.linalg.qr(rng.normal(size=(60, directions)))[0]
        x = np.linalg.qr(x - x.mean(axis=0))[0] @ np.linalg.qr(rng.normal(size=(100, directions)))[0].T
        assert estimators.effective_rank(x) == pytest.approx(directions)


ODD = {
    "constant": lambda x, y: np.full_like(x, 0.1),
    "constant for each class": lambda x, y: np.linspace(0, 1, y.max() + 1)[y, None] * np.ones(x.shape[1]),
    "one column": lambda x, y: x[:, :1],
    "mostly constant columns": lambda x, y: x * (np.arange(x.shape[1]) < 2),
    "each example twice": lambda x, y: np.repeat(x[::2], 2, axis=0),
    "two different examples": lambda x, y: x[np.arange(len(x)) % 2],
    "huge": lambda x, y: x * 1e200,
    "tiny": lambda x, y: x * 1e-200,
    "float32": lambda x, y: x.astype(np.float32),
    "one outlier": lambda x, y: x * np.where(np.arange(len(x)) == 3, 1e6, 1)[:, None],
    "columns of very different size": lambda x, y: x * np.logspace(-8, 8, x.shape[1]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("odd", ODD)
def test_it_is_finite_on_odd_features(name: str, odd: str) -> None:
    data = sample()
    for k in (2, 5):
        y = np.arange(60) % k
        assert np.isfinite(call(name, replace(data, x=ODD[odd](data.x, y), y=y)))


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("dim", [20, 200])
def test_it_finds_the_signal_among_twenty_classes(name: str, dim: int) -> None:
    low, high = (better(name, call(name, sample(s, n=100, dim=dim, k=20))) for s in (0.0, 6.0))
    assert high > low


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("dim", [20, 200])
def test_it_finds_the_signal_when_five_examples_in_a_hundred_are_of_the_other_class(name: str, dim: int) -> None:
    options = {"k": 4} if name in ("knn", "mutual_knn") else {}  # ten neighbours would outvote a class of five
    low, high = (better(name, call(name, sample(s, n=100, dim=dim, share=0.05), **options)) for s in (0.0, 6.0))
    assert high > low


@pytest.mark.parametrize("name", ["ridge_accuracy", "knn", "nearest_mean"])
@pytest.mark.parametrize(("share", "expected"), [(0.5, 0.5), (0.7, 0.7)])
def test_accuracy_on_constant_features_is_the_share_of_the_largest_class(
    name: str, share: float, expected: float
) -> None:
    data = sample(share=share)
    assert estimators.get(name)(np.full((60, 5), 0.3), data.y) == pytest.approx(expected)


@pytest.mark.parametrize("name", EVERY)
def test_constant_features_score_no_better_than_noise_with_a_signal(name: str) -> None:
    data = sample(4.0)
    if name in LABELLED:
        assert better(name, call(name, replace(data, x=np.ones((60, 9))))) < better(name, call(name, data))
    else:
        assert call(name, replace(data, x=np.ones((60, 9)))) == 0


@pytest.mark.parametrize("name", EVERY)
def test_parts_of_examples_average_to_the_score(name: str) -> None:
    data = sample(1.0)
    scored = estimators.get(name).score(data.x, data.y, **second(name, data))
    if scored.per_example is not None:
        assert scored.per_example.shape == (60,)
        assert scored.per_example.mean() == pytest.approx(scored.value)


# --- what is particular to one ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "dim"), [(200, 2048), (300, 100), (50, 50)])
def test_logme_is_the_exact_log_marginal_likelihood_at_its_alpha_and_beta(n: int, dim: int) -> None:
    data = sample(1.0, n=n, dim=dim)
    found = log_evidence(Spectrum.of(data.x), references.onehot(data.y))
    exact = [
        references.exact_evidence(references.scaled(data.x), y, a, b)
        for y, a, b in zip(references.onehot(data.y).T, found.alpha, found.beta, strict=True)
    ]
    np.testing.assert_allclose(found.value, exact, rtol=1e-8)
    assert estimators.logme(data.x, data.y) == pytest.approx(np.mean(exact))


def test_logme_has_no_term_for_directions_that_the_examples_do_not_span() -> None:
    """The released code gives (D - rank)/2 ln(alpha) too much where N < D, so that it follows the scale of features."""
    data = sample(1.0, n=40, dim=50)
    padded = np.hstack([data.x, np.zeros((40, 1000))])
    assert estimators.logme(padded, data.y) == pytest.approx(estimators.logme(data.x, data.y))


def test_logme_of_noise_is_the_evidence_without_features() -> None:
    data = sample(0.0, n=400, dim=20)
    without = -0.5 * (np.log(2 * np.pi * data.y.var() * 400 / 399) + 1)
    assert estimators.logme(np.ones((400, 3)), data.y) == pytest.approx(without)
    assert without - 1e-8 < estimators.logme(data.x, data.y) < without + 0.02


def test_the_shrunk_hscore_does_not_saturate_where_the_plain_one_does() -> None:
    data = sample(0.0, n=60, dim=400, k=4)
    x, _, between = references.class_covariances(data)
    assert np.trace(np.linalg.pinv(x.T @ x / 60) @ between) == pytest.approx(3)
    assert estimators.hscore(data.x, data.y) < 1


def test_ridge_accuracy_of_noise_is_chance_though_left_out_means_point_away() -> None:
    accuracies = [call("ridge_accuracy", sample(0.0, n=60, dim=60, seed=seed)) for seed in range(20)]
    assert 0.4 < np.mean(accuracies) < 0.6


def test_neighbours_that_tie_share_the_vote_whatever_their_order() -> None:
    x = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0], [-1, 0], [-1, 0], [-1, 0], [-1, 0]])
    y = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    values = {
        estimators.knn(x[order], y[order], k=2)
        for order in (np.arange(8), np.arange(8)[::-1], [3, 0, 1, 2, 7, 4, 5, 6])
    }
    assert values == {0.75}


def test_identical_feature_sets_are_alike() -> None:
    data = sample()
    assert estimators.cka(data.x, other=data.x) == pytest.approx(1)
    assert estimators.mutual_knn(data.x, other=data.x) == pytest.approx(1)


def test_unbiased_cka_of_independent_features_is_about_zero_with_more_dimensions_than_examples() -> None:
    rng = np.random.default_rng(0)
    values = [estimators.cka(rng.normal(size=(40, 400)), other=rng.normal(size=(40, 400))) for _ in range(20)]
    assert abs(np.mean(values)) < 0.01
