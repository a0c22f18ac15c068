"""The family's own base model around one layer, with all that lies outside of the layer silenced."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, PretrainedConfig, PreTrainedModel

from pifi_probe.compat import base_model
from pifi_probe.errors import CheckpointError
from pifi_probe.layers.families import Family, family_of

__all__ = ["CHECK_CONFIG", "layers_of", "make_shell", "refuse_absurd_config", "strip_shell", "strip_stem"]

CHECK_CONFIG = "check that config.json belongs to these weights, or download the model again"  # what to do next

_MOST_OUTSIDE = 1 << 28  # entries of position tables and masks beside one layer; OPT-175B has 25 million


class _Zeros(nn.Module):
    """Stands where position embeddings were: whatever it is asked, it adds nothing."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.zeros(())


class _Untouched(nn.Module):
    """Stands where a norm or embedding outside of the layer was."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return hidden_states


def _decoder_of(shell: PreTrainedModel, family: Family) -> nn.Module:
    """Return the module of the base model that holds the layers."""
    return getattr(shell, family.decoder) if family.decoder else shell


def layers_of(base: PreTrainedModel) -> nn.ModuleList:
    """Return the layers of a family's base model; of a shell, its only one."""
    family = family_of(base.config)
    layers: nn.ModuleList = getattr(_decoder_of(base, family), family.layers)
    return layers


def make_shell(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Build the family's base model for a one-layer configuration and silence all but the layer.

    Raises
    ------
    CheckpointError
        If the configuration is one of several layers, or of none.
    """
    if config.num_hidden_layers != 1:
        raise CheckpointError(
            f"the configuration of a single layer says num_hidden_layers = {config.num_hidden_layers}",
            where=str(config.model_type),
            next="extract and save the layer again, or copy the whole folder again",
        )
    return strip_shell(base_model(config, dtype))


def refuse_absurd_config(config: PretrainedConfig, stored: int, where: str) -> None:
    """Refuse a configuration far larger than the stored weights, before anything of its size is allocated.

    Parameters
    ----------
    config : PretrainedConfig
        From `layer_config`.
    stored : int
        How many weights of the layer are stored.
    where : str
        The layer, for the message.

    Raises
    ------
    CheckpointError
        If the layer, or the position tables beside it, would be absurdly large, or an entry is NaN or infinite.
    """
    for key, value in vars(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise CheckpointError(f"the configuration says {key} = {value}", where=where, next=CHECK_CONFIG)
    with torch.device("meta"):
        shell = MODEL_MAPPING[type(config)](config)
    expected = sum(p.numel() for p in layers_of(shell).parameters())
    outside = sum(t.numel() for t in (*shell.parameters(), *shell.buffers())) - expected
    if expected > 2 * stored:
        raise CheckpointError(
            f"the checkpoint's tensors do not make up the layer: {stored:,} weights are stored, and the "
            f"configuration asks for {expected:,}",
            where=where,
            next=CHECK_CONFIG,
        )
    if outside > _MOST_OUTSIDE:
        raise CheckpointError(
            f"the configuration asks for tables of {outside:,} entries beside the layer, such as those of positions",
            where=where,
            next=CHECK_CONFIG,
        )


def strip_shell(shell: PreTrainedModel) -> PreTrainedModel:
    """Replace embeddings, position embeddings and final norm, so that only the layer's tensors remain."""
    family = family_of(shell.config)
    decoder = _decoder_of(shell, family)
    shell.set_input_embeddings(_Untouched())
    _silence(decoder, (*family.before, *family.outside))
    for name in family.zeros:
        setattr(decoder, name, _Zeros())
    return shell


def strip_stem(stem: PreTrainedModel) -> PreTrainedModel:
    """Replace what a model without layers does after them, so that it returns what its first layer was given."""
    family = family_of(stem.config)
    _silence(_decoder_of(stem, family), family.outside)
    return stem


def _silence(decoder: nn.Module, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(decoder, name, None) is not None:
            setattr(decoder, name, _Untouched())
