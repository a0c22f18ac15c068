"""Files written atomically, hashed, and kept in one cache folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import secrets
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import platformdirs
from filelock import FileLock, Timeout

from pifi_probe.errors import CheckpointError, SaveError
from pifi_probe.reading import read_object

__all__ = [
    "advice",
    "alone_in",
    "atomic_write",
    "cache_root",
    "existing",
    "features_root",
    "file_sha256",
    "file_state",
    "finite",
    "json_text",
    "make_folder",
    "save_tensors",
    "sha256_file",
    "write_json",
    "write_record",
    "write_text",
]


_LOCK = "in_use.lock"


def cache_root() -> Path:
    """Return the per-user cache folder; ``PIFI_PROBE_CACHE`` overrides it."""
    override = os.environ.get("PIFI_PROBE_CACHE")
    return Path(override).expanduser() if override else Path(platformdirs.user_cache_dir("pifi_probe"))


def existing(name: str | Path) -> Path | None:
    """Return the path that `name` stands for where it exists, a leading ``~`` expanded; None for any other text."""
    # unlike pathlib, both leave alone what is not a path: an unknown ~user, a long text
    path = os.path.expanduser(name)
    return Path(path) if str(name) and os.path.exists(path) else None


def sha256_file(path: Path) -> str:
    """Return the hexadecimal sha256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_write(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that takes its name only when it is complete and on disk.

    Parameters
    ----------
    path : Path or str
        The final name; its folder is made when missing.
    mode : str
        ``"w"`` (UTF-8 text) or ``"wb"``.

    Raises
    ------
    SaveError
        If `path` is a folder, the folder cannot be written or the disk is full. An older file of this name stays.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        if path.is_dir():
            raise SaveError("this is a folder, not a file", where=str(path), next="name a file, such as one in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        with temporary.open(mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if isinstance(error, SaveError):
            raise
        raise SaveError(
            f"could not write the file: {error.strerror or error}",
            where=str(path),
            next=advice(error, "run the same command again"),
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def make_folder(path: Path | str) -> Path:
    """Make a folder where it is missing, and return it when files can be made in it.

    Raises
    ------
    SaveError
        If it cannot be made or written.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise SaveError(
            f"could not write into the folder: {error.strerror or error}",
            where=str(path),
            next=advice(error, "run the same command again"),
        ) from error


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes, and other threads, out of a folder for a while; it is made when missing.

    The lock is the system's: one that a killed process held is free. Where the folder or its file system takes no
    lock, nothing is kept out. The file of the lock is gone at the end, and so is a folder that stayed empty.

    Raises
    ------
    SaveError
        If somebody else is in it.
    """
    file, new = folder / _LOCK, not folder.exists()
    lock = FileLock(file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise SaveError(
            f"another process is using this folder{_who_holds(file)}",
            where=str(folder),
            next="wait until it has ended, or give another folder",
        ) from None
    except (OSError, NotImplementedError):  # what cannot be written says so where it is written
        pass
    else:
        with contextlib.suppress(OSError):
            file.write_text(f"{os.getpid()} {platform.node()}", encoding="utf-8")
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                file.unlink()  # before the release: whoever waits for this file sees that it has no name any more
            lock.release()
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _who_holds(lock: Path) -> str:
    try:
        pid, _, host = lock.read_text(encoding="utf-8")[:200].partition(" ")
    except (OSError, ValueError):
        return ""
    return f" (process {pid} on {host})" if pid.isdigit() and host else ""


def advice(error: BaseException, again: str) -> str:
    """Return what to do about a file that could not be written, and then."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno):
        if os.strerror(errno.ENOSPC) in str(cause):  # in the words of safetensors and torch, which have no number
            cause = OSError(errno.ENOSPC, str(cause))
            break
        cause = cause.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    todo = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some space, or ask for a larger quota",
        errno.EACCES: "choose a folder you may write to",
        errno.EPERM: "choose a folder you may write to",
        errno.EROFS: "choose a folder you may write to; this file system is read-only",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.ENOENT: "leave the folder in place while it is written to",
        errno.ENOTDIR: "choose a folder whose path leads through no file",
        errno.EMFILE: "close other files, or raise the limit of open files (ulimit -n)",
    }.get(number or 0, "check the disk, the path and its permissions")
    return f"{todo}, then {again}"


def save_tensors(path: Path | str, tensors: Mapping[str, Any], **metadata: str) -> None:
    """Write tensors and texts next to them to `path` as safetensors, atomically, with the rights of any other new file.

    Raises
    ------
    SaveError
        As `atomic_write`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_write(path, "wb") as file:
        try:
            save_file(dict(tensors), file.name, metadata={"format": "pt", **metadata})
        except SafetensorError as error:  # its own type for a full disk
            raise OSError(str(error)) from error
        os.chmod(file.name, stat.S_IMODE(os.fstat(file.fileno()).st_mode))


def features_root() -> Path:
    """Return the folder of all cached features; ``PIFI_PROBE_FEATURES`` overrides it."""
    override = os.environ.get("PIFI_PROBE_FEATURES")
    return Path(override).expanduser() if override else cache_root() / "features"


def file_state(path: Path) -> list[Any]:
    """Return what tells that a file was changed or replaced, also by one of equal length and time of modification.

    Its path, length, times of change to the contents and to the entry, and number on the disk.
    """
    state = path.stat()
    return [str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, read once for each state (see `file_state`) that the file is seen in."""
    name, seen = str(path.resolve()), file_state(path)
    memo = features_root() / "hashes" / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(CheckpointError, OSError):
        known = read_object(memo)
        if known.get("file") == seen:
            return str(known["sha256"])
    digest = sha256_file(path)
    with contextlib.suppress(SaveError):
        write_json(memo, {"file": seen, "sha256": digest})
    return digest


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` atomically (UTF-8)."""
    with atomic_write(path) as file:
        file.write(text)


def finite(value: Any) -> Any:
    """Return `value` with None for every number in it that is NaN or infinite, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_record(path: Path | str, value: Any) -> None:
    """Write what readers besides Python open, atomically, as indented JSON (UTF-8); see `finite`."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def json_text(value: Any) -> str:
    """Return `value` as the indented JSON that `write_json` writes; infinite numbers come back from Python's reader."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=True) + "\n"


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically."""
    write_text(path, json_text(value))
