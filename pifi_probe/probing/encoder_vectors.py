"""Pooled vectors of texts from a small language model, as a plugged model feeds them to L_in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from pifi_probe.devices import autocast, device_of
from pifi_probe.encoders import pool, room_of
from pifi_probe.errors import FeatureError
from pifi_probe.features.donor import batch_tokens_on, check_that, info_of, rows_digest
from pifi_probe.features.feature_set import FeatureKey, Features, Save, collect
from pifi_probe.layers.content import weights_digest
from pifi_probe.layers.tokenizer import GivenTokenizer, check_known, load_tokenizer
from pifi_probe.plugin.config import PiFiConfig
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.plugin.pooling import resolved_pooling
from pifi_probe.plugin.tokenizer import tokenizer_for
from pifi_probe.slm import embedding_rows, load_encoder
from pifi_probe.tasks.task import Split
from pifi_probe.tasks.tokens import buckets, tokenise, tokenizer_digest
from pifi_probe.vocabulary import MAX_TOKENS

__all__ = ["slm_features"]


def slm_features(
    slm: str | PreTrainedModel,
    rows: Split,
    *,
    pooling: str = "auto",
    max_tokens: int = MAX_TOKENS,
    precision: str = "float32",
    device: str = "auto",
    batch_tokens: int | None = None,
    tokenizer: GivenTokenizer | None = None,
    cache: bool = True,
) -> Features:
    """Return the vectors that ``plug_in(wiring="matched")`` feeds into L_in: encoder and pooling, in evaluation mode.

    Parameters
    ----------
    slm : str or PreTrainedModel
        As in `pifi_probe.plug_in`.
    rows : Split
    pooling : {"auto", "cls", "mean", "last"}
        As in `PiFiConfig`; nothing is normalised.
    max_tokens, precision, device, batch_tokens, tokenizer, cache
        As in `llm_features`.

    Returns
    -------
    Features
        One point of (N, d_slm), float32.

    Raises
    ------
    ModelNotFoundError, PlugInError, TokenizerError, RecipeError, FeatureError
    """
    place = device_of(device, precision)
    at_once = batch_tokens_on(place, batch_tokens)
    check_that(max_tokens >= 1 and at_once >= 1, "max_tokens and batch_tokens are at least 1", "leave them out")
    encoder, name, source = load_encoder(slm)
    how, why = resolved_pooling(pooling, encoder.config, source)
    config = PiFiConfig(encoder=encoder.config.to_dict(), slm=name, control="vanilla", pooling=how, pooling_from=why)
    model = PiFiForSequenceClassification(config, encoder=encoder).eval()
    if tokenizer is not None:
        model.tokenizer = load_tokenizer(tokenizer, n_rows=embedding_rows(model.encoder))
    own = tokenizer_for(model)
    identity = tokenizer_digest(own)
    check_known(own, rows.texts, name)
    pairs = None if rows.pairs is None else list(rows.pairs)
    limit = min(max_tokens, room_of(encoder))
    tokens = tokenise(own, list(rows.texts), limit, pairs)
    key = FeatureKey(
        model=weights_digest(encoder),
        tokenizer=identity,
        rows=rows_digest(rows),
        precision=precision,
        pooling=how,
        template="",
        normalise=False,
        drop_first=False,
        max_length=tokens.limit,
        kind="slm",
    )

    @torch.no_grad()
    def compute(save: Save, folder: Path | None) -> None:
        vectors = np.empty((len(rows), int(config.hidden_size)), dtype=np.float32)
        model.to(place)
        for batch in buckets(tokens.lengths, at_once):
            ids, mask = (tensor.to(place) for tensor in tokens.padded(batch))
            types = tokens.padded_types(batch)
            with autocast(precision, place):
                states, mask = model.encode(ids, mask, None if types is None else types.to(place))
                vectors[batch] = pool(states, mask, how).float().cpu().numpy()
        if not np.isfinite(vectors).all():
            raise FeatureError(
                "the encoder's vectors hold NaN or infinite values", where=name, next="check its weights"
            )
        save(0, vectors)

    points = collect(
        key, 1, (len(rows), int(config.hidden_size)), compute, (name or encoder.config.model_type) if cache else None
    )
    return Features(points, rows, {"family": "encoder"} | info_of(name, key, tokens, place))
