"""The hub's own client made patient: transient faults are retried, permanent ones become one clear line."""

from __future__ import annotations

import contextlib
import email.utils
import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from huggingface_hub import (
    HfApi,
    ModelInfo,
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_download,
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
from huggingface_hub.utils import build_hf_headers, parse_ratelimit_headers

from pifi_probe.errors import HubError, SaveError

__all__ = ["HubClient", "HubUnreachable", "Interrupted", "Location", "Patience"]

T = TypeVar("T")
_log = logging.getLogger(__name__)
_TRANSIENT = {408, 429, 500, 502, 503, 504}
_LONGEST_WAIT = 300.0  # seconds; a server that asks for more gets an error instead
_PROGRESS = 1 << 20  # bytes that count as progress, after which the tries are counted anew


class HubUnreachable(HubError):
    """There is no connection to the hub, or the client is told not to use it."""


class Interrupted(Exception):
    """An answer that ended early or cannot be used, but may be better when asked for again."""


@dataclass(frozen=True)
class Patience:
    """How often and how long a transient fault is waited for.

    Parameters
    ----------
    tries : int
        Requests until giving up, counted anew after progress.
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

        def ask() -> ModelInfo:
            return HfApi(token=self.token).model_info(
                self.repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )

        return self.attempt(ask, self.repo if revision is None else f"{self.repo}@{revision}")

    def download(self, filename: str, commit: str) -> Path:
        """Download a whole file into the client's own cache and return its path."""

        def ask() -> str:
            return hf_hub_download(self.repo, filename, revision=commit, token=self.token)

        return Path(self.attempt(ask, f"{self.repo}@{commit[:8]}/{filename}"))

    def locate(self, filename: str, commit: str) -> Location:
        """Ask where the bytes of a file are; one request, not retried here."""
        url = hf_hub_url(self.repo, filename, revision=commit)
        found = get_hf_file_metadata(url, token=self.token)
        return Location(found.location, found.size, _origin(found.location) == _origin(constants.ENDPOINT))

    @contextlib.contextmanager
    def stream(self, location: Location, start: int, stop: int) -> Iterator[Any]:
        """Request bytes `start` to `stop` (exclusive) and yield the response; not retried here."""
        headers = build_hf_headers(token=self.token if location.on_hub else False, library_name="pifi_probe")
        headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
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
            Bytes received until now; after 1 MiB of progress the tries are counted anew.

        Raises
        ------
        HubError
            After a permanent fault, or when the tries are used up.
        """
        tried, reached = 0, progress()
        while True:
            try:
                return call()
            except (HTTPError, Interrupted, OSError, HFValidationError, EntryNotFoundError) as error:
                if isinstance(error, HubError):
                    raise
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
                "this is no valid name of a model on the hub",
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
            refs = HfApi(token=self.token).list_repo_refs(self.repo)
        except (HTTPError, OSError):
            return "use a branch, tag or commit of the model's page"
        names = [ref.name for ref in [*refs.branches, *refs.tags]]
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        return f"use one of: {shown}; or a full commit hash"


def _explain_status(error: HfHubHTTPError, where: str) -> HubError:
    status = error.response.status_code
    if status == 429:
        seconds = _asked_wait(error)
        wait = f"in {seconds:.0f} s" if seconds else "in some minutes"
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
        where=f"{where} into {constants.HF_HUB_CACHE}",
        next="free some space, or set HF_HOME to a folder you may write to, then run the same command again",
    )


def _asked_wait(error: BaseException) -> float:
    """Return how many seconds the server asks to wait, 0 when it does not say."""
    if not isinstance(error, HfHubHTTPError) or error.response.status_code not in _TRANSIENT:
        return 0.0
    limit = parse_ratelimit_headers(error.response.headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    value = (error.response.headers.get("Retry-After") or "").strip()
    if value.isdigit():
        return float(value)
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0


def _reason(error: BaseException) -> str:
    return str(error).split("\n")[0] or type(error).__name__


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
