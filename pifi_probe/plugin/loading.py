"""From a name to an encoder, an encoder-decoder or a tokenizer."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pifi_probe import assets
from pifi_probe.errors import CheckpointError, ModelNotFoundError, PifiProbeError, PlugInError
from pifi_probe.files import existing
from pifi_probe.layers.checkpoint import is_gguf, open_checkpoint
from pifi_probe.layers.tokenizer import donor_tokenizer
from pifi_probe.models_table import repo_of
from pifi_probe.plugin.base import PiFiPreTrainedModel, encoder_of, no_pooler
from pifi_probe.plugin.generation import with_decoder
from pifi_probe.plugin.pooling import is_decoder
from pifi_probe.pretrained import open_config, open_model, open_tokenizer

__all__ = ["encoder_tokenizer", "load_encoder", "load_encoder_decoder", "stream", "tokenizer_for"]


def load_encoder(slm: str | PreTrainedModel) -> tuple[PreTrainedModel, str, Path | None]:
    """Return the encoder in float32, its name, and its folder where it has one; of an encoder-decoder its encoder."""
    if isinstance(slm, PreTrainedModel):
        name = str(getattr(slm.config, "_name_or_path", "") or slm.config.model_type)
        return copy.deepcopy(encoder_of(slm)), name, Path(name) if Path(name).is_dir() else None
    source = _source_of(slm)
    encoder = encoder_of(_loaded(AutoModel, slm, source))
    return encoder, slm, Path(source) if Path(source).is_dir() else None


def load_encoder_decoder(
    slm: str | PreTrainedModel, seed: int, allow_pickle: bool = False
) -> tuple[PreTrainedModel, str, Path | None]:
    """Return an encoder-decoder in float32, its name, and its folder where it has one.

    An encoder gets a new decoder, drawn from `seed`.
    """
    if isinstance(slm, PreTrainedModel) and slm.can_generate() and slm.config.is_encoder_decoder:
        name = str(getattr(slm.config, "_name_or_path", "") or slm.config.model_type)
        return copy.deepcopy(slm), name, Path(name) if Path(name).is_dir() else None
    source = _source_of(slm if isinstance(slm, str) else str(slm.config._name_or_path))
    if isinstance(slm, str) and _is_encoder_decoder(source):
        return (
            _loaded(AutoModelForSeq2SeqLM, slm, source),
            slm,
            Path(source) if Path(source).is_dir() else None,
        )
    encoder, name, folder = load_encoder(slm)
    if is_decoder(encoder.config):
        raise PlugInError(
            "a decoder alone cannot read a whole text and write another here",
            where=name,
            next="take an encoder-decoder such as T5 or BART, or an encoder, which gets a new decoder",
        )
    with stream(seed, "decoder"):
        return with_decoder(encoder, _tokenizer(source)), name, folder


def _is_encoder_decoder(source: str) -> bool:
    try:
        return bool(open_config(source).is_encoder_decoder)
    except (OSError, ValueError):
        return False  # loading it says why


def _loaded(cls: Any, slm: str, source: str) -> PreTrainedModel:
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


def tokenizer_for(model: PiFiPreTrainedModel) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model's encoder, with a padding token."""
    return encoder_tokenizer(model.config.slm)


def encoder_tokenizer(slm: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the small language model of this name, with a padding token."""
    return _tokenizer(_source_of(slm))


def _tokenizer(source: str) -> PreTrainedTokenizerBase:
    if is_gguf(source):
        return donor_tokenizer(open_checkpoint(source))
    tokenizer = open_tokenizer(source)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _source_of(slm: str) -> str:
    return str(assets.path(slm) if assets.is_asset(slm) else existing(slm) or repo_of(slm))


@contextmanager
def stream(seed: int, part: str) -> Iterator[None]:
    """Draw from a stream that depends on the seed and the part's name alone."""
    digest = hashlib.sha256(f"{seed}:{part}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:7], "big"))
        yield
