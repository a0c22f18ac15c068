"""From token vectors to one vector, equal for left and right padding, and what each encoder needs for it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, PretrainedConfig

from pifi_probe.errors import PlugInError

__all__ = ["Pooling", "left_padding_positions", "must_turn", "pool", "resolve_pooling"]

Pooling = Literal["cls", "mean", "last"]

# These count positions from the input ids, padding left out, so left padding changes nothing.
_COUNT_THEMSELVES = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "data2vec-text"})


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
    """
    mask = attention_mask.to(states.dtype)
    if how == "mean":
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
    rows = torch.arange(len(states), device=states.device)
    if how == "cls":
        return states[rows, attention_mask.long().argmax(1)]
    if how == "last":
        return states[rows, states.shape[1] - 1 - attention_mask.long().flip(1).argmax(1)]
    raise PlugInError(f"unknown pooling {how!r}", where="pooling", next="use cls, mean, last or auto")


def resolve_pooling(how: str, config: PretrainedConfig, folder: Path | None) -> str:
    """Turn ``"auto"`` into the pooling an encoder was made for.

    The checkpoint's sentence-transformers setting if it has one, else the last token for decoders and the
    first ([CLS]) for encoders. A decoder never pools its first token, which has seen nothing else.
    """
    decoder = is_decoder(config)
    if how == "auto":
        return _sentence_transformers_setting(folder) or ("last" if decoder else "cls")
    return "last" if decoder and how == "cls" else how


def is_decoder(config: PretrainedConfig) -> bool:
    """Return True for a causal language model, which sees only what stands to the left."""
    if config.is_encoder_decoder:
        return False
    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING


def _sentence_transformers_setting(folder: Path | None) -> Pooling | None:
    file = None if folder is None else folder / "1_Pooling" / "config.json"
    if file is None or not file.is_file():
        return None
    setting = json.loads(file.read_text(encoding="utf-8"))
    modes: dict[str, Pooling] = {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_lasttoken": "last",
    }
    return next((how for key, how in modes.items() if setting.get(key)), None)


def left_padding_positions(encoder: nn.Module, attention_mask: torch.Tensor) -> torch.Tensor | None:
    """Return the position ids (batch, seq) that make left padding harmless, or None when not needed.

    Only for encoders that number positions from the left end and let the caller say otherwise.
    """
    model_type = encoder.config.model_type  # type: ignore[union-attr]
    if model_type in _COUNT_THEMSELVES or bool(attention_mask[:, 0].all()):
        return None
    if "position_ids" not in inspect.signature(_forward(encoder)).parameters:
        return None
    return (attention_mask.long().cumsum(1) - 1).clamp_min(0)


def must_turn(encoder: nn.Module, attention_mask: torch.Tensor) -> bool:
    """Return True when left padding would move the positions of an encoder that takes no others."""
    config: PretrainedConfig = encoder.config
    if bool(attention_mask[:, 0].all()) or config.model_type in _COUNT_THEMSELVES:
        return False
    return bool(config.is_encoder_decoder) and "position_ids" not in inspect.signature(_forward(encoder)).parameters


def _forward(module: nn.Module) -> Callable[..., object]:
    return module.forward
