"""Checks of notebook 12: balanced accuracy, accuracy under another prior, and the area under the curve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pifi_probe.checks.answers import as_number
from pifi_probe.checks.judge import Report, ask, attempt, require_close

__all__ = ["check_accuracy_under", "check_auroc", "check_balanced_accuracy"]


def check_balanced_accuracy(function: Callable[..., Any]) -> Report:
    """Check exercise 12.1: ``balanced_accuracy(labels, predicted)``, arrays of class indices."""

    def judge() -> None:
        labels = np.array([0, 0, 1, 1, 1, 1, 1, 1, 1, 1])
        predicted = np.array([0, 1, 1, 1, 1, 1, 1, 1, 0, 0])
        recalls = [float((predicted[labels == c] == c).mean()) for c in (0, 1)]
        precisions = [float((labels[predicted == c] == c).mean()) for c in (0, 1)]
        likely = {
            "That is accuracy: average within each class first.": float((labels == predicted).mean()),
            "Group by the true class, not by the predicted one.": float(np.mean(precisions)),
            "Take the mean of the classes' shares, not their sum.": sum(recalls),
        }
        got = as_number(ask(function, labels, predicted))
        wrong = {words: as_number(value) for words, value in likely.items()}
        require_close(got, as_number(np.mean(recalls)), "The mean over classes of the share right.", wrong, 1e-9)

    return attempt("12.1", function, judge)


def check_accuracy_under(function: Callable[..., Any]) -> Report:
    """Check exercise 12.2: ``accuracy_under(recalls, prior)``, shares right by class and shares of the classes."""

    def judge() -> None:
        recalls, prior = np.array([0.9, 0.6]), np.array([0.3, 0.7])
        likely = {
            "That is balanced accuracy: weight each class by its share.": recalls.mean(),
            "You weighted each class by the other one's share.": float(recalls @ prior[::-1]),
            "Multiply class by class and add; that is the product of all.": float(np.prod(recalls * prior)),
        }
        got = as_number(ask(function, recalls, prior))
        wrong = {words: as_number(value) for words, value in likely.items()}
        require_close(got, as_number(recalls @ prior), "Sum of share right times share of the class.", wrong, 1e-9)

    return attempt("12.2", function, judge)


def check_auroc(function: Callable[..., Any]) -> Report:
    """Check exercise 12.3: ``auroc(scores, labels)``: how often a positive text has the higher score of a pair."""

    def judge() -> None:
        scores = np.array([0.1, 0.4, 0.35, 0.8, 0.4, 0.7])
        labels = np.array([0, 0, 1, 1, 1, 0])
        positive, negative = scores[labels == 1][:, None], scores[labels == 0][None, :]
        wins, ties = (positive > negative).mean(), (positive == negative).mean()
        likely = {
            "A tie counts one half.": wins,
            "A tie counts one half, not one.": wins + ties,
            "You counted pairs in which the negative text has the higher score.": 1 - wins - ties / 2,
            "That is accuracy at a threshold of one half; compare all pairs.": ((scores > 0.5) == labels).mean(),
        }
        got = as_number(ask(function, scores, labels))
        wrong = {words: as_number(value) for words, value in likely.items()}
        require_close(got, as_number(wins + ties / 2), "Share of pairs that are in order, ties one half.", wrong, 1e-9)

    return attempt("12.3", function, judge)
