"""The small files that stand next to a model's weights, in a folder or on the hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pifi_probe import assets
from pifi_probe.errors import CheckpointError, CorruptFileError, HubError
from pifi_probe.files import existing
from pifi_probe.layers.hub import HubRepo
from pifi_probe.layers.hub_client import HubClient
from pifi_probe.models_table import repo_of
from pifi_probe.reading import Refused, read_json

__all__ = ["SmallFiles", "small_files", "source_of"]

_MAX_BYTES = 1 << 20  # the real ones have less than 1 kB


def source_of(name: str) -> str:
    """Return the folder or file of an embedded or local name, the hub id of a named model, or the name as it is."""
    return str(assets.path(name) if assets.is_asset(name) else existing(name) or repo_of(name))


@dataclass(frozen=True)
class SmallFiles:
    """Names and contents of small files.

    Parameters
    ----------
    where : str
        The folder, or ``repo@commit``.
    names : frozenset of str
        Relative paths with forward slashes.
    path_of : callable
        From such a name to a file on this machine; on the hub it is downloaded.
    complete : bool
        Whether `names` are all there are; not, where only the copy of an earlier download is at hand.
    """

    where: str
    names: frozenset[str]
    path_of: Callable[[str], Path]
    complete: bool = True

    def json(self, name: str) -> Any:
        """Return the content of a JSON file.

        Raises
        ------
        CorruptFileError
            If it is not UTF-8 JSON, or larger than 1 MiB.
        CheckpointError, HubError
            If it cannot be had.
        """
        path, where = self.path_of(name), f"{self.where}/{name}"
        try:
            return read_json(path, most_bytes=_MAX_BYTES)
        except OSError as error:
            raise CheckpointError(
                f"the file cannot be read: {error.strerror}", where=where, next="check the path and its permissions"
            ) from error
        except Refused as error:
            raise CorruptFileError(
                f"the file cannot be read: {error}", where=where, next="download the file again"
            ) from error


def small_files(source: str, commit: str | None = None) -> SmallFiles | None:
    """Return the small files of a folder or of a repository on the hub; None for a name that is neither.

    Parameters
    ----------
    source : str
        As `source_of` returns it.
    commit : str, optional
        Of a repository.

    Raises
    ------
    HubError
        If the hub lacks the repository, or cannot be asked and nothing is known of it here.
    """
    path = existing(source)
    if path is not None:
        return _local(path) if path.is_dir() else None
    if not source or source.startswith(("/", "~", ".")) or source.count("/") > 1:
        return None
    repo = HubRepo.open(HubClient(source), commit)
    largest = {name: size for name, size in repo.files.items() if size is None or size <= _MAX_BYTES}

    def download(name: str) -> Path:
        if name not in largest:
            raise HubError(
                f"the file {name!r} has {repo.files[name]:,} bytes, which is too large for what it should be",
                where=source,
                next="name another revision of the model",
            )
        return repo.path(name)

    return SmallFiles(f"{source}@{repo.commit[:8]}", frozenset(repo.files), download, repo.complete)


def _local(folder: Path) -> SmallFiles:
    """List the folder and its immediate subfolders."""
    found = [*folder.glob("*"), *folder.glob("*/*")]
    names = frozenset(path.relative_to(folder).as_posix() for path in found if path.is_file())
    return SmallFiles(str(folder), names, lambda name: folder / name)
