"""Where a model's tensors lie, and reading only those of one layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import torch
from transformers import PretrainedConfig

from pifi_probe.errors import CheckpointError, CorruptFileError, ModelNotFoundError
from pifi_probe.files import existing
from pifi_probe.layers import safetensors_io
from pifi_probe.layers.formats import Contents, Numbers
from pifi_probe.layers.sharded import ShardedCheckpoint
from pifi_probe.layers.sources import ByteSource, TensorInfo, dropping_what_cannot_be
from pifi_probe.layers.spec import parse_model
from pifi_probe.models_table import repo_of
from pifi_probe.permissions import pickle_allowed

__all__ = ["Checkpoint", "SafetensorsCheckpoint", "open_checkpoint", "open_named"]

_HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$|^[\w.-]+/[\w.-]+/[\w./-]+\.gguf$")


class Checkpoint(Protocol):
    """A model on disk or on the hub, of which single tensors are read.

    Attributes
    ----------
    config : PretrainedConfig
        transformers configuration of the text decoder.
    format : str
        ``"safetensors"``, ``"gguf"`` or ``"pickle"``.
    identity : str
        ``"repo@commit"`` or an absolute path.
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


def is_gguf(name: str) -> bool:
    """Return whether a name is that of a GGUF file."""
    return name.lower().endswith(".gguf")


def is_hub_name(name: str) -> bool:
    """Return whether a name can be a hub id, or one of a GGUF file there."""
    is_file_name = name.count("/") < 2 and name.endswith((".gguf", ".safetensors", ".bin"))
    return not is_file_name and not name.startswith((".", "~")) and _HUB_NAME.fullmatch(name) is not None


def open_named(llm: str) -> Checkpoint:
    """Open the checkpoint of a whole model that a user named, ``"MODEL"`` or ``"MODEL@revision"``.

    Raises
    ------
    SpecError
        If `llm` names layers, or no model.
    PifiProbeError
        As `open_checkpoint`.
    """
    return open_checkpoint(*parse_model(llm))


def open_checkpoint(
    model: str,
    revision: str | None = None,
    *,
    allow_pickle: bool = False,
    allow_full_download: bool = False,
    token: str | bool | None = None,
) -> Checkpoint:
    """Open a checkpoint; no tensor is read yet.

    Parameters
    ----------
    model : str
        A local folder, a ``.safetensors`` file with ``config.json`` next to it, a ``.gguf`` file, an embedded
        name, a name of `pifi_probe.models_table`, or a hub id (``org/name``, or ``org/name/file.gguf``); tried in
        this order.
    revision : str, optional
        Branch, tag or commit of a hub id.
    allow_pickle : bool
        Read legacy ``.bin`` files too (with ``weights_only=True``); ``PIFI_PROBE_ALLOW_PICKLE=1`` allows it everywhere.
    allow_full_download : bool
        Download whole files when the hub's server does not serve byte ranges.
    token : str or bool, optional
        As the hub's client has it: None uses the saved one, False none.

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

    allow_pickle = allow_pickle or pickle_allowed()
    path = existing(model)
    if path is None and assets.is_asset(model):
        path = assets.path(model)
    if path is not None:
        if revision is not None:
            raise CheckpointError(
                f"a local checkpoint has no revision {revision!r}", where=model, next="leave the revision out"
            )
        from pifi_probe.layers.local import open_local_checkpoint

        return open_local_checkpoint(path.absolute(), allow_pickle=allow_pickle)
    model = repo_of(model)
    if not is_hub_name(model):
        raise ModelNotFoundError(
            f"there is no model {model!r}",
            where="model name",
            next="give a hub id (org/name), a folder, a .gguf or .safetensors file, or an embedded name "
            "(pifi-probe assets list)",
        )
    from pifi_probe.layers.hub import open_hub_checkpoint

    return open_hub_checkpoint(
        model, revision, allow_pickle=allow_pickle, allow_full_download=allow_full_download, token=token
    )
