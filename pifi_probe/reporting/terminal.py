"""Tables that fit a terminal: what has no room is named or stands below, and the first columns stay whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

__all__ = ["Fitted"]

SENTENCE = 40  # characters: a column with a longer cell is told below where it has no room
NAMES = 24  # characters that the first column keeps before other columns are left out


@dataclass(frozen=True)
class Fitted:
    """A table of any number of columns, printed in the width that there is.

    Columns are left out from the last one on until the others fit, and a line says which. A column of sentences is
    told below instead, row by row. The first `fixed` columns are never left out, and a word of theirs is never cut.

    Parameters
    ----------
    headings : sequence of str
        The most important ones first.
    rows : sequence of sequence of str
        One cell for each heading.
    title, caption : str
    right : sequence of int
        Columns of numbers, set to the right.
    fixed : int
        How many columns name a row.
    below : sequence of int
        Columns that are always told below.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    caption: str = ""
    right: Sequence[int] = ()
    fixed: int = 1
    below: Sequence[int] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        told = list(self.below)
        kept = [place for place in range(len(self.headings)) if place not in told]
        left: list[int] = []
        while len(kept) > self.fixed and self._wide(kept) > options.max_width:
            sentences = [place for place in kept[self.fixed :] if self._longest(place) > SENTENCE]
            out = sentences[-1] if sentences else kept[-1]
            (told if sentences else left).append(out)
            kept.remove(out)
        yield from self._table(kept, options.max_width)
        if left:
            names = ", ".join(self.headings[place] for place in sorted(left))
            yield Text(f"no room at {options.max_width} columns: {names}")
        for row in self.rows if told else ():
            name = ", ".join(row[place] for place in range(self.fixed))
            said = "; ".join(row[place] for place in sorted(told) if row[place])
            if said and cell_len(f"{name}: {said}") <= options.max_width:
                yield Text(f"{name}: {said}")
            elif said:
                yield Text(f"{name}:")
                yield Padding(Text(said), (0, 0, 0, 2), expand=False)

    def _table(self, kept: Sequence[int], wide: int) -> Iterator[Any]:
        table = Table(title=Text(self.title) if self.title else None, title_justify="left", box=SIMPLE_HEAD)
        table.caption, table.caption_justify = Text(self.caption) if self.caption else None, "left"
        table.padding = (0, 1, 0, 0)
        table.pad_edge = False
        spare = wide - self._wide(kept)
        for place in kept:
            width = self._least(place)
            if place < self.fixed:
                more = min(spare, self._longest(place) - width)
                width, spare = width + max(more, 0), spare - max(more, 0)
            table.add_column(
                Text(self.headings[place]),
                width=min(width, wide - 3),
                justify="right" if place in self.right else "left",
                overflow="fold",
            )
        for row in self.rows:
            table.add_row(*(Text(row[place]) for place in kept))
        yield table

    def _wide(self, kept: Sequence[int]) -> int:
        """Return the least width of these columns with the space around and between them."""
        return sum(map(self._least, kept)) + 2 * len(kept) + 1

    def _least(self, place: int) -> int:
        """Return how narrow a column may be: names wrap at spaces, other cells do not, and headings do."""
        words = max(map(cell_len, self.headings[place].split()), default=1)
        if place >= self.fixed:
            return max(words, self._longest(place))
        longest = max((cell_len(word) for row in self.rows for word in row[place].split()), default=1)
        return max(words, longest, min(NAMES, self._longest(place)))

    def _longest(self, place: int) -> int:
        return max((cell_len(line) for row in self.rows for line in row[place].splitlines()), default=1)
