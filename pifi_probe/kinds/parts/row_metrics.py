"""Metrics of numbers, choices and tags, and each row's own score."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pifi_probe.errors import PifiProbeError
from pifi_probe.kinds.parts.measures import ACCURACY, F1, NLL, Metric

__all__ = [
    "CHOICE",
    "NO_TAG",
    "RATING",
    "TAGGING",
    "choice_metrics",
    "choice_scores",
    "rating_metrics",
    "rating_scores",
    "tag_metrics",
    "tag_scores",
]

NO_TAG = -1  # what is predicted of a word that the model did not see
Scores = dict[str, NDArray[np.float64]]

RATING = (
    Metric("pearson", -1, 1),
    Metric("spearman", -1, 1),
    Metric("squared_error", 0, larger_is_better=False),
    Metric("absolute_error", 0, larger_is_better=False, shown=False),
)
CHOICE = (ACCURACY, Metric("chance", 0, 1), NLL)
TAGGING = (
    F1,
    Metric("token_accuracy", 0, 1),
    Metric("precision", 0, 1, shown=False),
    Metric("recall", 0, 1, shown=False),
)


def rating_metrics(ratings: ArrayLike, predicted: ArrayLike) -> dict[str, Any]:
    """Return the metrics of predicted numbers.

    Parameters
    ----------
    ratings, predicted : array of float, shape (N,)

    Returns
    -------
    dict
        ``pearson`` and ``spearman`` correlation (absent, with the reason in ``undefined``, where one side is
        constant), ``squared_error`` and ``absolute_error`` (means) and ``n``.

    Raises
    ------
    PifiProbeError
        If a prediction is NaN or infinite.
    """
    from scipy import stats

    truth, guess = _finite(ratings, predicted)
    values: dict[str, Any] = {name: float(column.mean()) for name, column in rating_scores(truth, guess).items()}
    constant = len(truth) < 2 or np.ptp(truth) == 0 or np.ptp(guess) == 0
    if not constant:
        values["pearson"] = float(stats.pearsonr(truth, guess).statistic)
        values["spearman"] = float(stats.spearmanr(truth, guess).statistic)
    undefined = dict.fromkeys(("pearson", "spearman"), "the ratings or the predictions are constant")
    return values | {"n": len(truth), "undefined": undefined if constant else {}}


def rating_scores(ratings: ArrayLike, predicted: ArrayLike) -> Scores:
    """Return ``squared_error`` and ``absolute_error`` of every row, shape (N,)."""
    truth, guess = _finite(ratings, predicted)
    return {"squared_error": (guess - truth) ** 2, "absolute_error": np.abs(guess - truth)}


def _finite(ratings: ArrayLike, predicted: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    truth, guess = np.asarray(ratings, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    broken = int((~np.isfinite(guess)).sum())
    if truth.shape != guess.shape or not len(truth) or broken:
        raise PifiProbeError(
            f"{broken} of {len(guess)} predictions are NaN or infinite" if broken else "shapes do not fit",
            next="the training has diverged: lower the learning rate, or train in float32",
        )
    return truth, guess


def choice_metrics(labels: Sequence[int], logits: Sequence[ArrayLike]) -> dict[str, Any]:
    """Return the metrics of chosen answers.

    Parameters
    ----------
    labels : sequence of int, length N
        Indices of the right choices.
    logits : sequence of arrays, length N
        The scores of each row's choices; rows may differ in length.

    Returns
    -------
    dict
        ``accuracy``, ``nll`` (nats per row), ``chance`` (the accuracy of guessing) and ``n``.
    """
    values: dict[str, Any] = {name: float(column.mean()) for name, column in choice_scores(labels, logits).items()}
    chance = float(np.mean([1 / len(np.asarray(row)) for row in logits]))
    return values | {"chance": chance, "n": len(labels), "undefined": {}}


def choice_scores(labels: Sequence[int], logits: Sequence[ArrayLike]) -> Scores:
    """Return ``accuracy`` (0 or 1; the lowest index wins a tie) and ``nll`` (nats) of every row, shape (N,)."""
    from scipy.special import log_softmax

    rows = [np.asarray(row, dtype=np.float64) for row in logits]
    broken = sum(not np.isfinite(row).all() for row in rows)
    if broken:
        raise PifiProbeError(
            f"{broken} of {len(rows)} predictions are NaN or infinite",
            next="the training has diverged: lower the learning rate, or train in float32",
        )
    right = np.array([float(row.argmax() == label) for row, label in zip(rows, labels, strict=True)])
    nll = np.array([-log_softmax(row)[label] for row, label in zip(rows, labels, strict=True)])
    return {"accuracy": right, "nll": nll}


def tag_metrics(
    labels: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]], names: Sequence[str]
) -> dict[str, Any]:
    """Return the metrics of tagged words.

    Parameters
    ----------
    labels, predicted : sequence of sequences of int
        For each row the tag of each word; a predicted `NO_TAG` is wrong, and no entity.
    names : sequence of str
        Names of the tags. "O", "B-..." and "I-..." mean entities.

    Returns
    -------
    dict
        ``token_accuracy`` (the mean over rows of a row's share of right tags), ``f1`` and ``n`` (rows). With names
        of entities, ``f1``, ``precision`` and ``recall`` are of whole entities (seqeval, as in CoNLL); with other
        tags ``f1`` is the mean over tags.
    """
    entities = all(name == "O" or name[:2] in ("B-", "I-") for name in names)
    none = "O" if entities else "\0"  # no tag has this name
    truth = [[names[tag] for tag in row] for row in labels]
    guess = [[none if tag == NO_TAG else names[tag] for tag in row] for row in _filled(labels, predicted)]
    accuracy = float(tag_scores(labels, predicted)["token_accuracy"].mean())
    values: dict[str, Any] = {"token_accuracy": accuracy, "n": len(labels), "undefined": {}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tags that are never predicted: 0, as documented
        if entities:
            from seqeval import metrics

            for score in ("precision", "recall", "f1"):
                values[score] = float(getattr(metrics, f"{score}_score")(truth, guess, zero_division=0))
        else:
            from sklearn.metrics import f1_score

            flat = ([tag for row in rows for tag in row] for rows in (truth, guess))
            shown = sorted({tag for rows in (truth, guess) for row in rows for tag in row} - {none})
            values["f1"] = float(f1_score(*flat, labels=shown, average="macro", zero_division=0.0))
    return values


def tag_scores(labels: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]]) -> Scores:
    """Return ``token_accuracy``, the share of right tags, of every row, shape (N,)."""
    pairs = zip(labels, _filled(labels, predicted), strict=True)
    return {"token_accuracy": np.array([np.mean([a == b for a, b in zip(x, y, strict=True)]) for x, y in pairs])}


def _filled(labels: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return predictions with `NO_TAG` for the words after their end."""
    pairs = zip(labels, predicted, strict=True)
    return [[*row, *[NO_TAG] * (len(truth) - len(row))] for truth, row in pairs]
