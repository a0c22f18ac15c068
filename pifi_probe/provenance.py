"""Who made this number: versions, commit, machine, command, date; and how much memory it took."""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import threading
from array import array
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["PeakMemory", "collect", "shorten_paths"]

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "numpy", "scikit-learn")
# an absolute path of POSIX or Windows at the start or after a separator; not the // of an address
_PATH = re.compile(r"(?<![^\s=:,|>\"'(\[])((?:[A-Za-z]:[\\/]|/(?!/)|\\\\)[^\s=,|>\"')\[\]]*)")
_SECRET = re.compile(r"\bhf_\w{8,}")
_LOGIN = re.compile(r"([a-z][\w+.-]*://[^\s:/@]*):\S+@", re.IGNORECASE)  # of a URL; a password may hold / and @
_PASSWORD = re.compile(r"([?&]\w*(?:pass|pwd|secret|token)\w*=)[^\s&#]+", re.IGNORECASE)


def collect(**extra: Any) -> dict[str, Any]:
    """Return what a result must say about its making.

    Parameters
    ----------
    **extra
        Added as they are (JSON values); names other than those below.

    Returns
    -------
    dict
        ``date`` (UTC, ISO 8601), ``command`` (without absolute paths), ``versions`` by package, ``git``
        (commit and whether the checkout differed from it; None outside a checkout), ``machine`` (platform,
        processor, cores, torch threads, memory in bytes, GPU).
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "date": now,
        "command": shorten_paths(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "versions": _versions(),
        "git": _git(Path(__file__).parent),
        "machine": _machine(),
        **extra,
    }


def shorten_paths(text: str) -> str:
    """Return `text` without absolute paths, access tokens and passwords of URLs, so that a result may be published.

    A path below the working folder becomes relative, one below the home folder starts with ``~``, and of any
    other the last part stays.
    """
    hidden = _PASSWORD.sub(r"\1***", _LOGIN.sub(r"\1:***@", _SECRET.sub("hf_***", text)))
    return _PATH.sub(lambda match: _short(match[1]), hidden)


def _short(path: str) -> str:
    for folder, sign in ((Path.cwd(), ""), (Path.home(), "~")):
        with contextlib.suppress(ValueError):
            below = Path(path).relative_to(folder).as_posix()
            return f"{sign}/{below}" if sign and below != "." else sign or below
    return ".../" + re.split(r"[\\/]", path.rstrip("\\/"))[-1]


def _versions() -> dict[str, str]:
    from pifi_probe import __version__

    versions = {"pifi_probe": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _git(folder: Path) -> dict[str, Any] | None:
    """Return commit and state of the checkout that holds this package; None for an installed copy."""
    # an installed copy may lie inside somebody else's checkout: only a tracked file makes it ours
    if _output("git", "-C", str(folder), "ls-files", "--error-unmatch", "errors.py") is None:
        return None
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    status = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(status)} if commit else None


def _machine() -> dict[str, Any]:
    import psutil
    import torch

    return {
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": _gpu(),
    }


@functools.cache
def _cpu() -> str:
    """Return the processor's name, from the system's own tool where Python has none."""
    if platform.system() == "Darwin":
        found = _output("sysctl", "-n", "machdep.cpu.brand_string")
    elif platform.system() == "Linux":
        match = re.search(r"^Model name:\s*(.+)$", _output("lscpu") or "", re.MULTILINE)
        found = match[1] if match else None
    else:
        found = platform.processor()
    return found or platform.processor() or platform.machine()


def _gpu() -> str | None:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
    return "MPS" if torch.backends.mps.is_available() else None


def _output(*command: str) -> str | None:
    """Return what a command prints, or None where it is missing, slow or fails."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, env=environment, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class PeakMemory:
    """The most memory that this process held inside a ``with`` block.

    Attributes
    ----------
    start_bytes : int
        Resident memory of the process on entry.
    rss_bytes : int
        The most resident memory within the block, sampled every 10 ms; exact where the block set a new record
        for the process and the system keeps it.
    cuda_bytes : int or None
        The most CUDA memory allocated by torch; None without a CUDA device. Entry resets torch's record.

    Examples
    --------
    >>> with PeakMemory() as memory:
    ...     data = bytearray(1 << 20)
    >>> memory.rss_bytes >= memory.start_bytes
    True
    """

    def __init__(self, interval: float = 0.01) -> None:
        self.start_bytes = self.rss_bytes = 0
        self.cuda_bytes: int | None = None
        self._samples, self._on_card = array("Q"), array("Q")
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @property
    def p99_bytes(self) -> int:
        """The 99th percentile of the samples of resident memory."""
        return _p99(self._samples) or self.rss_bytes

    def to_dict(self) -> dict[str, int | None]:
        """Return ``rss_bytes``, ``cuda_bytes`` and 99th percentiles of their samples; None where there is no CUDA."""
        most = {"rss_bytes": self.rss_bytes, "rss_p99_bytes": self.p99_bytes, "cuda_bytes": self.cuda_bytes}
        return {**most, "cuda_p99_bytes": _p99(self._on_card)}

    def __enter__(self) -> Self:
        self.start_bytes = self.rss_bytes = _rss()
        self._record = _record()
        if _has_cuda():
            sys.modules["torch"].cuda.reset_peak_memory_stats()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.rss_bytes = max(self.rss_bytes, _rss())
        if (record := _record()) > self._record:
            self.rss_bytes = max(self.rss_bytes, record)
        if _has_cuda():
            self.cuda_bytes = int(sys.modules["torch"].cuda.max_memory_allocated())

    def _sample(self) -> None:
        while not self._stop.wait(self._interval):
            self._samples.append(_rss())
            self.rss_bytes = max(self.rss_bytes, self._samples[-1])
            if _has_cuda():
                self._on_card.append(int(sys.modules["torch"].cuda.memory_allocated()))


def _p99(samples: array[int]) -> int | None:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, 99 * len(ordered) // 100)] if ordered else None


def _rss() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def _record() -> int:
    """Return the most resident memory the process ever held, in bytes; 0 where the system does not say."""
    import psutil

    peak = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if peak is not None:  # Windows
        return int(peak)
    import resource

    record = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return record if sys.platform == "darwin" else 1024 * record


def _has_cuda() -> bool:
    """Whether torch is loaded and has a CUDA device; torch is not imported for the question."""
    return "torch" in sys.modules and bool(sys.modules["torch"].cuda.is_available())
