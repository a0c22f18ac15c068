"""Tables from plain frames, for the terminal and for a page; cells are text, never markup."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING, Any

from pifi_probe.escaping import printable

if TYPE_CHECKING:
    import pandas as pd

    from pifi_probe.reporting.terminal import Fitted

__all__ = ["Table", "printable", "to_html", "to_rich"]

LONG = 40  # characters: a cell that must not become a narrow column of single words


@dataclass(frozen=True)
class Table:
    """A frame as terminal, notebook and page show it: the same columns in the same order, the same cells.

    Parameters
    ----------
    frame : DataFrame
        The most important columns first, since a narrow terminal leaves out the last ones.
    title : str
        What it is.
    note : str
        What its numbers were made from.
    fixed : int
        How many columns name a row.
    below : sequence of str
        Columns of sentences, which a terminal tells below the table.
    """

    frame: pd.DataFrame
    title: str = ""
    note: str = ""
    fixed: int = 1
    below: Sequence[str] = ()

    def titled(self, title: str) -> Table:
        """Return it with words before its title."""
        return replace(self, title=", ".join(part for part in (title, self.title) if part))

    def to_rich(self) -> Fitted:
        """Return it for a terminal."""
        return to_rich(self.frame, self.title, fixed=self.fixed, note=self.note, below=self.below)

    def to_html(self) -> str:
        """Return it for a page, title and note as its caption."""
        return to_html(self.frame, "; ".join(part for part in (self.title, self.note) if part))


def to_rich(
    frame: pd.DataFrame, title: str = "", *, fixed: int = 1, note: str = "", below: Sequence[str] = ()
) -> Fitted:
    """Return a frame as a table that fits the terminal; the index is left out, the first `fixed` columns never are."""
    from pifi_probe.reporting.terminal import Fitted

    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    right = [place for place, column in enumerate(frame) if _is_numeric(frame[column])]
    told = [place for place, column in enumerate(frame) if column in below]
    headings = [printable(name) for name in frame]
    return Fitted(headings, rows, printable(title), printable(note), right=right, fixed=fixed, below=told)


def to_html(frame: pd.DataFrame, caption: str = "") -> str:
    """Return a frame as an HTML ``<table>``, everything escaped; the index is left out.

    Cells of number columns have the class ``number``, and those of more than 40 characters ``long``.
    """
    numeric = [_is_numeric(frame[column]) for column in frame]
    head = "".join(_tag("th", printable(name), number) for name, number in zip(frame, numeric, strict=True))
    body = "\n".join(
        "<tr>" + "".join(_tag("td", _cell(value), number) for value, number in zip(row, numeric, strict=True)) + "</tr>"
        for row in frame.itertuples(index=False, name=None)
    )
    above = f"<caption>{escape(printable(caption))}</caption>" if caption else ""
    return f"<table>{above}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"


def _tag(tag: str, text: str, number: bool) -> str:
    kind = ' class="number"' if number else ' class="long"' if len(text) > LONG else ""
    scope = ' scope="col"' if tag == "th" else ""
    return f"<{tag}{scope}{kind}>{escape(text)}</{tag}>"


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    if isinstance(value, numbers.Real):
        return f"{float(value):,.3f}"
    return printable(value)


def _is_numeric(column: pd.Series[Any]) -> bool:
    return column.dtype.kind in "iuf"
