"""Opening what lies on this machine: a checkpoint folder, or one file of weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pifi_probe.errors import CheckpointError, UnsupportedFormatError
from pifi_probe.layers.checkpoint import Checkpoint, SafetensorsCheckpoint
from pifi_probe.layers.configs import read_config, read_licence, read_numbers, read_weight_map
from pifi_probe.layers.gguf_checkpoint import GGUFCheckpoint
from pifi_probe.layers.pickle_io import PickleCheckpoint
from pifi_probe.layers.sources import FileSource
from pifi_probe.layers.weight_files import weight_files
from pifi_probe.reading import read_object

__all__ = ["open_local_checkpoint"]


def open_local_checkpoint(path: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Open a checkpoint folder or file that exists; parameters and errors are those of `open_checkpoint`."""
    if path.is_dir():
        return _open_folder(path, allow_pickle)
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        return GGUFCheckpoint(FileSource(path), identity=str(path), sibling=lambda name: FileSource(path.parent / name))
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
    """Open what a folder holds; see `weight_files` for which of several files are read."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    config = folder / "config.json"
    stated = read_object(config).get("transformers_weights") if config.is_file() else None
    found = weight_files(names, str(folder), stated)
    if found is None:
        ggufs = [name for name in names if name.endswith(".gguf")]
        raise CheckpointError(
            "the folder has no weights (model.safetensors)",
            where=str(folder),
            next=f"give the GGUF file itself: {folder / ggufs[0]}"
            if ggufs
            else "give the folder of a whole checkpoint",
        )
    weight_map = None if found.index is None else read_weight_map(folder / found.index)
    files = found.files if weight_map is None else sorted(set(weight_map.values()))
    if found.pickle:
        return _open_pickle(folder, files, str(folder), allow_pickle)
    return _open_safetensors(folder, files, str(folder), weight_map)


def _open_safetensors(
    folder: Path, files: list[str], identity: str, weight_map: Mapping[str, str] | None = None
) -> SafetensorsCheckpoint:
    config = read_config(folder)
    _require_files(folder, files)
    sources = {file: FileSource(folder / file) for file in files}
    licence, numbers = read_licence(folder), read_numbers(folder)
    return SafetensorsCheckpoint(config, sources, identity, licence=licence, weight_map=weight_map, numbers=numbers)


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
    return PickleCheckpoint(config, paths, identity, licence=read_licence(folder), numbers=read_numbers(folder))


def _require_files(folder: Path, files: list[str]) -> None:
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(files)} shards are missing: {', '.join(missing[:3])}",
            where=str(folder),
            next="download the missing files",
        )
