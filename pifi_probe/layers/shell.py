"""The family's own base model around one layer, with all that lies outside of the layer silenced."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, PretrainedConfig, PreTrainedModel

from pifi_probe.layers.families import Family, family_of

__all__ = ["decoder_of", "make_shell", "strip_shell", "strip_stem"]


class _Zeros(nn.Module):
    """Stands where position embeddings were: whatever it is asked, it adds nothing."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.zeros(())


class _Untouched(nn.Module):
    """Stands where a norm or embedding outside of the layer was."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return hidden_states


def decoder_of(shell: PreTrainedModel, family: Family) -> nn.Module:
    """Return the module of the base model that holds the layers."""
    return getattr(shell, family.decoder) if family.decoder else shell


def make_shell(config: PretrainedConfig) -> PreTrainedModel:
    """Build the family's base model for a one-layer configuration and silence all but the layer."""
    return strip_shell(MODEL_MAPPING[type(config)](config))


def strip_shell(shell: PreTrainedModel) -> PreTrainedModel:
    """Replace embeddings, position embeddings and final norm, so that only the layer's tensors remain."""
    family = family_of(shell.config)
    decoder = decoder_of(shell, family)
    shell.set_input_embeddings(_Untouched())
    _silence(decoder, (*family.before, *family.outside))
    for name in family.zeros:
        setattr(decoder, name, _Zeros())
    return shell


def strip_stem(stem: PreTrainedModel) -> PreTrainedModel:
    """Replace what a model without layers does after them, so that it returns what its first layer was given."""
    family = family_of(stem.config)
    _silence(decoder_of(stem, family), family.outside)
    return stem


def _silence(decoder: nn.Module, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(decoder, name, None) is not None:
            setattr(decoder, name, _Untouched())
