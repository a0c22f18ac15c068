"""Files of one folder that change together: after a kill at any point all of them are the old ones, or the new ones."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pifi_probe.errors import SaveError
from pifi_probe.files import make_folder, write_json
from pifi_probe.reading import read_json

__all__ = ["finish_replacing", "remove_folder", "replaced_together"]

_READY = ".saved"  # new files, all complete; they count from the moment on which the first has left for its place
_WORK = ".saving-"  # new files that are being written; the process id and a random part follow
_STALE = "stale.json"  # in `_READY`: names in the folder that belong to the old files alone
_OLD = ".removed-"  # a folder that is being deleted
_LEFT_OVER = 600.0  # seconds without a change after which files of a process that is gone are deleted


@contextlib.contextmanager
def replaced_together(folder: Path | str, first: str, stale: str | None = None) -> Iterator[Path]:
    """Give a folder to write files into that take their places in `folder` together, when the block ends.

    A process may be killed at any point, and the files that a reader finds after `finish_replacing` are all old or all
    new. Which of them is decided by one rename, that of `first`; so a reader that looks at `first` alone never
    goes back from new to old.

    Parameters
    ----------
    folder : Path or str
        Made when missing. Files in it that are not written again stay.
    first : str
        Name of the file that readers open first, such as ``"config.json"``.
    stale : str, optional
        Regular expression of names; a file in `folder` that matches it and is not written again is deleted.

    Yields
    ------
    Path
        The folder to write into, on the same disk.

    Raises
    ------
    SaveError
        If a file cannot be written or the disk is full. The older files stay.
    """
    from safetensors import SafetensorError

    folder = make_folder(folder)
    finish_replacing(folder, first)
    _sweep(folder)
    work = folder / f"{_WORK}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        work.mkdir()
        yield work
        for file in _files_in(work):
            with file.open("r+b") as opened:
                os.fsync(opened.fileno())
        pattern = re.compile(stale or r"(?!)")
        new = {file.name for file in _files_in(work)}
        write_json(work / _STALE, [name for name in os.listdir(folder) if pattern.fullmatch(name) and name not in new])
        remove_folder(folder / _READY)  # ready, and never begun to be moved
        os.replace(work, folder / _READY)
        _move(folder, first)
    except SaveError:
        raise
    except (OSError, SafetensorError) as error:  # safetensors has a type of its own for a full disk
        raise SaveError(
            f"could not write the files: {getattr(error, 'strerror', None) or error}",
            where=str(folder),
            next="free some space or choose a folder you may write to, then run the same command again",
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def finish_replacing(folder: Path | str, first: str) -> None:
    """Do what a process that was killed in `replaced_together` had begun and not ended; called before reading.

    Raises
    ------
    SaveError
        If the folder cannot be written.
    """
    folder = Path(folder)
    ready = folder / _READY
    if not ready.is_dir() or (ready / first).exists():
        return
    try:
        _move(folder, first)
    except OSError as error:
        raise SaveError(
            f"saving into this folder was broken off and cannot be finished: {error.strerror or error}",
            where=str(folder),
            next="make the folder writable, or copy it to one that is, then run the same command again",
        ) from error


def remove_folder(folder: Path) -> None:
    """Delete a folder so that no reader, at whatever point this is killed, finds a part of it under its name."""
    if folder.is_dir():
        with contextlib.suppress(OSError):
            os.replace(folder, folder.with_name(f"{_OLD}{os.getpid()}-{secrets.token_hex(4)}"))
        shutil.rmtree(folder, ignore_errors=True)  # where it cannot be renamed
    if folder.parent.is_dir():
        _sweep(folder.parent)


def _move(folder: Path, first: str) -> None:
    """Give the files that are ready their places, `first` before all others, and delete the stale ones."""
    ready = folder / _READY
    files = sorted(_files_in(ready), key=lambda file: (file.name != first, file.name))
    for file in files:
        if file != ready / _STALE:
            target = folder / file.relative_to(ready)
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # another reader was faster
                os.replace(file, target)
    with contextlib.suppress(OSError, ValueError):
        names = read_json(ready / _STALE)
        for name in names:
            if isinstance(name, str) and Path(name).name == name:
                (folder / name).unlink(missing_ok=True)
    shutil.rmtree(ready, ignore_errors=True)


def _files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _sweep(folder: Path) -> None:
    """Delete what killed processes have left."""
    import psutil

    for path in folder.iterdir():
        match = re.fullmatch(rf"({re.escape(_WORK)}|{re.escape(_OLD)})(\d+)-[0-9a-f]+", path.name)
        if match is None or path.is_symlink():
            continue
        with contextlib.suppress(OSError):
            idle = time.time() - path.stat().st_mtime > _LEFT_OVER
            if match[1] == _OLD or (idle and not psutil.pid_exists(int(match[2]))):
                shutil.rmtree(path, ignore_errors=True)
