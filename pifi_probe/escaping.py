"""Text that others have written, made harmless for where it is shown: a terminal, a table, a script, a spreadsheet."""

from __future__ import annotations

import ast
import html
import keyword
import re
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["csv_text", "keywords", "literal", "markdown", "markdown_cell", "one_line", "printable"]

_JOINERS = "\u200c\u200d\u00ad"  # of scripts and emoji, and the soft hyphen: format characters that text needs
_SPACES = {"\t": " ", "\u2028": "\n", "\u2029": "\n"}
# Markup of Markdown and of the mathematics in it; square brackets only where they would make a link.
_MARKUP = re.compile(r"([\\`*~$]|(?<!\w)_|_(?!\w)|!(?=\[)|\](?=[\[(:])|\[(?=\^))")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the start of a formula


def printable(value: object) -> str:
    """Return a value as text in which control characters (of terminals, of XML, of direction) are replaced."""
    return "".join(_SPACES.get(one, one if _is_printable(one) else "\ufffd") for one in str(value))


def _is_printable(character: str) -> bool:
    if character.isprintable() or character == "\n" or character in _JOINERS:
        return True
    return unicodedata.category(character) in ("Zs", "Co", "Cn")  # spaces, and what newer fonts may have


def one_line(value: object, limit: int = 600) -> str:
    """Return a value as one printable line, shortened, so that it can neither flood nor command a terminal."""
    flat = printable(" ".join(str(value).split()))
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."


def markdown(value: object) -> str:
    """Return a value as one line of plain text for a Markdown file: no markup, HTML or link."""
    return _MARKUP.sub(r"\\\1", html.escape(printable(" ".join(str(value).split())), quote=False))


def markdown_cell(value: object) -> str:
    """Return a value as plain text for one cell of a table in Markdown."""
    return markdown(value).replace("|", "\\|")


def literal(value: Any) -> str:
    """Return Python source that is `value` and nothing else.

    Raises
    ------
    ValueError
        If it is not made of text, numbers, truth values, None, lists, tuples and dictionaries.
    """
    source = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    try:
        same = ast.literal_eval(source) == value
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{value!r} cannot be written as a literal") from error
    if not same:
        raise ValueError(f"{value!r} cannot be written as a literal")
    return source


def keywords(values: Mapping[str, Any]) -> str:
    """Return ``name=literal, ...`` for a call in Python source.

    Raises
    ------
    ValueError
        If a name is not a name of Python's, or a value is not a literal.
    """
    for name in values:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise ValueError(f"{name!r} is not the name of an argument")
    return ", ".join(f"{name}={literal(value)}" for name, value in values.items())


def csv_text(frame: pd.DataFrame, *, index: bool = False) -> str:
    """Return a frame as CSV in which no cell is a formula: an apostrophe goes before a text that would be one."""
    safe = frame.rename(columns=_cell).map(_cell)
    if index:
        safe.index = safe.index.map(_cell)
    return str(safe.to_csv(index=index, lineterminator="\n"))


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if value.lstrip(" ").startswith(_FORMULA) else shown
