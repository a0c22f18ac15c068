"""One eigendecomposition per layer, shared by every estimator that only needs inner products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pifi_probe.errors import EstimatorError

__all__ = ["Spectrum", "as_features", "beside"]

RANK_CUT = 1e-10  # of the largest eigenvalue: a singular value of 1e-5 of the largest, the reach of float32 features
Floats = NDArray[np.float64]
T = TypeVar("T")


def as_features(features: ArrayLike, *, name: str = "features") -> NDArray[np.floating]:
    """Check that features are a finite matrix.

    Parameters
    ----------
    features : array_like, shape (N, D)
        Any real dtype; integers become float64.
    name : str
        What to call them in an error.

    Returns
    -------
    ndarray, shape (N, D)
        The same memory where the dtype allows it.

    Raises
    ------
    EstimatorError
        Not a matrix of numbers, fewer than two rows, no column, NaN or infinity.
    """
    try:
        array = np.asarray(features)
        if array.dtype.kind != "f":
            array = array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise EstimatorError(f"the {name} are not a matrix of numbers: {error}", next="pass an array (N, D)") from error
    if array.ndim != 2:
        raise EstimatorError(
            f"the {name} have shape {array.shape}, not (N, D)", next="pass one vector for each example"
        )
    if array.shape[0] < 2 or array.shape[1] < 1:
        raise EstimatorError(f"the {name} have shape {array.shape}", next="pass at least two examples and one column")
    finite = np.isfinite(array)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise EstimatorError(
            f"the {name} hold {(~finite).sum()} values that are NaN or infinite",
            where=f"first in row {row}, column {column}",
            next="find the layer or text that overflows; a wider dtype may help",
        )
    return array


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of the centred Gram matrix X Xᵀ, with X divided by its global RMS.

    Parameters
    ----------
    values : ndarray, shape (k,), float64
        Eigenvalues, largest first, those under 1e-10 of the largest left out. Their sum is N * D.
    vectors : ndarray, shape (N, k), float64
        Orthonormal, each of mean zero.
    n, dim : int
        N and D.

    Notes
    -----
    Constant features have an empty spectrum (k = 0): there is nothing to score, and estimators say chance.
    """

    values: Floats
    vectors: Floats
    n: int
    dim: int
    _kept: dict[tuple[str, int], tuple[NDArray[np.int64], Any]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, features: ArrayLike) -> Spectrum:
        """Decompose features.

        Parameters
        ----------
        features : array_like, shape (N, D)
            Finite; any scale.

        Returns
        -------
        Spectrum

        Raises
        ------
        EstimatorError
            As `as_features`.

        Notes
        -----
        Cost: min(N, D) * N * D + 9 min(N, D)³ operations in float64. The decomposition is of the smaller of
        the two square matrices.
        """
        array = as_features(features)
        n, dim = array.shape
        x = centred(array)
        if not x.any():
            return cls(np.zeros(0), np.zeros((n, 0)), n, dim)
        if n <= dim:
            values, vectors = _descending(x @ x.T)
        else:
            values, right = _descending(x.T @ x)
            vectors = x @ (right / np.sqrt(values))
        return cls(values, vectors, n, dim)

    @property
    def rank(self) -> int:
        """Number of eigenvalues that are not zero."""
        return len(self.values)

    def components(self, k: int | None = None) -> Floats:
        """Return the first k principal components, by default all: (N, min(k, rank)), float64."""
        return self.vectors[:, :k] * np.sqrt(self.values[:k])

    def once(self, what: str, labels: NDArray[np.int64], compute: Callable[[], T]) -> T:
        """Return what several estimators need of the same labellings (P, N), computed by the first of them."""
        known, found = self._kept.get((what, len(labels)), (None, None))
        if known is None or not np.array_equal(known, labels):
            found = compute()
            self._kept[what, len(labels)] = labels, found
        return cast(T, found)

    @cached_property
    def squared_norms(self) -> Floats:
        """Squared length of each centred, scaled example, shape (N,)."""
        return np.einsum("nk,nk,k->n", self.vectors, self.vectors, self.values)


def centred(features: NDArray[np.floating]) -> Floats:
    """Centre features and divide them by their global RMS; all zeros if every example is the same.

    Features are first divided by their largest size, so that huge and tiny ones neither overflow nor vanish,
    and compared to the first example, so that constant columns become exact zeros.
    """
    x = features.astype(np.float64)
    largest = max(x.max(), -x.min())
    if largest == 0:
        return x
    x /= largest
    x -= x[0].copy()
    x -= x.mean(axis=0)
    rms = np.sqrt(np.vdot(x, x) / x.size)
    return x if rms == 0 else np.divide(x, rms, out=x)


def beside(h: NDArray[np.floating], z: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return two feature sets side by side, each centred and divided by its own RMS: their Grams add up."""
    return np.hstack([centred(h), centred(z)]).astype(np.float32)


def _descending(matrix: Floats) -> tuple[Floats, Floats]:
    found = torch.linalg.eigh(torch.from_numpy(matrix))  # scipy's keeps other threads waiting
    values, vectors = found.eigenvalues.numpy(), found.eigenvectors.numpy()
    kept = values > RANK_CUT * values[-1]
    return values[kept][::-1], np.ascontiguousarray(vectors[:, kept][:, ::-1])
