"""Which columns a task of each kind has, by the names that data sets give them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from pifi_probe.errors import TaskError
from pifi_probe.tasks.kinds import KINDS

__all__ = ["LAYOUTS", "Columns", "Layout", "require_columns", "resolve"]

Names = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Column names of one kind, the usual ones first.

    Parameters
    ----------
    kind : str
    text, label, pair, items : tuple of str
        Empty where the kind has no such column.
    before : tuple of str
        A text that goes before `text`, such as the passage of an exam's question; never required.
    start : tuple of str
        The answer's first character in its context; not required, since it may be within `label`.
    """

    kind: str
    text: Names
    label: Names
    pair: Names = ()
    items: Names = ()
    before: Names = ()
    start: Names = ()


LAYOUTS = (  # tried in this order
    Layout("qa", ("question",), ("answers", "answer"), pair=("context",), start=("answer_start",)),
    Layout(
        "multiple-choice",
        ("question", "ctx", "query", "text"),
        ("label", "answer", "answerKey", "gold"),
        items=("choices", "options", "endings"),
        before=("passage",),
    ),
    Layout("token-classification", (), ("ner_tags", "tags", "labels"), items=("tokens", "words")),
    Layout("single", ("text", "sentence"), ("label",)),
    Layout("pair", ("premise", "sentence1", "question1"), ("label",), pair=("hypothesis", "sentence2", "question2")),
    Layout("seq2seq", ("text", "source", "article"), ("target", "summary", "highlights")),
    Layout("regression", ("text", "sentence1"), ("label", "rating", "score"), pair=("sentence2",)),
)
_OF_KIND: Mapping[str, Layout] = MappingProxyType({layout.kind: layout for layout in LAYOUTS})
_DEFAULTS = {"text": "text", "label": "label", "pair": None, "items": None}


@dataclass(frozen=True)
class Columns:
    """The kind of a task and the columns that it is read from; roles as in `Layout`."""

    kind: str
    text: str | None
    label: str
    pair: str | None = None
    items: str | None = None
    before: str | None = None
    start: str | None = None
    group: str | None = None
    split: str | None = None

    @property
    def names(self) -> list[str]:
        """Names of the columns to read."""
        roles = (self.text, self.label, self.pair, self.items, self.before, self.start, self.group, self.split)
        return list(dict.fromkeys(name for name in roles if name is not None))


def resolve(asked: Columns, kind: str | None, present: Sequence[str], where: str) -> Columns:
    """Return the kind and columns of a table.

    Parameters
    ----------
    asked : Columns
        What the user named, defaults where nothing was named; its kind is not read.
    kind : str, optional
        The kind the user named; None to infer it from the names of the columns.
    present : sequence of str
        The columns there are.
    where : str
        For messages.

    Raises
    ------
    TaskError
        If the kind is unknown or a column is missing.
    """
    if kind is not None and kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        raise TaskError(
            f"unknown kind of task {kind!r}",
            where="option kind",
            next=f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(KINDS)}",
        )
    named = any(getattr(asked, role) != default for role, default in _DEFAULTS.items())
    if kind is None and not named:
        found = next((columns for layout in LAYOUTS if (columns := _fitted(layout, asked, present))), None)
        if found is not None:
            return found
    kind = kind or ("single" if asked.pair is None else "pair")
    return _filled(_OF_KIND[kind], replace(asked, kind=kind), present, where)


def _fitted(layout: Layout, asked: Columns, present: Sequence[str]) -> Columns | None:
    """Return the columns if all that a layout requires are present."""
    if layout.kind == "regression":
        return None  # a rating looks like a class: it is asked for by name
    required = {role: _first(getattr(layout, role), present) for role in _DEFAULTS}
    if any(name is None and getattr(layout, role) for role, name in required.items()):
        return None
    optional = {role: _first(getattr(layout, role), present) for role in ("before", "start")}
    label = required.pop("label")
    assert label is not None
    return Columns(layout.kind, label=label, **required, **optional, group=asked.group, split=asked.split)


def _filled(layout: Layout, asked: Columns, present: Sequence[str], where: str) -> Columns:
    """Fill the roles that the user did not name from the layout of the kind."""
    roles: dict[str, str | None] = {}
    for role, default in _DEFAULTS.items():
        value, usual = getattr(asked, role), getattr(layout, role)
        if value == default:
            names = (default, *usual) if default and usual else usual
            value = _first(names, present) or next(iter(names), None)
        roles[role] = value if usual or role == "pair" else None
    pair = KINDS[layout.kind].pair
    if pair is False or (pair is None and asked.pair is None and roles["pair"] not in present):
        roles["pair"] = None
    optional = {role: _first(getattr(layout, role), present) for role in ("before", "start")}
    label = roles.pop("label")
    assert label is not None
    columns = Columns(layout.kind, label=label, **roles, **optional, group=asked.group, split=asked.split)
    require_columns(columns.names, present, where)
    return columns


def _first(names: Names, present: Sequence[str]) -> str | None:
    return next((name for name in names if name in present), None)


def require_columns(wanted: Iterable[str], present: Sequence[str], where: str) -> None:
    """Raise TaskError for the first wanted column that is there twice, or is not present, with the nearest name."""
    for name in wanted:
        if present.count(name) > 1:
            raise TaskError(
                f"there are {present.count(name)} columns {name!r}", where=where, next="give each column its own name"
            )
        if name not in present:
            near = difflib.get_close_matches(name, present, n=1, cutoff=0.5)
            listed = ", ".join(present[:20]) + (", ..." if len(present) > 20 else "")
            raise TaskError(
                f"there is no column {name!r}; the columns are: {listed}",
                where=where,
                next=f"did you mean {near[0]!r}?" if near else "name the columns with text= and label=",
            )
