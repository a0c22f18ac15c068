"""Metrics of a classifier, from labels and logits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pifi_probe.errors import PifiProbeError
from pifi_probe.kinds.parts.measures import ACCURACY, MACRO_F1, NLL, PRIORS, Metric

__all__ = ["CLASSIFICATION", "by_correct_answers", "calibration_error", "classification_metrics", "per_example"]

N_BINS = 15
CLASSIFICATION = (
    ACCURACY,
    Metric("balanced_accuracy", 0, 1),
    MACRO_F1,
    Metric("mcc", -1, 1),
    Metric("auroc", 0, 1),
    NLL,
    Metric("ece", 0, 1, larger_is_better=False),
    *PRIORS,
)


def classification_metrics(labels: ArrayLike, logits: ArrayLike) -> dict[str, Any]:
    """Return the metrics of one test split.

    Parameters
    ----------
    labels : array of int, shape (N,)
        Class indices in [0, K).
    logits : array of float, shape (N, K)
        One row of scores per example, before the softmax.

    Returns
    -------
    dict
        Floats: ``accuracy``, ``balanced_accuracy`` (mean recall of the classes that occur), ``macro_f1``
        (mean over classes that occur or are predicted), ``mcc`` (0 where it is undefined), ``nll`` (nats per
        example), ``ece`` (see :func:`calibration_error`) and, for two classes that both occur, ``auroc`` of
        class 1. Lists of K shares: ``label_prior`` and ``predicted_prior``. Integer ``n``. Dictionary
        ``undefined``: the reason for each metric that is absent. Nothing is NaN.

    Raises
    ------
    PifiProbeError
        If the shapes or labels disagree, there is no example, or a logit is NaN or infinite.
    """
    from sklearn import metrics

    truth, scores = _checked(labels, logits)
    rows = per_example(truth, scores)
    predicted, probabilities = rows["predicted"], np.exp(_log_softmax(scores))
    n_labels = scores.shape[1]
    with warnings.catch_warnings():
        # a class that is predicted but does not occur, or the other way round, is handled as documented
        warnings.simplefilter("ignore")
        values: dict[str, Any] = {
            "accuracy": float(rows["correct"].mean()),
            "balanced_accuracy": float(metrics.balanced_accuracy_score(truth, predicted)),
            "macro_f1": float(metrics.f1_score(truth, predicted, average="macro", zero_division=0.0)),
            "mcc": float(metrics.matthews_corrcoef(truth, predicted)),
            "nll": float(rows["nll"].mean()),
            "ece": calibration_error(truth, probabilities),
        }
    reason = _why_no_auroc(truth, n_labels)
    if reason is None:
        values["auroc"] = float(metrics.roc_auc_score(truth, scores[:, 1] - scores[:, 0]))
    return values | {
        "label_prior": _shares(truth, n_labels),
        "predicted_prior": _shares(predicted, n_labels),
        "n": len(truth),
        "undefined": {} if reason is None else {"auroc": reason},
    }


def per_example(labels: ArrayLike, logits: ArrayLike) -> dict[str, NDArray[Any]]:
    """Return what paired comparisons need of every example.

    Parameters
    ----------
    labels, logits : array
        As for :func:`classification_metrics`.

    Returns
    -------
    dict of arrays of shape (N,)
        ``predicted`` (int64; the lowest index wins a tie), ``correct`` (bool) and ``nll`` (float64, nats).
    """
    truth, scores = _checked(labels, logits)
    predicted = scores.argmax(axis=1)
    nll = -np.take_along_axis(_log_softmax(scores), truth[:, None], axis=1)[:, 0]
    return {"predicted": predicted, "correct": predicted == truth, "nll": nll}


def by_correct_answers(metrics: Mapping[str, Any]) -> float:
    """Order by correct answers, then by negative log-likelihood."""
    return float(round(metrics["accuracy"] * metrics["n"]) + 1 / (1 + metrics["nll"]))


def calibration_error(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Return the expected calibration error in [0, 1], over 15 confidence bins of equal width.

    The mean over examples of ``|accuracy - mean confidence|`` of the example's bin; confidence is the largest
    probability, and bins are open below, closed above.

    Parameters
    ----------
    labels : array of int, shape (N,)
    probabilities : array of float, shape (N, K)

    References
    ----------
    Naeini, Cooper and Hauskrecht (2015), Obtaining Well Calibrated Probabilities Using Bayesian Binning;
    15 bins as in Guo, Pleiss, Sun and Weinberger (2017), On Calibration of Modern Neural Networks.
    """
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == labels) - confidence  # (N,)
    bins = np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    return float(np.abs(np.bincount(bins, weights=gap)).sum() / len(labels))


def _checked(labels: ArrayLike, logits: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    truth, scores = np.asarray(labels), np.asarray(logits, dtype=np.float64)
    if truth.ndim != 1 or scores.ndim != 2 or len(truth) != len(scores) or scores.shape[1] < 2 or not len(truth):
        raise PifiProbeError(
            f"labels of shape {truth.shape} and logits of shape {scores.shape} do not fit",
            next="give (N,) labels and (N, K) logits, N >= 1 and K >= 2",
        )
    if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise PifiProbeError(f"labels must be whole numbers from 0 to {scores.shape[1] - 1}", next="check the labels")
    broken = int((~np.isfinite(scores)).any(axis=1).sum())
    if broken:
        raise PifiProbeError(
            f"{broken} of {len(scores)} predictions are NaN or infinite",
            next="the training has diverged: lower the learning rate, or train in float32",
        )
    return truth.astype(np.int64), scores


def _log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import log_softmax

    return np.asarray(log_softmax(scores, axis=1))


def _shares(classes: NDArray[np.int64], n_labels: int) -> list[float]:
    return [float(share) for share in np.bincount(classes, minlength=n_labels) / len(classes)]


def _why_no_auroc(truth: NDArray[np.int64], n_labels: int) -> str | None:
    if n_labels != 2:
        return f"it is given for two classes, this task has {n_labels}"
    if len(np.unique(truth)) < 2:
        return f"all {len(truth)} examples are of class {truth[0]}"
    return None
