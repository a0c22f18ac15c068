"""`Address`: where a study lies, a file or a database; the only place that reads and prints such names."""

from __future__ import annotations

import itertools
import math
import os
import re
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pifi_probe.errors import SearchError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

__all__ = ["DATED", "DEFAULT_NAME", "Address", "dated"]

DEFAULT_NAME = "search"
DATED = "runs/search-{date}.db"  # of a search that names no file
_FILES = (".db", ".sqlite", ".sqlite3", ".db3")
# What may follow the @ of a database URL: one host or several, each with a port, then /, ?, # or nothing.
_HOSTS = re.compile(r"(?:(?:[\w.~-]+|\[[^\]/?#@]+\])?(?::\d*)?,?)*(?=[/?#]|$)")
_SECRET = re.compile(r"pass|pwd|secret|token", re.IGNORECASE)


def dated(study: str | Path | None) -> str | Path | None:
    """Return the name of a study with ``{date}`` filled in: a file that is not there yet."""
    if not isinstance(study, str) or "{date}" not in study:
        return study
    now = time.strftime("%Y-%m-%d-%H%M%S")
    names = (
        study.replace("{date}", now + more) for more in itertools.chain([""], (f"-{n}" for n in itertools.count(2)))
    )
    return next(name for name in names if not Path(name).exists())


@dataclass(frozen=True, eq=True)
class Address:
    """Where a study lies.

    Parameters
    ----------
    url : sqlalchemy.engine.URL or None
        None for a study in memory.
    name : str
        Of the study in the database.
    file : Path or None
        The SQLite file, if it is one.

    Notes
    -----
    ``str`` and ``repr`` show no password.
    """

    url: URL | None
    name: str = DEFAULT_NAME
    file: Path | None = None

    @classmethod
    def parse(cls, study: str | Path | Address | None) -> Address:
        """Read the name of a study.

        Parameters
        ----------
        study : str, Path, Address or None
            A text is a file or a database URL; ``#name`` at its end picks one of several studies in it. In a URL
            the password may hold ``#``, ``@`` and ``%`` as they are. A `Path` is always a file. None: in memory.

        Raises
        ------
        SearchError
            If it is neither.
        """
        if isinstance(study, Address):
            return study
        if study is None:
            return cls(None)
        if isinstance(study, str) and "://" in study:
            return cls._of_url(study)
        text, name = (str(study), "") if isinstance(study, Path) else _split_file(str(study))
        return cls._of_file(text, name)

    @classmethod
    def _of_file(cls, text: str, name: str, query: dict[str, str | tuple[str, ...]] | None = None) -> Address:
        from sqlalchemy.engine import URL

        if not text.strip() or any(unicodedata.category(sign) in ("Cc", "Cs") for sign in text):
            raise SearchError(f"{text!r} is no name of a file", where="study", next="name a file, such as s.db")
        file = Path(os.path.expanduser(text)).absolute()
        return cls(URL.create("sqlite", database=file.as_posix(), query=query or {}), name or DEFAULT_NAME, file)

    @classmethod
    def _of_url(cls, text: str) -> Address:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        scheme, _, rest = text.partition("://")
        scheme = re.sub(r"^postgres(?=\+|$)", "postgresql", scheme.lower())  # as Heroku and others write it
        login, rest = _split_login(rest)
        rest, _, name = rest.rpartition("#") if "#" in rest else (rest, "", "")
        try:
            url = make_url(f"{scheme}://{rest}")
        except (ArgumentError, ValueError) as error:
            shown = f"{scheme}://{'***@' if login else ''}{rest}"
            raise SearchError(
                "this is no address of a database",
                where=shown,
                next="write a file, or DIALECT://USER:PASSWORD@HOST:PORT/DATABASE",
            ) from error
        if login:
            user, colon, password = login.partition(":")
            url = url.set(username=unquote(user), password=unquote(password) if colon else None)
        if url.get_backend_name() != "sqlite":
            return cls(url, name or DEFAULT_NAME)
        if url.database in (None, "", ":memory:"):
            return cls(None)
        if "uri" in url.query:
            raise SearchError(
                "SQLite's own file: addresses are not read", where=str(cls(url)), next="give the path of the file"
            )
        return cls._of_file(url.database or "", name, dict(url.query))

    @property
    def seconds(self) -> float | None:
        """How long to wait for a locked file, where the URL says so (``?timeout=60``).

        Raises
        ------
        SearchError
            If that is no number of seconds.
        """
        given = None if self.url is None else self.url.query.get("timeout")
        if given is None or self.file is None:
            return None
        try:
            seconds = float(str(given))
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise SearchError(
                f"timeout={given!r} is no number of seconds", where=str(self), next="write ?timeout=60, or leave it out"
            )
        return seconds

    def __str__(self) -> str:
        """Name for messages and commands, without a password."""
        if self.url is None:
            return "in memory"
        suffix = "" if self.name == DEFAULT_NAME else f"#{self.name}"
        if self.file is not None:
            return f"{_relative(self.file)}{suffix}"
        hidden = {key: "***" for key in self.url.query if _SECRET.search(key)}
        return self.url.update_query_dict(hidden).render_as_string(hide_password=True) + suffix

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def without_secrets(self, text: str) -> str:
        """Return a message of the database without this address's passwords."""
        if self.url is None:
            return text
        given = [str(value) for key, value in self.url.query.items() if _SECRET.search(key)]
        for secret in [*given, *([str(self.url.password)] if self.url.password else [])]:
            text = text.replace(secret, "***")
        return text


def _split_login(rest: str) -> tuple[str, str]:
    """Split ``USER:PASSWORD`` from what follows its @; a password may hold @ and # itself.

    The @ that counts is the last one before the query that hosts may follow.
    """
    query = rest.find("?", rest.find("@") + 1)
    head = rest if query < 0 else rest[:query]
    for place in reversed([at for at, sign in enumerate(head) if sign == "@"]):
        if _HOSTS.match(rest, place + 1):
            return rest[:place], rest[place + 1 :]
    return "", rest


def _split_file(text: str) -> tuple[str, str]:
    """Split ``FILE#NAME``; a # that belongs to the file's own name stays in it."""
    file, sign, name = text.rpartition("#")
    if not sign or os.path.exists(os.path.expanduser(text)):
        return text, ""
    part_of_file = "/" in name or os.sep in name or name.lower().endswith(_FILES)
    if part_of_file and not os.path.isfile(os.path.expanduser(file)):
        return text, ""
    return file, name


def _relative(file: Path) -> str:
    try:
        return file.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(file)
