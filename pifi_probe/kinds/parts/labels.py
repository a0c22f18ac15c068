"""From values as read to labels, by kind; every bad value is named by row and column."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from string import ascii_uppercase
from typing import Any, NoReturn

from pifi_probe.errors import TaskError

__all__ = [
    "MAX_CHOICES",
    "MAX_TEXT",
    "answers",
    "checked_text",
    "choices",
    "class_name",
    "in_order",
    "is_minus_one",
    "is_missing",
    "look_like_numbers",
    "not_whole",
    "rating",
    "refuse_two_spellings",
    "separator_of",
    "yes_or_no",
]

MAX_TEXT = 1_000_000  # characters
MAX_CHOICES = 26  # one letter each
MAX_DIGITS = 640  # that `int` reads under every setting of Python's own limit
_MISSING = ("", "nan")


def checked_text(value: object, column: str, where: str) -> str:
    """Return a text, or raise TaskError for one that is empty, too long or none."""
    where = f"{where}, column {column!r}"
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        raise TaskError("the text is empty", where=where, next="remove the row or fill in the text")
    if not isinstance(value, str):
        raise TaskError(f"the text is a {type(value).__name__}, not a string", where=where, next="name a text column")
    return _storable(value, "text", where)


def _storable(value: str, what: str, where: str) -> str:
    """Return a string, or raise TaskError for one that is too long or cannot be written as UTF-8."""
    if len(value) > MAX_TEXT:
        raise TaskError(f"the {what} has {len(value):,} characters", where=where, next=f"keep {MAX_TEXT:,} at most")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TaskError(
            f"the {what} holds half a character (a lone surrogate)", where=where, next="save it again"
        ) from None
    return value


def look_like_numbers(values: Sequence[object]) -> bool:
    """Whether all labels read as numbers with a decimal point, as spreadsheets write whole numbers."""
    return all(isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\.\d*\s*", value) for value in values)


_WAY_OUT = "drop_unlabelled=True leaves out rows without a label (and carves a new split for one that this empties)"


def _missing(where: str) -> NoReturn:
    raise TaskError("the label is missing", where=where, next=f"fill in the label, or remove the row: {_WAY_OUT}")


def is_missing(value: object) -> bool:
    """Whether a label is not there: None, NaN, an empty text or an empty list, or answers without any."""
    if isinstance(value, dict) and "text" in value:
        value = value["text"]
    if isinstance(value, list):
        return not value or all(map(is_missing, value))
    return value is None or value != value or (isinstance(value, str) and value.strip().lower() in _MISSING)


def is_minus_one(value: object) -> bool:
    """Whether a label is -1, as number or text, or a list of nothing else."""
    if isinstance(value, list):
        return bool(value) and all(map(is_minus_one, value))
    if isinstance(value, str):
        return re.fullmatch(r"\s*-1(\.0*)?\s*", value) is not None
    return isinstance(value, int | float) and value == -1


def class_name(value: object, ratings: bool, class_names: tuple[str, ...] | None, where: str) -> str:
    """Return a label as the name of a class: an index by its name, a whole number without a point."""
    if is_missing(value):
        _missing(where)
    if class_names is not None:
        if isinstance(value, str):  # of files without types: the name of a class, or its index
            name = value.strip()
            if name in class_names:
                return name
            value = int(name) if re.fullmatch(r"[+-]?\d{1,9}", name) else value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or not 0 <= value < len(class_names):
            raise TaskError(
                f"the label {value} is not a class (-1 marks rows without a label)",
                where=where,
                next=f'name a split with labels, such as test="validation"; or {_WAY_OUT}',
            )
        return class_names[value]
    number = float(value) if ratings and isinstance(value, str) else value
    if isinstance(number, float):
        if not number.is_integer():
            raise TaskError(
                f"the label {value} is a fraction",
                where=where,
                next='turn ratings into classes first, or load them as numbers: kind="regression"',
            )
        number = int(number)
    if not isinstance(number, (str, int)):
        raise TaskError(
            f"the label is a {type(value).__name__}",
            where=where,
            next='use strings, whole numbers or true/false; several labels a row are kind="multi-label"',
        )
    return _storable(str(number).strip(), "label", where)


def refuse_two_spellings(names: Iterable[str], where: str) -> None:
    """Raise TaskError if two class names mean the same number or truth value, such as "1", "1.0" and "True"."""
    found: dict[str, str] = {}
    for name in names:
        first = found.setdefault(_meaning(name), name)
        if first != name:
            raise TaskError(
                f"the labels {first!r} and {name!r} are two spellings of one value",
                where=where,
                next="write it the same way in every row, or give the classes names that differ, such as 'class 1'",
            )


def _meaning(name: str) -> str:
    """Return the whole number that a class name spells, 1 and 0 for true and false; else the name itself."""
    number = re.fullmatch(r"([+-]?)(\d+)(?:\.0*)?", {"true": "1", "false": "0"}.get(name.lower(), name))
    return number[1].strip("+") + (number[2].lstrip("0") or "0") if number else name


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names: as numbers if all are whole numbers, else as text; "O", no entity, comes first."""
    different = set(names)
    if all(re.fullmatch(rf"[+-]?\d{{1,{MAX_DIGITS}}}", name) for name in different):
        return tuple(sorted(different, key=lambda name: (int(name), name)))
    return tuple(sorted(different, key=lambda name: (name != "O", name)))


def not_whole(label: Any) -> str:
    """Say that a label is not a whole number, or "" where it is one."""
    return "" if type(label) is int else f"has a label that is a {type(label).__name__}, not a whole number"


def separator_of(values: Sequence[object]) -> str:
    """Return what stands between the labels of a column of texts: the first of ``|``, ``;`` and ``,`` that occurs."""
    texts = [value for value in values if isinstance(value, str) and not value.strip().startswith("[")]
    return next((mark for mark in "|;," if any(mark in text for text in texts)), "")


_YES_OR_NO = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def yes_or_no(value: object, where: str) -> bool:
    """Return whether a label applies, from the column that it has for itself."""
    if is_missing(value):
        _missing(where)
    name = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip().lower()
    name = name.removesuffix(".0")
    if name not in _YES_OR_NO:
        raise TaskError(
            f"{value!r:.60} is neither yes nor no",
            where=where,
            next=f"write 1 where the label applies, and 0 where it does not; or {_WAY_OUT}",
        )
    return _YES_OR_NO[name]


def rating(value: object, where: str) -> float:
    """Return a finite number."""
    if is_missing(value):
        _missing(where)
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever it is, float decides
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise TaskError(
            f"{value!r} is not a number", where=where, next="give numbers, or load classes without kind="
        ) from None
    return number


def choices(value: object, label: object, where: str) -> tuple[tuple[str, ...], int]:
    """Return the choices of a row and the index of the right one.

    Choices are a list of strings, or ``{"text": [...], "label": [...]}``. The right one is named by its label, by
    its letter, by its index from 0, or by its text.
    """
    marks: list[str] = []
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        marks, value = [str(mark) for mark in value.get("label") or []], value["text"]
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_CHOICES:
        found = f"{len(value)} choices" if isinstance(value, list) else f"a {type(value).__name__}"
        raise TaskError(
            f"a row needs 2 to {MAX_CHOICES} choices, this one has {found}",
            where=where,
            next="give a list of strings (from .jsonl or .parquet), or make it a task with classes",
        )
    texts = tuple(checked_text(choice, f"choice {number}", where) for number, choice in enumerate(value))
    return texts, _index_of(label, texts, marks, where)


def _index_of(label: object, texts: tuple[str, ...], marks: list[str], where: str) -> int:
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    if is_missing(label):
        _missing(where)
    index = -1
    if isinstance(label, int) and not isinstance(label, bool):
        index = label
    elif isinstance(label, str):
        name = label.strip()
        ways: tuple[Callable[[], int], ...] = (
            lambda: marks.index(name),
            lambda: texts.index(label),
            lambda: ascii_uppercase.index(name.upper() if len(name) == 1 else "none"),
            lambda: int(name),
        )
        index = next((found for way in ways if (found := _tried(way)) >= 0), -1)
    if not 0 <= index < len(texts):
        raise TaskError(
            f"the answer {label!r} is not one of the {len(texts)} choices",
            where=where,
            next="give the letter, the index from 0 or the text of the right choice",
        )
    return index


def _tried(way: Callable[[], int]) -> int:
    try:
        return way()
    except ValueError:
        return -1


def answers(value: object, start: object, context: str, where: str) -> tuple[tuple[int, str], ...]:
    """Return the answers to a question as (start, text), each checked against its context."""
    if isinstance(value, dict):
        start, value = value.get("answer_start"), value.get("text")
    texts, starts = (each if isinstance(each, list) else [each] for each in (value, start))
    if not texts or texts == [None]:
        raise TaskError(
            "the question has no answer",
            where=where,
            next="remove questions that cannot be answered: each needs a span of its context",
        )
    if len(texts) != len(starts):
        raise TaskError(f"{len(texts)} answers have {len(starts)} starts", where=where, next="give one start each")
    found = []
    for text, first in zip(texts, starts, strict=True):
        given = checked_text(text, "answer", where)
        place = _index_from_zero(first)
        if place < 0 or context[place : place + len(given)] != given:
            raise TaskError(
                f"the answer {given[:60]!r} is not in its context at {first}",
                where=where,
                next="count the start in characters from 0, and give the answer as it stands in the context",
            )
        found.append((place, given))
    return tuple(found)


def _index_from_zero(value: object) -> int:
    """Return a whole number, given as such or in digits; -1 for what is none."""
    digits = str(value).strip() if isinstance(value, (int, str)) else ""
    return int(digits) if digits.isdecimal() and len(digits) <= MAX_DIGITS else -1
