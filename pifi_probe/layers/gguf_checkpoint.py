"""A GGUF file as a checkpoint: one layer dequantised, under transformers' names."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import torch

from pifi_probe.compat import gguf_names, name_gguf_tensors
from pifi_probe.errors import CheckpointError, CorruptFileError, UnsupportedFormatError
from pifi_probe.layers.cut import donor_config
from pifi_probe.layers.formats import Contents
from pifi_probe.layers.gguf_config import gguf_config
from pifi_probe.layers.gguf_io import read_header, read_rows, read_tensors
from pifi_probe.layers.gguf_layout import in_asked_parts
from pifi_probe.layers.gguf_parts import all_parts
from pifi_probe.layers.gguf_qwen import restored
from pifi_probe.layers.sharded import check_finite, check_index
from pifi_probe.layers.shell import around_layer
from pifi_probe.layers.sources import ByteSource, TensorInfo, dropping_what_cannot_be

__all__ = ["GGUFCheckpoint"]

_EMBEDDING = "token_embd.weight"
_PLAIN = ("F64", "F32", "F16", "BF16")
# layers, output matrix, frequencies; an encoder of pictures and layers that predict further tokens, as Ollama has them
_NOT_STEM = ("blk.", "output.", "rope_", _EMBEDDING, "v.", "mm.", "mtp.")
_COMPUTED = re.compile(r"\.(attn_rot_embd|rope_freqs)\.weight$")  # frequencies, which the model computes


class GGUFCheckpoint:
    """A `Checkpoint` in one GGUF file, or one that was split into parts.

    Parameters
    ----------
    source : ByteSource
        The file; of several parts the first.
    identity : str
        Absolute path, or ``"repo@commit"``.
    revision, licence, gated
        As in `Checkpoint`; without `licence` the file's ``general.license`` counts.
    sibling : callable, optional
        Opens a file of the same folder by its name, for the other parts.

    Raises
    ------
    CorruptFileError, CheckpointError
        If the header is malformed or the metadata incomplete, or a part is missing or not the first.
    UnsupportedFormatError
        If the version, the architecture or a quantisation is not read.
    """

    format = "gguf"
    token: str | bool | None = None

    def __init__(
        self,
        source: ByteSource,
        identity: str,
        revision: str | None = None,
        licence: str | None = None,
        gated: bool = False,
        sibling: Callable[[str], ByteSource] | None = None,
    ) -> None:
        self._source = source
        with dropping_what_cannot_be(source):
            header = read_header(source)
            self._header_ends = min((info.offset for info in header.tensors.values()), default=source.size)
            header, self._sources = all_parts(source, header, sibling)
        self.tensors: Mapping[str, TensorInfo] = header.tensors
        self.config, self._entries = gguf_config(header, identity)
        self._architecture = str(header.metadata["general.architecture"])
        stated = header.metadata.get("general.license")
        self._named_by: dict[str, Mapping[str, str]] = {}
        self.identity, self.revision, self.gated = identity, revision, gated
        self.licence = licence or (stated if isinstance(stated, str) and stated else None)

    @property
    def bytes_read(self) -> int:
        """Bytes fetched until now, the header included."""
        return sum(source.bytes_read for source in self._sources)

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return self._source.size

    def header_bytes(self) -> bytes:
        """Return the (first) file up to its first tensor: metadata, tokenizer and table of tensors."""
        return self._source.read(0, self._header_ends)

    def layer_names(self, index: int) -> list[str]:
        """Return the stored names (``"blk.3.attn_q.weight"``) of layer `index`; raises as for safetensors."""
        check_index(index, int(self.config.num_hidden_layers), self.identity)
        names = [name for name in self.tensors if name.startswith(f"blk.{index}.") and not _COMPUTED.search(name)]
        if not names:
            raise CheckpointError(
                f"no tensor of layer {index} is in the file",
                where=self.identity,
                next="download the file again",
            )
        return names

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Read tensors by their stored names, dequantised to float32."""
        return read_tensors([self.tensors[name] for name in names])

    def contents(self, index: int) -> Contents:
        """Return how large layer `index` is, from the header alone."""
        infos = [self.tensors[name] for name in self.layer_names(index)]
        bytes_of: Counter[str] = Counter()
        for info in infos:
            bytes_of[info.dtype] += 0 if info.dtype in _PLAIN else info.nbytes
        types = [kind for kind, nbytes in bytes_of.most_common() if nbytes]
        weights = sum(math.prod(info.shape) for info in infos)
        return Contents(
            weights=weights,
            memory=4 * weights,
            nbytes=sum(info.nbytes for info in infos),
            stored_as=f"GGUF {', '.join(types)}" if types else None,
        )

    def read_layer(self, index: int, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """Read layer `index` in float32 (`dtype` is ignored), under transformers' names with 0 in place of its index.

        Raises
        ------
        CorruptFileError
            If the file is truncated, a tensor holds NaN or an infinity, or cannot be converted.
        UnsupportedFormatError
            If a tensor's type cannot be dequantised or transformers has no place for a tensor.
        LayerIndexError, CheckpointError, UnsupportedFamilyError
        """
        tensors = self.read(self.layer_names(index))
        for name, tensor in tensors.items():
            with dropping_what_cannot_be(self.tensors[name].source):
                check_finite(name, tensor, self.identity)
        stored = {f"blk.0.{name.split('.', 2)[2]}": tensor for name, tensor in tensors.items()}
        return self._named(stored, index)

    def read_stem(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Read what lies outside the layers in float32, embeddings above all; the output matrix never.

        Of the token embeddings only the rows of `tokens` (int64, ascending) are read.
        """
        names = [name for name in self.tensors if not name.startswith(_NOT_STEM)]
        found = self.read(names)
        if _EMBEDDING in self.tensors:
            found[_EMBEDDING] = read_rows(self.tensors[_EMBEDDING], tokens)
        return self._named(found, 0)

    def _named(self, stored: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
        """Give GGUF tensors the names, layout and values of a model whose only layer is `index`."""
        try:
            names = self._names(index)
            stored = in_asked_parts(restored(self._architecture, self._entries, stored), names)
            found, unplaced = name_gguf_tensors(self._architecture, self._entries, names, stored)
        except (ArithmeticError, ValueError, RuntimeError, LookupError, TypeError) as error:
            raise CorruptFileError(
                f"the tensors of layer {index} do not have the names and shapes that the metadata state: {error}",
                where=self.identity,
                next="download the file again",
            ) from error
        if unplaced:
            raise UnsupportedFormatError(
                f"transformers' {self.config.model_type} has no place for {', '.join(sorted(unplaced)[:3])}",
                where=self.identity,
                next="use the model's safetensors checkpoint instead",
            )
        return found

    def _names(self, index: int) -> Mapping[str, str]:
        """Return transformers' names for a layer; layers of the same modules share them."""
        base = around_layer(donor_config(self.config), index)
        key = ",".join(base.state_dict())
        if key not in self._named_by:
            self._named_by[key] = gguf_names(self._architecture, self._entries, base)
        return self._named_by[key]
