"""From whatever a user has as labels to class codes, or an error that names the row."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pifi_probe.errors import EstimatorError

__all__ = ["as_labels"]

Codes = NDArray[np.int64]


def as_labels(labels: Iterable[Any], *, n: int | None = None, min_per_class: int = 1) -> Codes:
    """Map labels to the codes 0..K-1, in sorted order of the labels.

    Parameters
    ----------
    labels : iterable, length N
        Strings, whole numbers (also as floats) or booleans.
    n : int, optional
        How many there must be.
    min_per_class : int
        How many examples each class must have.

    Returns
    -------
    ndarray, shape (N,), int64

    Raises
    ------
    EstimatorError
        A label is missing, not a whole number, or of another kind than the first; another number of labels than
        `n`; a single class; a class with too few examples; as many classes as examples.
    """
    whole = isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "iu"
    values: NDArray[Any] = np.asarray(labels) if whole else _clean(_as_list(labels))
    if n is not None and len(values) != n:
        raise EstimatorError(f"{len(values)} labels for {n} examples", next="pass one label for each example")
    classes, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    _check_counts(classes, codes, counts, min_per_class)
    return codes.astype(np.int64)


def _as_list(labels: Iterable[Any]) -> list[Any]:
    if isinstance(labels, str | bytes) or not hasattr(labels, "__iter__"):
        raise EstimatorError(f"the labels are a {type(labels).__name__}", next="pass an array (N,)")
    if getattr(labels, "ndim", 1) != 1:
        raise EstimatorError(f"the labels have shape {tuple(labels.shape)}, not (N,)", next="pass one label a row")  # type: ignore[attr-defined]
    return list(labels.tolist()) if hasattr(labels, "tolist") else list(labels)


def _clean(values: list[Any]) -> NDArray[Any]:
    """Return strings or whole numbers, or name the row that is neither."""
    clean = [_value(label, row) for row, label in enumerate(values)]
    for row, label in enumerate(clean):
        if isinstance(label, str) != isinstance(clean[0], str):
            raise EstimatorError(
                f"label {label!r} is of another kind than label {clean[0]!r}",
                where=f"rows {row} and 0",
                next="use only strings or only whole numbers",
            )
    return np.array(clean)


def _value(label: Any, row: int) -> str | int:
    if isinstance(label, np.generic):
        label = label.item()
    if isinstance(label, str | int):  # bool is an int
        return label if isinstance(label, str) else int(label)
    if isinstance(label, float) and label.is_integer():
        return int(label)
    if label is None or (isinstance(label, float) and math.isnan(label)):
        raise EstimatorError("a label is missing", where=f"row {row}", next="leave the row out or label it")
    raise EstimatorError(
        f"label {label!r} names no class",
        where=f"row {row}",
        next="use strings or whole numbers; put ratings into classes first",
    )


def _check_counts(classes: NDArray[Any], codes: Codes, counts: Codes, min_per_class: int) -> None:
    if len(classes) < 2:
        found = f"every label is {classes[0].item()!r}" if len(classes) else "there are no labels"
        raise EstimatorError(found, next="pass examples of at least two classes")
    if len(classes) == len(codes):
        raise EstimatorError(
            f"{len(codes)} examples have {len(classes)} classes, one each", next="pass more examples than classes"
        )
    rarest = int(counts.argmin())
    if counts[rarest] < min_per_class:
        raise EstimatorError(
            f"class {classes[rarest].item()!r} has {counts[rarest]} example(s), and {min_per_class} are needed",
            where=f"row {int(np.argmax(codes == rarest))}",
            next="add examples, leave the class out, or choose an estimator that holds nothing out (logme, hscore)",
        )
