"""Chapters 12 and 20: recorded runs of aligned chains in which every text is a test text once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pifi_probe.checks.session import recorded
from pifi_probe.reading import read_object

__all__ = ["join_folds", "joined_folds"]

FOLDER = "book/_studies/aligned"
FOLDS = 3
Answers = dict[str, dict[str, list[float]]]  # by test and arm: of every text, the share of right answers, in [0, 1]


def join_folds(task: str, folds: Sequence[Mapping[str, Any]]) -> Answers:
    """Return the answers of the folds of one task as one run; a text that several folds were tested on counts once.

    Parameters
    ----------
    task : str
        What its own test is called in the result.
    folds : sequence of mapping
        As `benchmarks/aligned.py` writes them: ``"correct"`` by test and arm, with ``"texts"`` that name the texts of
        each test; or by arm alone, for the own test, of which each text is in one fold.

    Returns
    -------
    dict
        By test and arm: one number a text, the mean of its answers (right is 1), texts in the order of the folds.
    """
    joined: dict[str, dict[str, dict[str, list[float]]]] = {}  # answers by test, arm and text
    for place, fold in enumerate(folds):
        own = fold.get("info", {}).get("task", task)
        named = fold.get("texts")
        for test, arms in (fold["correct"] if named else {own: fold["correct"]}).items():
            for arm, answers in arms.items():
                known = joined.setdefault(task if test == own else test, {}).setdefault(arm, {})
                texts = named[test].split() if named else [f"{place} {i}" for i in range(len(answers))]
                for text, answer in zip(texts, answers, strict=True):
                    known.setdefault(text, []).append(float(answer))
    return {
        test: {arm: [sum(each) / len(each) for each in known.values()] for arm, known in arms.items()}
        for test, arms in joined.items()
    }


def joined_folds(task: str) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return what every arm answered on all texts of a task, and of the task that its folds were tested on besides.

    Parameters
    ----------
    task : str
        Of the recorded folds, such as ``"movie-reviews"``: the readouts were fitted on its texts.

    Returns
    -------
    dict
        By test and arm (``"encoder"``, ``"interface"``, ``"real"``, ``"shuffled"``, ``"random"``, all but the first
        read with the encoder): float64 of shape (texts,), the share of folds that answered a text right.

    Raises
    ------
    PifiProbeError
        If a fold is not recorded.
    """
    folds = [read_object(recorded(f"{FOLDER}/fold{k}-{task}.json")) for k in range(FOLDS)]
    found = join_folds(task, folds)
    return {test: {arm: np.array(shares) for arm, shares in arms.items()} for test, arms in found.items()}
