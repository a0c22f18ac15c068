"""The hub's own client made patient: transient faults are retried, permanent ones become one clear line."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import logging
import os
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote, urlsplit

from huggingface_hub import (
    ModelInfo,
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_url,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, parse_ratelimit_headers, tqdm, validate_repo_id

from pifi_probe.errors import HubError, PifiProbeError, SaveError
from pifi_probe.escaping import one_line
from pifi_probe.files import cache_root
from pifi_probe.layers.hub_answer import Interrupted, NoRanges, WrongAnswer, body_of, read_all
from pifi_probe.reading import Refused, parse_json

__all__ = ["HubClient", "HubUnreachable", "Location", "Patience", "progress_bar"]

T = TypeVar("T")
_log = logging.getLogger(__name__)
_TRANSIENT = {408, 429, 500, 502, 503, 504}
_LONGEST_WAIT = 300.0  # seconds; a server that asks for more gets an error instead
_DAY = 86_400.0
_FOR_EVER = 10**9  # seconds; more is not told apart
_MOST_JSON = 1 << 26  # bytes of an answer of the API
_MOST_UNKNOWN = 1 << 28  # bytes of a file of which the hub does not say the length
_SHOW_PROGRESS = 8 << 20  # bytes
_PROGRESS = 1 << 20  # bytes that count as progress, after which the tries are counted anew


class HubUnreachable(HubError):
    """There is no connection to the hub, or the client is told not to use it."""


@dataclass(frozen=True)
class Patience:
    """How often and how long a transient fault is waited for.

    Parameters
    ----------
    tries : int
        Requests until giving up, counted again after progress.
    first, longest : float
        Seconds before the second try, and the most between two; doubled each time, with jitter.
    sleep : callable
        Called with seconds.
    """

    tries: int = 5
    first: float = 1.0
    longest: float = 30.0
    sleep: Callable[[float], None] = time.sleep

    def seconds(self, attempt: int) -> float:
        """Return how long to wait after failed attempt number `attempt` (from 1)."""
        return min(self.longest, self.first * 2 ** (attempt - 1)) * (0.5 + random.random() / 2)


@dataclass(frozen=True)
class Location:
    """Where the bytes of a file are: at the hub itself, or where the hub redirects to."""

    url: str
    size: int | None
    on_hub: bool
    etag: str | None = None  # sha256 of a large file, as the hub says it


class HubClient:
    """Requests about one repository.

    Parameters
    ----------
    repo : str
        ``"org/name"``.
    token : str or bool, optional
        As the hub's client has it: None uses the saved token, False none. It goes to the hub's host only.
    patience : Patience
        For transient faults.
    """

    def __init__(self, repo: str, token: str | bool | None = None, patience: Patience | None = None) -> None:
        self.repo = repo
        self.token = token
        self.patience = patience or Patience()

    def info(self, revision: str | None) -> ModelInfo:
        """Return what the hub knows about the repository at `revision`, with the size of every file."""
        at = "" if revision is None else f"/revision/{quote(revision, safe='')}"
        where = self.repo if revision is None else f"{self.repo}@{revision}"

        def ask() -> ModelInfo:
            validate_repo_id(self.repo)
            found = self._json(at, where, blobs="true")
            try:
                return ModelInfo(**found)
            except Exception as error:  # it takes apart what it is given
                raise WrongAnswer(f"the answer does not describe a model: {_reason(error)}", where=where) from error

        return self.attempt(ask, where)

    def _json(self, path: str, where: str, **query: str) -> dict[str, Any]:
        """Return a JSON object about the repository from the hub's API; one request, not retried here."""
        url = f"{constants.ENDPOINT}/api/models/{self.repo}{path}"
        headers = build_hf_headers(token=self.token, library_name="pifi_probe")
        timeout = constants.HF_HUB_ETAG_TIMEOUT
        with get_session().stream("GET", url, params=query, headers=headers, timeout=timeout) as response:
            raw = read_all(response, _MOST_JSON, where)
        try:
            found = parse_json(raw)
        except Refused as error:
            raise WrongAnswer(
                "the answer does not come from a hub: it is not JSON, but perhaps a page to log in",
                where=f"{where} at {constants.ENDPOINT}",
            ) from error
        if not isinstance(found, dict):
            raise WrongAnswer("the answer does not come from a hub: it is not a JSON object", where=where)
        return found

    def download(self, filename: str, commit: str, target: Path, size: int | None, digest: str | None) -> Path:
        """Download a whole file to `target`, where it is whole or not at all, and return its path.

        Parameters
        ----------
        filename, commit : str
        target : Path
        size : int, optional
            Length in bytes, as the hub lists it.
        digest : str, optional
            Hexadecimal sha256 of a large file, or git's name (sha1) of a small one; the file is compared with it.

        Raises
        ------
        HubError
            If the hub refuses, fails for long, or sends other bytes.
        SaveError
            If the file cannot be written.
        """
        where = f"{self.repo}@{commit[:8]}/{filename}"
        part = target.with_name(f".{secrets.token_hex(8)}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("w+b") as file:
                self.attempt(lambda: self._receive(filename, commit, file, size, where), where, file.tell)
                if digest is not None and _digest_of(file, len(digest)) != digest:
                    raise WrongAnswer("the file that came is not the one that the hub lists (its digest)", where=where)
            os.replace(part, target)
        except PifiProbeError:  # some of which are errors of the system, too
            raise
        except OSError as error:
            raise _explain_local(error, where) from error
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
        return target

    def _receive(self, filename: str, commit: str, file: IO[bytes], size: int | None, where: str) -> None:
        """Make one request for what is missing of a whole file."""
        location = self.locate(filename, commit)
        size = location.size if size is None else size
        start = file.tell()
        if size is not None and start >= size:
            return
        try:
            with progress_bar(filename, (size or 0) - start) as bar, self.stream(location, start, size) as response:
                for chunk in body_of(response, start, size, size, where, {}):
                    file.write(chunk)
                    bar.update(len(chunk))
                    if size is None and file.tell() > _MOST_UNKNOWN:
                        raise WrongAnswer("the file has no end", where=where)
        except NoRanges as error:  # what has come cannot be gone on with
            file.seek(0)
            file.truncate()
            raise Interrupted("the server sends whole files only") from error

    def locate(self, filename: str, commit: str) -> Location:
        """Ask where the bytes of a file are; one request, not retried here."""
        url = hf_hub_url(self.repo, filename, revision=commit)
        try:
            found = get_hf_file_metadata(url, token=self.token)
            on_hub = _origin(found.location) == _origin(constants.ENDPOINT)
            size = found.size if found.size is None or found.size >= 0 else None
        except (HTTPError, OSError, HFValidationError, EntryNotFoundError):
            raise
        except Exception as error:  # a header that is not a number, an address that is none
            where = f"{self.repo}@{commit[:8]}/{filename}"
            raise WrongAnswer(f"the hub's headers cannot be read: {_reason(error)}", where=where) from error
        if found.commit_hash is None:
            raise FileMetadataError("the answer names no commit")
        return Location(found.location, size, on_hub, found.etag)

    @contextlib.contextmanager
    def stream(self, location: Location, start: int, stop: int | None) -> Iterator[Any]:
        """Request bytes `start` to `stop` (exclusive; None: all) and yield the response; not retried here."""
        headers = build_hf_headers(token=self.token if location.on_hub else False, library_name="pifi_probe")
        headers |= {"Accept-Encoding": "identity"}
        if stop is not None:
            headers["Range"] = f"bytes={start}-{stop - 1}"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", location.url, headers=headers, timeout=timeout) as response:
            yield response

    def attempt(self, call: Callable[[], T], where: str, progress: Callable[[], int] = lambda: 0) -> T:
        """Return ``call()``, tried again after transient faults.

        Parameters
        ----------
        call : callable
            The request.
        where : str
            For messages.
        progress : callable
            Bytes received until now; after 1 MiB of progress the tries are counted again.

        Raises
        ------
        HubError
            After a permanent fault, or when the tries are used up.
        """
        tried, reached = 0, progress()
        while True:
            try:
                return call()
            except (PifiProbeError, NoRanges):
                raise
            except (HTTPError, Interrupted, OSError, HFValidationError, EntryNotFoundError) as error:
                if _is_local(error):
                    raise _explain_local(error, where) from error
                tried = 1 if progress() - reached >= _PROGRESS else tried + 1
                reached = progress()
                asked = _asked_wait(error)
                if not _is_transient(error) or asked > _LONGEST_WAIT or tried >= self.patience.tries:
                    raise self._explain(error, where) from error
                seconds = max(asked, self.patience.seconds(tried))
                _log.info("%s: %s; trying again in %.1f s", where, error, seconds)
                self.patience.sleep(seconds)
            except Exception as error:  # an address or a header that the client cannot read
                raise WrongAnswer(f"the answer cannot be read: {_reason(error)}", where=where) from error

    def _explain(self, error: BaseException, where: str) -> HubError:
        if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
            error = error.__cause__
        page = f"{constants.ENDPOINT}/{self.repo}"
        if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
            return HubUnreachable(
                "this is not in the cache and the hub's client is in offline mode",
                where=where,
                next="unset HF_HUB_OFFLINE and run this once with a connection",
            )
        if isinstance(error, GatedRepoError):
            return HubError(
                "the model is gated: its terms must be accepted before it can be read",
                where=where,
                next=f"accept the terms on {page} and run `hf auth login`",
            )
        if isinstance(error, RepositoryNotFoundError):
            return HubError(
                "the hub has no such model, or it is private",
                where=where,
                next="check the spelling of org/name; for a private model run `hf auth login`",
            )
        if isinstance(error, RevisionNotFoundError):
            return HubError("the model has no such revision", where=where, next=self._known_revisions())
        if isinstance(error, EntryNotFoundError):
            return HubError("the model has no such file", where=where, next=f"see the files on {page}/tree/main")
        if isinstance(error, HFValidationError):
            return HubError(
                "this is not a valid name of a model on the hub",
                where=where,
                next="write it as org/name, or give a path",
            )
        if isinstance(error, FileMetadataError):
            return HubError(
                "the answer does not come from a hub: it lacks the hub's headers",
                where=f"{where} at {constants.ENDPOINT}",
                next="check HF_ENDPOINT and the proxy settings",
            )
        if isinstance(error, HfHubHTTPError):
            return _explain_status(error, where)
        return HubUnreachable(
            f"the hub could not be reached, or broke off again and again: {_reason(error)}",
            where=f"{where} at {constants.ENDPOINT}",
            next="check the connection and run the same command again: what was fetched is kept",
        )

    def _known_revisions(self) -> str:
        """Name some revisions that do exist, when the hub tells them."""
        try:
            refs = self._json("/refs", self.repo)
            names = [str(ref["name"]) for kind in ("branches", "tags") for ref in refs[kind]]
        except (HTTPError, OSError, Interrupted, HubError, KeyError, TypeError):
            return "use a branch, tag or commit of the model's page"
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        return f"use one of: {shown}; or a full commit hash"


def _explain_status(error: HfHubHTTPError, where: str) -> HubError:
    status = error.response.status_code
    if status == 429:
        seconds = _asked_wait(error)
        wait = f"in {seconds:.0f} s" if 0 < seconds <= _DAY else "later" if seconds else "in some minutes"
        return HubError(
            "the hub limits how often it may be asked (HTTP 429)",
            where=where,
            next=f"run the same command again {wait} (what was fetched is kept); logging in raises the limit",
        )
    if status in _TRANSIENT:
        return HubError(
            f"the hub keeps failing (HTTP {status})",
            where=where,
            next="run the same command again later: what was fetched is kept",
        )
    if status == 401:
        return HubError("the hub refuses the token (HTTP 401)", where=where, next="run `hf auth login` again")
    return HubError(
        f"the hub refused (HTTP {status}): {error.server_message or _reason(error)}",
        where=where,
        next="check that your account may read this model",
    )


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _TRANSIENT
    plain = type(error) is OSError  # how the client reports a file of the wrong length
    return plain or isinstance(error, HTTPError | Interrupted)


def _is_local(error: BaseException) -> bool:
    """Tell a fault of this machine's files (disk full, no permission) from one of the network."""
    return isinstance(error, OSError) and error.errno is not None


def _explain_local(error: BaseException, where: str) -> SaveError:
    return SaveError(
        f"could not write what the hub sent: {_reason(error)}",
        where=f"{where} into {cache_root()}",
        next="free some space, or set PIFI_PROBE_CACHE to a folder you may write to, then run the same command again",
    )


def _asked_wait(error: BaseException) -> float:
    """Return how many seconds the server asks to wait, 0 when it does not say."""
    if not isinstance(error, HfHubHTTPError) or error.response.status_code not in _TRANSIENT:
        return 0.0
    headers = error.response.headers
    with contextlib.suppress(ValueError):  # a number of thousands of digits
        limit = parse_ratelimit_headers(headers)
        if limit is not None and limit.remaining == 0:
            return float(min(limit.reset_in_seconds, _FOR_EVER))
    value = (headers.get("Retry-After") or "").strip()
    if re.fullmatch(r"[0-9]+", value):
        return float(value[:10]) if len(value) <= 10 else float(_FOR_EVER)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0


def progress_bar(filename: str, total: int) -> tqdm:
    """Return a bar for a transfer of `total` bytes; it is shown for long ones only."""
    off = True if total < _SHOW_PROGRESS else None
    return tqdm(total=total, unit="B", unit_scale=True, desc=one_line(filename), leave=False, disable=off)


def _digest_of(file: IO[bytes], length: int) -> str:
    """Return the sha256 of a file, or for 40 digits git's sha1, which begins with the kind and the length."""
    size = file.seek(0, os.SEEK_END)
    digest = hashlib.sha256() if length == 64 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _reason(error: BaseException) -> str:
    return str(error).split("\n")[0] or type(error).__name__


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
