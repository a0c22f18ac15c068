"""Rows before they are splits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pifi_probe.kinds.parts.rows import Row, Split
from pifi_probe.kinds.parts.text import row_keys

__all__ = ["Row", "keys_of", "to_split", "without_repeats"]


def to_split(rows: Sequence[Row]) -> Split:
    """Return rows (at least one) as a split."""

    def column(values: Iterable[Any]) -> tuple[Any, ...] | None:
        found = tuple(values)
        return None if found[0] is None else found

    return Split(
        texts=tuple(row.text for row in rows),
        labels=tuple(row.label for row in rows),
        ids=tuple(row.id for row in rows),
        pairs=column(row.pair for row in rows),
        items=column(row.items for row in rows),
        groups=column(row.group for row in rows),
    )


def keys_of(rows: Sequence[Row]) -> list[str]:
    """Return the key of every row: equal keys mean the same text."""
    paired = bool(rows) and rows[0].pair is not None
    return row_keys([row.text for row in rows], [row.pair or "" for row in rows] if paired else None)


def without_repeats(rows: Sequence[Row], known: Iterable[str] = ()) -> list[Row]:
    """Return the first row of each key, leaving out keys that are `known`."""
    seen, kept = set(known), []
    for row, key in zip(rows, keys_of(rows), strict=True):
        if key not in seen:
            seen.add(key)
            kept.append(row)
    return kept
