"""Imports of heavy libraries, one thread at a time."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import shlex
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

from pifi_probe.errors import PifiProbeError

__all__ = ["IMPORT", "import_here", "import_libraries", "import_own"]

IMPORT = "PIFI_PROBE_IMPORT"  # the environment variable that carries the user's own modules to worker processes

_LOCK = threading.RLock()
_ATTEMPTS = 50
_LIBRARIES = (  # what a search, a form and a browser of layers use from their threads
    "optuna.storages",
    "pifi_probe.layers.outlook",
    "pifi_probe.plugin",
    "pifi_probe.selection.evaluate",
    "pifi_probe.selection.search",
    "pifi_probe.selection.strategies",
    "pifi_probe.tasks",
)


def import_here(name: str) -> ModuleType:
    """Import a module while no other thread of this package imports one.

    Modules that import each other, of which transformers has some, look half made to a thread that comes to them
    from the other end. Other programs' threads do not know this lock: what they have half made is asked for again.
    """
    with _LOCK:
        for _ in range(_ATTEMPTS):
            try:
                return importlib.import_module(name)
            except (ImportError, AttributeError) as error:
                if "partially initialized module" not in str(error) and "cannot import name" not in str(error):
                    raise
                last = error
                time.sleep(0.1)
        raise last


def import_libraries() -> None:
    """Import what threads will need, before they start."""
    for name in _LIBRARIES:
        import_here(name)


def import_own() -> None:
    """Import the user's own modules, which register kinds, heads and the like: files, or names of modules.

    Raises
    ------
    PifiProbeError
        If one cannot be imported.
    """
    for name in filter(None, os.environ.get(IMPORT, "").split(os.pathsep)):
        try:
            if name.endswith(".py"):
                _import_file(Path(name).resolve())
            else:
                import_here(name)
        except PifiProbeError:
            raise
        except Exception as error:
            raise PifiProbeError(
                f"it cannot be imported: {type(error).__name__}: {error}",
                where=name,
                next=f"fix the file: `python {shlex.quote(name)}` shows the line"
                if name.endswith(".py") and Path(name).is_file()
                else "give a file that ends in .py, or a module that Python finds",
            ) from error


def _import_file(file: Path) -> None:
    """Import a file unless it is here already, under a name that no other module has, and no file of the same name."""
    if any(getattr(module, "__file__", None) == str(file) for module in list(sys.modules.values())):
        return
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
