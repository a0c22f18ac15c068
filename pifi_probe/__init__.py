"""Plug one frozen layer of a large language model into a small one, and find out which layer helps."""

from __future__ import annotations

import ast
import pkgutil
from typing import Any

__version__ = "0.1.0"


def _public_names() -> dict[str, str | None]:
    """Read the list of public names, which type checkers read too: a name and its module, None for a module."""
    listed = ast.parse(pkgutil.get_data(__name__, "__init__.pyi") or b"")
    imports = [line for line in listed.body if isinstance(line, ast.ImportFrom)]
    return {each.name: None if line.module == __name__ else line.module for line in imports for each in line.names}


_HOMES = _public_names()
__all__ = sorted(["__version__", *(name for name, home in _HOMES.items() if home is not None)])


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that ``import pifi_probe`` stays quick."""
    from pifi_probe.importing import import_here

    if name not in _HOMES:
        raise AttributeError(f"module 'pifi_probe' has no attribute {name!r}")
    home = _HOMES[name]
    return import_here(f"pifi_probe.{name}") if home is None else getattr(import_here(home), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_HOMES})
