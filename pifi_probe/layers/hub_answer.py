"""What the hub or its storage answers, checked before a byte of it counts, and read no longer than it was asked for."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.utils import hf_raise_for_status

from pifi_probe.errors import HubError

__all__ = ["Interrupted", "NoRanges", "Pace", "WrongAnswer", "body_of", "read_all"]

_SLOWEST = 1024  # bytes a second; a slower answer is asked for again
_MOST_HEADER = 200  # letters of a header that says when to come again
_MOST_ERROR = 1 << 16  # bytes of the text of an error
_CHECK = "check HF_ENDPOINT, the proxy and whether a network asks for a login, then run the same command again"


class WrongAnswer(HubError):
    """The bytes that came are not the ones that were asked for, and none of them may be kept."""

    def __init__(self, what: str, *, where: str, next: str = _CHECK) -> None:
        super().__init__(what, where=where, next=next)


class Interrupted(Exception):
    """An answer that ended early or cannot be used, but may be better when asked for again."""


class NoRanges(Exception):
    """The server sends whole files only."""


class Pace:
    """Measures an answer, which may trickle for ever without a pause long enough to count as one.

    The time over which it measures is the client's own patience between two bytes (``HF_HUB_DOWNLOAD_TIMEOUT``).
    """

    def __init__(self) -> None:
        self._since, self._got = time.monotonic(), 0

    def add(self, n: int) -> None:
        """Count `n` bytes; raise `Interrupted` when on the whole they come too slowly."""
        self._got += n
        seconds = time.monotonic() - self._since
        if seconds >= constants.HF_HUB_DOWNLOAD_TIMEOUT:
            if self._got < _SLOWEST * seconds:
                raise Interrupted(f"only {self._got / seconds:.0f} bytes a second came")
            self._since, self._got = time.monotonic(), 0


def body_of(
    response: Any, start: int, stop: int | None, size: int | None, where: str, etags: dict[str, str]
) -> Iterator[bytes]:
    """Yield the bytes `start` to `stop` of a file out of the answer to a request for them, and nothing beyond.

    Parameters
    ----------
    response
        Of the client, in streaming mode.
    start, stop : int
        What was asked for, `stop` exclusive; None for a file of unknown length.
    size : int or None
        Length of the whole file.
    where : str
        The file, for messages.
    etags : dict
        Address (without signature) to the ETag first seen there; added to here.

    Raises
    ------
    WrongAnswer
        If the answer is compressed, a web page, another range, of another length, or of another version of the file.
    NoRanges
        If the whole file comes in place of a part.
    Interrupted
        If the answer ends early or trickles.
    """
    raise_for_status(response)
    _check_kind(response, where)
    _check_range(response, start, stop, size, where)
    _check_version(response, where, etags)
    left = None if stop is None else stop - start
    pace = Pace()
    for chunk in response.iter_raw():
        pace.add(len(chunk))
        if left is not None:
            chunk = chunk[:left]
            left -= len(chunk)
        if chunk:
            yield chunk
        if left == 0:
            return
    if left:
        raise Interrupted(f"the answer ended {left} bytes early")


def read_all(response: Any, most: int, where: str) -> bytes:
    """Return the body of a small answer (decoded), of at most `most` bytes."""
    raise_for_status(response)
    pace, body = Pace(), bytearray()
    for chunk in response.iter_bytes():
        pace.add(len(chunk))
        body += chunk
        if len(body) > most:
            raise WrongAnswer(f"the answer is longer than {most >> 20} MiB", where=where)
    return bytes(body)


def raise_for_status(response: Any) -> None:
    """Raise the client's own error for an answer that is none of success, after reading the beginning of its text."""
    if response.status_code >= 400:
        body, pace = bytearray(), Pace()
        for chunk in response.iter_bytes():
            pace.add(len(chunk))
            body += chunk[: _MOST_ERROR - len(body)]
            if len(body) >= _MOST_ERROR:
                break
        response._content = bytes(body)  # so that the client does not read on, which may have no end
    for name in ("RateLimit", "RateLimit-Policy", "Retry-After"):
        if len(response.headers.get(name) or "") > _MOST_HEADER:
            del response.headers[name]  # the client takes a number of any length for one
    hf_raise_for_status(response)


def _check_kind(response: Any, where: str) -> None:
    encoding = (response.headers.get("Content-Encoding") or "").strip().lower()
    if encoding not in ("", "identity"):
        raise WrongAnswer(f"the answer is compressed ({encoding[:40]}), which was not asked for", where=where)
    kind = (response.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") and not where.lower().endswith((".html", ".htm")):
        raise WrongAnswer("a web page came in place of the file, such as a page to log in", where=where)
    if response.status_code not in (200, 206):
        raise WrongAnswer(f"the server answered HTTP {response.status_code} in place of the file", where=where)


def _check_range(response: Any, start: int, stop: int | None, size: int | None, where: str) -> None:
    """Make sure that the bytes to come are the bytes asked for."""
    stated = (response.headers.get("Content-Range") or "").strip()
    if response.status_code == 200:
        if start != 0 or stop != size:
            raise NoRanges
    elif stop is not None:
        match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", stated)
        if match is None or match.groups()[:2] != (str(start), str(stop - 1)) or match[3] not in (str(size), "*"):
            raise WrongAnswer(
                f"the server sent other bytes than asked for: {stated[:80]!r} instead of "
                f"'bytes {start}-{stop - 1}/{size}'",
                where=where,
            )
    length = (response.headers.get("Content-Length") or "").strip()
    if length and stop is not None and length != str(stop - start):
        raise WrongAnswer(f"the server sends {length[:40]} bytes, {stop - start} were asked for", where=where)


def _check_version(response: Any, where: str, etags: dict[str, str]) -> None:
    etag = response.headers.get("ETag")
    if etag:
        parts = urlsplit(str(response.url))
        first = etags.setdefault(f"{parts.netloc}{parts.path}", etag)
        if first != etag:
            raise WrongAnswer(
                f"the file changed at the server while it was read: its ETag was {first[:80]}, now it is {etag[:80]}",
                where=where,
                next="run the same command again: what was fetched of this file has been dropped",
            )
