"""Metrics of rows with any number of labels, and the thresholds from which on a label applies."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pifi_probe.errors import PifiProbeError
from pifi_probe.kinds.parts.measures import EXACT_MATCH, MACRO_F1, NLL, PRIORS, Metric

__all__ = ["HALF", "LABELLING", "best_thresholds", "label_metrics", "label_scores"]

HALF = 0.5  # where nothing is known
Floats = NDArray[np.float64]
LABELLING = (
    Metric("micro_f1", 0, 1),
    MACRO_F1,
    Metric("example_f1", 0, 1),
    EXACT_MATCH,
    NLL,
    Metric("thresholds", 0, 1, shown=False, listed=True),
    *PRIORS,
)


def best_thresholds(truth: ArrayLike, logits: ArrayLike) -> Floats:
    """Return for each label the probability from which on calling it gives the best F1 on these rows.

    F1 macro is the mean over labels, so that each can be chosen by itself. Of equally good thresholds, which lie
    between two neighbouring probabilities, the one nearest to 0.5 is taken; 0.5 for a label that no row has.

    Parameters
    ----------
    truth : array, shape (N, K)
        0 or 1.
    logits : array of float, shape (N, K)

    Returns
    -------
    array of float64, shape (K,)
        In [0, 1].
    """
    labels, scores = _checked(truth, logits)
    return np.array([_best(labels[:, k], _sigmoid(scores[:, k])) for k in range(labels.shape[1])])


def _best(truth: Floats, probabilities: Floats) -> float:
    if not truth.any():
        return HALF
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    called = np.arange(1, len(ranked) + 1)
    f1 = 2 * np.cumsum(truth[order]) / (called + truth.sum())  # of calling the first 1, 2, ... rows
    f1[:-1][ranked[:-1] == ranked[1:]] = -1.0  # rows of equal probability are called together
    below = np.append(ranked[1:], 0.0)
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    middle = (ranked[best] + below[best]) / 2
    inside = (below[best] < HALF) & (ranked[best] >= HALF)
    places = np.where(inside, HALF, np.where(middle > below[best], middle, ranked[best]))
    return float(places[np.abs(places - HALF).argmin()])


def label_metrics(truth: ArrayLike, logits: ArrayLike, thresholds: ArrayLike) -> dict[str, Any]:
    """Return the metrics of one test split.

    Parameters
    ----------
    truth, logits
        As for `best_thresholds`.
    thresholds : array of float, shape (K,)

    Returns
    -------
    dict
        ``micro_f1`` (over all labels of all rows together), ``macro_f1`` (mean over labels that occur or are called;
        0 where there is none), the means of `label_scores`, ``n``, and ``label_prior`` and ``predicted_prior``: for
        each label the share of the rows that have it, and for which it is called.
    """
    from sklearn.metrics import f1_score

    labels, scores = _checked(truth, logits)
    called = _called(scores, thresholds)
    some = np.flatnonzero(labels.any(0) | called.any(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # labels that are never called: 0, as documented
        options: dict[str, Any] = {"labels": some, "zero_division": 0.0}
        f1 = {
            f"{how}_f1": float(f1_score(labels, called, average=how, **options)) if len(some) else 0.0
            for how in ("micro", "macro")
        }
    means = {name: float(values.mean()) for name, values in label_scores(truth, logits, thresholds).items()}
    priors = {"label_prior": labels.mean(0).tolist(), "predicted_prior": called.mean(0).tolist()}
    return {**f1, **means, **priors, "n": len(labels), "undefined": {}}


def label_scores(truth: ArrayLike, logits: ArrayLike, thresholds: ArrayLike) -> dict[str, Floats]:
    """Return every row's own scores, shape (N,).

    ``example_f1`` is the F1 of the row's own labels, 1 where it has none and none is called; ``exact_match`` whether
    all are right; ``nll`` the mean binary cross-entropy of its labels in nats.
    """
    labels, scores = _checked(truth, logits)
    called = _called(scores, thresholds)
    sizes = labels.sum(1) + called.sum(1)
    f1 = np.where(sizes > 0, 2 * (labels * called).sum(1) / np.maximum(sizes, 1), 1.0)
    nll = np.logaddexp(0.0, scores) - labels * scores
    return {"example_f1": f1, "exact_match": (labels == called).all(1).astype(np.float64), "nll": nll.mean(1)}


def _called(scores: Floats, thresholds: ArrayLike) -> NDArray[np.bool_]:
    called: NDArray[np.bool_] = _sigmoid(scores) >= np.asarray(thresholds, dtype=np.float64)
    return called


def _sigmoid(scores: Floats) -> Floats:
    from scipy.special import expit

    return np.asarray(expit(scores))


def _checked(truth: ArrayLike, logits: ArrayLike) -> tuple[Floats, Floats]:
    labels, scores = np.asarray(truth, dtype=np.float64), np.asarray(logits, dtype=np.float64)
    if labels.shape != scores.shape or labels.ndim != 2 or not len(labels):
        raise PifiProbeError(
            f"labels of shape {labels.shape} and logits of shape {scores.shape} do not fit",
            next="give both as (N, K), N >= 1",
        )
    broken = int((~np.isfinite(scores)).any(axis=1).sum())
    if broken:
        raise PifiProbeError(
            f"{broken} of {len(scores)} predictions are NaN or infinite",
            next="the training has diverged: lower the learning rate, or train in float32",
        )
    return labels, scores
