"""`Address`: where a study lies, a file or a database; and how its database is opened.

Only this file reads and prints such names, and turns what a database can say into errors a user understands.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pifi_probe.errors import CorruptFileError, PifiProbeError, SaveError, SearchError
from pifi_probe.files import advice

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage
    from sqlalchemy.engine import URL

__all__ = ["DATED", "DEFAULT_NAME", "Address", "database_errors", "dated", "open_storage"]

DEFAULT_NAME = "search"
DATED = "runs/search-{date}.db"  # of a search that names no file
_FILES = (".db", ".sqlite", ".sqlite3", ".db3")
# What may follow the @ of a database URL: one host or several, each with a port, then /, ?, # or nothing.
_HOSTS = re.compile(r"(?:(?:[\w.~-]+|\[[^\]/?#@]+\])?(?::\d*)?,?)*(?=[/?#]|$)")
_SECRET = re.compile(r"pass|pwd|secret|token", re.IGNORECASE)


def dated(study: str | Path | None) -> str | Path | None:
    """Return the name of a study with ``{date}`` filled in: a file that does not exist yet."""
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
            raise SearchError(f"{text!r} is not the name of a file", where="study", next="name a file, such as s.db")
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
                "this is not the address of a database",
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
                "SQLite's own file: addresses are not supported", where=str(cls(url)), next="give the path of the file"
            )
        return cls._of_file(url.database or "", name, dict(url.query))

    @property
    def seconds(self) -> float | None:
        """How long to wait for a locked file, where the URL says so (``?timeout=60``).

        Raises
        ------
        SearchError
            If that is not a number of seconds.
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
                f"timeout={given!r} is not a number of seconds",
                where=str(self),
                next="write ?timeout=60, or leave it out",
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


_LOCK_SECONDS = 30
_CREATION_ATTEMPTS = 20
_DRIVERS = {
    "postgresql": "pip install psycopg, and start the URL with postgresql+psycopg://",
    "mysql": "pip install pymysql, and start the URL with mysql+pymysql://",
    "mariadb": "pip install pymysql, and start the URL with mariadb+pymysql://",
}
_BAD_ROW = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError)


def open_storage(address: Address, *, create: bool, lock_seconds: float = _LOCK_SECONDS) -> BaseStorage:
    """Open a study's database.

    Parameters
    ----------
    address : Address
    create : bool
        Make the file when it is missing.
    lock_seconds : float
        How long to wait for another program that has locked the file, unless the address says it.

    Raises
    ------
    SearchError
        If it is missing, locked or cannot be reached.
    CorruptFileError
        If the file is not a database, or is damaged.
    SaveError
        If it cannot be written.
    """
    import optuna

    if address.url is None:
        return optuna.storages.InMemoryStorage()
    options: dict[str, Any] = {"pool_pre_ping": True}
    if address.file is not None:
        asked = address.seconds
        options = {"connect_args": {"timeout": lock_seconds if asked is None else asked}}
        _prepare(address, address.file, create)
    # Optuna fills its version into braces
    text = address.url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    with database_errors(address):
        try:
            return optuna.storages.get_storage(_connected(text, options))
        except ImportError as error:
            raise SearchError(
                f"the driver of this database is not installed: {error.__cause__ or error}",
                where=str(address),
                next=_DRIVERS.get(address.url.get_backend_name(), "install the driver that the message names"),
            ) from error
        except RuntimeError as error:
            raise SearchError(
                f"the study was made by another version of Optuna: {error}",
                where=str(address),
                next="upgrade it with `optuna storage upgrade`, or name another file",
            ) from error


def _connected(url: str, options: dict[str, Any]) -> RDBStorage:
    """Connect, and make the tables; once more when another process makes them at the same moment."""
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import DBAPIError

    for _ in range(_CREATION_ATTEMPTS):
        try:
            return RDBStorage(url, engine_kwargs=options)
        except DBAPIError as error:
            if not any(sign in str(error.orig).lower() for sign in ("already exists", "unique")):
                raise
            time.sleep(0.1)
    return RDBStorage(url, engine_kwargs=options)


def _prepare(address: Address, file: Path, create: bool) -> None:
    if os.path.isdir(file):
        raise SearchError("this is a folder, not a study", where=str(address), next="name a file in it, such as s.db")
    if not create and not os.path.isfile(file):
        raise SearchError("there is no study", where=str(address), next="name the file that was given to the search")
    if os.path.exists(file) and not os.path.isfile(file):
        raise SearchError("this is not an ordinary file", where=str(address), next="name a file, such as s.db")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    except OSError as error:
        raise SaveError(
            f"the study cannot be written: {error.strerror or error}",
            where=str(address),
            next=advice(error, "start the search again"),
        ) from error


@contextmanager
def database_errors(address: Address) -> Iterator[None]:
    """Turn a database's own errors into typed ones."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        if isinstance(cause, ArgumentError):
            raise SearchError(
                f"this is not the address of a study: {address.without_secrets(str(cause))}",
                where=str(address),
                next="give a file or a database URL",
            ) from None  # the database's own error may show the password
        raise _translated(address.without_secrets(str(getattr(cause, "orig", None) or cause)), address) from error
    except PifiProbeError:
        raise
    except _BAD_ROW as error:  # Optuna asserts, too
        raise CorruptFileError(
            f"a row of the study cannot be read: {address.without_secrets(f'{type(error).__name__}: {error}')}",
            where=str(address),
            next="restore the file from a copy, or name another one",
        ) from error


def _translated(message: str, address: Address) -> PifiProbeError:
    text, where = message.lower(), str(address)
    if "locked" in text:
        return SearchError(
            "the study is locked by another program", where=where, next="close that program, then run this again"
        )
    if any(sign in text for sign in ("full", "readonly", "read-only", "i/o error", "no space", "unable to open")):
        return SaveError(
            f"the study could not be written: {message}",
            where=where,
            next="free some space or make the file writable, then resume; every finished trial is kept",
        )
    if any(sign in text for sign in ("not a database", "malformed", "no such table", "no such column", "corrupt")):
        return CorruptFileError(
            f"this is not a study, or it is damaged: {message}",
            where=where,
            next="restore the file from a copy, or name another one",
        )
    return SearchError(f"the database failed: {message}", where=where, next="check its address and that it runs")
