"""What a row is: as the columns of a source, once it is read, and as a split of a task."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pifi_probe.errors import TaskError
from pifi_probe.kinds.parts.text import row_keys
from pifi_probe.registry import TEXTS, mistyped

__all__ = ["Columns", "Layout", "Origin", "Row", "Split"]

Names = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The names that data sets give to the columns of one kind, the usual ones first.

    Parameters
    ----------
    text, label, pair, items : tuple of str
        Empty where the kind has no such column.
    before : tuple of str
        A text that goes before `text`, such as the passage of an exam's question; never required.
    start : tuple of str
        The answer's first character in its context; not required, since it may be within `label`.
    by_name : bool
        Read as this kind only where it is asked for by its name, whatever the columns are called.
    several : bool
        A row has any number of labels: in one column, as a list or with separators, or in a column each.

    Raises
    ------
    TaskError
        If names are one text, where a tuple of texts is meant, or a switch is neither True nor False.
    """

    text: Names
    label: Names
    pair: Names = ()
    items: Names = ()
    before: Names = ()
    start: Names = ()
    by_name: bool = False
    several: bool = False

    def __post_init__(self) -> None:
        names = dict.fromkeys(("text", "label", "pair", "items", "before", "start"), TEXTS)
        if wrong := mistyped(self, names | dict.fromkeys(("by_name", "several"), "True or False")):
            raise TaskError(
                f"a layout {wrong}", where="Layout", next='write Layout(("text",), ("label",)): a comma makes a tuple'
            )
        for name in names:
            object.__setattr__(self, name, tuple(getattr(self, name)))


@dataclass(frozen=True)
class Columns:
    """The kind of a task and the columns that it is read from; roles as in `Layout`.

    Where each label has a column, `labels` names all of them, and `label` the first.
    """

    kind: str
    text: str | None
    label: str
    pair: str | None = None
    items: str | None = None
    before: str | None = None
    start: str | None = None
    group: str | None = None
    split: str | None = None
    labels: Names = ()

    @property
    def names(self) -> list[str]:
        """Names of the columns to read."""
        roles = (self.text, self.label, self.pair, self.items, self.before, self.start, self.group, self.split)
        return list(dict.fromkeys(name for name in (*roles, *self.labels) if name is not None))


class Origin(NamedTuple):
    """Where a row comes from.

    Parameters
    ----------
    id : str
        Its identifier.
    where : str
        For messages: file and line.
    class_names : tuple of str, optional
        If given, labels are indices into it.
    numbers : bool
        The labels of all rows look like numbers that are not whole.
    separator : str
        Between the labels of a row, where they are one text; empty where there is none in any row.
    """

    id: str
    where: str
    class_names: tuple[str, ...] | None = None
    numbers: bool = False
    separator: str = ""

    def column(self, name: str) -> str:
        """Return where a column of the row stands, for messages."""
        return f"{self.where}, column {name!r}"


class Row(NamedTuple):
    """One row; fields as in `Split`, but that the label of a class is its name."""

    id: str
    text: str
    label: Any
    pair: str | None = None
    items: tuple[str, ...] | None = None
    group: str | None = None


@dataclass(frozen=True, repr=False)
class Split:
    """The rows of one split, column by column.

    Parameters
    ----------
    texts : tuple of str, length n
        The text of each row; the first text of a pair; the question.
    labels : tuple, length n
        What the task's kind says: one class, an int into ``Task.label_names``; a number; the index of the right
        choice; a tuple of answers (start, text), `start` a character of the context; a tuple of classes, one per
        word or any number per row; a text.
    ids : tuple of str, length n
        One identifier per row, unique within the split.
    pairs : tuple of str, length n, optional
        The second text of each row; the context of a question.
    items : tuple of tuple of str, length n, optional
        The choices of each row, or its words.
    groups : tuple of str, length n, optional
        What each row belongs to (a film, an exam); see `Task.held_out`.

    Raises
    ------
    TaskError
        If the columns differ in length or an identifier occurs twice.
    """

    texts: tuple[str, ...]
    labels: tuple[Any, ...]
    ids: tuple[str, ...]
    pairs: tuple[str, ...] | None = None
    items: tuple[tuple[str, ...], ...] | None = None
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(map(_plain, self.labels)))
        columns = (self.texts, self.labels, self.ids, self.pairs, self.items, self.groups)
        lengths = {len(column) for column in columns if column is not None}
        if len(lengths) != 1:
            raise TaskError(
                f"the columns of a split have different lengths: {sorted(lengths)}",
                next="give one entry per row",
            )
        if len(set(self.ids)) != len(self.ids):
            twice = Counter(self.ids).most_common(1)[0][0]
            raise TaskError("an identifier occurs twice in a split", where=twice, next="give every row its own")

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Split(n={len(self)})"

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """Normalised rows (length n): equal keys mean the same text."""
        return tuple(row_keys(self.texts, self.pairs))

    def take(self, rows: Iterable[int]) -> Split:
        """Return the split with only these rows, in this order."""
        chosen = list(rows)
        return Split(
            texts=tuple(self.texts[row] for row in chosen),
            labels=tuple(self.labels[row] for row in chosen),
            ids=tuple(self.ids[row] for row in chosen),
            pairs=None if self.pairs is None else tuple(self.pairs[row] for row in chosen),
            items=None if self.items is None else tuple(self.items[row] for row in chosen),
            groups=None if self.groups is None else tuple(self.groups[row] for row in chosen),
        )


def _plain(label: Any) -> Any:
    """Return a label without types of NumPy, and truth values as 0 and 1."""
    if type(label) in (int, float, str):
        return label
    if isinstance(label, list | tuple):
        return tuple(map(_plain, label))
    if isinstance(label, np.generic | np.ndarray):
        return _plain(label.tolist())
    return int(label) if isinstance(label, bool) else label
