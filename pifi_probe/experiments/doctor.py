"""`pp.doctor`: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pifi_probe.reporting.result import Result
from pifi_probe.reporting.tables import Table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Checkup", "Finding", "doctor"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Parameters
    ----------
    name : str
    well : bool
        False when something does not work until it is changed.
    found : str
        What is there.
    next : str
        What to do when it is not well.
    """

    name: str
    well: bool
    found: str
    next: str = ""

    def __str__(self) -> str:
        advice = "" if self.well else f"  -> {self.next}"
        return f"{'ok  ' if self.well else 'FAIL'} {self.name}: {self.found}{advice}"


@dataclass(frozen=True, repr=False)
class Checkup(Result):
    """All that `doctor` looked at; printed as one line each.

    Parameters
    ----------
    findings : tuple of Finding
    """

    findings: tuple[Finding, ...]
    noun: ClassVar[str] = "a checkup"

    @property
    def well(self) -> bool:
        """Whether nothing has to be changed."""
        return all(one.well for one in self.findings)

    @property
    def frame(self) -> pd.DataFrame:
        """One row a finding: ``name``, ``well``, ``found``, ``next``."""
        import pandas as pd

        return pd.DataFrame([asdict(one) for one in self.findings])

    def tables(self) -> list[Table]:
        """Return one table: a row for each finding."""
        return [Table(self.frame, "checkup")]

    def __repr__(self) -> str:
        return "\n".join(map(str, self.findings))


def doctor() -> Checkup:
    """Look at Python, packages, threads, memory, cache, assets, device and network; change nothing.

    Returns
    -------
    Checkup

    Examples
    --------
    >>> pp.doctor()  # doctest: +SKIP
    ok   Python: 3.11.9
    FAIL embedded assets: missing: smollm2-135m  -> pifi-probe assets pull
    """
    return Checkup(tuple(check() for check in _CHECKS))


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", sys.version_info >= (3, 11), found, "use Python 3.11 or newer")


def _packages() -> Finding:
    wrong = list(_lacking(importlib.metadata.requires("pifi-probe") or ()))
    return Finding("packages", not wrong, "; ".join(wrong) or "all present", "pip install --upgrade pifi-probe")


def _lacking(requirements: Iterable[str]) -> Iterable[str]:
    """Say what is missing, or there in another version; extras are not asked for."""
    from packaging.requirements import Requirement

    for needed in map(Requirement, requirements):
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{needed.name} is missing"
            continue
        if not needed.specifier.contains(version, prereleases=True):
            yield f"{needed.name} {version} is not {needed.specifier}"


def _pip() -> Finding:
    well = importlib.util.find_spec("pip") is not None
    return Finding(
        "pip", well, "present" if well else "missing", "python -m ensurepip (it fetches the embedded assets)"
    )


def _threads() -> Finding:
    import psutil
    import torch

    asked, process = torch.get_num_threads(), psutil.Process()
    cores = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else os.cpu_count() or 1
    found = f"torch uses {asked}, this process may use {cores} {'core' if cores == 1 else 'cores'}"
    return Finding("threads", asked <= cores, found, f"set OMP_NUM_THREADS={cores}: more threads than cores are slower")


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    return Finding("memory", free >= 2, f"{free:.1f} GiB available", "close other programs: the demo needs 2 GiB")


def _cache() -> Finding:
    from pifi_probe.files import cache_root

    root = cache_root()
    folder = _existing(root)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return Finding("cache", False, f"{root} cannot be written to", "set PIFI_PROBE_CACHE to a folder of yours")
    free = shutil.disk_usage(folder).free / 2**30
    return Finding(
        "cache", free >= 1, f"{root}, {free:.1f} GiB free", "free 1 GiB or set PIFI_PROBE_CACHE to a folder elsewhere"
    )


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    return next((each for each in (folder, *folder.absolute().parents) if each.exists()), folder)


def _assets() -> Finding:
    from pifi_probe import assets

    missing = [status.asset.name for status in assets.list_assets() if status.asset.demo and not status.cached]
    found = "missing: " + ", ".join(missing) if missing else "present"
    first = f"unset {' and '.join(_offline())}, then " if _offline() else ""
    return Finding("embedded assets", not missing, found, f"{first}pifi-probe assets pull")


def _device() -> Finding:
    from pifi_probe.layers.extract import pick_device

    return Finding("device", True, str(pick_device("auto")))


def _offline() -> list[str]:
    """Return the variables by which somebody has asked for no network."""
    return [name for name in ("PIFI_PROBE_OFFLINE", "HF_HUB_OFFLINE") if os.environ.get(name, "0") not in ("", "0")]


def _network() -> Finding:
    found = f"{' and '.join(_offline())} set: nothing is fetched" if _offline() else "may be used for what is missing"
    return Finding("network", True, found)


_CHECKS: tuple[Callable[[], Finding], ...] = (
    _python,
    _packages,
    _pip,
    _threads,
    _memory,
    _cache,
    _assets,
    _device,
    _network,
)
