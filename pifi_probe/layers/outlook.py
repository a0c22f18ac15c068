"""What a model holds and what PiFi with one of its layers would cost, before any weight is read."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import CONFIG_MAPPING, PretrainedConfig

from pifi_probe import assets
from pifi_probe.compat import quiet_transformers
from pifi_probe.errors import ModelNotFoundError, PifiProbeError, PlugInError, UnsupportedFamilyError
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.cut import donor_config
from pifi_probe.layers.detect import refuse_missing_state
from pifi_probe.layers.families import family_of
from pifi_probe.layers.formats import Contents
from pifi_probe.layers.frozen import FrozenLayer, LayerCard
from pifi_probe.layers.open import is_gguf, open_checkpoint
from pifi_probe.layers.shell import make_shell
from pifi_probe.layers.value_path import reduce_structure
from pifi_probe.models_table import NAMED_MODELS, NamedModel, repo_of
from pifi_probe.pretrained import open_config

__all__ = ["Addition", "Outlook", "addition", "outlook", "width_of"]


@dataclass(frozen=True)
class Addition:
    """What PiFi adds to a small model that stays as it is.

    Parameters
    ----------
    trained_weights : int
        L_in and L_out.
    frozen_weights : int
        The layer in its single-token form where that exists, which is what ``feed="pooled"`` keeps.
    frozen_bytes, training_bytes : int
        The frozen layer in its stored type; the projections in float32 with gradient and Adam's two moments.
    macs_per_text : int
        Multiply-accumulates of one forward pass through projections and layer for one pooled vector.
    macs_per_token : int
        The same for each token of ``feed="sequence"``, without the scores of attention.
    """

    trained_weights: int
    frozen_weights: int
    frozen_bytes: int
    training_bytes: int
    macs_per_text: int
    macs_per_token: int


@dataclass(frozen=True)
class Outlook:
    """What `pifi-probe info MODEL` says.

    Parameters
    ----------
    model, source : str
        The name asked for; where the figures are from: the models table, or the checkpoint's configuration.
    family, supported : str
        ``model_type``; ``"yes"``, or why not and what to do.
    layers, hidden_size : int
    stored_as, licence : str
    gated : bool or None
        None: only the hub knows.
    layer_weights, layer_bytes, layer_memory : int or None
        Of one layer, the largest of those looked at: numbers, bytes as stored and in memory. None for a small model,
        which gives none.
    layer_looked_at : int or None
        Which layer that is; models with many experts have smaller layers before the others.
    quantised : str or None
        How the layer's weights are stored when they are quantised.
    bits_per_weight : float or None
        Stored bits for each weight.
    adds : Addition or None
    """

    model: str
    source: str
    family: str
    supported: str
    layers: int
    hidden_size: int
    stored_as: str
    licence: str
    gated: bool | None
    layer_weights: int | None = None
    layer_bytes: int | None = None
    layer_memory: int | None = None
    layer_looked_at: int | None = None
    quantised: str | None = None
    bits_per_weight: float | None = None
    adds: Addition | None = None


def outlook(model: str, d_slm: int = 384) -> Outlook:
    """Tell what a model holds; of a named model without a connection, of others from configuration and index.

    Parameters
    ----------
    model : str
        A name of `NAMED_MODELS`, an embedded name, a folder, file or hub id.
    d_slm : int
        Width of the small model, for what PiFi would add.

    Raises
    ------
    ModelNotFoundError, CheckpointError, UnsupportedFamilyError, HubError
        As `open_checkpoint`.
    """
    if model in NAMED_MODELS and not Path(model).exists():
        return _of_name(model, NAMED_MODELS[model], d_slm)
    checkpoint = open_checkpoint(model)
    config = checkpoint.config
    index, found = _largest(checkpoint)
    infos = [checkpoint.tensors[name] for name in checkpoint.layer_names(index)]
    widest = max(infos, key=lambda info: info.nbytes).dtype
    unsupported = _why_not(config, index)
    target = torch.bfloat16 if found.memory < 3 * found.weights else torch.float32  # as large as the layer will be
    return Outlook(
        model=model,
        source="configuration and index of the checkpoint",
        family=config.model_type,
        supported="yes" if unsupported is None else f"no: {unsupported}",
        layers=int(config.num_hidden_layers),
        hidden_size=int(config.hidden_size),
        stored_as=f"{checkpoint.format}, {(found.stored_as or widest).removeprefix('GGUF ')}",
        licence=checkpoint.licence or "not stated",
        gated=checkpoint.gated,
        layer_weights=found.weights,
        layer_bytes=found.nbytes,
        layer_memory=found.memory,
        layer_looked_at=index,
        quantised=found.stored_as,
        bits_per_weight=round(found.bits_per_weight, 3),
        adds=addition(config, d_slm, target, index) if unsupported is None else None,
    )


def _largest(checkpoint: Checkpoint) -> tuple[int, Contents]:
    """Return the largest of a few layers: of most models all are alike, of some the first ones have no experts."""
    last = int(checkpoint.config.num_hidden_layers) - 1
    found = {index: checkpoint.contents(index) for index in sorted({0, last // 2, last})}
    index = max(found, key=lambda each: found[each].memory)
    return index, found[index]


def _why_not(config: PretrainedConfig, index: int) -> str | None:
    """Return why layer `index` is not offered; None when it is."""
    try:
        family_of(config)
        refuse_missing_state(config, index, "")
    except PifiProbeError as error:
        return error.what
    return None


def _of_name(name: str, row: NamedModel, d_slm: int) -> Outlook:
    base = Outlook(
        model=name,
        source=f"models table, for {row.repo}",
        family=row.family,
        supported="yes" if row.role == "llm" else "as the small model (slm)",
        layers=row.layers,
        hidden_size=row.hidden_size,
        stored_as=f"safetensors, {row.dtype}",
        licence=row.licence,
        gated=row.gated,
    )
    if row.role != "llm":
        return base
    config = config_of(row)
    weights = sum(p.numel() for p in _meta_layer(config).parameters())
    n_bytes = weights * getattr(torch, row.dtype).itemsize
    adds = addition(config, d_slm, getattr(torch, row.dtype))
    return Outlook(
        **{**vars(base), "layer_weights": weights, "layer_bytes": n_bytes, "layer_memory": n_bytes, "adds": adds}
    )


def config_of(row: NamedModel) -> PretrainedConfig:
    """Return the configuration of a named donor, as far as it decides the size of a layer."""
    values = {"hidden_size": row.hidden_size, "num_hidden_layers": row.layers, **row.config}
    with quiet_transformers():
        return CONFIG_MAPPING[row.family](**values)


def addition(config: PretrainedConfig, d_slm: int, dtype: torch.dtype = torch.float32, index: int = 0) -> Addition:
    """Count what PiFi adds with one layer of a model.

    Parameters
    ----------
    config : PretrainedConfig
        Of the donor.
    d_slm : int
        Width of the small model.
    dtype : torch.dtype
        In which the frozen layer computes; in short types grouped heads are not summed (see `reduce`).
    index : int
        Of the layer: of models with many experts the first ones have none.
    """
    width = int(config.hidden_size)
    projections = 2 * d_slm * width
    whole, pooled = _meta_layer(config, dtype, index), _meta_layer(config, dtype, index)
    if pooled.family.value is not None:
        with contextlib.suppress(AttributeError, TypeError, ValueError, RuntimeError, ZeroDivisionError):
            reduce_structure(pooled)  # a layer without that value path stays whole
    frozen = sum(p.numel() for p in pooled.parameters())
    return Addition(
        trained_weights=projections,
        frozen_weights=frozen,
        frozen_bytes=frozen * dtype.itemsize,
        training_bytes=projections * 16,
        macs_per_text=projections + _matrix_macs(pooled, config),
        macs_per_token=projections + _matrix_macs(whole, config),
    )


def _meta_layer(config: PretrainedConfig, dtype: torch.dtype = torch.float32, index: int = 0) -> FrozenLayer:
    whole = donor_config(config)
    card = LayerCard(model="", index=0, n_layers=1, family=whole.model_type, dtype="float32", stored_dtype="float32")
    with torch.device("meta"), quiet_transformers():
        return FrozenLayer(make_shell(whole, index), card).to(dtype)


def _matrix_macs(layer: nn.Module, config: PretrainedConfig) -> int:
    """Count one multiply-accumulate for each weight of a matrix that one token meets; routed experts in part."""
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
    chosen = getattr(config, "num_experts_per_tok", None) or experts
    total = 0
    for name, weight in layer.named_parameters():
        if weight.dim() < 2:
            continue
        routed = ".experts." in name
        total += weight.numel() * chosen // experts if routed else weight.numel()
    return int(total)


def width_of(slm: str) -> int:
    """Return the hidden size of a small model: of a named one from the table, of others from its configuration.

    Parameters
    ----------
    slm : str
        A number, a name of `NAMED_MODELS`, an embedded name, a folder or a hub id.

    Raises
    ------
    PlugInError
        If a number is not positive.
    ModelNotFoundError, UnsupportedFamilyError
        If there is no such model, or its configuration states no width.
    """
    if slm.lstrip("-").isdigit():
        if int(slm) < 1:
            raise PlugInError(f"a width is positive, not {slm}", where="slm", next="give a width or a model")
        return int(slm)
    if slm in NAMED_MODELS:
        return NAMED_MODELS[slm].hidden_size
    source = str(assets.path(slm)) if assets.is_asset(slm) else repo_of(slm)
    if is_gguf(source):
        return int(open_checkpoint(source).config.hidden_size)
    try:
        config = open_config(source)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"there is no small model {slm!r}",
            where="slm",
            next="give a width such as 768, a name, a folder or a hub id",
        ) from error
    width = getattr(config, "hidden_size", None) or getattr(config, "d_model", None)
    if width is None:
        raise UnsupportedFamilyError(
            f"the configuration of {config.model_type!r} states no width", where=slm, next="give the width as a number"
        )
    return int(width)
