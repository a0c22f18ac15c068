"""Other packages, each in a virtual environment of its own that borrows torch from this one."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from pifi_probe.files import cache_root
from pifi_probe.provenance import shorten_paths

HEAVY = re.compile(r"torch$|triton|nvidia|cuda")  # never downloaded for a comparison


class Unavailable(Exception):
    """A contestant does not install or run here; the message says why."""


def python_of(package: str, version: str) -> Path:
    """Return the Python of an environment that has this package, made when it is missing.

    Raises
    ------
    Unavailable
        If pip finds no such version, or it would bring a torch of its own.
    """
    folder = cache_root() / "benchmarks" / f"{package}-{version}"
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    wanted = f"{package}=={version}"
    if not (folder / "ready").is_file():
        make_environment(folder, python)
        constraint = folder / "constraints.txt"
        borrowed = [name for name in ("torch", "transformers") if name != package]
        constraint.write_text("".join(f"{name}=={importlib.metadata.version(name)}\n" for name in borrowed))
        install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--constraint", str(constraint), wanted]
        planned = json.loads(run([sys.executable, *install, "--dry-run", "--report", "-"]))
        new = [item["metadata"]["name"].lower() for item in planned["install"]]
        if heavy := [name for name in new if HEAVY.match(name)]:
            raise Unavailable(f"it would install {', '.join(heavy)}")
        run([sys.executable, *install])
        (folder / "ready").write_text("\n".join(new))
    return python


def make_environment(folder: Path, python: Path) -> None:
    """Make a virtual environment in which the packages of this one can be imported too."""
    run([sys.executable, "-m", "venv", "--clear", "--without-pip", "--system-site-packages", str(folder)])
    place = run([str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]).strip()
    ours = sysconfig.get_paths()["purelib"]
    Path(place, "borrowed.pth").write_text(f"import site; site.addsitedir({ours!r})\n", encoding="utf-8")


def run(command: list[str]) -> str:
    """Return what a command prints, or raise `Unavailable` with its last line."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise Unavailable(shorten_paths(last)[:300])
    return done.stdout
