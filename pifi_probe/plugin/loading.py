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

from pifi_probe.encoders import encoder_of, is_decoder, made_for_cls, no_pooler
from pifi_probe.errors import CheckpointError, ModelNotFoundError, PifiProbeError, PlugInError, TokenizerError
from pifi_probe.layers.open import is_gguf
from pifi_probe.layers.references import resolve_reference
from pifi_probe.layers.small_files import source_of
from pifi_probe.layers.tokenizer import GivenTokenizer, check_tokenizer, load_tokenizer
from pifi_probe.plugin.base import PiFiPreTrainedModel
from pifi_probe.plugin.generation import with_decoder
from pifi_probe.plugin.storage import own_tokenizer_source
from pifi_probe.pretrained import open_config, open_model

__all__ = [
    "embedding_rows",
    "encoder_tokenizer",
    "load_encoder",
    "load_encoder_decoder",
    "open_plugged",
    "stream",
    "tokenizer_for",
]


def open_plugged(source: str | Path, **options: Any) -> PiFiPreTrainedModel:
    """Load a saved plugged model, whatever its head.

    Parameters
    ----------
    source : str or Path
        A folder that ``save_pretrained`` wrote, or a hub id.
    **options
        As `StoredModel.from_pretrained` has them.

    Raises
    ------
    ModelNotFoundError
        If there is no plugged model.
    """
    from pifi_probe.plugin import HEADS  # which are built on this module

    heads = {head.__name__: head for head in HEADS.values()}
    try:
        where = {name: options[name] for name in ("revision", "token", "local_files_only") if name in options}
        config = open_config(source, **where)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"there is no model here: {error}",
            where=str(source),
            next="give the folder that save_pretrained wrote, such as RUN/model, or the hub id of a plugged model",
        ) from error
    name = (config.architectures or [""])[0]
    if config.model_type != "pifi" or name not in heads:
        raise ModelNotFoundError(
            f"this is not a plugged model: {name or config.model_type}",
            where=str(source),
            next="make one with pp.plug_in, or give the folder in which one was saved",
        )
    model: PiFiPreTrainedModel = heads[name].from_pretrained(source, trust_remote_code=False, **options)
    return model


def load_encoder(slm: str | PreTrainedModel) -> tuple[PreTrainedModel, str, str]:
    """Return the encoder in float32, its name, and where its files are; of an encoder-decoder its encoder.

    A loaded model is copied, without its head, and becomes what its name would have given; where it names no
    checkpoint, name and place are "".
    """
    if isinstance(slm, PreTrainedModel):
        name = _name_of(slm)
        return encoder_of(_headless(slm)), name, name and source_of(name)
    source = source_of(slm)
    return encoder_of(_loaded(AutoModel, slm, source)), slm, source


def load_encoder_decoder(
    slm: str | PreTrainedModel, seed: int, tokenizer: GivenTokenizer | None = None
) -> tuple[PreTrainedModel, str, str]:
    """Return an encoder-decoder in float32, its name, and where its files are.

    An encoder gets a new decoder, drawn from `seed`, whose targets start and end with the special tokens of the
    encoder's tokenizer, or of the one that is given.
    """
    if isinstance(slm, PreTrainedModel) and slm.config.is_encoder_decoder:
        name = _name_of(slm)
        if not slm.can_generate():
            raise PlugInError(
                f"a {type(slm).__name__} has no head that writes",
                where=name or type(slm).__name__,
                next="load it with AutoModelForSeq2SeqLM, or give its name",
            )
        return _plain(copy.deepcopy(slm)), name, name and source_of(name)
    if isinstance(slm, str) and _is_encoder_decoder(source_of(slm)):
        return _loaded(AutoModelForSeq2SeqLM, slm, source_of(slm)), slm, source_of(slm)
    encoder, name, source = load_encoder(slm)
    if is_decoder(encoder.config):
        raise PlugInError(
            "a decoder alone cannot read a whole text and write another here",
            where=name,
            next="take an encoder-decoder such as T5 or BART, or an encoder, which gets a new decoder",
        )
    if tokenizer is None:
        found = encoder_tokenizer(encoder, source)
    else:
        found = load_tokenizer(tokenizer, n_rows=embedding_rows(encoder))
    with stream(seed, "decoder"):
        return with_decoder(encoder, found), name, source


def _name_of(model: PreTrainedModel) -> str:
    """Return the name or path that a model was loaded from; "" for one that was made in memory."""
    return str(getattr(model.config, "_name_or_path", "") or "")


def _headless(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a loaded model without head and pooler, in float32: what loading it by name gives."""
    base: Any = _plain(copy.deepcopy(model.base_model))
    if no_pooler(type(base.config)) and getattr(base, "pooler", None) is not None:
        base.pooler = None
    return base


def _plain(model: Any) -> Any:
    """Put a copy on the processor and in float32; what was stored as whole numbers stays."""
    if getattr(model, "is_quantized", False):
        raise PlugInError(
            "a quantised model cannot be trained further",
            where=type(model).__name__,
            next="load it without quantisation, or give its name",
        )
    return model.to(device="cpu", dtype=torch.float32)


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
    """Return the tokenizer of a model, checked and with a padding token.

    The first of: the one that was given to `plug_in` or `fine_tune`; the one next to the model's own saved files; that
    of its encoder.

    Raises
    ------
    TokenizerError
        If there is none, or it does not fit the encoder.
    """
    rows = embedding_rows(model.encoder)
    if model.tokenizer is not None:
        found, where = model.tokenizer, "the model's tokenizer"
    elif own := own_tokenizer_source(model):
        found, where = load_tokenizer(own, n_rows=rows), own
    else:
        name, token = _own_encoder(model)
        where = source_of(name) if name else ""
        found = encoder_tokenizer(model.encoder, where, token)
    return check_tokenizer(found, where, n_rows=rows, starts=model.pools and _starts_with_cls(model))


def embedding_rows(encoder: PreTrainedModel) -> int | None:
    """Return the rows of an encoder's token embedding; None where it looks tokens up in another way."""
    try:
        table = encoder.get_input_embeddings()
    except NotImplementedError:
        return None
    return table.num_embeddings if isinstance(table, torch.nn.Embedding) else None


def _own_encoder(model: PiFiPreTrainedModel) -> tuple[str, bool | None]:
    """Return the name of a model's encoder as it may be opened, and with whose token; see `resolve_reference`."""
    if not model.config.slm:
        return "", None
    try:
        return resolve_reference(model.config.slm, model.named_by, "tokenizer's encoder")
    except PlugInError as error:
        raise TokenizerError(
            f"the model was saved without its tokenizer: {error.what}",
            where=error.where,
            next=f"give it with tokenizer=, or put its files next to the model; {error.next}",
        ) from error


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


def _starts_with_cls(model: PiFiPreTrainedModel) -> bool:
    """Whether the model pools a token that its encoder was trained to find at the start."""
    return model.config.pooling == "cls" and made_for_cls(model.encoder.config)


@contextmanager
def stream(seed: int, part: str) -> Iterator[None]:
    """Draw from a stream that depends on the seed and the part's name alone."""
    digest = hashlib.sha256(f"{seed}:{part}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:7], "big"))
        yield
