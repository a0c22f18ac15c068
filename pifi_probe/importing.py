"""Imports of heavy libraries, one thread at a time."""

from __future__ import annotations

import importlib
import threading
import time
from types import ModuleType

__all__ = ["import_here", "import_libraries"]

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
