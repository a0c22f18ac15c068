"""From a name to a plugged model, or an encoder-decoder."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from pifi_probe.encoders import is_decoder
from pifi_probe.errors import ModelNotFoundError, PlugInError
from pifi_probe.layers.small_files import source_of
from pifi_probe.layers.tokenizer import GivenTokenizer, load_tokenizer
from pifi_probe.plugin.base import PiFiPreTrainedModel
from pifi_probe.plugin.generation import with_decoder
from pifi_probe.plugin.registry import HEADS
from pifi_probe.pretrained import open_config
from pifi_probe.slm import embedding_rows, encoder_tokenizer, load_encoder, loaded, name_of, plain

__all__ = ["load_encoder_decoder", "open_plugged", "stream"]


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


def load_encoder_decoder(
    slm: str | PreTrainedModel, seed: int, tokenizer: GivenTokenizer | None = None
) -> tuple[PreTrainedModel, str, str]:
    """Return an encoder-decoder in float32, its name, and where its files are.

    An encoder gets a new decoder, drawn from `seed`, whose targets start and end with the special tokens of the
    encoder's tokenizer, or of the one that is given.
    """
    if isinstance(slm, PreTrainedModel) and slm.config.is_encoder_decoder:
        name = name_of(slm)
        if not slm.can_generate():
            raise PlugInError(
                f"a {type(slm).__name__} has no head that writes",
                where=name or type(slm).__name__,
                next="load it with AutoModelForSeq2SeqLM, or give its name",
            )
        return plain(copy.deepcopy(slm)), name, name and source_of(name)
    if isinstance(slm, str) and _is_encoder_decoder(source_of(slm)):
        return loaded(AutoModelForSeq2SeqLM, slm, source_of(slm)), slm, source_of(slm)
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


def _is_encoder_decoder(source: str) -> bool:
    try:
        return bool(open_config(source).is_encoder_decoder)
    except (OSError, ValueError):
        return False  # loading it says why


@contextmanager
def stream(seed: int, part: str) -> Iterator[None]:
    """Draw from a stream that depends on the seed and the part's name alone."""
    digest = hashlib.sha256(f"{seed}:{part}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:7], "big"))
        yield
