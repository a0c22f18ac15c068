"""How commands print: tables for people, JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from pifi_probe.training import Comparison

__all__ = ["Json", "console", "print_comparison", "print_json", "print_record"]

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


def print_comparison(comparison: Comparison) -> None:
    """Print one table per test set, with intervals and verdicts; the title states the size."""
    for test in dict.fromkeys(row.test for row in comparison.rows):
        table = Table(title=Text(f"{test}: {comparison.size_note}"), title_justify="left")
        for name in ("arm", comparison.metric, "balanced", "difference", "verdict"):
            table.add_column(name)
        for row in (row for row in comparison.rows if row.test == test):
            table.add_row(*(Text(cell) for cell in _cells(row)))
        console().print(table)


def _cells(row: Any) -> tuple[str, ...]:
    difference = ""
    if row.difference is not None:
        difference = f"{row.difference:+.1%} [{row.difference_low:+.1%}, {row.difference_high:+.1%}]"
    balanced = "" if row.balanced_accuracy is None else f"{row.balanced_accuracy:.1%}"
    return row.arm, f"{row.mean:.1%} [{row.low:.1%}, {row.high:.1%}]", balanced, difference, row.verdict
