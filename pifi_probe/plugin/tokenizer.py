"""The tokenizer of a plugged model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from pifi_probe.encoders import made_for_cls
from pifi_probe.errors import PlugInError, TokenizerError
from pifi_probe.layers.references import resolve_reference
from pifi_probe.layers.small_files import small_files, source_of
from pifi_probe.layers.tokenizer import check_tokenizer, has_tokenizer, load_tokenizer
from pifi_probe.slm import embedding_rows, encoder_tokenizer

if TYPE_CHECKING:
    from pifi_probe.plugin.base import PiFiPreTrainedModel
    from pifi_probe.plugin.storage import StoredModel

__all__ = ["own_tokenizer_source", "tokenizer_for"]


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


def own_tokenizer_source(model: StoredModel) -> str:
    """Return the folder or repository a model was loaded from, if a tokenizer was saved there with it; else ""."""
    source = str(getattr(model.config, "_name_or_path", "") or "")
    if not source or source == model.config.slm:
        return ""
    files = small_files(source, getattr(model.config, "_commit_hash", None))
    return source if files is not None and has_tokenizer(files.names) else ""


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


def _starts_with_cls(model: PiFiPreTrainedModel) -> bool:
    """Whether the model pools a token that its encoder was trained to find at the start."""
    return model.config.pooling == "cls" and made_for_cls(model.encoder.config)
