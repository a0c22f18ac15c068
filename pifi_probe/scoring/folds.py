"""Which examples are held out together."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pifi_probe.errors import EstimatorError

__all__ = ["fold_pairs", "stratified_folds"]

MIN_FOLDS = 3  # one to score, one to choose the penalty, one to fit


def stratified_folds(
    labels: NDArray[np.int64], n_folds: int = 5, seed: int = 0, *, keys: ArrayLike | None = None
) -> NDArray[np.int64]:
    """Return the fold of each example.

    Parameters
    ----------
    labels : array of int, shape (N,)
        Classes.
    n_folds : int
        At least 3.
    seed : int
        Of the draw.
    keys : array of float, shape (N,), optional
        Numbers that go with the examples whatever their order is, such as the lengths of their vectors: with them the
        folds do not depend on the order of the rows. Equal numbers count in the order of the rows.

    Returns
    -------
    array of int, shape (N,)
        0..n_folds-1. Folds are of one size, and have the same number of each class, up to one.

    Raises
    ------
    EstimatorError
        If there are fewer than three folds or more folds than examples, or a class has a single example: held out,
        it could not be learnt.
    """
    y = np.asarray(labels)
    if not MIN_FOLDS <= n_folds <= len(y):
        raise EstimatorError(
            f"{n_folds} folds of {len(y)} examples",
            where="n_folds",
            next=f"give at least {MIN_FOLDS} (to score, to choose the penalty, to fit) and no more than examples",
        )
    classes, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    if counts.min() < 2:
        raise EstimatorError(
            f"class {classes[counts.argmin()]} has a single example, which cannot be held out and learnt from",
            where=f"row {int(np.argmax(codes == counts.argmin()))}",
            next="add examples of the class, leave it out, or join it with another one",
        )
    draws = np.random.default_rng(seed).permutation(len(y))
    if keys is not None:
        draws = draws[np.argsort(np.argsort(np.asarray(keys), kind="stable"), kind="stable")]
    first = np.full(len(classes), len(y))
    np.minimum.at(first, codes, draws)  # classes in the order of their first draw, whatever their names are
    folds = np.empty(len(y), dtype=np.int64)
    folds[np.lexsort((draws, first[codes]))] = np.arange(len(y)) % n_folds
    return folds


def fold_pairs(n_folds: int) -> list[tuple[int, int]]:
    """Return all pairs of folds.

    A model fitted without folds f and g chooses the penalty for both: scored on g it counts for f, scored on f for g.
    Nested cross-validation takes n (n - 1) / 2 such fits a penalty, not n (n - 1).
    """
    return list(combinations(range(n_folds), 2))
