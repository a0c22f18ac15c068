"""Where the parts and files of hub repositories are kept, and deleting them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pifi_probe.errors import HubError
from pifi_probe.files import cache_root
from pifi_probe.folders import remove_folder

__all__ = ["clear_hub_cache", "hub_cache_entries", "hub_folder", "temporary_files", "whole_files"]


_temporary: dict[tuple[str, str], tempfile.TemporaryDirectory[str]] = {}


def hub_root() -> Path:
    """Return the folder of all repositories."""
    return cache_root() / "hub"


def hub_folder(repo: str) -> Path:
    """Return the folder of what is kept of a repository."""
    return hub_root() / repo.replace("/", "--")


def whole_files(repo: str, commit: str) -> Path:
    """Return the folder of the files of a commit that are kept whole; parts next to it, by quoted file name."""
    return hub_folder(repo) / commit / "whole files"  # a quoted name has no space


def temporary_files(repo: str, commit: str) -> Path:
    """Return a folder for the files of a commit that goes with the process, for where the cache cannot be written."""
    if (repo, commit) not in _temporary:
        _temporary[repo, commit] = tempfile.TemporaryDirectory(prefix="pifi_probe_hub_")
    return Path(_temporary[repo, commit].name)


def hub_cache_entries() -> dict[str, int]:
    """Return what is kept of repositories on the hub: name to bytes on disk."""
    folders = sorted(path for path in hub_root().glob("*") if path.is_dir() and not path.name.startswith("."))
    return {path.name.replace("--", "/", 1): _bytes_of(path) for path in folders}


def clear_hub_cache(names: Sequence[str] | None = None) -> int:
    """Delete what is kept of repositories on the hub; it is fetched again when it is needed.

    The cache of the hub's own client is not touched.

    Parameters
    ----------
    names : sequence of str, optional
        ``"org/name"``. None: all.

    Returns
    -------
    int
        Bytes freed.

    Raises
    ------
    HubError
        If nothing is kept of a repository that is named.
    """
    kept = hub_cache_entries()
    for name in names or ():
        if name not in kept:
            raise HubError(
                f"nothing is kept of {name!r}", where=str(hub_root()), next="see pifi-probe cache list --hub"
            )
    freed = 0
    for name in kept if names is None else dict.fromkeys(names):
        remove_folder(hub_folder(name))
        freed += kept[name] - (_bytes_of(hub_folder(name)) if hub_folder(name).exists() else 0)
    return freed


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
