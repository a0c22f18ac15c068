"""Imports of heavy libraries, one thread at a time."""

from __future__ import annotations

import importlib
import importlib.util
import os
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
        own = Path(name).stem if name.endswith(".py") else name
        if own in sys.modules:
            continue
        try:
            if own == name:
                import_here(name)
                continue
            spec = importlib.util.spec_from_file_location(own, name)
            assert spec is not None and spec.loader is not None
            module = sys.modules[own] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        except PifiProbeError:
            sys.modules.pop(own, None)
            raise
        except Exception as error:
            sys.modules.pop(own, None)
            raise PifiProbeError(
                f"it cannot be imported: {type(error).__name__}: {error}",
                where=name,
                next="give a file that ends in .py, or a module that Python finds",
            ) from error
