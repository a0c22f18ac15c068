"""The eigendecomposition that all estimators share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from pifi_probe.errors import EstimatorError
from pifi_probe.scoring.spectrum import Spectrum

SHAPES = [(30, 80), (80, 30), (40, 40)]


def features(n: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3.0, 2.0, (n, dim))


@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_eigenvalues_are_those_of_the_centred_and_scaled_gram_matrix(n: int, dim: int) -> None:
    x = features(n, dim)
    spectrum = Spectrum.of(x)
    x = x - x.mean(axis=0)
    x /= np.sqrt((x**2).mean())
    expected = np.linalg.eigvalsh(x @ x.T)[::-1][: spectrum.rank]
    np.testing.assert_allclose(spectrum.values, expected, rtol=1e-10)
    np.testing.assert_allclose(spectrum.components() @ spectrum.components().T, x @ x.T, atol=1e-10)
    np.testing.assert_allclose(spectrum.squared_norms, (x**2).sum(axis=1))
    assert spectrum.values.sum() == pytest.approx(n * dim)
    assert (spectrum.n, spectrum.dim, spectrum.rank) == (n, dim, min(n - 1, dim))


@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_eigenvectors_are_orthonormal_and_of_mean_zero(n: int, dim: int) -> None:
    spectrum = Spectrum.of(features(n, dim))
    np.testing.assert_allclose(spectrum.vectors.T @ spectrum.vectors, np.eye(spectrum.rank), atol=1e-10)
    np.testing.assert_allclose(spectrum.vectors.mean(axis=0), 0, atol=1e-10)


@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_components_are_those_of_a_principal_component_analysis(n: int, dim: int) -> None:
    x = features(n, dim)
    ours = Spectrum.of(x).components(5)
    theirs = PCA(5, svd_solver="full").fit_transform(x) / (x - x.mean(axis=0)).std()
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-8)


def test_fewer_components_than_asked_for_come_where_the_rank_is_lower() -> None:
    assert Spectrum.of(features(10, 40)).components(20).shape == (10, 9)


@pytest.mark.parametrize(("shape", "side"), [((30, 200), 30), ((200, 30), 30)])
def test_the_smaller_of_the_two_matrices_is_decomposed(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], side: int
) -> None:
    seen = []
    real = torch.linalg.eigh

    def watched(matrix: torch.Tensor) -> Any:
        seen.append(tuple(matrix.shape))
        return real(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", watched)
    Spectrum.of(features(*shape))
    assert seen == [(side, side)]


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_scale_does_not_matter_however_extreme(scale: float) -> None:
    x = features(20, 30)
    np.testing.assert_allclose(Spectrum.of(x * scale).values, Spectrum.of(x).values, rtol=1e-9)


def test_a_large_offset_costs_little_precision() -> None:
    x = features(20, 30)
    np.testing.assert_allclose(Spectrum.of(x + 1e7).values, Spectrum.of(x).values, rtol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e-30, 1e30, -7.3e8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_features_have_an_empty_spectrum(constant: float, dtype: Any) -> None:
    x = np.full((50, 8), constant, dtype) * np.linspace(1, 2, 8, dtype=dtype)
    spectrum = Spectrum.of(x)
    assert spectrum.rank == 0
    assert spectrum.components().shape == (50, 0)


def test_duplicate_examples_and_columns_lower_the_rank() -> None:
    x = features(10, 6)
    assert Spectrum.of(np.repeat(x, 3, axis=0)).rank == 6
    assert Spectrum.of(np.tile(x, (1, 5))).rank == 6


def test_float32_and_integers_are_taken() -> None:
    x = features(20, 30)
    assert Spectrum.of(x.astype(np.float32)).values.dtype == np.float64
    assert Spectrum.of(np.arange(12).reshape(4, 3)).rank == 1


def test_the_features_are_left_as_they_were() -> None:
    x = features(20, 30)
    before = x.copy()
    Spectrum.of(x)
    np.testing.assert_array_equal(x, before)


def test_a_nan_is_named_by_row_and_column() -> None:
    x = features(20, 30)
    x[7, 4] = np.nan
    x[9, 0] = np.inf
    with pytest.raises(EstimatorError, match=r"2 values that are NaN or infinite.*row 7, column 4"):
        Spectrum.of(x)


@pytest.mark.parametrize(
    "bad", [np.zeros(5), np.zeros((2, 3, 4)), np.zeros((1, 4)), np.zeros((5, 0)), [["a", "b"], ["c", "d"]], None]
)
def test_what_is_no_matrix_is_refused(bad: Any) -> None:
    with pytest.raises(EstimatorError):
        Spectrum.of(bad)
