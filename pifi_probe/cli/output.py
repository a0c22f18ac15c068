"""How commands print: tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["AllowPickle", "Json", "console", "print_json", "print_record", "print_rows"]

AllowPickle = typer.Option(False, "--allow-pickle", help="Read legacy .bin weights too, as data alone.")
Json = typer.Option(False, "--json", help="Print JSON for machines.")


def console() -> Console:
    """Return a console that wraps tables to the terminal and never interprets user text as markup."""
    return Console(markup=False, highlight=False)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_record(title: str, record: Mapping[str, Any]) -> None:
    """Print a mapping as a table of two columns."""
    table = Table(title=Text(title), show_header=False, title_justify="left")
    for key, value in record.items():
        table.add_row(Text(str(key)), Text(str(value)))
    console().print(table)


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print mappings with the same keys as a table, one row each."""
    table = Table(title=Text(title), title_justify="left")
    for heading in rows[0]:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
    console().print(table)
