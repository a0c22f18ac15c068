"""Where a model's tensors lie, and reading only those of one layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from transformers import PretrainedConfig

from pifi_probe.errors import CorruptFileError
from pifi_probe.layers import safetensors_io
from pifi_probe.layers.formats import Contents, Numbers
from pifi_probe.layers.sharded import ShardedCheckpoint
from pifi_probe.layers.sources import ByteSource, TensorInfo, dropping_what_cannot_be

__all__ = ["Checkpoint", "SafetensorsCheckpoint", "hub_place", "local_path"]


class Checkpoint(Protocol):
    """A model on disk or on the hub, of which single tensors are read.

    Attributes
    ----------
    config : PretrainedConfig
        transformers configuration of the text decoder.
    format : str
        ``"safetensors"``, ``"gguf"`` or ``"pickle"``.
    identity : str
        ``"repo@commit"``, ``"repo@commit/file.gguf"`` or an absolute path; see `hub_place` and `local_path`.
    revision, licence : str or None
    gated : bool
    token : str, bool or None
        That the hub was asked with, and is asked with for what belongs to the model, such as its tokenizer.
    """

    config: PretrainedConfig
    format: str
    identity: str
    revision: str | None
    licence: str | None
    gated: bool
    token: str | bool | None

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name as stored to where the tensor lies."""
        ...

    @property
    def bytes_read(self) -> int:
        """Bytes fetched until now, headers included."""
        ...

    def layer_names(self, index: int) -> list[str]:
        """Return the stored names of the tensors of layer `index`."""
        ...

    def contents(self, index: int) -> Contents:
        """Return how large layer `index` is, from the headers alone."""
        ...

    def read_layer(self, index: int, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """Read layer `index` under transformers' names, with 0 in place of its index.

        `dtype` is that of weights which are stored quantised; None: the type that the configuration states.
        """
        ...

    def read_stem(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Read what the decoder has outside its layers, under transformers' names; the head never.

        Of the token embeddings only the rows of `tokens` (int64, ascending) are read.
        """
        ...

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Read tensors by their stored names."""
        ...


def local_path(checkpoint: Checkpoint) -> Path | None:
    """Return the folder or file that a checkpoint lies in; None for one of the hub."""
    path = Path(checkpoint.identity)
    return path if path.exists() else None


def hub_place(checkpoint: Checkpoint) -> tuple[str, str]:
    """Return repository and file of a checkpoint of the hub; the file is "" where it is the whole repository."""
    repo, _, rest = checkpoint.identity.partition("@")
    return repo, rest.partition("/")[2]


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
    numbers : Numbers, optional
        What the configuration says of quantised weights.

    Raises
    ------
    CheckpointError
        If no tensor belongs to a decoder layer.
    CorruptFileError
        If a header is malformed or contradicts the index.
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
        numbers: Numbers | None = None,
    ) -> None:
        self._sources = sources
        self._tensors = _Tensors(sources, weight_map)
        super().__init__(
            config, self._tensors, identity=identity, revision=revision, licence=licence, gated=gated, numbers=numbers
        )

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name as stored to where the tensor lies."""
        return self._tensors

    @property
    def bytes_read(self) -> int:
        """Bytes fetched until now, headers included."""
        return sum(source.bytes_read for source in self._sources.values())

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Read tensors by their stored names, in their stored dtype."""
        return safetensors_io.read_tensors([self._tensors[name] for name in names])

    def read_rows(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Read some rows of a matrix (indices ascending), piece by piece."""
        return safetensors_io.read_rows(self._tensors[name], rows)


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
            source = self._sources[file]
            with dropping_what_cannot_be(source):
                self._headers[file] = safetensors_io.read_header(source)
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
