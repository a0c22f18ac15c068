"""What is asked of every encoder: how many tokens it reads, where positions begin, padding, token types, pooling."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)

from pifi_probe.errors import PlugInError, RecipeError

__all__ = [
    "context_of",
    "encoder_of",
    "has_token_types",
    "is_decoder",
    "left_padding_positions",
    "made_for_cls",
    "must_turn",
    "n_positions",
    "no_pooler",
    "pool",
    "refuse_longer",
    "room_of",
    "within_positions",
]

_UNLIMITED = 1 << 40

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


def refuse_longer(encoder: nn.Module, max_tokens: int, longest: Mapping[str, Callable[[], int]]) -> None:
    """Refuse texts beyond an encoder's table of positions.

    Parameters
    ----------
    encoder : nn.Module
    max_tokens : int
        Of the recipe; longer texts are cut.
    longest : mapping
        Where texts are from, to what counts the tokens of the longest; called only where `max_tokens` allows too many.

    Raises
    ------
    RecipeError
        If a text is longer.
    """
    limit = n_positions(encoder)
    if limit is None or max_tokens <= limit:
        return
    for where, count in longest.items():
        if (n_tokens := count()) > limit:
            raise RecipeError(
                f"max_tokens={max_tokens} lets a text of {n_tokens} tokens through, and the encoder has {limit} "
                "positions",
                where=where,
                next=f"use Recipe(max_tokens={limit}) or less",
            )


def context_of(config: PretrainedConfig) -> int:
    """Return the most tokens that a model takes, as far as its configuration says."""
    stated = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
    return next((int(value) for value in stated if value), _UNLIMITED)


def room_of(encoder: PreTrainedModel) -> int:
    """Return the most tokens that an encoder takes: its positions, or what its configuration says without any."""
    return n_positions(encoder) or context_of(encoder.config)


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


def has_token_types(config: PretrainedConfig) -> bool:
    """Return True where an encoder tells the first text of a pair from the second by token types."""
    return (getattr(config, "type_vocab_size", 0) or 0) > 1


def no_pooler(config: type[PretrainedConfig]) -> dict[str, Any]:
    """Leave out BERT-like pooling layers, which PiFi never uses and which would count as trained."""
    parameters = inspect.signature(MODEL_MAPPING[config].__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in parameters else {}


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model, or the encoder of one that is encoder and decoder."""
    encoder: Any = model.get_encoder() if model.config.is_encoder_decoder else model
    return model if encoder is None else encoder  # an encoder alone keeps the configuration of both


def pool(states: torch.Tensor, attention_mask: torch.Tensor, how: str) -> torch.Tensor:
    """Pool token vectors.

    Parameters
    ----------
    states : Tensor, (batch, seq, d)
    attention_mask : Tensor, (batch, seq)
        1 for tokens, 0 for padding, on either side.
    how : {"cls", "mean", "last"}
        The first token, the mean over tokens, or the last token; padding never counts.

    Returns
    -------
    Tensor, (batch, d)

    Raises
    ------
    PlugInError
        If the pooling is unknown.
    """
    mask = attention_mask.to(states.dtype)
    if how == "mean":
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
    rows = torch.arange(states.shape[0], device=states.device)
    if how == "cls":
        return states[rows, attention_mask.long().argmax(1)]
    if how == "last":
        return states[rows, states.shape[1] - 1 - attention_mask.long().flip(1).argmax(1)]
    raise PlugInError(f"unknown pooling {how!r}", where="pooling", next="use cls, mean, last or auto")


def made_for_cls(config: PretrainedConfig) -> bool:
    """Return True for a masked language model, which was trained to find [CLS] at the start."""
    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.is_encoder_decoder


def is_decoder(config: PretrainedConfig) -> bool:
    """Return True for a causal language model, which sees only what stands to the left."""
    if config.is_encoder_decoder:
        return False
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
