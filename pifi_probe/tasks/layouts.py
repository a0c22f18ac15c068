"""Which columns of a table are what, and so of what kind its task is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pifi_probe.errors import TaskError
from pifi_probe.kinds import KINDS, Columns, Kind

__all__ = ["require_columns", "resolve"]

_DEFAULTS = {"text": "text", "label": "label", "pair": None, "items": None}


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
    asked_for = None if kind is None else KINDS.named(kind, "option kind")
    named = any(getattr(asked, role) != default for role, default in _DEFAULTS.items())
    asked = _label_columns(asked, present)
    if asked_for is None and asked.labels:
        asked_for = next(one for one in KINDS.values() if one.layout.several)
    if asked.labels and asked_for is not None and not asked_for.layout.several:
        raise TaskError(
            f"a {kind} task has one column of labels; {len(asked.labels)} were named",
            where=where,
            next=f"name one, or leave out kind={kind!r}: rows then have any number of labels",
        )
    if kind is None and not named:
        found = next((columns for one in KINDS.values() if (columns := _fitted(one, asked, present))), None)
        if found is not None:
            return found
    plain = next(one for one in KINDS.values() if one.row_classes and one.pair == (asked.pair is not None))
    return _filled(asked_for or plain, asked, present, where)


def _fitted(kind: type[Kind], asked: Columns, present: Sequence[str]) -> Columns | None:
    """Return the columns if all that a kind requires are present."""
    layout = kind.layout
    if layout.by_name:
        return None
    required: dict[str, Any] = {role: _first(getattr(layout, role), present) for role in _DEFAULTS}
    roles = [role for role in required if role != "pair" or kind.pair is not None]
    if any(required[role] is None and getattr(layout, role) for role in roles):
        return None
    optional: dict[str, Any] = {role: _first(getattr(layout, role), present) for role in ("before", "start")}
    label = required.pop("label")
    assert label is not None
    return Columns(kind.name, label=label, **required, **optional, group=asked.group, split=asked.split)


def _filled(kind: type[Kind], asked: Columns, present: Sequence[str], where: str) -> Columns:
    """Fill the roles that the user did not name from the layout of the kind."""
    layout = kind.layout
    roles: dict[str, Any] = {}
    for role, default in _DEFAULTS.items():
        value, usual = getattr(asked, role), getattr(layout, role)
        if value == default:
            names = (default, *usual) if default and usual else usual
            value = _first(names, present) or next(iter(names), None)
        roles[role] = value if usual or role == "pair" else None
    pair = kind.pair
    if pair is False or (pair is None and asked.pair is None and roles["pair"] not in present):
        roles["pair"] = None
    optional: dict[str, Any] = {role: _first(getattr(layout, role), present) for role in ("before", "start")}
    label = roles.pop("label")
    assert label is not None
    columns = Columns(
        kind.name, label=label, **roles, **optional, group=asked.group, split=asked.split, labels=asked.labels
    )
    require_columns(columns.names, present, where)
    return columns


def _label_columns(asked: Columns, present: Sequence[str]) -> Columns:
    """Read several label columns where one text names them, as on a command line: ``"sad,angry"``."""
    names = tuple(name.strip() for name in asked.label.split(",") if name.strip())
    if asked.labels or len(names) < 2 or asked.label in present:
        return asked
    return replace(asked, label=names[0], labels=names)


def _first(names: tuple[str, ...], present: Sequence[str]) -> str | None:
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
