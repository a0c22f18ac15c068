"""A checkpoint on the hub, of which only the bytes of one layer travel.

The protocol is that of `huggingface_hub`: https://huggingface.co/docs/hub/api
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from huggingface_hub import ModelInfo, constants, try_to_load_from_cache

from pifi_probe.errors import CheckpointError, HubError, SaveError
from pifi_probe.files import atomic_write, write_json
from pifi_probe.layers.checkpoint import Checkpoint, SafetensorsCheckpoint
from pifi_probe.layers.configs import NUMBER_FILES, read_config, read_licence, read_numbers, read_weight_map
from pifi_probe.layers.formats import Numbers
from pifi_probe.layers.hub_cache import hub_folder, temporary_files, whole_files
from pifi_probe.layers.hub_client import HubClient, HubUnreachable, Patience
from pifi_probe.layers.hub_source import HubRangeSource
from pifi_probe.layers.sources import ByteSource, FileSource
from pifi_probe.layers.weight_files import ONE_PICKLE, PICKLES, WeightFiles, weight_files
from pifi_probe.reading import read_object

__all__ = ["HubRepo", "open_hub_checkpoint"]

_log = logging.getLogger(__name__)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SMALL = 1 << 26  # bytes of a file, such as a configuration, that a full disk is no reason to do without
_OTHER = "choose another model, or tell its author"
_KNOWN = {"commit", "files", "licence", "gated"}


def open_hub_checkpoint(
    repo: str,
    revision: str | None = None,
    *,
    allow_full_download: bool = False,
    allow_pickle: bool = False,
    token: str | bool | None = None,
    patience: Patience | None = None,
) -> Checkpoint:
    """Open a checkpoint on the hub; its configuration and index are read, no tensor yet.

    What is fetched is kept under ``cache_root()/hub``, one file per tensor, so that the same layer is read
    without a connection the second time.

    Parameters
    ----------
    repo : str
        ``"org/name"`` with safetensors weights, or ``"org/name/file.gguf"``.
    revision : str, optional
        Branch, tag or commit; resolved to a commit once, which `identity` and `revision` of the result name.
    allow_full_download : bool
        Download whole files when the server does not serve byte ranges, and for legacy ``.bin`` weights.
    allow_pickle : bool
        Read legacy ``.bin`` weights (with ``weights_only=True``).
    token : str or bool, optional
        As the hub's client has it; None uses the saved one.
    patience : Patience, optional
        How transient faults are waited for.

    Raises
    ------
    HubError
        If the model, revision or a file does not exist, is gated, or the hub fails for long.
    CheckpointError, UnsupportedFormatError, UnsupportedFamilyError
        As for a local folder.
    """
    parts = repo.split("/")
    gguf = "/".join(parts[2:]) if len(parts) > 2 and repo.endswith(".gguf") else None
    client = HubClient("/".join(parts[:2]) if gguf else repo, token, patience)
    opened = HubRepo.open(client, revision, allow_full_download)
    if gguf is not None:
        from pifi_probe.layers.gguf_checkpoint import GGUFCheckpoint

        folder = PurePosixPath(gguf).parent
        checkpoint: Checkpoint = GGUFCheckpoint(
            opened.source(gguf), **opened.provenance(gguf), sibling=lambda name: opened.source(str(folder / name))
        )
    else:
        checkpoint = _open_weights(opened, allow_pickle)
    checkpoint.token = token
    return checkpoint


@dataclass(frozen=True)
class HubRepo:
    """A repository at one commit.

    Parameters
    ----------
    client : HubClient
    commit : str
        Full commit hash.
    files : Mapping
        File name to size in bytes; None where the server does not list sizes.
    licence : str or None
    gated : bool
    digests : Mapping
        File name to sha256 of a large file, or git's name (sha1) of a small one, as far as the hub lists them.
    allow_full_download : bool
        Download a whole file when the server does not serve byte ranges.
    complete : bool
        Whether `files` are all there are; not, where only the client's own copy is at hand.
    """

    client: HubClient
    commit: str
    files: Mapping[str, int | None]
    licence: str | None
    gated: bool
    digests: Mapping[str, str] = field(default_factory=dict)
    allow_full_download: bool = False
    complete: bool = True

    @classmethod
    def open(cls, client: HubClient, revision: str | None = None, allow_full_download: bool = False) -> HubRepo:
        """Resolve `revision` to a commit: by the hub, or without a connection by what is known of it here."""
        known = _recall(client.repo, revision)
        if known is None or revision != known["commit"]:  # a commit never changes, a branch may have
            try:
                known = _describe(client.info(revision))
                _remember(client.repo, revision, known)
            except HubUnreachable:
                known = known or _recall_from_client(client.repo, revision)
                if known is None:
                    raise
                _log.warning("%s: no connection, using the commit known here: %s", client.repo, known["commit"])
        return cls(client=client, allow_full_download=allow_full_download, **known)

    def provenance(self, file: str | None = None) -> dict[str, Any]:
        """Return what a `Checkpoint` says about its origin, which may be one file of several."""
        return {
            "identity": f"{self.client.repo}@{self.commit}{f'/{file}' if file else ''}",
            "revision": self.commit,
            "licence": self.licence,
            "gated": self.gated,
        }

    def path(self, filename: str) -> Path:
        """Download a whole file and return where it is: in the hub's own cache when it is there, else in ours."""
        self._require(filename)
        target = whole_files(self.client.repo, self.commit) / _inside(filename, self.client.repo)
        cached = try_to_load_from_cache(self.client.repo, filename, revision=self.commit)
        if isinstance(cached, str):
            return Path(cached)
        if target.is_file():
            return target
        size, digest = self.files[filename], self.digests.get(filename)
        try:
            return self.client.download(filename, self.commit, target, size, digest)
        except SaveError as error:
            if size is None or size > _SMALL:
                raise
            _log.warning("not kept in the cache: %s", error)
            for_now = temporary_files(self.client.repo, self.commit) / _inside(filename, self.client.repo)
            return for_now if for_now.is_file() else self.client.download(filename, self.commit, for_now, size, digest)

    def folder(self, filenames: Iterable[str]) -> Path:
        """Download some files and return the folder that holds all of them."""
        own = whole_files(self.client.repo, self.commit)
        for filename in filenames:
            found, target = self.path(filename), own / _inside(filename, self.client.repo)
            if found != target and not target.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(target, "wb") as file:
                    file.write(found.read_bytes())
        return own

    def source(self, filename: str) -> ByteSource:
        """Return a file to read from: the copy in the hub's own cache when it is whole there, else ranges."""
        self._require(filename)
        _inside(filename, self.client.repo)
        cached = try_to_load_from_cache(self.client.repo, filename, revision=self.commit)
        if isinstance(cached, str):
            return FileSource(cached)
        cache = hub_folder(self.client.repo) / self.commit / quote(filename, safe="")
        size = self.files[filename]
        if size is None:
            size = self.client.attempt(lambda: self.client.locate(filename, self.commit), filename).size or 0
        listed = self.digests.get(filename, "")
        digest = listed if len(listed) == 64 else None
        return HubRangeSource(self.client, self.commit, filename, size, cache, self._download_whole, digest)

    def total(self, names: list[str]) -> str:
        """Return the size of some files in words."""
        files = "1 file" if len(names) == 1 else f"{len(names)} files"
        return f"{sum(self.files[name] or 0 for name in names) / 1e9:.3g} GB ({files})"

    def _download_whole(self, filename: str) -> Path:
        if not self.allow_full_download:
            whole = [name for name in self.files if name.endswith(Path(filename).suffix)]
            raise HubError(
                f"the server does not serve parts of files; a full download is {self.total(whole)}",
                where=f"{self.client.repo}@{self.commit[:8]}/{filename} at {constants.ENDPOINT}",
                next="pass allow_full_download=True to pp.extract (pifi-probe extract --allow-full-download) to take "
                "whole files, and plug in the layer that it returns",
            )
        return self.path(filename)

    def _require(self, filename: str) -> None:
        if filename not in self.files:
            alike = [name for name in self.files if name.endswith(Path(filename).suffix)]
            raise HubError(
                f"the model has no file {filename!r}",
                where=f"{self.client.repo}@{self.commit[:8]}",
                next=f"it has: {', '.join((alike or list(self.files))[:8])}",
            )


def _open_weights(repo: HubRepo, allow_pickle: bool) -> Checkpoint:
    """Open the weights of a repository; see `weight_files` for which of several files are read."""
    where = repo.provenance()["identity"]
    folder = repo.path("config.json").parent if "config.json" in repo.files else None
    stated = None if folder is None else read_object(folder / "config.json").get("transformers_weights")
    found = weight_files(repo.files, where, stated)
    if found is None:
        others = [name for name in repo.files if name.endswith(".gguf")]
        raise HubError(
            "the model has no safetensors weights",
            where=where,
            next=f"give the GGUF file itself: {repo.client.repo}/{others[0]}" if others else "choose another model",
        )
    if found.pickle:
        return _open_pickle(repo, found, where, allow_pickle)
    weight_map = None if found.index is None else read_weight_map(repo.path(found.index))
    files = found.files if weight_map is None else sorted(set(weight_map.values()))
    _require_shards(repo, files, where)
    config = read_config(repo.path("config.json").parent)
    sources = {name: repo.source(name) for name in files}
    return SafetensorsCheckpoint(config, sources, **repo.provenance(), weight_map=weight_map, numbers=_numbers(repo))


def _numbers(repo: HubRepo) -> Numbers:
    """Return what the configuration says of quantised weights, or a file that older tools write next to it."""
    found = read_numbers(repo.path("config.json").parent)
    beside = [name for name in NUMBER_FILES if name in repo.files]
    return found if found.settings or not beside else read_numbers(repo.folder(["config.json", *beside]))


def _require_shards(repo: HubRepo, files: list[str], where: str) -> None:
    missing = [name for name in files if name not in repo.files]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(files)} shards are missing: {', '.join(missing[:3])}",
            where=where,
            next="use another revision of the model, or tell its author",
        )


def _open_pickle(repo: HubRepo, found: WeightFiles, where: str, allow_pickle: bool) -> Checkpoint:
    """Open legacy weights: they cannot be read in parts, so they are downloaded, when both flags allow it."""
    if not (allow_pickle and repo.allow_full_download):
        shards = found.files or [name for name in repo.files if PICKLES.fullmatch(name) and name != ONE_PICKLE]
        raise HubError(
            f"the model has legacy .bin weights only, which need a full download of {repo.total(shards)}",
            where=where,
            next="choose a model or revision with safetensors, or pass allow_full_download=True and "
            "allow_pickle=True to pp.extract (pifi-probe extract --allow-full-download --allow-pickle), and plug in "
            "the layer that it returns",
        )
    from pifi_probe.layers.pickle_io import PickleCheckpoint

    config = read_config(repo.path("config.json").parent)
    files = found.files if found.index is None else sorted(set(read_weight_map(repo.path(found.index)).values()))
    _require_shards(repo, files, where)
    return PickleCheckpoint(
        config, {name: repo.path(name) for name in files}, **repo.provenance(), numbers=_numbers(repo)
    )


def _inside(filename: str, repo: str) -> PurePosixPath:
    """Return the path of a file below its repository's folder."""
    path = PurePosixPath(filename)
    if not filename or path.is_absolute() or ".." in path.parts or "\\" in filename or ":" in filename:
        raise HubError(f"the repository lists a file {filename!r}, which cannot be one", where=repo, next=_OTHER)
    return path


# --- what is known of a repository without a connection -----------------------------------------------------


def _describe(info: ModelInfo) -> dict[str, Any]:
    """Return the fields of `HubRepo` that the hub states."""
    if not _COMMIT.fullmatch(info.sha or ""):
        raise HubError("the hub names no commit", where=info.id, next="check HF_ENDPOINT and the proxy settings")
    files: dict[str, int | None] = {}
    digests: dict[str, str] = {}
    for sibling in info.siblings or []:
        size = sibling.size
        files[str(sibling.rfilename)] = size if type(size) is int and size >= 0 else None
        digest = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
        if isinstance(digest, str) and _DIGEST.fullmatch(digest):
            digests[str(sibling.rfilename)] = digest
    return {
        "commit": info.sha,
        "files": files,
        "licence": _licence(info),
        "gated": bool(info.gated),
        "digests": digests,
    }


def _licence(info: ModelInfo) -> str | None:
    card = info.card_data.to_dict() if info.card_data else {}
    licence = card.get("license")
    if licence in (None, "other"):
        licence = card.get("license_name") or licence
    if licence is None:
        licence = next((tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")), None)
    return ", ".join(map(str, licence)) if isinstance(licence, list) else licence


def _remember(repo: str, revision: str | None, known: dict[str, Any]) -> None:
    """Write what the hub said about a revision; failing to costs the use without a connection, no more."""
    try:
        for name in {revision or "main", known["commit"]}:
            write_json(hub_folder(repo) / "revisions" / f"{quote(name, safe='')}.json", known)
    except SaveError as error:
        _log.warning("not kept in the cache: %s", error)


def _recall(repo: str, revision: str | None) -> dict[str, Any] | None:
    """Return what an earlier call learnt about a revision."""
    try:
        known = read_object(hub_folder(repo) / "revisions" / f"{quote(revision or 'main', safe='')}.json")
    except CheckpointError:
        return None
    return known if known.keys() in (_KNOWN, _KNOWN | {"digests"}) else None


def _recall_from_client(repo: str, revision: str | None) -> dict[str, Any] | None:
    """Return what the client's own cache holds, where somebody downloaded the model before."""
    config = try_to_load_from_cache(repo, "config.json", revision=revision or "main")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    # Whether it is gated is not known here; saying so is the side on which nothing is published by mistake.
    return {"commit": folder.name, "files": files, "licence": read_licence(folder), "gated": True, "complete": False}
