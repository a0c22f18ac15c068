"""From columns as read to a checked task: every bad row is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real

from pifi_probe.errors import TaskError
from pifi_probe.kinds import KINDS, Columns, Origin, Row, Split
from pifi_probe.kinds.parts.labels import (
    MAX_TEXT,
    in_order,
    is_minus_one,
    look_like_numbers,
    refuse_two_spellings,
    separator_of,
)
from pifi_probe.tasks.layouts import resolve
from pifi_probe.tasks.rows import keys_of, to_split, without_repeats
from pifi_probe.tasks.splitting import assign_splits, refuse_overlap
from pifi_probe.tasks.task import SPLIT_NAMES, Task

__all__ = ["MAX_ROWS", "MAX_TEXT", "Options", "Table", "build_task"]

MAX_ROWS = 1_000_000
_REQUIRED = ("text", "label", "language")
_EXAMPLES = {  # of the options that are strings
    "text": "review",
    "label": "stars",
    "pair": "hypothesis",
    "split": "part",
    "language": "en",
    "kind": "single",
    "items": "choices",
    "group": "film",
}


@dataclass(frozen=True)
class Options:
    """How rows become a task; see :func:`pifi_probe.tasks.load_task` for each field."""

    text: str = "text"
    label: str | tuple[str, ...] = "label"
    pair: str | None = None
    split: str | None = None
    validation: float | str = 0.1
    test: float | str = 0.2
    seed: int = 0
    language: str = "en"
    allow_overlap: bool = False
    kind: str | None = None
    items: str | None = None
    group: str | None = None
    drop_overlap: bool = False
    drop_unlabelled: bool = False

    def __post_init__(self) -> None:
        several = isinstance(self.label, tuple)
        if several and not (
            all(isinstance(one, str) for one in self.label) and len(set(self.label)) == len(self.label) > 1
        ):
            raise TaskError(
                f"label={list(self.label)!r:.80} does not name several columns",
                where="option label",
                next='give different names, such as label=["sad", "angry"], or one string',
            )
        for name, example in _EXAMPLES.items():
            value = getattr(self, name)
            if name == "label" and several:
                continue
            if not isinstance(value, str) and (value is not None or name in _REQUIRED):
                raise TaskError(
                    f"{name}={value!r} is a {type(value).__name__}, not a string",
                    where=f"option {name}",
                    next=f"give one string, such as {name}={example!r}",
                )
        if self.split is not None and (isinstance(self.validation, str) or isinstance(self.test, str)):
            raise TaskError(
                "a split column and named validation or test splits exclude each other",
                where=f"option split={self.split!r}",
                next="give one of the two",
            )

    def columns(self, present: Sequence[str], where: str) -> Columns:
        """Return the kind and the columns to read, given those there are; raises TaskError if one is missing."""
        several = self.label if isinstance(self.label, tuple) else ()
        label = self.label if isinstance(self.label, str) else self.label[0]
        roles = {"pair": self.pair, "items": self.items, "group": self.group, "split": self.split}
        asked = Columns("", self.text, label, **roles, labels=several)
        return resolve(asked, self.kind, present, where)

    def fraction(self, name: str) -> float:
        """Share of the rows for a split that the source does not have; raises TaskError outside (0, 1)."""
        share = self.validation if name == "validation" else self.test
        if isinstance(share, str):  # the split that it names has no row with a label
            share = Options.validation if name == "validation" else Options.test
        if not isinstance(share, Real) or not 0 < share < 1:
            raise TaskError(
                f"{name}={share!r} is not a share of the rows",
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
    roles : Columns
        The kind, and which column is what.
    columns : mapping of str to list
        One list for each of ``roles.names``.
    class_names : tuple of str, optional
        If given, labels are indices into it.
    lines : sequence of int, length n, optional
        For messages: the line of the file on which each row starts, from 1.
    numbers : sequence of int, length n, optional
        The number of each row in the source, from 1, where some were left out.
    """

    where: str
    roles: Columns
    columns: Mapping[str, Sequence[object]] = field(repr=False)
    class_names: tuple[str, ...] | None = None
    lines: Sequence[int] | None = field(default=None, repr=False)
    numbers: Sequence[int] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.columns[self.roles.label])

    def number(self, row: int) -> int:
        """Return the number in the source of row `row` (from 1)."""
        return row if self.numbers is None else self.numbers[row - 1]

    def place(self, row: int) -> str:
        """Return where row `row` (from 1) stands, for messages."""
        at = f"row {self.number(row)}" if self.lines is None else f"line {self.lines[row - 1]}"
        return f"{self.where}, {at}"

    def labelled(self) -> Table:
        """Return the rows with a label: none is missing, and none is -1, which stands for a hidden one.

        Where each label has a column of its own, a row needs them all.
        What -1 means is the kind's to say.
        """
        kind = KINDS[self.roles.kind]
        columns = [self.columns[name] for name in self.roles.labels or (self.roles.label,)]
        hidden = [kind.hides_minus_one(column) for column in columns]
        kept = [
            row
            for row, labels in enumerate(zip(*columns, strict=True))
            if not any(
                kind.unlabelled(one) or (minus_one and is_minus_one(one))
                for one, minus_one in zip(labels, hidden, strict=True)
            )
        ]
        if len(kept) == len(self):
            return self
        return replace(
            self,
            columns={name: [column[row] for row in kept] for name, column in self.columns.items()},
            lines=None if self.lines is None else [self.lines[row] for row in kept],
            numbers=[self.number(row + 1) for row in kept],
        )


def build_task(
    tables: Mapping[str, Table],
    options: Options,
    name: str,
    source: str,
    licence: str = "unknown",
) -> Task:
    """Check all values and return the task.

    Parameters
    ----------
    tables : mapping of str to Table
        "train", and "validation" and "test" where the source has them; splits that are missing are carved
        from "train" by a hash of the normalised text, so that no text is in two splits (of questions: no
        context; with ``options.group``: no group).

    Raises
    ------
    TaskError
        For a text that is empty, too long or no text; a label that is missing or does not fit its kind or is
        unknown to the training split; one class only; too few or too many rows; a given split that shares texts.
    """
    tables, notes = _labelled(tables) if options.drop_unlabelled else (dict(tables), [])
    roles = tables["train"].roles
    kind = KINDS[roles.kind]
    rows = {part: _read_rows(table, part if len(tables) > 1 else "") for part, table in tables.items()}
    if options.split is not None:
        rows = _by_split_column(rows["train"], tables["train"], options.split)
    if not rows.get("train"):
        raise TaskError("there are no rows to train on", where=source, next="give a file or split with rows")
    given = [part for part in rows if part != "train"]
    if options.drop_overlap:
        notes += _drop_overlap(rows)
    classes: tuple[str, ...] = ()
    if kind.classes:
        classes = (
            roles.labels
            or tables["train"].class_names
            or in_order(name for part in rows.values() for row in part for name in _names(row))
        )
        if not roles.labels and tables["train"].class_names is None:
            refuse_two_spellings(classes, f"{source}, column {roles.label!r}")
        _check_classes(rows, classes, source)
    missing = {part: options.fraction(part) for part in ("validation", "test") if part not in rows}
    if missing:
        rows |= _carve(rows["train"], missing, options, roles)
    splits = {part: _to_split(rows.get(part, []), classes, part, source) for part in SPLIT_NAMES}
    if not options.allow_overlap and not options.drop_overlap:
        refuse_overlap(splits, given, source)
    return Task(name, roles.kind, classes, options.language, splits, source, licence, tuple(notes))


def _labelled(tables: Mapping[str, Table]) -> tuple[dict[str, Table], list[str]]:
    """Leave out rows without a label, and splits that have no other; return a note for each that lost some."""
    kept = {part: table.labelled() for part, table in tables.items()}
    notes = [
        f"{len(table) - len(kept[part])} of {len(table)} {part} rows left out: their labels are missing or hidden (-1)"
        for part, table in tables.items()
        if len(kept[part]) < len(table)
    ]
    return {part: table for part, table in kept.items() if len(table) or part == "train"}, notes


def _names(row: Row) -> tuple[str, ...]:
    """Return the names of a row's class, or of its words' classes."""
    return (row.label,) if isinstance(row.label, str) else row.label


def _read_rows(table: Table, prefix: str) -> list[Row]:
    roles = table.roles
    n_rows = len(table.columns[roles.label])
    if n_rows > MAX_ROWS:
        raise TaskError(f"{n_rows:,} rows are too many", where=table.where, next=f"keep {MAX_ROWS:,} rows at most")
    kind = KINDS[roles.kind]
    labels = table.columns[roles.label]
    numbers = kind.classes and look_like_numbers(labels)
    separator = separator_of(labels) if kind.layout.several and not roles.labels else ""
    rows = []
    for number in range(1, n_rows + 1):
        values = {name: column[number - 1] for name, column in table.columns.items()}
        of_source = table.number(number)
        identifier = f"{prefix}:{of_source}" if prefix else str(of_source)
        row = kind.parse(values, roles, Origin(identifier, table.place(number), table.class_names, numbers, separator))
        rows.append(row if roles.group is None else row._replace(group=str(values[roles.group])))
    return rows


def _drop_overlap(rows: dict[str, list[Row]]) -> list[str]:
    """Leave out rows that an earlier split has too; return a note for each split that lost some."""
    notes, known = [], set(keys_of(rows["train"]))
    for part in ("test", "validation"):
        if part in rows:
            kept = without_repeats(rows[part], known)
            if len(kept) < len(rows[part]):
                notes.append(f"{len(rows[part]) - len(kept)} of {len(rows[part])} {part} rows dropped: repeated texts")
            rows[part] = kept
            known |= set(keys_of(kept))
    return notes


def _by_split_column(rows: list[Row], table: Table, column: str) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = {}
    for number, (row, part) in enumerate(zip(rows, table.columns[column], strict=True), start=1):
        if part not in SPLIT_NAMES:
            raise TaskError(
                f"{part!r} is not a split",
                where=f"{table.place(number)}, column {column!r}",
                next=f"use {', '.join(SPLIT_NAMES)}",
            )
        parts.setdefault(str(part), []).append(row)
    return parts


def _check_classes(rows: Mapping[str, list[Row]], classes: tuple[str, ...], where: str) -> None:
    trained = {name for row in rows["train"] for name in _names(row)}
    if len(trained) < 2:
        only = next(iter(trained), None)
        raise TaskError(
            "the training rows have no label at all"
            if only is None
            else f"the training rows have one class only: {only!r}",
            where=where,
            next="give rows of at least two classes",
        )
    for part, members in rows.items():
        unknown = sorted({name for row in members for name in _names(row)} - trained)
        if unknown:
            raise TaskError(
                f"the {part} split has labels that no training row has: {', '.join(unknown[:5])}",
                where=where,
                next="add training rows of these classes, or remove the rows"
                + (
                    ": drop_unlabelled=True leaves out those of -1, which marks hidden labels"
                    if "-1" in unknown
                    else ""
                ),
            )
    n_rows = sum(len(members) for members in rows.values())
    if n_rows < 3 * len(classes) and isinstance(rows["train"][0].label, str):
        raise TaskError(
            f"{n_rows} rows are too few for {len(classes)} classes",
            where=where,
            next="give at least three rows per class (is the label column the right one?)",
        )


def _carve(rows: list[Row], fractions: Mapping[str, float], options: Options, roles: Columns) -> dict[str, list[Row]]:
    """Divide the training rows among "train" and the splits that are missing."""
    if sum(fractions.values()) >= 1:
        raise TaskError("validation and test together take all rows", where="options validation and test")
    kind = KINDS[roles.kind]
    if roles.group is not None:
        keys = [str(row.group) for row in rows]
    else:
        paired = rows[0].pair is not None
        keys = kind.keys([row.text for row in rows], [row.pair or "" for row in rows] if paired else None)
    strata = kind.strata([row.label for row in rows]) if roles.group is None else (0,) * len(rows)
    parts = assign_splits(keys, strata, fractions, salt=str(options.seed))
    carved: dict[str, list[Row]] = {"train": [], **{part: [] for part in fractions}}
    for row, part in zip(rows, parts, strict=True):
        carved[part].append(row)
    return carved


def _to_split(rows: list[Row], classes: tuple[str, ...], part: str, where: str) -> Split:
    enough = len({name for row in rows for name in _names(row)}) >= (2 if part == "train" else 1) if classes else rows
    if not enough:
        raise TaskError(
            f"too few different texts are left for the {part} split",
            where=where,
            next="give more rows, or rows that differ more",
        )
    return to_split([row._replace(label=_indexed(row.label, classes)) for row in rows] if classes else rows)


def _indexed(label: str | tuple[str, ...], classes: tuple[str, ...]) -> int | tuple[int, ...]:
    return classes.index(label) if isinstance(label, str) else tuple(classes.index(name) for name in label)
