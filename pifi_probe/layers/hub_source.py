"""One file of a hub repository as a source of bytes: only what is asked for is fetched, and only once."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.utils import tqdm

from pifi_probe.errors import CorruptFileError, SaveError
from pifi_probe.files import atomic_write, write_text
from pifi_probe.folders import remove_folder
from pifi_probe.layers.hub_answer import Interrupted, NoRanges, WrongAnswer, body_of
from pifi_probe.layers.hub_client import HubClient, Location, progress_bar
from pifi_probe.layers.sources import ByteSource, FileSource

__all__ = ["HubRangeSource"]

_log = logging.getLogger(__name__)
_EXPIRED = {401, 403, 410}  # answers of a storage to a signed address whose time is over
_ETAG = "etag"  # next to the parts: the version of the file that they are of


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
    digest : str, optional
        Hexadecimal sha256 of the whole file, where the hub lists it.

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
        digest: str | None = None,
    ) -> None:
        self.name = f"{client.repo}@{commit[:8]}/{filename}"
        self.size = size
        self.bytes_read = 0
        self._client, self._commit, self._filename = client, commit, filename
        self._cache, self._fallback, self._digest = cache, fallback, digest
        self._etags: dict[str, str] = {}
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
            If the hub refuses, fails for long, or does not serve ranges; what has come is kept. If it sends bytes
            that are not the ones asked for; then all that was kept of this file is dropped.
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
                with progress_bar(self._filename, run.stop - run.position) as bar:
                    self._client.attempt(lambda: self._stream(run, bar), self.name, lambda: run.position)
                return
            except NoRanges:
                path = self._fallback(self._filename)
                self._whole = FileSource(path)
                self.bytes_read += self._whole.size
            except WrongAnswer:
                self.forget()
                raise
            except BaseException:
                for span in run.unfinished():
                    self._keep(span, "part", run.position - span.start)
                raise
        self._whole.read_scattered(run.spans[0].start, [span.buffer for span in run.spans])

    def _stream(self, run: _Run, bar: tqdm) -> None:
        """Make one request for what is left of `run` and take what comes."""
        if run.position == run.stop:
            return
        if self._location is None:
            self._location = self._locate()
        with self._client.stream(self._location, run.position, run.stop) as response:
            if response.status_code in _EXPIRED and not self._location.on_hub:
                self._location = None
                raise Interrupted(f"the storage refuses the address (HTTP {response.status_code})")
            for chunk in body_of(response, run.position, run.stop, self.size, self.name, self._etags):
                self.bytes_read += len(chunk)
                bar.update(len(chunk))
                for span in run.take(chunk):
                    self._keep(span, "bin", span.stop - span.start)
                    with contextlib.suppress(OSError):
                        self._path(span, "part").unlink()

    def _locate(self) -> Location:
        """Ask where the file is, and make sure that it is still the one of which parts are here."""
        found = self._client.locate(self._filename, self._commit)
        note = self._cache / _ETAG
        known = self._digest
        with contextlib.suppress(OSError, UnicodeError):
            known = known or note.read_text(encoding="utf-8")[:200]
        comparable = self._digest is None or re.fullmatch(r"[0-9a-f]{64}", found.etag or "")
        if known and found.etag and comparable and found.etag != known:
            raise WrongAnswer(
                f"the file at the hub is not the one that was listed or begun before: its digest or ETag was "
                f"{known[:80]}, now it is {found.etag[:80]}",
                where=self.name,
                next="run the same command again: what was fetched of this file has been dropped",
            )
        if found.etag and not known:
            with contextlib.suppress(SaveError):
                write_text(note, found.etag)
        return found

    def forget(self) -> None:
        """Drop what was kept of the file, which has turned out to be wrong."""
        remove_folder(self._cache)
