"""`Result`: what every result can do. It is written and read again, and it looks the same everywhere."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pifi_probe.errors import CorruptFileError, PifiProbeError
from pifi_probe.escaping import printable
from pifi_probe.files import finite, write_text
from pifi_probe.reading import MAX_VALUES, Refused, parse_json, read_json, typed, with_nan

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pifi_probe.reporting.tables import Table

__all__ = ["Result", "plain"]

_UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError, zlib.error)


class Result:
    """Base of every result: a frozen dataclass that says what it is called, in words and in tables.

    A subclass states `noun` and gives `tables`; `said` and `remarks` where words go with them. Where its fields are not
    what JSON can hold, it has a `to_dict` and a `_read` of its own, and nothing else is different.

    JSON holds ``result``, the name of the class, ``version``, then the fields, then whatever a reader of the file wants
    in words. A number that is NaN or infinite is written as null, since JSON has neither, and null is read as NaN where
    the class states a float.

    Attributes
    ----------
    noun : str
        What it is, with its article: "a comparison".
    version : int
        Of what its JSON says; another one is not read.
    most_values : int
        How many values its JSON may hold.
    """

    noun: ClassVar[str] = ""
    version: ClassVar[int] = 1
    most_values: ClassVar[int] = MAX_VALUES

    def said(self) -> list[str]:
        """Return the answer in words, one paragraph each."""
        return []

    def tables(self) -> list[Table]:
        """Return what terminal, notebook and page show."""
        raise NotImplementedError

    def remarks(self) -> list[str]:
        """Return what a reader must know besides."""
        return []

    def picture(self) -> str:
        """Return SVG that stands between words and tables in a notebook, or an empty text."""
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        return self._header() | plain(self)

    def _header(self) -> dict[str, Any]:
        return {"result": type(self).__name__, "version": self.version}

    def to_json(self, path: str | Path | None = None) -> str:
        """Return everything as JSON, and write it to `path`, atomically, when one is given.

        Raises
        ------
        SaveError
            If the file cannot be written; an older one of that name stays.
        """
        text = json.dumps(finite(self.to_dict()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        if path is not None:
            write_text(path, text)
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Self:
        """Rebuild what `to_json` wrote, from a file or from its text.

        Raises
        ------
        CorruptFileError
            If it cannot be read, or is something else.
        """
        is_text = isinstance(source, str) and source.lstrip().startswith("{")

        def read() -> Any:
            most = cls.most_values
            return parse_json(str(source), most_values=most) if is_text else read_json(source, most_values=most)

        return cls._made("the given text" if is_text else str(source), read)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild what `to_dict` gave.

        Raises
        ------
        CorruptFileError
            If it is something else.
        """
        return cls._made("the given values", lambda: values)

    @classmethod
    def _made(cls, where: str, read: Callable[[], Any]) -> Self:
        try:
            values = read()
            if not isinstance(values, Mapping):
                raise Refused("it is not a JSON object")
            cls._refuse_others(values)
            return cls._read(finite(values))  # in words of JSON, also where a file says NaN
        except _UNREADABLE as error:
            why = error.what if isinstance(error, PifiProbeError) else str(error)
            raise CorruptFileError(
                f"this is not {cls.noun}: {f'{why} is missing' if isinstance(error, KeyError) else why}",
                where=where,
                next=f"give what {cls.__name__}.to_json wrote",
            ) from error

    @classmethod
    def _refuse_others(cls, values: Mapping[str, Any]) -> None:
        """Refuse another result, and another version; files of versions before say neither."""
        if values.get("result", cls.__name__) != cls.__name__:
            raise Refused(f"it is a {printable(values['result'])}")
        if values.get("version", cls.version) != cls.version:
            raise Refused(f"version {values['version']!r}, not {cls.version}")

    @classmethod
    def _read(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild it from values of this version; whatever is wrong may be raised as it comes."""
        return typed(cls, with_nan(cls, values))

    def to_rich(self, title: str = "") -> RenderableType:
        """Return the tables for a terminal, as wide as it is; `title` stands before that of each."""
        from rich.console import Group

        made = [table.titled(title).to_rich() for table in self.tables()]
        return made[0] if len(made) == 1 else Group(*made)

    def _repr_html_(self) -> str:
        """Return words, picture, tables and notes for a notebook; everything escaped, never too wide."""
        said = "".join(f"<p>{escape(printable(text))}</p>" for text in self.said())
        tables = "".join(
            f'<div style="max-width: 100%; overflow-x: auto">{table.to_html()}</div>' for table in self.tables()
        )
        notes = "".join(f"<li>{escape(printable(note))}</li>" for note in self.remarks())
        below = f'<ul style="overflow-wrap: anywhere">{notes}</ul>' if notes else ""
        return f"{said}{self.picture()}{tables}{below}"


def plain(value: Any) -> Any:
    """Return a value made of dataclasses, containers, paths and numbers of NumPy as values that JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "dtype") and not getattr(value, "shape", ()) else value
