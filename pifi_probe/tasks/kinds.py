"""The kinds of tasks, as data: what a row and its label are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "MAX_CHOICES", "Kind"]

MAX_CHOICES = 26  # one letter each


@dataclass(frozen=True)
class Kind:
    """One kind of task.

    Parameters
    ----------
    name : str
    classes : bool
        Labels are indices into ``Task.label_names``, one per row or, with `items`, one per item.
    pair : bool or None
        Rows have a second text; None: they may.
    items : bool
        Rows have a list of strings: the choices, or the words.
    wrong_label : callable
        Takes a split, a row number and the number of classes; says what is wrong with the row's label, or "".
    """

    name: str
    classes: bool
    pair: bool | None
    items: bool
    wrong_label: Callable[[Any, int, int], str]


def _not_whole(label: Any) -> str:
    return "" if type(label) is int else f"has a label that is a {type(label).__name__}, not a whole number"


def _class(split: Any, row: int, n_labels: int) -> str:
    label = split.labels[row]
    if type(label) is not int:
        return _not_whole(label)
    return "" if 0 <= label < n_labels else f"has a label outside of 0 to {n_labels - 1}"


def _number(split: Any, row: int, n_labels: int) -> str:
    label = split.labels[row]
    if not isinstance(label, int | float):
        return f"has a rating that is a {type(label).__name__}, not a number"
    return "" if math.isfinite(label) else "has a rating that is no finite number"


def _choice(split: Any, row: int, n_labels: int) -> str:
    n_choices, label = len(split.items[row]), split.labels[row]
    if type(label) is not int:
        return _not_whole(label)
    if not 2 <= n_choices <= MAX_CHOICES:
        return f"has a row with {n_choices} choices; 2 to {MAX_CHOICES} are possible"
    return "" if 0 <= label < n_choices else f"has an answer {label} outside of the {n_choices} choices"


def _answer(split: Any, row: int, n_labels: int) -> str:
    answers, context = split.labels[row], split.pairs[row]
    if not answers:
        return "has a question without an answer"
    lost = [text for start, text in answers if start < 0 or not text or context[start : start + len(text)] != text]
    return f"has an answer outside of its context: {lost[0]!r}" if lost else ""


def _tags(split: Any, row: int, n_labels: int) -> str:
    tags, words = split.labels[row], split.items[row]
    if not words or len(tags) != len(words):
        return f"has a row with {len(words)} words and {len(tags)} labels"
    if wrong := next((tag for tag in tags if type(tag) is not int), None):
        return _not_whole(wrong)
    return "" if min(tags) >= 0 and max(tags) < n_labels else f"has a label outside of 0 to {n_labels - 1}"


def _target(split: Any, row: int, n_labels: int) -> str:
    label = split.labels[row]
    if not isinstance(label, str):
        return f"has a target that is a {type(label).__name__}, not a text"
    return "" if label.strip() else "has an empty target"


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("single", classes=True, pair=False, items=False, wrong_label=_class),
        Kind("pair", classes=True, pair=True, items=False, wrong_label=_class),
        Kind("regression", classes=False, pair=None, items=False, wrong_label=_number),
        Kind("multiple-choice", classes=False, pair=False, items=True, wrong_label=_choice),
        Kind("qa", classes=False, pair=True, items=False, wrong_label=_answer),
        Kind("token-classification", classes=True, pair=False, items=True, wrong_label=_tags),
        Kind("seq2seq", classes=False, pair=False, items=False, wrong_label=_target),
    )
}
