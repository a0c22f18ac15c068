"""Bytes at an offset, from a file or from anything else that can be read in pieces."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import FileIO
from itertools import groupby, pairwise
from pathlib import Path
from typing import Protocol

import torch

from pifi_probe.errors import CheckpointError, CorruptFileError

__all__ = [
    "ByteSource",
    "FileSource",
    "TensorInfo",
    "check_rows",
    "dropping_what_cannot_be",
    "read_raw",
    "read_raw_rows",
]

_PIECE = 1 << 25  # bytes in one system call
_READERS = 4  # pieces of one request that are read at once: filling fresh memory takes longer than a fast disk
_ROWS_AT_ONCE = 1 << 24  # bytes of a tensor of which only some rows are wanted
_MOST_GAP = 1 << 16  # bytes between two tensors that are read along, for want of a second request
_GAP = "gap"  # in place of a type; a name may be anything, even empty
_MOST_BUFFERS = 512  # buffers in one system call; the usual limit is 1024


class ByteSource(Protocol):
    """Something with a size that is read in pieces and counts what it has read.

    Attributes
    ----------
    name : str
        Path or URL, for messages.
    size : int
        Length in bytes.
    bytes_read : int
        Bytes fetched until now, counted by the source itself.
    """

    name: str
    size: int
    bytes_read: int

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; `CorruptFileError` when the source ends before."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes, writable) from `offset`; `CorruptFileError` when the source ends before."""
        ...

    def read_scattered(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill several buffers with the bytes that follow one another from `offset` on.

        A source with a cost for each request overrides this to fetch the whole run with one request.
        """
        for buffer in buffers:
            self.read_into(offset, buffer)
            offset += buffer.nbytes

    def forget(self) -> None:
        """Drop what was kept of the source: it holds something that cannot be. A local file stays as it is."""
        return


@contextlib.contextmanager
def dropping_what_cannot_be(source: ByteSource) -> Iterator[None]:
    """Let a source of which something turns out to be corrupt forget what it kept, so that it is fetched again."""
    try:
        yield
    except CorruptFileError:
        source.forget()
        raise


@dataclass(frozen=True)
class TensorInfo:
    """Where one stored tensor lies.

    Parameters
    ----------
    name : str
        Name as stored.
    dtype : str
        ``"F32"``, ``"BF16"``, ``"Q4_1"``, ...
    shape : tuple of int
        Rows first, as torch has it.
    source : ByteSource
        The file that holds it.
    offset, nbytes : int
        Its bytes in the file, counted from the start of the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: ByteSource
    offset: int
    nbytes: int


class FileSource(ByteSource):
    """A local file read with positioned reads, so that `bytes_read` is what the kernel counts too.

    Parameters
    ----------
    path : Path or str
        The file. It is opened by the first read and stays open until `close`, or until the source is garbage.

    Raises
    ------
    CheckpointError
        If there is no such file.
    """

    def __init__(self, path: Path | str) -> None:
        self.name = str(path)
        self.bytes_read = 0
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        if not Path(path).is_file():
            raise CheckpointError("the file is missing", where=self.name, next="check the path or download it again")
        self.size = Path(path).stat().st_size

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self.close()

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`."""
        self._check(offset, length)
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`."""
        self.read_scattered(offset, [buffer])

    def read_scattered(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill several buffers with the bytes that follow one another from `offset` on.

        Raises
        ------
        CorruptFileError
            If the file ends before.
        CheckpointError
            If the file cannot be opened or read.
        """
        self._check(offset, sum(buffer.nbytes for buffer in buffers))
        pieces = list(_pieces(offset, buffers))
        if len(pieces) > 1:
            with ThreadPoolExecutor(_READERS) as pool:
                list(pool.map(self._read_piece, *zip(*pieces, strict=True)))
        elif pieces:
            self._read_piece(*pieces[0])

    def _read_piece(self, offset: int, left: list[memoryview]) -> None:
        while left:
            try:
                n = self._read_some(offset, left)
            except OSError as error:
                raise CheckpointError(
                    f"the file cannot be read: {error.strerror}",
                    where=self.name,
                    next="check its permissions and the disk",
                ) from error
            if n == 0:
                raise self._too_short(offset, sum(buffer.nbytes for buffer in left))
            with self._lock:
                self.bytes_read += n
            offset += n
            left = _drop(left, n)

    def _read_some(self, offset: int, buffers: list[memoryview]) -> int:
        """Read once, into as many buffers as one call takes; return the number of bytes."""
        with self._lock:
            if self._file is None:
                self._file = FileIO(self.name, "rb")
            if not hasattr(os, "preadv"):  # Windows, old macOS
                self._file.seek(offset)
                return self._file.readinto(buffers[0])
        return os.preadv(self._file.fileno(), buffers[:_MOST_BUFFERS], offset)

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise self._too_short(offset, length)

    def _too_short(self, offset: int, length: int) -> CorruptFileError:
        return CorruptFileError(
            f"the file is truncated: bytes {offset} to {offset + length} were asked for, it has {self.size}",
            where=self.name,
            next="download the file again",
        )


def _pieces(offset: int, buffers: Sequence[memoryview]) -> Iterator[tuple[int, list[memoryview]]]:
    """Yield the parts of a request that are read at once: where each begins, and the buffers that it fills."""
    left = [buffer.cast("B") for buffer in buffers if buffer.nbytes]
    while left:
        piece: list[memoryview] = []
        room = _PIECE
        for buffer in left:
            piece.append(buffer[:room])
            room -= piece[-1].nbytes
            if room == 0:
                break
        yield offset, piece
        offset += _PIECE - room
        left = _drop(left, _PIECE - room)


def _drop(buffers: list[memoryview], n: int) -> list[memoryview]:
    """Return what remains of `buffers` after their first `n` bytes."""
    for i, buffer in enumerate(buffers):
        if n < buffer.nbytes:
            return [buffer[n:], *buffers[i + 1 :]]
        n -= buffer.nbytes
    return []


def read_raw(infos: Sequence[TensorInfo]) -> dict[str, torch.Tensor]:
    """Read stored tensors as bytes, in file order, adjacent ones and those with small gaps between with one request.

    Returns
    -------
    dict
        Name to a uint8 tensor of shape ``(nbytes,)``. Each has memory of its own: dropping one frees it.
    """
    found: dict[str, torch.Tensor] = {}
    for run in _adjacent_runs([*infos, *_gaps(infos)]):
        tensors = [torch.empty(info.nbytes, dtype=torch.uint8) for info in run]
        run[0].source.read_scattered(run[0].offset, [tensor.numpy().data for tensor in tensors])
        found.update((info.name, tensor) for info, tensor in zip(run, tensors, strict=True) if info.dtype != _GAP)
    return found


def _gaps(infos: Sequence[TensorInfo]) -> list[TensorInfo]:
    """Return the small gaps between tensors that are read along, so that many requests become one.

    Between the tensors of quantised layers lie thousands of numbers that concern activations. The smallest gaps come
    first, as long as all of them together are a hundredth of what is asked for.
    """
    ordered = sorted(infos, key=lambda info: (info.source.name, info.offset, info.nbytes))
    gaps = []
    for before, after in pairwise(ordered):
        end = before.offset + before.nbytes
        if before.source is after.source and 0 < after.offset - end <= _MOST_GAP:
            gaps.append(TensorInfo("", _GAP, (after.offset - end,), before.source, end, after.offset - end))
    room = sum(info.nbytes for info in infos) // 100
    chosen: list[TensorInfo] = []
    for gap in sorted(gaps, key=lambda gap: gap.nbytes):
        room -= gap.nbytes
        if room < 0:
            break
        chosen.append(gap)
    return chosen


def read_raw_rows(info: TensorInfo, rows: torch.Tensor) -> tuple[TensorInfo, torch.Tensor]:
    """Read some rows of a stored matrix as bytes, piece by piece, so that the matrix is never in memory.

    Parameters
    ----------
    info : TensorInfo
        A matrix whose rows are stored one after the other.
    rows : Tensor, (n,), int64
        Indices of rows, ascending.

    Returns
    -------
    TensorInfo, Tensor
        Name, type and shape ``(n, columns)`` of what was read, and its bytes, uint8 of shape ``(nbytes,)``.

    Raises
    ------
    CheckpointError
        If the matrix has no such row.
    """
    check_rows(info, rows)
    size = info.nbytes // info.shape[0]
    step = max(1, _ROWS_AT_ONCE // size)
    found = torch.empty(len(rows), size, dtype=torch.uint8)
    piece = torch.empty(min(step, info.shape[0]), size, dtype=torch.uint8)
    for start in range(0, info.shape[0], step):
        stop = min(start + step, info.shape[0])
        low, high = (int(i) for i in torch.searchsorted(rows, torch.tensor([start, stop])))
        if low < high:
            info.source.read_into(info.offset + start * size, piece[: stop - start].reshape(-1).numpy().data)
            found[low:high] = piece[rows[low:high] - start]
    shape = (len(rows), *info.shape[1:])
    return replace(info, shape=shape, nbytes=found.numel()), found.reshape(-1)


def check_rows(info: TensorInfo, rows: torch.Tensor) -> None:
    """Raise `CheckpointError` unless every row index is one of the tensor's."""
    if int(rows.max()) >= info.shape[0]:
        raise CheckpointError(
            f"the tokenizer gives token {int(rows.max())}, and {info.name!r} has {info.shape[0]} rows",
            where=info.source.name,
            next="use the tokenizer that belongs to this checkpoint",
        )


def _adjacent_runs(infos: Sequence[TensorInfo]) -> Iterator[list[TensorInfo]]:
    """Yield runs of tensors of one source whose bytes follow one another, in file order."""
    ordered = sorted(infos, key=lambda info: (info.source.name, info.offset, info.nbytes))
    for _, group in groupby(ordered, key=lambda info: info.source.name):
        run: list[TensorInfo] = []
        for info in group:
            if run and info.offset != run[-1].offset + run[-1].nbytes:
                yield run
                run = []
            run.append(info)
        yield run
