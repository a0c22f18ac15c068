"""What comes from a file is measured before it is read, and read as what it should be or not at all.

A name may stand for a pipe that never ends, a file for terabytes, three bytes of JSON for a hundred bytes of memory,
and a number for a length. `read_bytes` opens ordinary files alone and bounds their size, `parse_json` bounds what the
parser may make of it, and `typed` gives values the types that a dataclass states. Each says which bound was passed.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
import re
import stat
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import IO, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from pifi_probe.errors import CheckpointError, CorruptFileError

__all__ = [
    "Refused",
    "inflate",
    "open_file",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_object",
    "refuse_odd_files",
    "typed",
    "with_nan",
]

MAX_BYTES = 1 << 28  # of a JSON file; the index of the largest models has about 10 MB
MAX_VALUES = 500_000  # of a JSON file; the index of the largest models has 150,000
MAX_UNPACKED = 1 << 28  # bytes of an array in text
_BYTES_A_VALUE = 100  # of memory, for messages
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)
T = TypeVar("T")


class Refused(ValueError):
    """What was read passes a bound, or is not what it should be; callers give it a type and a place."""


def open_file(path: Path | str) -> IO[bytes]:
    """Open an ordinary file for reading, and nothing else: a pipe would wait for ever, a device never end.

    Raises
    ------
    OSError
        If it cannot be opened.
    Refused
        If the path stands for a pipe, socket, device or folder.
    """
    if not _is_name(path):
        raise Refused("the name cannot be one of a file")
    _refuse_odd(os.stat(path).st_mode, path)
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _refuse_odd(os.fstat(file.fileno()).st_mode, path)  # it may have been replaced in between
    except Refused:
        file.close()
        raise
    return file


def _is_name(path: Path | str) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def _refuse_odd(mode: int, path: Path | str) -> None:
    if not stat.S_ISREG(mode):
        kind = next((f"{name}, " for is_kind, name in _KINDS if is_kind(mode)), "")
        raise Refused(f"{Path(path).name!r} is {kind}not an ordinary file")


def refuse_odd_files(folder: Path) -> None:
    """Refuse a folder in which a pipe, socket or device stands where a library would look for a file.

    Raises
    ------
    CheckpointError
        If there is one, or the folder cannot be read.
    """
    try:
        for entry in os.scandir(folder):
            try:
                mode = entry.stat().st_mode
            except OSError:  # a link to nowhere, or to itself: whoever opens it says so
                continue
            if not stat.S_ISDIR(mode):
                _refuse_odd(mode, entry.path)
    except OSError as error:
        raise CheckpointError(
            f"the folder cannot be read: {error.strerror}", where=str(folder), next="check its permissions"
        ) from error
    except Refused as error:
        raise CheckpointError(str(error), where=str(folder), next="put the model's own file in its place") from error


def read_bytes(path: Path | str, most: int = MAX_BYTES) -> bytes:
    """Return the content of an ordinary file of at most `most` bytes.

    Raises
    ------
    OSError
        If it cannot be read.
    Refused
        If it is not an ordinary file, or larger.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise Refused(f"it has {size:,} bytes, and {most:,} are the most that are read")
        raw = file.read(most + 1)  # it may be growing
    if len(raw) > most:
        raise Refused(f"it has more than the {most:,} bytes that are read")
    return raw


_HALF = re.compile(rb"\\u[dD][89a-fA-F]")  # an escape of one half of a pair of UTF-16


def parse_json(raw: bytes | str, *, most_values: int = MAX_VALUES, unique: bool = False) -> Any:
    """Parse JSON, its number of values bounded before they are made.

    Parameters
    ----------
    raw : bytes or str
        UTF-8.
    most_values : int
        How many values it may hold, counted by the commas and brackets; those in strings count too.
    unique : bool
        Refuse an object that has one name twice.

    Raises
    ------
    Refused
        If it is not UTF-8 or JSON, nested too deeply, holds more values, or holds half a character.
    """
    if isinstance(raw, str):
        raw = raw.encode("utf-8", errors="surrogatepass")
    count = sum(raw.count(mark) for mark in (b",", b"[", b"{"))
    if count > most_values:
        raise Refused(
            f"it holds about {count:,} values, which would take about {count * _BYTES_A_VALUE >> 20:,} MiB; "
            f"{most_values:,} are the most that are read"
        )
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique if unique else None)
        if _HALF.search(raw):  # perhaps of a pair, which is a character
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except Refused:
        raise
    except UnicodeEncodeError as error:
        raise Refused("it holds half a character (a lone surrogate)") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"it is not valid JSON: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Refused(f"it names {Counter(name for name, _ in pairs).most_common(1)[0][0]!r} twice")
    return found


def read_json(path: Path | str, *, most_bytes: int = MAX_BYTES, most_values: int = MAX_VALUES) -> Any:
    """Read a JSON file; bounds and errors as in `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, most_bytes), most_values=most_values)


def read_object(path: Path, *, most_bytes: int = MAX_BYTES, most_values: int = MAX_VALUES) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    CorruptFileError
        If the file is not a UTF-8 JSON object, or passes a bound.
    CheckpointError
        If it cannot be read, or is not an ordinary file.
    """
    try:
        value = read_json(path, most_bytes=most_bytes, most_values=most_values)
    except OSError as error:
        raise CheckpointError(
            f"the file cannot be read: {error.strerror}", where=str(path), next="check the path and its permissions"
        ) from error
    except Refused as error:
        raise CorruptFileError(
            f"the file cannot be read: {error}", where=str(path), next="download the file again"
        ) from error
    if not isinstance(value, dict):
        raise CorruptFileError("the file holds no JSON object", where=str(path), next="download the file again")
    return value


def inflate(text: str, shape: Sequence[int], each: int) -> bytes:
    """Unpack base64 text of a zlib stream that holds an array, and never more bytes than its shape says.

    Parameters
    ----------
    text : str
    shape : sequence of int
        At least one each.
    each : int
        Bytes of a number.

    Raises
    ------
    Refused
        If the text holds another number of bytes, or the shape asks for more than 256 MiB.
    """
    size = each * math.prod(shape)
    if not all(isinstance(n, int) and n > 0 for n in shape) or size > MAX_UNPACKED:
        raise Refused(f"an array of shape {tuple(shape)}")
    try:
        raw = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    except (ValueError, zlib.error) as error:
        raise Refused(f"an array that is not packed text: {error}") from error
    if len(raw) != size:
        raise Refused(f"an array of shape {tuple(shape)} that does not have {size:,} bytes")
    return raw


def typed(kind: type[T], values: Any) -> T:
    """Return plain values as a dataclass whose fields, the nested ones too, have the types that it states.

    Names that the dataclass does not have are left out: a newer version may have written them.

    Raises
    ------
    Refused
        If a field is missing, of another type, NaN or infinite where a share or count is stated, or refused by the
        dataclass itself; the message names it, as in ``$.tests[...].nll``.
    """
    try:
        return msgspec.convert(values, kind, dec_hook=_path, str_keys=True)
    except (msgspec.ValidationError, RecursionError, OverflowError, UnicodeError) as error:
        raise Refused(str(error)) from error


def _path(kind: type, value: Any) -> Any:
    if kind is object:
        return value
    if issubclass(kind, Path) and isinstance(value, str):
        return Path(value)
    raise ValueError(f"expected {kind.__name__}, got {type(value).__name__}")


def with_nan(kind: Any, values: Any) -> Any:
    """Return plain values with NaN in place of null wherever a type states a float, and nothing but a float.

    Parameters
    ----------
    kind : type
        A dataclass, a container or a plain type, as `typed` takes it.
    values : object
    """
    if kind is float:
        return math.nan if values is None else values
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        others = [part for part in parts if part is not type(None)]
        return with_nan(others[0], values) if len(others) == 1 and values is not None else values
    if dataclasses.is_dataclass(kind) and isinstance(values, Mapping):
        hints = get_type_hints(kind)
        return {name: with_nan(hints.get(name, object), value) for name, value in values.items()}
    if isinstance(values, Mapping) and len(parts) == 2:
        return {name: with_nan(parts[1], value) for name, value in values.items()}
    if isinstance(values, list) and parts and origin in (list, tuple):
        each = parts if origin is tuple and parts[-1] is not Ellipsis else [parts[0]] * len(values)
        return [with_nan(*pair) for pair in zip(each, values, strict=False)] if len(each) == len(values) else values
    return values
