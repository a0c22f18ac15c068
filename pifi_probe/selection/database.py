"""Opens the database of a study, and turns what a database can say into errors a user understands."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pifi_probe.errors import CorruptFileError, PifiProbeError, SaveError, SearchError
from pifi_probe.files import advice
from pifi_probe.selection.address import Address

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, RDBStorage

__all__ = ["database_errors", "open_storage"]

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
        How long to wait for another program that has locked the file, unless its address says so.

    Raises
    ------
    SearchError
        If it is missing, locked or cannot be reached.
    CorruptFileError
        If the file is not a database, or a damaged one.
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
        raise SearchError("there is no study", where=str(address), next="name the file that the search was given")
    if os.path.exists(file) and not os.path.isfile(file):
        raise SearchError("this is no ordinary file", where=str(address), next="name a file, such as s.db")
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
                f"this is no address of a study: {address.without_secrets(str(cause))}",
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
            f"this is no study, or a damaged one: {message}",
            where=where,
            next="restore the file from a copy, or name another one",
        )
    return SearchError(f"the database failed: {message}", where=where, next="check its address and that it runs")
