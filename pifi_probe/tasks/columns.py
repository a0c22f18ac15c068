"""From columns as read to a checked task: every bad row is named."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pifi_probe.errors import TaskError
from pifi_probe.tasks.splitting import assign_splits, refuse_overlap
from pifi_probe.tasks.task import SPLIT_NAMES, Split, Task
from pifi_probe.tasks.text import row_keys

__all__ = ["MAX_ROWS", "MAX_TEXT", "Options", "Table", "build_task", "require_columns"]

MAX_TEXT = 1_000_000  # characters
MAX_ROWS = 1_000_000


@dataclass(frozen=True)
class Options:
    """How rows become a task; see :func:`pifi_probe.tasks.load_task` for each field."""

    text: str = "text"
    label: str = "label"
    pair: str | None = None
    split: str | None = None
    validation: float | str = 0.1
    test: float | str = 0.2
    seed: int = 0
    language: str = "en"
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        if self.split is not None and (isinstance(self.validation, str) or isinstance(self.test, str)):
            raise TaskError(
                "a split column and named validation or test splits exclude each other",
                where=f"option split={self.split!r}",
                next="give one of the two",
            )

    @property
    def columns(self) -> list[str]:
        """Names of the columns to read."""
        return [name for name in (self.text, self.label, self.pair, self.split) if name is not None]

    def fraction(self, name: str) -> float:
        """Share of the rows for a split that the source does not have; raises TaskError outside of (0, 1)."""
        share = self.validation if name == "validation" else self.test
        if isinstance(share, str) or not 0 < share < 1:
            raise TaskError(
                f"{name}={share!r} is no share of the rows",
                where=f"option {name}",
                next="give a number such as 0.1",
            )
        return float(share)


@dataclass(frozen=True)
class Table:
    """Columns of one file or hub split: lists of length n with unchecked values.

    Parameters
    ----------
    where : str
        For messages.
    columns : mapping of str to list
        One list for each of ``Options.columns``.
    class_names : tuple of str, optional
        If given, labels are indices into it.
    """

    where: str
    columns: Mapping[str, Sequence[object]]
    class_names: tuple[str, ...] | None = None


def require_columns(wanted: Iterable[str], present: Sequence[str], where: str) -> None:
    """Raise TaskError for the first wanted column that is not present, with the nearest name."""
    for name in wanted:
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1, cutoff=0.5)
            listed = ", ".join(present[:20]) + (", ..." if len(present) > 20 else "")
            raise TaskError(
                f"there is no column {name!r}; the columns are: {listed}",
                where=where,
                next=f"did you mean {near[0]!r}?" if near else "name the columns with text= and label=",
            )


def build_task(tables: Mapping[str, Table], options: Options, name: str, source: str, licence: str = "unknown") -> Task:
    """Check all values and return the task.

    Parameters
    ----------
    tables : mapping of str to Table
        "train", and "validation" and "test" where the source has them; splits that are missing are carved
        from "train" by a hash of the normalised text, so that no text is in two splits.

    Raises
    ------
    TaskError
        For a text that is empty, too long or no text; a label that is missing, fractional or unknown to the
        training split; one class only; too few or too many rows; a given split that shares texts.
    """
    rows = {part: _read_rows(table, options, part if len(tables) > 1 else "") for part, table in tables.items()}
    if options.split is not None:
        rows = _by_split_column(rows["train"], tables["train"], options.split)
    if not rows.get("train"):
        raise TaskError("there are no rows to train on", where=source, next="give a file or split with rows")
    classes = tables["train"].class_names or _in_order(row.label for part in rows.values() for row in part)
    _check_classes(rows, classes, source)
    given = [part for part in rows if part != "train"]
    missing = {part: options.fraction(part) for part in ("validation", "test") if part not in rows}
    rows |= _carve(rows["train"], missing, options.seed)
    splits = {part: _to_split(rows[part], classes, part, source) for part in SPLIT_NAMES}
    if not options.allow_overlap:
        refuse_overlap(splits, given, source)
    return Task(
        name=name,
        kind="single" if options.pair is None else "pair",
        label_names=classes,
        language=options.language,
        splits=splits,
        source=source,
        licence=licence,
    )


class _Row(NamedTuple):
    id: str
    text: str
    pair: str | None
    label: str


def _read_rows(table: Table, options: Options, prefix: str) -> list[_Row]:
    texts = table.columns[options.text]
    if len(texts) > MAX_ROWS:
        raise TaskError(f"{len(texts):,} rows are too many", where=table.where, next=f"keep {MAX_ROWS:,} rows at most")
    pairs = table.columns[options.pair] if options.pair else [None] * len(texts)
    labels = _label_names(table, options.label)
    rows = []
    for number, (text, pair, label) in enumerate(zip(texts, pairs, labels, strict=True), start=1):
        where = f"{table.where}, row {number}"
        second = None if options.pair is None else _checked_text(pair, options.pair, where)
        identifier = f"{prefix}:{number}" if prefix else str(number)
        rows.append(_Row(identifier, _checked_text(text, options.text, where), second, label))
    return rows


def _checked_text(value: object, column: str, where: str) -> str:
    where = f"{where}, column {column!r}"
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        raise TaskError("the text is empty", where=where, next="remove the row or fill in the text")
    if not isinstance(value, str):
        raise TaskError(f"the text is a {type(value).__name__}, not a string", where=where, next="name a text column")
    if len(value) > MAX_TEXT:
        raise TaskError(f"the text has {len(value):,} characters", where=where, next=f"keep {MAX_TEXT:,} at most")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise TaskError(
            "the text holds half a character (a lone surrogate)", where=where, next="save it anew"
        ) from None
    return value


def _label_names(table: Table, column: str) -> list[str]:
    """Return each row's label as a name: classes by their index, whole numbers without a point."""
    values = table.columns[column]
    ratings = _are_numbers(values)
    return [
        _label_name(value, ratings, table.class_names, f"{table.where}, row {number}, column {column!r}")
        for number, value in enumerate(values, start=1)
    ]


def _are_numbers(values: Sequence[object]) -> bool:
    """Whether all labels read as numbers with a decimal point, as spreadsheets write whole numbers."""
    return all(isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\.\d*\s*", value) for value in values)


def _label_name(value: object, ratings: bool, class_names: tuple[str, ...] | None, where: str) -> str:
    if value is None or value != value or (isinstance(value, str) and value.strip().lower() in ("", "nan")):
        raise TaskError("the label is missing", where=where, next="remove the row or fill in the label")
    if class_names is not None:
        if not isinstance(value, int) or not 0 <= value < len(class_names):
            raise TaskError(
                f"the label {value} is no class (-1 marks rows without a label)",
                where=where,
                next='name a split with labels, such as test="validation", or let one be carved: test=0.2',
            )
        return class_names[value]
    number = float(value) if ratings and isinstance(value, str) else value
    if isinstance(number, float):
        if not number.is_integer():
            raise TaskError(f"the label {value} is a fraction", where=where, next="turn ratings into classes first")
        number = int(number)
    if not isinstance(number, (str, int)):
        raise TaskError(
            f"the label is a {type(value).__name__}",
            where=where,
            next="use strings, whole numbers or true/false",
        )
    return str(number).strip()


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names: as numbers if all are whole numbers, else as text."""
    different = set(names)
    if all(re.fullmatch(r"[+-]?\d+", name) for name in different):
        return tuple(sorted(different, key=lambda name: (int(name), name)))
    return tuple(sorted(different))


def _by_split_column(rows: list[_Row], table: Table, column: str) -> dict[str, list[_Row]]:
    parts: dict[str, list[_Row]] = {}
    for number, (row, part) in enumerate(zip(rows, table.columns[column], strict=True), start=1):
        if part not in SPLIT_NAMES:
            raise TaskError(
                f"{part!r} is no split",
                where=f"{table.where}, row {number}, column {column!r}",
                next=f"use {', '.join(SPLIT_NAMES)}",
            )
        parts.setdefault(str(part), []).append(row)
    return parts


def _check_classes(rows: Mapping[str, list[_Row]], classes: tuple[str, ...], where: str) -> None:
    trained = {row.label for row in rows["train"]}
    if len(trained) < 2:
        only = next(iter(trained))
        raise TaskError(
            f"the training rows have one class only: {only!r}",
            where=where,
            next="give rows of at least two classes",
        )
    for part, members in rows.items():
        unknown = sorted({row.label for row in members} - trained)
        if unknown:
            raise TaskError(
                f"the {part} split has labels that no training row has: {', '.join(unknown[:5])}",
                where=where,
                next="add training rows of these classes or remove the rows",
            )
    n_rows = sum(len(members) for members in rows.values())
    if n_rows < 3 * len(classes):
        raise TaskError(
            f"{n_rows} rows are too few for {len(classes)} classes",
            where=where,
            next="give at least three rows per class (is the label column the right one?)",
        )


def _carve(rows: list[_Row], fractions: Mapping[str, float], seed: int) -> dict[str, list[_Row]]:
    """Divide the training rows among "train" and the splits that are missing."""
    if sum(fractions.values()) >= 1:
        raise TaskError("validation and test together take all rows", where="options validation and test")
    keys = row_keys([row.text for row in rows], None if rows[0].pair is None else [row.pair or "" for row in rows])
    parts = assign_splits(keys, [row.label for row in rows], fractions, salt=str(seed))
    carved: dict[str, list[_Row]] = {"train": [], **{part: [] for part in fractions}}
    for row, part in zip(rows, parts, strict=True):
        carved[part].append(row)
    return carved


def _to_split(rows: list[_Row], classes: tuple[str, ...], part: str, where: str) -> Split:
    if len({row.label for row in rows}) < (2 if part == "train" else 1):
        raise TaskError(
            f"too few different texts are left for the {part} split",
            where=where,
            next="give more rows, or less alike",
        )
    index = {name: number for number, name in enumerate(classes)}
    return Split(
        texts=tuple(row.text for row in rows),
        labels=tuple(index[row.label] for row in rows),
        ids=tuple(row.id for row in rows),
        pairs=None if rows[0].pair is None else tuple(row.pair or "" for row in rows),
    )
