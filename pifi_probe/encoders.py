"""Where an encoder counts positions, and what left padding needs for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

__all__ = ["left_padding_positions", "must_turn", "n_positions", "within_positions"]

# These count positions from the input ids, padding left out, so left padding changes nothing.
_COUNT_THEMSELVES = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "data2vec-text"})
_TABLES = ("position_embeddings", "embed_positions", "positions_embed", "wpe")


def n_positions(encoder: nn.Module) -> int | None:
    """Return how many tokens an encoder has absolute positions for, or None where it has no such table.

    Rotary and relative positions have none. The first rows of some tables stand for padding.
    """
    found = [
        table.num_embeddings - _first_position(table)
        for name, table in encoder.named_modules()
        if name.rpartition(".")[2] in _TABLES and isinstance(table, nn.Embedding) and not _grows(table)
    ]
    stated = getattr(encoder.config, "max_position_embeddings", None) or 0  # fewer than rows where forward adds 2
    return min(found + [stated] * (stated > 0)) if found else None


def within_positions(encoder: nn.Module, n_tokens: int) -> int:
    """Return so many tokens, or fewer where the encoder has positions for fewer."""
    return min(n_tokens, n_positions(encoder) or n_tokens)


def _first_position(table: nn.Embedding) -> int:
    return int(getattr(table, "offset", 0 if table.padding_idx is None else table.padding_idx + 1))


def _grows(table: nn.Embedding) -> bool:
    return hasattr(table, "make_weight")  # FSMT


def left_padding_positions(encoder: nn.Module, attention_mask: torch.Tensor) -> torch.Tensor | None:
    """Return the position ids (batch, seq) that make left padding harmless, or None for encoders that take none.

    A left-padded row is counted from its first token, any other row from its left end; no row depends on another, and
    nothing on the mask's values but tensors, so that a graph can be made of it.
    """
    model_type = encoder.config.model_type  # type: ignore[union-attr]
    if model_type in _COUNT_THEMSELVES or "position_ids" not in parameters_of(type(encoder)):
        return None
    from_left = torch.arange(attention_mask.shape[1], device=attention_mask.device).expand(attention_mask.shape)
    from_first = (attention_mask.long().cumsum(1) - 1).clamp_min(0)
    return torch.where(attention_mask[:, :1] != 0, from_left, from_first)


def must_turn(encoder: nn.Module) -> bool:
    """Return True when left padding would move the positions of an encoder that takes no others."""
    config: PretrainedConfig = encoder.config
    if config.model_type in _COUNT_THEMSELVES or "position_ids" in parameters_of(type(encoder)):
        return False
    return bool(config.is_encoder_decoder)


def parameters_of(encoder: type[nn.Module]) -> frozenset[str]:
    """Return the names of the parameters of an encoder's ``forward``."""
    forward: Callable[..., Any] = encoder.forward
    return frozenset(inspect.signature(forward).parameters)
