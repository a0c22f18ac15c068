"""What a score is worth by chance: the same score with the labels permuted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pifi_probe.errors import EstimatorError
from pifi_probe.scoring.estimators.memory import BLOCK
from pifi_probe.scoring.estimators.registry import Estimator, get
from pifi_probe.scoring.labels import as_labels
from pifi_probe.scoring.spectrum import Spectrum

__all__ = ["permutation_null", "permutations"]


def permutations(n_examples: int, n: int, seed: int) -> NDArray[np.int64]:
    """Draw n orders of the examples, shape (n, n_examples): the same for every layer and estimator of one seed."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n_examples) for _ in range(n)])


def permutation_null(
    estimator: Estimator | str,
    features: ArrayLike,
    labels: Iterable[Any],
    spectrum: Spectrum | None = None,
    *,
    n: int = 100,
    seed: int = 0,
    other: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Score features with permuted labels.

    Parameters
    ----------
    estimator : Estimator or str
        One that uses labels.
    features : array_like, shape (N, D)
        Finite.
    labels : iterable, length N
        The real labels.
    spectrum : Spectrum, optional
        ``Spectrum.of(features)``, if it is known already.
    n : int
        Number of permutations.
    seed : int
        Another seed draws other permutations. Layers scored with one seed share them.
    other : array_like, shape (N, D2), optional
        The second feature set, for estimators of pairs.

    Returns
    -------
    ndarray, shape (n,), float64
        Everything that the estimator chooses (a penalty, say) is chosen again for each permutation.

    Raises
    ------
    EstimatorError
        The estimator uses no labels, n is under one, or as `Estimator.score`.
    """
    chosen = get(estimator) if isinstance(estimator, str) else estimator
    if not chosen.needs_labels:
        raise EstimatorError(f"{chosen.name} uses no labels, so it has no null of permuted labels", next="leave it out")
    if n < 1:
        raise EstimatorError(f"{n} permutations", next="ask for at least one")
    codes = as_labels(labels, n=len(np.asarray(features)), min_per_class=chosen.min_per_class)
    permuted = codes[permutations(len(codes), n, seed)]  # (n, N)
    if chosen.permuted is not None:
        spectrum = spectrum or Spectrum.of(features)
        size = max(1, BLOCK // (8 * len(codes) * (int(codes.max()) + 1)))  # labellings whose one-hot codes are a block
        blocks = [chosen.permuted(spectrum, permuted[i : i + size]) for i in range(0, n, size)]
        return np.concatenate(blocks).astype(np.float64)
    if spectrum is None and "spectrum" in chosen.parameters:
        spectrum = Spectrum.of(features)
    return np.array([chosen.score(features, row, other=other, spectrum=spectrum).value for row in permuted])
