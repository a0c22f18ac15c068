"""Features kept on disk by what they were made from: a folder a key, a file a point, for several processes."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import BaseFileLock, FileLock, Timeout
from numpy.typing import NDArray

from pifi_probe.errors import CheckpointError, FeatureError, SaveError
from pifi_probe.files import atomic_write, features_root, write_json
from pifi_probe.folders import remove_folder
from pifi_probe.layers.states import finished_point
from pifi_probe.reading import read_object

__all__ = ["CacheEntry", "Entry", "Point", "cache_entries", "clear_cache"]

Point = Path | NDArray[np.float32]

_log = logging.getLogger(__name__)
_KEY = "key.json"


class Entry:
    """One folder of the cache.

    Parameters
    ----------
    key : Mapping
        JSON values that say what the features were made from.
    digest : str
        Hexadecimal digest of `key`.
    n_points : int
        Files when complete.
    shape : tuple of int, optional
        (N, D) of each; None where only the file knows it.
    """

    def __init__(self, key: Mapping[str, Any], digest: str, n_points: int, shape: tuple[int, int] | None) -> None:
        self.folder = features_root() / digest
        self._key, self._n_points, self._shape = dict(key), n_points, shape
        self._kept: dict[int, NDArray[np.float32]] = {}  # what the disk did not take

    @property
    def states(self) -> Path:
        """Folder for the hidden states of a pass that is not complete."""
        return self.folder / "states"

    def points(self) -> list[Point] | None:
        """Return all points, or None while one is missing."""
        found = [self._kept.get(point, self._whole(point)) for point in range(self._n_points)]
        if any(point is None for point in found):
            return None
        with contextlib.suppress(OSError):
            os.utime(self.folder / _KEY)
        return found  # type: ignore[return-value]

    @contextlib.contextmanager
    def writing(self) -> Iterator[bool]:
        """Hold the entry for this process; False when the cache cannot be written.

        Waits while another process holds it; one that dies lets go.
        """
        lock = _lock_of(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                _log.warning("another process is computing these features, waiting for it: %s", self.folder)
                lock.acquire()
            write_json(self.folder / _KEY, {"key": self._key, "n_points": self._n_points, "shape": self._shape})
        except (OSError, NotImplementedError) as error:
            _log.warning("features are not cached: %s", error)
            lock.release()
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def forget_states_without_points(self) -> None:
        """Delete kept states unless every point up to theirs is here: their pass would not visit it again."""
        done = finished_point(self.states)
        if done is not None and any(self._whole(point) is None for point in range(done + 1)):
            remove_folder(self.states)

    def save(self, point: int, features: NDArray[np.float32]) -> None:
        """Keep the features (N, D) of a point: on disk, or in memory from the first time that the disk fails."""
        if not self._kept:
            try:
                with atomic_write(self._file(point), "wb") as file:
                    np.save(file, features)
                return
            except SaveError as error:
                _log.warning("features are kept in memory, not in the cache: %s", error)
        self._kept[point] = features

    def _file(self, point: int) -> Path:
        return self.folder / f"point-{point:03d}.npy"

    def _whole(self, point: int) -> Path | None:
        try:
            stored = np.load(self._file(point), mmap_mode="r")
        except (OSError, ValueError, EOFError):  # missing, truncated
            return None
        fits = self._shape is None or stored.shape == self._shape
        return self._file(point) if fits and stored.dtype == np.float32 else None


@dataclass(frozen=True)
class CacheEntry:
    """What the cache holds under one key.

    Parameters
    ----------
    name : str
        Folder in the cache.
    key : Mapping
        What the features were made from.
    bytes : int
        On disk.
    points_done, n_points : int
        Points that are there, and points of a complete entry.
    last_used : datetime
        In UTC.
    """

    name: str
    key: Mapping[str, Any]
    bytes: int
    points_done: int
    n_points: int
    last_used: datetime


def cache_entries() -> list[CacheEntry]:
    """Return what the cache holds, the last used first."""
    entries = []
    for file in features_root().glob(f"*/{_KEY}"):
        if file.parent.name.startswith("."):  # is being deleted
            continue
        with contextlib.suppress(CheckpointError, OSError, KeyError):
            stored = read_object(file)
            used = datetime.fromtimestamp(file.stat().st_mtime, UTC)
            done = len(list(file.parent.glob("point-*.npy")))
            size = _bytes_of(file.parent)
            entries.append(CacheEntry(file.parent.name, stored["key"], size, done, stored["n_points"], used))
    return sorted(entries, key=lambda entry: entry.last_used, reverse=True)


def clear_cache(names: Sequence[str] | None = None) -> int:
    """Delete entries of the cache; those that a process is writing stay.

    Parameters
    ----------
    names : sequence of str, optional
        Names, or beginnings of names, as `cache_entries` gives them. None: all.

    Returns
    -------
    int
        Bytes freed.

    Raises
    ------
    FeatureError
        If a name belongs to no entry.
    """
    present = [entry.name for entry in cache_entries()]
    for name in names or ():
        if not name or not any(one.startswith(name) for one in present):
            raise FeatureError(
                f"the cache has no entry {name!r}", where=str(features_root()), next="see pifi-probe cache list"
            )
    return sum(_remove(features_root() / one) for one in present if names is None or one.startswith(tuple(names)))


def _remove(folder: Path) -> int:
    lock = _lock_of(folder)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.warning("a process is writing these features, they stay: %s", folder)
        return 0
    except OSError as error:
        raise SaveError(
            f"the cache cannot be changed: {error.strerror or error}", where=str(folder), next="check its permissions"
        ) from error
    try:
        size = _bytes_of(folder)
        remove_folder(folder)
        return size - _bytes_of(folder)
    finally:
        lock.release()


def _lock_of(folder: Path) -> BaseFileLock:
    # next to the entry and never deleted, else two processes could lock two files of one name
    file = folder.parent / "locks" / f"{folder.name}.lock"
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file)


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
