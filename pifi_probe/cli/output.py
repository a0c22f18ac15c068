"""How commands print: tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from pifi_probe.escaping import one_line, printable
from pifi_probe.files import finite
from pifi_probe.reporting.terminal import Fitted
from pifi_probe.units import amount

__all__ = ["console", "echo_json", "in_words", "print_json", "print_record", "print_rows"]


class _Printable:
    """Shows what another renderable does, but for control characters in its text."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.inner, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class _OnlyPrintable(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Printable(one) for one in renderables]


def console() -> Console:
    """Return a console that wraps tables to the terminal and takes no text for markup or a terminal's command."""
    made = Console(markup=False, highlight=False)
    made.push_render_hook(_OnlyPrintable())
    return made


def print_json(value: Any) -> None:
    """Print one JSON document."""
    echo_json(json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False, default=str))


def echo_json(text: str) -> None:
    """Print a JSON document; what a terminal might obey is escaped as JSON does it."""
    typer.echo("".join(one if printable(one) == one else json.dumps(one)[1:-1] for one in text))


def in_words(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as people read it: 3.54 M weights, 2.2 MB; what is not known is left out."""
    words: dict[str, Any] = {}
    for key, value in record.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            words |= in_words({f"{key} {part.replace('_', ' ')}": own for part, own in value.items()})
            continue
        is_bytes = not {"bytes", "memory"}.isdisjoint(key.split())
        large = is_bytes or not {"weights", "macs"}.isdisjoint(key.split())
        words[key] = amount(value, "B" if is_bytes else "") if large and type(value) is int else value
    return words


def print_record(title: str, record: Mapping[str, Any]) -> None:
    """Print a mapping as a table of two columns."""
    table = Table(title=Text(one_line(title)), show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in record.items():
        table.add_row(Text(printable(key)), Text(printable(value)))
    console().print(table)


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print mappings with the same keys as a table that fits the terminal, one row each."""
    cells = [["" if value is None else printable(value) for value in row.values()] for row in rows]
    console().print(Fitted(list(rows[0]), cells, one_line(title)))
