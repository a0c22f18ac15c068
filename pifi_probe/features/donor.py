"""Pooled states of texts at every depth of a language model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pifi_probe.devices import device_of
from pifi_probe.encoders import context_of
from pifi_probe.errors import FeatureError
from pifi_probe.features.feature_set import FeatureKey, Features, Save, collect
from pifi_probe.kinds import KINDS, USUAL_KIND, fits
from pifi_probe.layers.content import content_of
from pifi_probe.layers.open import open_named
from pifi_probe.layers.stream import Batch, stream
from pifi_probe.layers.tokenizer import GivenTokenizer, check_known, donor_tokenizer
from pifi_probe.tasks.task import Split
from pifi_probe.tasks.tokens import Tokens, buckets, fill_template, tokenise, tokenizer_digest
from pifi_probe.vocabulary import MAX_TOKENS

__all__ = [
    "POOLINGS",
    "batch_tokens_on",
    "check_that",
    "info_of",
    "llm_features",
    "pool_tokens",
    "rows_digest",
    "tokens_in_words",
]

POOLINGS = ("mean", "last", "mean+last")
BATCH_TOKENS = {"cpu": 2048, "cuda": 8192, "mps": 8192}  # on a CPU, more are not faster
POSITION = "point p is the input of layer p, the last point the output of the last layer, before the final norm"


def llm_features(
    llm: str,
    rows: Split,
    *,
    kind: str = USUAL_KIND,
    pooling: str = "mean",
    normalise: bool = True,
    drop_first: bool = True,
    max_tokens: int = MAX_TOKENS,
    template: str | None = None,
    precision: str = "float32",
    device: str = "auto",
    batch_tokens: int | None = None,
    memory: int | None = None,
    until: int | None = None,
    tokenizer: GivenTokenizer | None = None,
    cache: bool = True,
    progress: bool = True,
) -> Features:
    """Return pooled states of a language model at every point of its residual stream, in one pass over its weights.

    Parameters
    ----------
    llm : str
        Hub id (``org/name`` or ``org/name@revision``), local folder or file, or embedded name.
    rows : Split
        As `scoring_rows` draws them.
    kind : str
        Of the task; a pair becomes one text by `template`.
    pooling : {"mean", "last", "mean+last"}
        Mean over tokens, the last token, or both next to each other.
    normalise : bool
        Divide every token by its own root mean square before pooling. A few tokens with massive activations would
        else decide the mean: without it, middle layers cannot even be predicted from another model's vectors
        (book/methods.md, Probes).
    drop_first : bool
        Leave out the first token of texts with more than one: it serves attention as a sink, has a norm up to a
        hundred times the others', and knows nothing of the text (Sun et al. 2024).
    max_tokens : int
        Tokens after which a text is cut; at most the model's context.
    template : str, optional
        Text given to the model, with ``{text}`` and, for pairs, ``{pair}``. None: the text; for pairs one line
        each.
    precision : {"float32", "bf16"}
        ``"bf16"``: automatic mixed precision, where the processor has instructions for it.
    device : {"auto", "cpu", "cuda", "mps"}
    batch_tokens : int, optional
        Tokens of one batch, padding included; batches hold texts of like length. By default `BATCH_TOKENS` of the
        device.
    memory : int, optional
        Bytes for hidden states in memory, see `pifi_probe.layers.stream.stream`.
    until : int, optional
        The last point wanted: layers from it on are not read. None: all.
    tokenizer : str, Path or PreTrainedTokenizerBase, optional
        Another one than the model's own: a hub id, a folder, or the tokenizer.
    cache : bool
        Keep the features on disk, and take them from there. A killed call continues after its last finished layer.
    progress : bool
        Show layers done, time left and bytes read, in a terminal or a notebook.

    Returns
    -------
    Features
        L + 1 points of (N, d_llm), or (N, 2 d_llm) for ``"mean+last"``, float32.

    Raises
    ------
    FeatureError
        If an option is bad, or activations are NaN or infinite (the layer is named).
    RecipeError
        If this machine lacks the device, or the device the precision.
    TokenizerError
        If the tokenizer is missing, does not fit the model, or knows hardly any word of the texts.
    CheckpointError, HubError, UnsupportedFamilyError
        As for `pifi_probe.extract`.
    """
    check_that(pooling in POOLINGS, f"unknown pooling {pooling!r}", f"use one of {', '.join(POOLINGS)}")
    of_kind = kind in KINDS and KINDS[kind].row_classes and fits(KINDS[kind], rows)
    check_that(of_kind, f"the rows are not of kind {kind!r}", "use task.kind")
    place = device_of(device, precision)
    at_once = batch_tokens_on(place, batch_tokens)
    check_that(max_tokens >= 1 and at_once >= 1, "max_tokens and batch_tokens are at least 1", "leave them out")
    checkpoint = open_named(llm)
    own = donor_tokenizer(checkpoint, tokenizer)
    texts, template = fill_template(rows, template)
    identity = tokenizer_digest(own)
    check_known(own, texts, llm)
    tokens = tokenise(own, texts, min(max_tokens, context_of(checkpoint.config)))
    key = FeatureKey(
        model=content_of(checkpoint),
        tokenizer=identity,
        rows=rows_digest(rows),
        precision=precision,
        pooling=pooling,
        template=template,
        normalise=normalise,
        drop_first=drop_first,
        max_length=tokens.limit,
    )
    n_layers = int(checkpoint.config.num_hidden_layers)
    last = n_layers if until is None else min(until, n_layers)
    shape = (len(rows), int(checkpoint.config.hidden_size) * (1 + (pooling == "mean+last")))

    def compute(save: Save, folder: Path | None) -> None:
        order = buckets(tokens.lengths, at_once)
        batches = [Batch(*tokens.padded(batch)) for batch in order]
        pooled = np.empty(shape, dtype=np.float32)

        def visit(point: int, i: int, states: torch.Tensor) -> None:
            mask = batches[i].attention_mask.to(states.device)
            pooled[order[i]] = pool_tokens(states, mask, pooling, normalise, drop_first).cpu().numpy()
            if i == len(order) - 1:
                save(point, pooled.copy())

        stream(
            checkpoint,
            batches,
            visit,
            model=llm,
            until=last,
            folder=folder,
            memory=memory,
            precision=precision,
            device=place,
            progress=progress,
        )

    points = collect(key, last + 1, shape, compute, llm if cache else None)
    handling = {"normalise": normalise, "drop_first": drop_first, "template": template}
    info = {"family": "own-state", "position": POSITION, **handling}
    return Features(points, rows, info | info_of(llm, key, tokens, place))


def pool_tokens(
    states: torch.Tensor, mask: torch.Tensor, pooling: str, normalise: bool, drop_first: bool
) -> torch.Tensor:
    """Pool the tokens of texts.

    Parameters
    ----------
    states : Tensor of float32, (batch, seq, d)
    mask : Tensor, (batch, seq)
        1 for tokens, 0 for padding, on either side.
    pooling : {"mean", "last", "mean+last"}
    normalise : bool
        Divide every token by its root mean square first.
    drop_first : bool
        Leave out the first token, unless it is the only one.

    Returns
    -------
    Tensor, (batch, d), or (batch, 2 d) for ``"mean+last"``
    """
    if pooling == "mean+last":
        both = [pool_tokens(states, mask, one, normalise, drop_first) for one in ("mean", "last")]
        return torch.cat(both, dim=-1)
    mask = mask.bool()
    if drop_first:
        first = mask & (mask.long().cumsum(1) == 1)
        mask = mask & ~(first & (mask.sum(1, keepdim=True) > 1))
    if pooling == "last":
        mask = mask & (mask.long().flip(1).cumsum(1).flip(1) == 1)
    factors = mask / mask.sum(1, keepdim=True)  # (batch, seq)
    if normalise:
        factors = factors / states.square().mean(-1).sqrt().clamp_min(torch.finfo(states.dtype).tiny)
    return torch.bmm(factors[:, None], states)[:, 0]


def tokens_in_words(normalise: bool, drop_first: bool) -> str:
    """Say what was done to the tokens of a text before they were pooled."""
    scaled = "each divided by its own root mean square" if normalise else "as they are"
    return f"{scaled}; the first one {'left out' if drop_first else 'kept'}"


def batch_tokens_on(device: torch.device, asked: int | None = None) -> int:
    """Return the tokens of one batch, padding included: those that are asked for, or the device's own number."""
    return BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"]) if asked is None else asked


def info_of(model: str, key: FeatureKey, tokens: Tokens, device: torch.device) -> dict[str, Any]:
    """Return what was done, for tables and provenance."""
    notes = []
    if tokens.n_cut:
        notes.append(f"{tokens.n_cut} of {len(tokens.lengths)} texts were cut after {tokens.limit} tokens")
    if key.precision != "float32":
        notes.append("computed in bf16 mixed precision; the residual stream stays in float32")
    return {
        "model": model,
        "content": key.model,
        "pooling": key.pooling,
        "precision": key.precision,
        "device": device.type,
        "max_tokens": tokens.limit,
        "n_tokens": sum(tokens.lengths),
        "n_cut": tokens.n_cut,
        "features": key.digest,
        "notes": notes,
    }


def rows_digest(rows: Split) -> str:
    """Return the sha256 of what is read of the rows."""
    digest = hashlib.sha256()
    for row in zip(rows.ids, rows.texts, rows.pairs or [None] * len(rows), strict=True):
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def check_that(holds: bool, otherwise: str, next: str) -> None:
    """Refuse an option unless something holds."""
    if not holds:
        raise FeatureError(otherwise, where="features", next=next)
