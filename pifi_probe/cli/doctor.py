"""``doctor``: what this machine has, and what it lacks."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

import typer

from pifi_probe.cli.output import Json, console, print_json

__all__ = ["register"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at: whether it is well, what was found, and what to do when it is not."""

    name: str
    well: bool
    found: str
    next: str = ""


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("doctor", epilog="Example: pifi-probe doctor")(doctor)


def doctor(as_json: bool = Json) -> None:
    """Check Python, packages, disk, device and embedded assets; exit code 1 when something is wrong."""
    findings = [check() for check in _CHECKS]
    if as_json:
        print_json([finding.__dict__ for finding in findings])
    else:
        for finding in findings:
            mark = "ok  " if finding.well else "FAIL"
            advice = f"  -> {finding.next}" if not finding.well else ""
            console().print(f"{mark} {finding.name}: {finding.found}{advice}")
    if not all(finding.well for finding in findings):
        raise typer.Exit(1)


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", sys.version_info >= (3, 11), found, "use Python 3.11 or newer")


def _packages() -> Finding:
    from packaging.requirements import Requirement

    wrong = []
    for line in importlib.metadata.requires("pifi-probe") or []:
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(version, prereleases=True):
            wrong.append(f"{needed.name} {version} is not {needed.specifier}")
    return Finding("packages", not wrong, "; ".join(wrong) or "all present", "pip install --upgrade pifi-probe")


def _pip() -> Finding:
    import importlib.util

    well = importlib.util.find_spec("pip") is not None
    return Finding(
        "pip", well, "present" if well else "missing", "python -m ensurepip (it fetches the embedded assets)"
    )


def _disk() -> Finding:
    from pifi_probe.files import cache_root

    folder = cache_root()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    return Finding("disk", free >= 1, f"{free:.1f} GiB free for the cache", "free 1 GiB or set PIFI_PROBE_CACHE")


def _memory() -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 2**30
    return Finding("memory", free >= 2, f"{free:.1f} GiB available", "close other programs: the demo needs 2 GiB")


def _device() -> Finding:
    from pifi_probe.layers.extract import pick_device

    return Finding("device", True, str(pick_device("auto")))


def _assets() -> Finding:
    from pifi_probe import assets

    missing = [status.asset.name for status in assets.list_assets() if status.asset.demo and not status.cached]
    found = "missing: " + ", ".join(missing) if missing else "present"
    return Finding("embedded assets", not missing, found, "pifi-probe assets pull")


_CHECKS: tuple[Callable[[], Finding], ...] = (_python, _packages, _pip, _disk, _memory, _device, _assets)
