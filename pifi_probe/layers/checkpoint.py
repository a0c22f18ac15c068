"""Where a model's tensors lie, and reading only those of one layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from transformers import PretrainedConfig

from pifi_probe.errors import CheckpointError, CorruptFileError, ModelNotFoundError, UnsupportedFormatError
from pifi_probe.layers import safetensors_io
from pifi_probe.layers.configs import read_config, read_licence, read_weight_map, refuse_quantised_names
from pifi_probe.layers.sharded import ShardedCheckpoint
from pifi_probe.layers.sources import ByteSource, FileSource, TensorInfo

__all__ = ["Checkpoint", "SafetensorsCheckpoint", "open_checkpoint"]

INDEX = "model.safetensors.index.json"
_HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
_SHARD = re.compile(r"^(?P<stem>.+)-\d{5}-of-(?P<n>\d{5})\.safetensors$")


class Checkpoint(Protocol):
    """A model on disk or on the hub, of which single tensors are read.

    Attributes
    ----------
    config : PretrainedConfig
        transformers configuration of the text decoder.
    tensors : Mapping
        Name as stored to `TensorInfo`.
    format : str
        ``"safetensors"``, ``"gguf"`` or ``"pickle"``.
    identity : str
        ``"repo@commit"`` or an absolute path.
    revision, licence : str or None
    gated : bool
    bytes_read : int
        Bytes fetched until now, headers included.
    """

    config: PretrainedConfig
    format: str
    identity: str
    revision: str | None
    licence: str | None
    gated: bool

    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...
    @property
    def bytes_read(self) -> int: ...
    def layer_names(self, index: int) -> list[str]:
        """Return the stored names of the tensors of layer `index`."""
        ...

    def read_layer(self, index: int) -> dict[str, torch.Tensor]:
        """Read layer `index` under transformers' names, with 0 in place of its index."""
        ...

    def read_stem(self) -> dict[str, torch.Tensor]:
        """Read what lies outside of the layers under transformers' names; the language-model head never."""
        ...

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Read tensors by their stored names."""
        ...


class SafetensorsCheckpoint(ShardedCheckpoint):
    """A checkpoint in one or several safetensors files.

    Parameters
    ----------
    config : PretrainedConfig
        Of the text decoder.
    sources : Mapping
        File name to `ByteSource`; a file is touched only when one of its tensors is asked for.
    identity, revision, licence, gated
        As in `Checkpoint`.
    weight_map : Mapping, optional
        Tensor name to file name, from the index; without it the header of every file is read now.

    Raises
    ------
    CheckpointError
        If no tensor belongs to a decoder layer.
    CorruptFileError
        If a header is malformed or contradicts the index.
    UnsupportedFormatError
        If the tensors are those of a quantised checkpoint.
    """

    format = "safetensors"

    def __init__(
        self,
        config: PretrainedConfig,
        sources: Mapping[str, ByteSource],
        identity: str,
        revision: str | None = None,
        licence: str | None = None,
        gated: bool = False,
        *,
        weight_map: Mapping[str, str] | None = None,
    ) -> None:
        self._sources = sources
        self._tensors = _Tensors(sources, weight_map)
        refuse_quantised_names(self._tensors, identity)
        super().__init__(
            config, self._tensors, identity=identity, revision=revision, licence=licence, gated=gated
        )

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    @property
    def bytes_read(self) -> int:
        return sum(source.bytes_read for source in self._sources.values())

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Read tensors by their stored names, in their stored dtype."""
        return safetensors_io.read_tensors([self._tensors[name] for name in names])


class _Tensors(Mapping[str, TensorInfo]):
    """The tensors of all files; the header of a file is read when it is first needed."""

    def __init__(self, sources: Mapping[str, ByteSource], weight_map: Mapping[str, str] | None) -> None:
        self._sources = sources
        self._headers: dict[str, dict[str, TensorInfo]] = {}
        self._files = weight_map or self._files_of_headers()

    def __getitem__(self, name: str) -> TensorInfo:
        file = self._files[name]
        info = self._header(file).get(name)
        if info is None:
            raise CorruptFileError(
                f"the index says that tensor {name!r} is in this file, but it is not",
                where=self._sources[file].name,
                next="download the index and this file again",
            )
        return info

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def _header(self, file: str) -> dict[str, TensorInfo]:
        if file not in self._headers:
            self._headers[file] = safetensors_io.read_header(self._sources[file])
        return self._headers[file]

    def _files_of_headers(self) -> dict[str, str]:
        files: dict[str, str] = {}
        for file in self._sources:
            for name in self._header(file):
                if name in files:
                    raise CorruptFileError(
                        f"tensor {name!r} is in two files, {files[name]} and {file}",
                        where=self._sources[file].name,
                        next="keep the files of one checkpoint in a folder",
                    )
                files[name] = file
        return files


def open_checkpoint(
    model: str, revision: str | None = None, *, allow_pickle: bool = False, allow_full_download: bool = False
) -> Checkpoint:
    """Open a checkpoint; no tensor is read yet.

    Parameters
    ----------
    model : str
        A local folder, a ``.safetensors`` file with ``config.json`` beside it, a ``.gguf`` file, an embedded
        name, or a hub id; tried in this order.
    revision : str, optional
        Branch, tag or commit of a hub id.
    allow_pickle : bool
        Read legacy ``.bin`` files too (with ``weights_only=True``).
    allow_full_download : bool
        Download whole files when the hub's server does not serve byte ranges.

    Raises
    ------
    ModelNotFoundError
        If `model` is none of these.
    CheckpointError, CorruptFileError, UnsupportedFormatError, UnsupportedFamilyError
        If files are missing, malformed, or of a kind that is not read.
    HubError
        If the hub refuses or fails.
    """
    from pifi_probe import assets

    path = Path(model).expanduser()
    is_local = bool(model) and path.exists()
    if not is_local and assets.is_asset(model):
        path, is_local = Path(assets.path(model)), True
    if is_local:
        if revision is not None:
            raise CheckpointError(
                f"a local checkpoint has no revision {revision!r}", where=model, next="leave the revision out"
            )
        return _open_local(path.absolute(), allow_pickle)
    looks_local = model.startswith((".", "~")) or model.endswith((".gguf", ".safetensors", ".bin"))
    if looks_local or not _HUB_NAME.match(model):
        raise ModelNotFoundError(
            f"there is no model {model!r}",
            where="model name",
            next="give a hub id (org/name), a folder, a .gguf or .safetensors file, or an embedded name "
            "(pifi-probe assets list)",
        )
    from pifi_probe.layers.hub import open_hub_checkpoint

    return open_hub_checkpoint(
        model, revision, allow_pickle=allow_pickle, allow_full_download=allow_full_download
    )


def _open_local(path: Path, allow_pickle: bool) -> Checkpoint:
    if path.is_dir():
        return _open_folder(path, allow_pickle)
    if path.suffix == ".gguf":
        from pifi_probe.layers.gguf_checkpoint import GGUFCheckpoint

        return GGUFCheckpoint(FileSource(path), identity=str(path))
    if path.suffix == ".safetensors":
        return _open_safetensors(path.parent, [path.name], str(path))
    if path.suffix in (".bin", ".pt", ".pth"):
        return _open_pickle(path.parent, [path.name], str(path), allow_pickle)
    raise UnsupportedFormatError(
        f"files of type {path.suffix or path.name!r} are not read",
        where=str(path),
        next="give a folder, a .safetensors file or a .gguf file",
    )


def _open_folder(folder: Path, allow_pickle: bool) -> Checkpoint:
    """Open what a folder holds: safetensors before pickle, an index before single files."""
    if (folder / INDEX).is_file():
        weight_map = read_weight_map(folder / INDEX)
        return _open_safetensors(folder, sorted(set(weight_map.values())), str(folder), weight_map)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    weights = [name for name in names if name.endswith(".safetensors")]
    if "model.safetensors" in weights:
        weights = ["model.safetensors"]
    if len(weights) == 1 or (weights and _is_complete_set(weights, folder)):
        return _open_safetensors(folder, weights, str(folder))
    if weights:
        raise CheckpointError(
            f"the folder has {len(weights)} safetensors files and no {INDEX}",
            where=str(folder),
            next=f"add {INDEX}, or give the one file that you mean",
        )
    pickles = [name for name in names if re.fullmatch(r"pytorch_model(-\d+-of-\d+)?\.bin", name)]
    if pickles:
        return _open_pickle(folder, pickles, str(folder), allow_pickle)
    ggufs = [name for name in names if name.endswith(".gguf")]
    raise CheckpointError(
        "the folder has no weights (model.safetensors)",
        where=str(folder),
        next=f"give the GGUF file itself: {folder / ggufs[0]}" if ggufs else "give the folder of a whole checkpoint",
    )


def _is_complete_set(names: list[str], folder: Path) -> bool:
    """Tell whether the files are the shards of one checkpoint; raise when some of them are missing."""
    shards = [match for name in names if (match := _SHARD.match(name))]
    if len(shards) != len(names) or len({(match["stem"], match["n"]) for match in shards}) != 1:
        return False
    n = int(shards[0]["n"])
    if len(shards) != n:
        raise CheckpointError(
            f"{n - len(shards)} of {n} shards are missing", where=str(folder), next="download the missing files"
        )
    return True


def _open_safetensors(
    folder: Path, files: list[str], identity: str, weight_map: Mapping[str, str] | None = None
) -> SafetensorsCheckpoint:
    config = read_config(folder)
    _require_files(folder, files)
    sources = {file: FileSource(folder / file) for file in files}
    return SafetensorsCheckpoint(config, sources, identity, licence=read_licence(folder), weight_map=weight_map)


def _open_pickle(folder: Path, files: list[str], identity: str, allow_pickle: bool) -> Checkpoint:
    if not allow_pickle:
        raise UnsupportedFormatError(
            "the weights are legacy pickle files, which are read only on request",
            where=identity,
            next="pass allow_pickle=True (they are read with weights_only=True), or use a safetensors checkpoint",
        )
    from pifi_probe.layers.pickle_io import PickleCheckpoint

    index = folder / "pytorch_model.bin.index.json"
    if len(files) > 1 and index.is_file():
        files = sorted(set(read_weight_map(index).values()))
    config = read_config(folder)
    _require_files(folder, files)
    paths = {file: folder / file for file in files}
    return PickleCheckpoint(config, paths, identity, licence=read_licence(folder))


def _require_files(folder: Path, files: list[str]) -> None:
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(files)} shards are missing: {', '.join(missing[:3])}",
            where=str(folder),
            next="download the missing files",
        )
