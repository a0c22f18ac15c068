"""Opening what lies on this machine: a checkpoint folder, or one file of weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pifi_probe.errors import CheckpointError, UnsupportedFormatError
from pifi_probe.layers.checkpoint import INDEX, Checkpoint, SafetensorsCheckpoint
from pifi_probe.layers.configs import read_config, read_licence, read_weight_map
from pifi_probe.layers.gguf_checkpoint import GGUFCheckpoint
from pifi_probe.layers.pickle_io import PickleCheckpoint
from pifi_probe.layers.sources import FileSource

__all__ = ["open_local_checkpoint"]

_PICKLE_INDEX = "pytorch_model.bin.index.json"
_SHARD = re.compile(r"^(?P<stem>.+)-\d{5}-of-(?P<n>\d{5})\.(safetensors|bin)$")


def open_local_checkpoint(path: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Open a checkpoint folder or file that exists; parameters and errors are those of `open_checkpoint`."""
    if path.is_dir():
        return _open_folder(path, allow_pickle)
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        return GGUFCheckpoint(FileSource(path), identity=str(path))
    if suffix == ".safetensors":
        return _open_safetensors(path.parent, [path.name], str(path))
    if suffix in (".bin", ".pt", ".pth"):
        return _open_pickle(path.parent, [path.name], str(path), allow_pickle)
    raise UnsupportedFormatError(
        f"files of type {suffix or path.name!r} are not read",
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
    if _PICKLE_INDEX in names:
        files = sorted(set(read_weight_map(folder / _PICKLE_INDEX).values()))
        return _open_pickle(folder, files, str(folder), allow_pickle)
    pickles = [name for name in names if re.fullmatch(r"pytorch_model(-\d+-of-\d+)?\.bin", name)]
    if len(pickles) == 1 or (pickles and _is_complete_set(pickles, folder)):
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
            f"{n - len(shards)} of {n} shards are missing",
            where=str(folder),
            next="download the missing files",
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
            next="pass allow_pickle=True (--allow-pickle), which runs no code in them, or use a safetensors checkpoint",
        )
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
