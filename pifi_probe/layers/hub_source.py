"""One file of a hub repository as a source of bytes: only what is asked for is fetched, and only once."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.utils import hf_raise_for_status, tqdm

from pifi_probe.errors import CorruptFileError, HubError, SaveError
from pifi_probe.escaping import one_line
from pifi_probe.files import atomic_write
from pifi_probe.layers.hub_client import HubClient, Interrupted, Location
from pifi_probe.layers.sources import ByteSource, FileSource

__all__ = ["HubRangeSource"]

_log = logging.getLogger(__name__)
_EXPIRED = {401, 403, 410}  # answers of a storage to a signed address whose time is over
_SHOW_PROGRESS = 8 << 20  # bytes


@dataclass
class _Span:
    """Bytes ``start`` to ``stop`` of the file: one buffer of the reader, a tensor or a part of the header."""

    start: int
    stop: int
    buffer: memoryview


class _Run:
    """Spans that follow one another and are fetched with one request; `position` is the next byte to come."""

    def __init__(self, span: _Span, position: int) -> None:
        self.spans = [span]
        self.first = self.position = position

    @property
    def stop(self) -> int:
        return self.spans[-1].stop

    def take(self, chunk: bytes) -> Iterator[_Span]:
        """Copy `chunk` to its place and yield the spans that are complete with it."""
        view = memoryview(chunk)
        for span in self.spans:
            if view and span.start <= self.position < span.stop:
                part = view[: span.stop - self.position]
                at = self.position - span.start
                span.buffer[at : at + part.nbytes] = part
                self.position += part.nbytes
                view = view[part.nbytes :]
                if self.position == span.stop:
                    yield span

    def unfinished(self) -> Iterator[_Span]:
        """Yield the span that was begun in this run and is not complete, if there is one."""
        for span in self.spans:
            if max(span.start, self.first) < self.position < span.stop:
                yield span


class HubRangeSource(ByteSource):
    """A file on the hub, read by byte ranges and kept on disk.

    Each buffer that a reader asks for (one tensor, or a part of the header) becomes one file of the cache,
    written atomically; missing neighbours are fetched with one request. What a broken transfer has brought is
    kept, also of the tensor in which it broke.

    Parameters
    ----------
    client : HubClient
        Speaks to the repository.
    commit : str
        Full commit hash.
    filename : str
        Path inside the repository.
    size : int
        Length of the file in bytes.
    cache : Path
        Folder for the parts of this file at this commit.
    fallback : callable
        Called when the server does not serve ranges; downloads the file and returns its path, or raises
        `HubError`.

    Attributes
    ----------
    bytes_read : int
        Bytes received from the network, without those that came from the cache.
    """

    def __init__(
        self,
        client: HubClient,
        commit: str,
        filename: str,
        size: int,
        cache: Path,
        fallback: Callable[[str], Path],
    ) -> None:
        self.name = f"{client.repo}@{commit[:8]}/{filename}"
        self.size = size
        self.bytes_read = 0
        self._client, self._commit, self._filename = client, commit, filename
        self._cache, self._fallback = cache, fallback
        self._location: Location | None = None
        self._whole: FileSource | None = None
        self._lock = threading.RLock()

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; raises as `read_scattered`."""
        self._check(offset, length)
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`; raises as `read_scattered`."""
        self.read_scattered(offset, [buffer])

    def read_scattered(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers with the bytes that follow one another from `offset`, from the cache or the hub.

        Raises
        ------
        CorruptFileError
            If the file ends before.
        HubError
            If the hub refuses, fails for long, or does not serve ranges; what has come is kept.
        """
        self._check(offset, sum(buffer.nbytes for buffer in buffers))
        spans = []
        for buffer in buffers:
            spans.append(_Span(offset, offset + buffer.nbytes, buffer.cast("B")))
            offset += buffer.nbytes
        with self._lock:
            for run in self._missing(spans):
                self._fetch(run)

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CorruptFileError(
                f"the file is truncated: bytes {offset} to {offset + length} were asked for, of {self.size}",
                where=self.name,
                next="use another revision of the model, or tell its author",
            )

    # --- cache ----------------------------------------------------------------------------------------------

    def _missing(self, spans: list[_Span]) -> list[_Run]:
        """Fill what the cache holds and return the runs that it does not."""
        runs: list[_Run] = []
        open_run = False
        for span in spans:
            have = self._load(span)
            if span.start + have == span.stop:
                open_run = open_run and span.start == span.stop
            elif open_run and have == 0:
                runs[-1].spans.append(span)
            else:
                runs.append(_Run(span, span.start + have))
                open_run = True
        return runs

    def _load(self, span: _Span) -> int:
        """Fill a span as far as the cache reaches and return the number of bytes."""
        length = span.stop - span.start
        for path, least in ((self._path(span, "bin"), length), (self._path(span, "part"), 0)):
            with contextlib.suppress(OSError), path.open("rb") as file:
                size = path.stat().st_size
                if least <= size <= length:
                    return file.readinto(span.buffer[:size])
        return 0

    def _keep(self, span: _Span, suffix: str, length: int) -> None:
        """Write the first `length` bytes of a span to the cache; a full disk is no reason to stop."""
        try:
            with atomic_write(self._path(span, suffix), "wb") as file:
                file.write(span.buffer[:length])
        except SaveError as error:
            _log.warning("not kept in the cache: %s", error)

    def _path(self, span: _Span, suffix: str) -> Path:
        return self._cache / f"{span.start}-{span.stop}.{suffix}"

    # --- network --------------------------------------------------------------------------------------------

    def _fetch(self, run: _Run) -> None:
        if self._whole is None:
            try:
                with self._bar(run) as bar:
                    self._client.attempt(lambda: self._stream(run, bar), self.name, lambda: run.position)
                return
            except _NoRanges:
                path = self._fallback(self._filename)
                self._whole = FileSource(path)
                self.bytes_read += self._whole.size
            finally:
                for span in run.unfinished():
                    self._keep(span, "part", run.position - span.start)
        self._whole.read_scattered(run.spans[0].start, [span.buffer for span in run.spans])

    def _stream(self, run: _Run, bar: tqdm) -> None:
        """Make one request for what is left of `run` and take what comes."""
        if run.position == run.stop:
            return
        if self._location is None:
            self._location = self._client.locate(self._filename, self._commit)
        with self._client.stream(self._location, run.position, run.stop) as response:
            if response.status_code in _EXPIRED and not self._location.on_hub:
                self._location = None
                raise Interrupted(f"the storage refuses the address (HTTP {response.status_code})")
            hf_raise_for_status(response)
            self._check_range(response.status_code, response.headers.get("Content-Range"), run)
            for chunk in response.iter_raw():
                self.bytes_read += len(chunk)
                bar.update(len(chunk))
                for span in run.take(chunk):
                    self._keep(span, "bin", span.stop - span.start)
                    with contextlib.suppress(OSError):
                        self._path(span, "part").unlink()
        if run.position < run.stop:
            raise Interrupted(f"the answer ended {run.stop - run.position} bytes early")

    def _check_range(self, status: int, content_range: str | None, run: _Run) -> None:
        """Make sure that the bytes to come are the bytes asked for."""
        if status == 200 and (run.position, run.stop) == (0, self.size):
            return
        if status == 200:
            raise _NoRanges
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", (content_range or "").strip())
        right = (str(run.position), str(run.stop - 1))
        if match is None or match.groups()[:2] != right or match[3] not in (str(self.size), "*"):
            raise HubError(
                f"the server sent other bytes than asked for: {content_range!r} instead of "
                f"'bytes {right[0]}-{right[1]}/{self.size}'",
                where=self.name,
                next="check HF_ENDPOINT and the proxy settings, then run the same command again",
            )

    def _bar(self, run: _Run) -> tqdm:
        missing = run.stop - run.position
        off = True if missing < _SHOW_PROGRESS else None
        return tqdm(total=missing, unit="B", unit_scale=True, desc=one_line(self._filename), leave=False, disable=off)


class _NoRanges(Exception):
    """The server sends whole files only."""
