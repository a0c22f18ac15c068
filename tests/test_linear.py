"""The logistic probe is scikit-learn's, fitted to training rows alone; folds are fair; what fails says so."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from pifi_probe.errors import EstimatorError
from pifi_probe.scoring import newton
from pifi_probe.scoring.folds import fold_pairs, stratified_folds
from pifi_probe.scoring.linear import cross_validated, fit_logistic
from pifi_probe.scoring.spectrum import Spectrum

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


def sample(
    n: int = 90, dim: int = 40, k: int = 2, *, signal: float = 2.0, seed: int = 0, shares: list[float] | None = None
) -> tuple[Floats, Codes]:
    """Features whose class means are `signal` apart, and labels."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % k) if shares is None else rng.choice(k, size=n, p=shares)
    x = rng.normal(size=(n, dim)) * np.arange(1, dim + 1) ** -0.5
    return x + signal * rng.normal(size=(k, dim))[y] / np.sqrt(dim), y


def reference(x: Floats, y: Codes, l2: float) -> LogisticRegression:
    """Scikit-learn's fit to its own precision."""
    solver = "newton-cholesky" if len(np.unique(y)) * x.shape[1] < 400 else "newton-cg"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newton-cg says so when it is at the precision of its line search
        return LogisticRegression(C=1 / l2, tol=1e-11, max_iter=10_000, solver=solver).fit(x, y)


def off(ours: Floats, theirs: Floats) -> float:
    """Return the relative difference in norm."""
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


# --- the solver -------------------------------------------------------------------------------------------------------

CASES = {
    "binary, N > D": ({"n": 120, "dim": 20}, [100.0, 1.0, 0.01]),
    "binary, N < D": ({"n": 60, "dim": 150}, [100.0, 1.0, 0.01]),
    "three classes, N > D": ({"n": 120, "dim": 20, "k": 3}, [100.0, 1.0, 0.01]),
    "three classes, N < D": ({"n": 60, "dim": 150, "k": 3}, [100.0, 1.0, 0.01]),
    "twenty classes, N > D": ({"n": 300, "dim": 15, "k": 20}, [100.0, 1.0]),
    "twenty classes, N < D": ({"n": 100, "dim": 120, "k": 20}, [100.0, 1.0]),
    "binary, 5 in 100": ({"n": 200, "dim": 30, "shares": [0.95, 0.05]}, [10.0, 0.1]),
    "three classes, 4 in 100": ({"n": 200, "dim": 30, "k": 3, "shares": [0.8, 0.16, 0.04]}, [10.0, 0.1]),
    "separable, binary": ({"n": 80, "dim": 30, "signal": 60.0}, [1e-2, 1e-4]),
    "separable, three classes": ({"n": 80, "dim": 30, "k": 3, "signal": 60.0}, [1e-2, 1e-4]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rotated", [True, False])
def test_coefficients_intercepts_and_predictions_are_scikit_learns(case: str, rotated: bool) -> None:
    options, penalties = CASES[case]
    x, y = sample(**options)
    x = Spectrum.of(x).components() if rotated else x
    masks = np.stack([np.arange(len(y)) % 4 != fold for fold in range(2) for _ in penalties])
    fit = fit_logistic(x, y, penalties * 2, masks)
    assert fit.converged.all()
    predicted = fit.log_probabilities(x).argmax(dim=1).numpy()
    for i, (mask, l2) in enumerate(zip(masks, penalties * 2, strict=True)):
        theirs = reference(x[mask], y[mask], l2)
        assert off(fit.coef[i].numpy(), theirs.coef_) < 1e-5
        intercept = theirs.intercept_ - theirs.intercept_.mean() * (y.max() > 1)
        assert np.abs(fit.intercept[i].numpy() - intercept).max() < 1e-5 * np.linalg.norm(
            [*theirs.coef_.flat, *intercept]
        )
        assert np.array_equal(predicted[i][~mask], theirs.predict(x[~mask]))
        log_p = fit.log_probabilities(x[~mask])[i].numpy().T
        np.testing.assert_allclose(log_p, theirs.predict_log_proba(x[~mask]), rtol=1e-5, atol=1e-6)


def test_problems_do_not_disturb_each_other() -> None:
    x, y = sample(k=3)
    masks = np.random.default_rng(0).random((200, len(y))) < 0.7  # more than are fitted at once
    l2 = np.logspace(-3, 3, 200)
    together = fit_logistic(x, y, l2, masks)
    for i in (0, 77, 199):
        alone = fit_logistic(x, y, l2[i : i + 1], masks[i : i + 1])
        assert off(together.coef[i].numpy(), alone.coef[0].numpy()) < 1e-9


def test_nothing_to_fit_gives_coefficients_of_zero() -> None:
    x, y = sample(k=3)
    fit = fit_logistic(x, y, [1.0], np.zeros((1, len(y))))
    assert fit.converged.all() and not fit.coef.any() and not fit.intercept.any()


# --- cross-validation -------------------------------------------------------------------------------------------------


def refitted(x: Floats, y: Codes, folds: Codes, grid: tuple[float, ...]) -> tuple[Floats, Codes, list[float]]:
    """Nested cross-validation from raw features, one scikit-learn fit after the other."""

    def nll_of(rest: Codes, held_out: Codes, l2: float) -> tuple[Floats, Codes]:
        mean = x[rest].mean(axis=0)
        rms = np.sqrt(((x[rest] - mean) ** 2).mean())
        fit = reference((x[rest] - mean) / rms, y[rest], l2 * x.shape[1])
        log_p = fit.predict_log_proba((x[held_out] - mean) / rms)
        return -log_p[np.arange(held_out.sum()), y[held_out]], log_p.argmax(axis=1)

    nll, predictions, chosen = np.empty(len(y)), np.empty(len(y), dtype=int), []
    for f in range(folds.max() + 1):
        others = [g for g in range(folds.max() + 1) if g != f]
        inner = [sum(nll_of((folds != f) & (folds != g), folds == g, l2)[0].sum() for g in others) for l2 in grid]
        chosen.append(grid[int(np.argmin(inner))])
        nll[folds == f], predictions[folds == f] = nll_of(folds != f, folds == f, chosen[-1])
    return nll, predictions, chosen


@pytest.mark.parametrize(("n", "dim", "k"), [(80, 25, 2), (50, 90, 2), (75, 20, 3)])
def test_it_is_nested_cross_validation_with_everything_fitted_to_training_rows(n: int, dim: int, k: int) -> None:
    x, y = sample(n, dim, k)
    grid = (1.0, 0.1, 0.01)
    result = cross_validated([x + 5], y, n_folds=4, l2_grid=grid)[0]
    nll, predictions, chosen = refitted(x, y, result.folds, grid)
    assert result.l2.tolist() == chosen
    np.testing.assert_allclose(result.nll, nll, rtol=1e-5)
    assert np.array_equal(result.predictions, predictions)
    assert np.array_equal(result.correct, predictions == y)
    assert result.converged


def test_every_layer_has_the_same_folds_whether_array_or_spectrum_or_generator() -> None:
    y = sample()[1]
    layers = [sample(seed=seed)[0] for seed in range(3)]
    results = cross_validated((Spectrum.of(x) for x in layers), y)
    for one, again in zip(results, cross_validated(layers, y), strict=True):
        assert np.array_equal(one.folds, results[0].folds)
        assert np.array_equal(one.nll, again.nll)


@pytest.mark.parametrize("k", [2, 3])
def test_it_does_not_depend_on_order_rotation_scale_or_names_of_classes(k: int) -> None:
    x, y = sample(k=k)
    rng = np.random.default_rng(1)
    order, rotation = rng.permutation(len(y)), np.linalg.qr(rng.normal(size=(40, 40)))[0]
    result = cross_validated([x], y)[0]
    for other, labels in ((x[order], y[order]), (x[order] @ rotation * 1e4 + 7, [f"class {k - c}" for c in y[order]])):
        assert np.allclose(cross_validated([other], labels)[0].nll, result.nll[order], rtol=1e-6)


def test_features_without_signal_get_strong_penalties_and_the_entropy_of_the_labels() -> None:
    results = [cross_validated([sample(100, 300, signal=0, seed=seed)[0]], np.arange(100) % 2)[0] for seed in range(8)]
    assert np.mean([result.nll.mean() for result in results]) == pytest.approx(np.log(2), abs=0.02)
    assert np.median([result.l2 for result in results]) >= 10
    constant = cross_validated([np.full((100, 5), 0.3)], np.arange(100) % 2)[0]
    np.testing.assert_allclose(constant.nll, np.log(2))


def test_signal_lowers_the_nll_step_by_step() -> None:
    nll = [
        cross_validated([sample(120, 60, 3, signal=s)[0]], sample(120, 60, 3)[1])[0].nll.mean() for s in (0, 2, 4, 8)
    ]
    assert (np.diff(nll) < 0).all()


def test_a_class_with_two_examples_is_learnt_from_one_and_scored_on_the_other() -> None:
    x, y = sample(60, 20, 3)
    y[y == 2] = 0
    y[[3, 9]] = 2
    result = cross_validated([x], y)[0]
    assert result.folds[3] != result.folds[9]
    assert np.isfinite(result.nll).all()


# --- folds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_folds", [3, 5, 10])
def test_folds_are_of_one_size_and_share_every_class_up_to_one_example(n_folds: int) -> None:
    y = np.random.default_rng(0).choice(4, size=103, p=[0.6, 0.3, 0.06, 0.04])
    folds = stratified_folds(y, n_folds)
    counts = np.array([[((folds == f) & (y == c)).sum() for c in range(4)] for f in range(n_folds)])
    assert np.ptp(counts.sum(axis=1)) <= 1
    assert (np.ptp(counts, axis=0) <= 1).all()
    assert np.array_equal(folds, stratified_folds(y, n_folds))
    assert not np.array_equal(folds, stratified_folds(y, n_folds, seed=1))


def test_with_keys_folds_follow_the_examples_whatever_their_order() -> None:
    rng = np.random.default_rng(0)
    y, keys, order = rng.integers(3, size=50), rng.random(50), rng.permutation(50)
    assert np.array_equal(stratified_folds(y, keys=keys)[order], stratified_folds(y[order], keys=keys[order]))
    assert np.array_equal(stratified_folds(y, keys=keys), stratified_folds(9 - y, keys=keys))


def test_pairs_of_folds_serve_both_of_them() -> None:
    pairs = fold_pairs(5)
    assert len(pairs) == 10
    assert all(sum(fold in pair for pair in pairs) == 4 for fold in range(5))


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_fit_that_does_not_converge_is_named_with_its_layer_and_fold(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    x, y = sample()
    monkeypatch.setattr(newton, "MAX_NEWTON", 1)
    with caplog.at_level(logging.WARNING, "pifi_probe"):
        result = cross_validated([x], y, names=["depth 7"])[0]
    assert not result.converged
    lines = [record.getMessage() for record in caplog.records]
    assert sum("feature set depth 7, fold" in line and "not converged" in line for line in lines) == 5
    assert sum("feature set depth 7, fit without folds" in line for line in lines) == 10


def test_fits_that_converge_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert cross_validated([sample(signal=50.0)[0]], sample()[1], l2_grid=(1e-6,))[0].converged
    assert not caplog.records


def bad_calls() -> Iterator[tuple[str, dict[str, object]]]:
    x, y = sample()
    lonely = np.where(np.arange(90) == 4, 2, y)
    yield "pass examples of at least two classes", {"features": [x], "labels": np.zeros(90)}
    yield "add examples", {"features": [x], "labels": lonely}
    yield "90 labels for 50 examples", {"features": [x[:50]], "labels": y}
    yield "2 folds of 90", {"features": [x], "labels": y, "n_folds": 2}
    yield "91 folds of 90", {"features": [x], "labels": y, "n_folds": 91}
    yield "l2_grid", {"features": [x], "labels": y, "l2_grid": ()}
    yield "l2_grid", {"features": [x], "labels": y, "l2_grid": (1.0, 0.0)}
    yield "NaN or infinite", {"features": [x, np.where(x > 1, np.nan, x)], "labels": y}
    yield "a label is missing", {"features": [x], "labels": [None, *y[1:]]}


@pytest.mark.parametrize(("says", "arguments"), list(bad_calls()))
def test_bad_input_is_refused_with_what_to_do(says: str, arguments: dict[str, object]) -> None:
    with pytest.raises(EstimatorError) as caught:
        cross_validated(**arguments)  # type: ignore[arg-type]
    assert says in str(caught.value) and "next:" in str(caught.value)


def test_a_class_with_one_example_is_refused_by_the_folds_themselves() -> None:
    with pytest.raises(EstimatorError, match="class 2 has a single example") as caught:
        stratified_folds(np.array([0, 1, 0, 1, 2, 0, 1]))
    assert "row 4" in str(caught.value) and "leave it out" in str(caught.value)
