"""A checkpoint whose tensors carry transformers' names, in one file or several."""

from __future__ import annotations

import functools
import itertools
import math
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from transformers import PretrainedConfig

from pifi_probe.errors import CheckpointError, CorruptFileError, LayerIndexError
from pifi_probe.layers.formats import Contents, Numbers, Plan, arrange, make_plan
from pifi_probe.layers.shell import own_prefixes, weight_names
from pifi_probe.layers.sources import TensorInfo, dropping_what_cannot_be

__all__ = ["ShardedCheckpoint", "check_finite", "check_index", "decoder_prefix", "is_text"]

_LAYER = re.compile(r"^(?P<prefix>.*?\b(?:layers|h|blocks))\.(?P<i>\d+)\.(?P<rest>.*)$")
_NOT_TEXT = re.compile(  # parts besides the text decoder that may have as many layers as it
    r"vision|visual|image|audio|speech|talker|wav|siglip|q_?former|resampler|perceiver|connector|projector|encoder"
    r"|\b(mtp|vit|img|draft)(\b|_)"
)
_TEXT = re.compile(r"language_model|text_model|thinker|\bllm\b")
# Masks and frequencies that old checkpoints store next to the weights; the model computes them.
_COMPUTED = re.compile(r"(\.rotary_emb\.inv_freq|\.(attn|attention)\.(masked_)?bias)$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|embeddings?)\.weight$")


class ShardedCheckpoint(ABC):
    """Common part of the checkpoints that store transformers' names.

    Parameters
    ----------
    config : PretrainedConfig
        Of the text decoder.
    names : iterable of str
        All stored tensor names.
    identity : str
        ``"repo@commit"`` or an absolute path.
    revision, licence : str or None
    gated : bool
        Whether the hub asks for consent before a download.
    numbers : Numbers, optional
        What the configuration says of quantised weights.
    """

    format: str
    token: str | bool | None = None

    def __init__(
        self,
        config: PretrainedConfig,
        names: Iterable[str],
        *,
        identity: str,
        revision: str | None = None,
        licence: str | None = None,
        gated: bool = False,
        numbers: Numbers | None = None,
    ) -> None:
        self.config = config
        self.numbers = numbers or Numbers()
        self.identity, self.revision, self.licence, self.gated = identity, revision, licence, gated
        self._prefix, self._layers = _group_layers(names, int(config.num_hidden_layers), identity)

    @property
    @abstractmethod
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name as stored to where it lies."""

    @property
    @abstractmethod
    def bytes_read(self) -> int:
        """Bytes fetched until now."""

    @abstractmethod
    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Read tensors by their stored names."""

    @abstractmethod
    def read_rows(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Read some rows of a matrix (indices ascending), without the whole of it in memory."""

    def layer_names(self, index: int) -> list[str]:
        """Return the stored names of the tensors of layer `index` (not negative).

        Raises
        ------
        LayerIndexError
            If the model has no such layer.
        CheckpointError
            If the files hold no tensor of it.
        """
        check_index(index, int(self.config.num_hidden_layers), self.identity)
        names = [name for name in self._layers.get(index, ()) if not self._is_computed(name)]
        if not names:
            raise CheckpointError(
                f"no tensor of layer {index} is in the checkpoint",
                where=self.identity,
                next="download the missing files; a single shard does not hold the whole model",
            )
        return names

    def plan(self, index: int) -> Plan:
        """Return what of layer `index` is to be read, and which of its weights are packed; raises as `layer_names`."""
        infos = {name: self.tensors[name] for name in self.layer_names(index)}
        start = f"{self._prefix}.{index}."
        own = functools.cache(lambda: weight_names(self.config, index))
        return make_plan(infos, self.numbers, self.identity, lambda name: name.removeprefix(start) in own())

    def contents(self, index: int) -> Contents:
        """Return how large layer `index` is, from the headers alone."""
        plan = self.plan(index)
        return plan.contents(plan.dtype(self.config.dtype))

    def read_layer(self, index: int, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
        """Read layer `index`, named as the only one of the text decoder by itself.

        Parameters
        ----------
        index : int
        dtype : torch.dtype, optional
            Of weights that are stored quantised; None: the type that the configuration states.

        Raises
        ------
        CorruptFileError
            If a file is truncated, or a tensor holds NaN or an infinity.
        LayerIndexError, CheckpointError, UnsupportedFormatError
        """
        old, new = f"{self._prefix}.{index}.", f"{_own_prefix(self.config, self._prefix)}.0."
        tensors = self._weights(self.plan(index), dtype)
        return {new + name.removeprefix(old): tensor for name, tensor in tensors.items()}

    def _weights(self, plan: Plan, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
        """Read what a plan names, and turn it into weights that are finite."""
        stored = self.read([info.name for info in plan.infos])
        for info in plan.plain:
            with dropping_what_cannot_be(info.source):
                check_finite(info.name, stored[info.name], info.source.name)
        weights = plan.weights(stored, dtype or plan.dtype(self.config.dtype))
        return arrange(weights, plan.packed, self.config.model_type, moved=self._has_moved_convolutions)

    @functools.cached_property
    def _has_moved_convolutions(self) -> bool:
        """Whether convolutions lie as MLX has them, (channels, kernel, 1): then it has shifted norms, too."""
        if "qwen3" not in self.config.model_type:
            return False
        names = (name for group in self._layers.values() for name in group if name.endswith("conv1d.weight"))
        shapes = (self.tensors[name].shape for name in names)
        return any(len(shape) == 3 and shape[-1] == 1 != shape[1] for shape in itertools.islice(shapes, 1))

    def read_stem(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Read what the decoder has outside its layers, embeddings above all; the language-model head never.

        Parameters
        ----------
        tokens : Tensor, (n,), int64
            The rows of the token embeddings to read, ascending.

        Raises
        ------
        CheckpointError
            If a token has no embedding.
        """
        decoder, own = (_parent(prefix) for prefix in (self._prefix, _own_prefix(self.config, self._prefix)))
        names = [
            name
            for name in self.tensors
            if name.startswith(decoder) and not name.startswith(f"{self._prefix}.") and not _HEAD.search(name)
        ]
        plan = make_plan(
            {name: self.tensors[name] for name in names if not self._is_computed(name)}, self.numbers, self.identity
        )
        found = self._embeddings(plan, tokens)
        found |= self._weights(plan.without(found), None)
        return {own + name.removeprefix(decoder): tensor for name, tensor in found.items()}

    def _embeddings(self, plan: Plan, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Read some rows of the token embeddings."""
        found = {info.name: self.read_rows(info.name, tokens) for info in plan.plain if _EMBEDDING.search(info.name)}
        for weight in plan.packed:
            if _EMBEDDING.search(weight.name):
                rows = plan.rows(weight, lambda name: self.read_rows(name, tokens), len(tokens), torch.float32)
                if rows is None:
                    parts = {role: self.read([info.name])[info.name] for role, info in weight.parts.items()}
                    rows = plan.weight(weight, parts, torch.float32)[tokens]
                found[weight.name] = rows
        return found

    def _is_computed(self, name: str) -> bool:
        # A mask is four-dimensional (or a scalar); the bias of an attention module is not.
        return bool(_COMPUTED.search(name)) and ("inv_freq" in name or len(self.tensors[name].shape) in (0, 4))


def is_text(prefix: str) -> bool:
    """Tell whether a prefix of names can be the text decoder's, and not that of what sees or hears besides it."""
    return _NOT_TEXT.search(prefix) is None or _TEXT.search(prefix) is not None


def decoder_prefix(indices: Mapping[str, set[int]], n_layers: int) -> str | None:
    """Choose among name prefixes the one of the text decoder; None when there is none.

    Parameters
    ----------
    indices : Mapping
        ``"model.layers"`` and the like, to the layer indices stored under it.
    n_layers : int
        Layers of the text decoder.
    """

    def rank(prefix: str) -> tuple[int, bool, bool, bool, bool, int]:
        found = indices[prefix]
        return (
            sum(i < n_layers for i in found),
            _NOT_TEXT.search(prefix) is None,
            len(found) == n_layers,
            _TEXT.search(prefix) is not None,
            "model" in prefix,
            -len(prefix),
        )

    return max(indices, key=rank, default=None)


def _group_layers(names: Iterable[str], n_layers: int, identity: str) -> tuple[str, dict[int, list[str]]]:
    """Return the text decoder's prefix and the names of each of its layers."""
    groups: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    is_encoder = False
    for name in names:
        is_encoder |= ".layer." in name and "encoder." in name
        match = _LAYER.match(name)
        if match and len(match["i"]) <= 6:
            groups[match["prefix"]][int(match["i"])].append(name)
    prefix = decoder_prefix({key: set(group) for key, group in groups.items()}, n_layers)
    if prefix is None:
        raise CheckpointError(
            "this is an encoder, such as BERT: a layer is taken from a decoder, which reads from left to right"
            if is_encoder
            else "no tensor is named like part of a decoder layer (model.layers.0...)",
            where=identity,
            next="give a checkpoint of a decoder language model that transformers can load",
        )
    for other, layers in groups.items():
        nested = other.endswith(f".{prefix}") or prefix.endswith(f".{other}")
        if nested and not _NOT_TEXT.search(other) and layers.keys() >= groups[prefix].keys():
            raise CheckpointError(
                f"every layer is stored twice, under {prefix!r} and under {other!r}, and only one can be the model's",
                where=identity,
                next="save the model again with save_pretrained, or take the names that do not belong out of the file",
            )
    return prefix, dict(groups[prefix])


def _own_prefix(config: PretrainedConfig, stored: str) -> str:
    """Return the prefix of layers in the text decoder by itself; a model of several parts stores a longer one."""
    path, whole = own_prefixes(config)
    return stored if stored in (path, whole) else whole


def _parent(prefix: str) -> str:
    """Return what stands before the last part of a prefix, with its full stop; empty when nothing does."""
    head, dot, _ = prefix.rpartition(".")
    return head + dot


def check_index(index: int, n_layers: int, where: str) -> None:
    """Raise `LayerIndexError` unless ``0 <= index < n_layers``."""
    if not 0 <= index < n_layers:
        raise LayerIndexError(
            f"layer index {index} is out of range: the model has {n_layers} layers",
            where=where,
            next=f"use an index from 0 to {n_layers - 1}",
        )


def check_finite(name: str, tensor: torch.Tensor, where: str) -> None:
    """Raise `CorruptFileError` naming the tensor when it holds NaN or an infinity."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return
    low, high = torch.aminmax(tensor.flatten())  # hands NaN on, and needs no memory of the tensor's size
    if not (math.isfinite(low.item()) and math.isfinite(high.item())):
        raise CorruptFileError(f"tensor {name!r} holds NaN or an infinity", where=where, next="download the file again")
