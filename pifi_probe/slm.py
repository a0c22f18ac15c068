"""From a name to a small model, in float32, and to its tokenizer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from pifi_probe.encoders import encoder_of, no_pooler
from pifi_probe.errors import CheckpointError, ModelNotFoundError, PifiProbeError, PlugInError, TokenizerError
from pifi_probe.layers.open import is_gguf
from pifi_probe.layers.small_files import source_of
from pifi_probe.layers.tokenizer import load_tokenizer
from pifi_probe.pretrained import open_config, open_model

__all__ = ["embedding_rows", "encoder_tokenizer", "load_encoder", "loaded", "name_of", "plain"]


def load_encoder(slm: str | PreTrainedModel) -> tuple[PreTrainedModel, str, str]:
    """Return the encoder in float32, its name, and where its files are; of an encoder-decoder its encoder.

    A loaded model is copied, without its head, and becomes what its name would have given; where it names no
    checkpoint, name and place are "".
    """
    if isinstance(slm, PreTrainedModel):
        name = name_of(slm)
        return encoder_of(_headless(slm)), name, name and source_of(name)
    source = source_of(slm)
    return encoder_of(loaded(AutoModel, slm, source)), slm, source


def loaded(cls: Any, slm: str, source: str) -> PreTrainedModel:
    """Load a small model by one of transformers' Auto classes, in float32; whatever fails is a typed error."""
    try:
        options: dict[str, Any] = {}
        place: str | Path = source
        if is_gguf(source):  # a decoder as the small model
            place, options = Path(source).parent, {"gguf_file": Path(source).name}
        config = open_config(place, **options)
        if cls is AutoModel and not options:
            options = no_pooler(type(config))
        return open_model(cls, place, config=config, dtype=torch.float32, **options)
    except (PifiProbeError, torch.OutOfMemoryError):
        raise
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"the small language model could not be loaded: {error}",
            where=slm,
            next="give a hub id, a folder with config.json and safetensors, or an embedded name such as minilm-l6",
        ) from error
    except Exception as error:  # each family fails in its own way on values that cannot be
        raise CheckpointError(
            f"transformers cannot build the small language model: {type(error).__name__}: {error}",
            where=slm,
            next="check that config.json belongs to these weights, or download the model again",
        ) from error


def name_of(model: PreTrainedModel) -> str:
    """Return the name or path that a model was loaded from; "" for one that was made in memory."""
    return str(getattr(model.config, "_name_or_path", "") or "")


def _headless(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a loaded model without head and pooler, in float32: what loading it by name gives."""
    base: Any = plain(copy.deepcopy(model.base_model))
    if no_pooler(type(base.config)) and getattr(base, "pooler", None) is not None:
        base.pooler = None
    return base


def plain(model: Any) -> Any:
    """Put a copy on the processor and in float32; what was stored as whole numbers stays."""
    if getattr(model, "is_quantized", False):
        raise PlugInError(
            "a quantised model cannot be trained further",
            where=type(model).__name__,
            next="load it without quantisation, or give its name",
        )
    return model.to(device="cpu", dtype=torch.float32)


def embedding_rows(encoder: PreTrainedModel) -> int | None:
    """Return the rows of an encoder's token embedding; None where it looks tokens up in another way."""
    try:
        table = encoder.get_input_embeddings()
    except NotImplementedError:
        return None
    return table.num_embeddings if isinstance(table, torch.nn.Embedding) else None


def encoder_tokenizer(encoder: PreTrainedModel, source: str, token: bool | None = None) -> PreTrainedTokenizerBase:
    """Return the tokenizer of an encoder that was loaded from here, checked and with a padding token."""
    if not source:
        raise TokenizerError(
            "the encoder was given as an object that names no checkpoint, so its tokenizer is unknown",
            where=type(encoder).__name__,
            next="give it: plug_in(..., tokenizer=...), or fine_tune(..., tokenizer=...)",
        )
    tokenizer: PreTrainedTokenizerBase = load_tokenizer(source, n_rows=embedding_rows(encoder), token=token)
    return tokenizer
