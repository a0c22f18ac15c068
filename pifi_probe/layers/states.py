"""The hidden states of a whole sample between two layers: in memory, in a file, or in both."""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Iterator, Sequence
from io import FileIO
from itertools import accumulate
from pathlib import Path

import torch

from pifi_probe.errors import CheckpointError, CorruptFileError, SaveError
from pifi_probe.files import write_json
from pifi_probe.reading import read_object

__all__ = ["StateStore", "finished_point"]

_log = logging.getLogger(__name__)
_JOURNAL = "journal.json"
_PARTIAL = "next.partial"


class StateStore:
    """Holds the states of all batches at one point, while those of the next point are written batch by batch.

    Parameters
    ----------
    shapes : sequence of (batch, seq, d)
        Of the batches.
    key : str
        What the states belong to; states of another key in `folder` are not used.
    folder : Path, optional
        States of a finished point stay here until those of the next are complete, so that a killed process can go
        on; a journal names the last finished point and the checksum of its file.
    in_memory : bool
        Keep the states in memory, and use `folder` for resuming only. Without it a folder is needed.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]], *, key: str, folder: Path | None, in_memory: bool):
        self._shapes, self._key, self._folder = list(shapes), key, folder
        sizes = [4 * rows * seq * width for rows, seq, width in self._shapes]
        self._starts = [0, *accumulate(sizes)]
        self._memory: list[torch.Tensor] | None = [torch.empty(0)] * len(sizes) if in_memory else None
        self._current: FileIO | None = None
        self._next: FileIO | None = None
        self._crc = 0
        if folder is not None:
            with self._disk_may_fail():
                folder.mkdir(parents=True, exist_ok=True)

    def resume(self) -> int | None:
        """Return the last point that an earlier process finished here, its states ready to be read; or None."""
        if self._folder is None:
            return None
        try:
            journal = read_object(self._folder / _JOURNAL)
            point = int(journal["point"])
            whole = journal["key"] == self._key and self._load(point) == journal["crc"]
        except (CheckpointError, OSError, KeyError, TypeError, ValueError):
            return None
        if not whole:
            _log.warning("%s: the states on disk are damaged or belong to another pass: starting again", self._folder)
        return point if whole else None

    def read(self, batch: int) -> torch.Tensor:
        """Return the states (batch, seq, d), float32, of the finished point."""
        return self._memory[batch] if self._memory is not None else self._read_file(batch)

    def _read_file(self, batch: int) -> torch.Tensor:
        assert self._current is not None
        states = torch.empty(self._shapes[batch])
        self._current.seek(self._starts[batch])
        if self._current.readinto(_bytes(states)) != states.nbytes:
            raise CorruptFileError("the states on disk are truncated", where=str(self._folder), next="run it again")
        return states

    def write(self, batch: int, states: torch.Tensor) -> None:
        """Take the states of the next point; batches come in order, each after it was read.

        Raises
        ------
        SaveError
            If the disk is full and the states are not kept in memory.
        """
        if self._memory is not None:
            self._memory[batch] = states
        if self._folder is None:
            return
        with self._disk_may_fail():
            if self._next is None:
                self._next, self._crc = FileIO(self._folder / _PARTIAL, "w"), 0
            data = _bytes(states.contiguous())
            self._crc = zlib.crc32(data, self._crc)
            while data:
                data = data[self._next.write(data) :]

    def finish(self, point: int) -> None:
        """Make what was written the states of `point`."""
        if self._folder is None or self._next is None:
            return
        with self._disk_may_fail():
            self.close()
            (self._folder / _PARTIAL).replace(self._file(point))
            write_json(self._folder / _JOURNAL, {"point": point, "crc": self._crc, "key": self._key})
            for old in self._folder.glob("states-*.bin"):
                if old != self._file(point):
                    old.unlink()
            if self._memory is None:
                self._current = FileIO(self._file(point), "r")

    def remove(self) -> None:
        """Delete what lies on disk."""
        self.close()
        if self._folder is None:
            return
        with contextlib.suppress(OSError):
            for path in (self._folder / _JOURNAL, self._folder / _PARTIAL, *self._folder.glob("states-*.bin")):
                path.unlink(missing_ok=True)
            self._folder.rmdir()

    def _load(self, point: int) -> int:
        """Open the states of `point`, put them into memory where they belong, and return their checksum."""
        self._current, crc = FileIO(self._file(point), "r"), 0
        for batch in range(len(self._shapes)):
            states = self._read_file(batch)
            crc = zlib.crc32(_bytes(states), crc)
            if self._memory is not None:
                self._memory[batch] = states
        if self._memory is not None:
            self.close()
        return crc

    def _file(self, point: int) -> Path:
        assert self._folder is not None
        return self._folder / f"states-{point:03d}.bin"

    def close(self) -> None:
        """Close the files; what is on disk stays."""
        for file in (self._current, self._next):
            if file is not None:
                file.close()
        self._current = self._next = None

    @contextlib.contextmanager
    def _disk_may_fail(self) -> Iterator[None]:
        """Go on in memory when the disk is full or cannot be written, or say what to do when that is impossible."""
        try:
            yield
        except OSError as error:
            folder, self._folder = self._folder, None
            self.close()
            with contextlib.suppress(OSError):
                (folder / _PARTIAL).unlink()  # type: ignore[operator]  # it was a folder when the disk was used
            where = str(folder)
            if self._memory is None:
                raise SaveError(
                    f"the hidden states do not fit in memory and cannot be written: {error.strerror or error}",
                    where=where,
                    next="free some space, or allow more with memory= (bytes)",
                ) from error
            _log.warning("hidden states are not kept on disk, an interrupted pass starts again: %s: %s", where, error)


def finished_point(folder: Path) -> int | None:
    """Return the last point that the journal in a folder says was finished there; None when it says nothing."""
    try:
        return int(read_object(folder / _JOURNAL)["point"])
    except (CheckpointError, OSError, KeyError, TypeError, ValueError):
        return None


def _bytes(states: torch.Tensor) -> memoryview:
    return states.reshape(-1).numpy().data.cast("B")
