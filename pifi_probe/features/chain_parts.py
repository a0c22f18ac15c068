"""The parts of a chain's evaluation, each computed once and kept by what it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from pifi_probe.alignment.chain import chain_features
from pifi_probe.alignment.interface import Interface
from pifi_probe.alignment.kept import kept_interfaces
from pifi_probe.alignment.late import late_interaction
from pifi_probe.alignment.tokens import TokenStates, apart, joined, token_states
from pifi_probe.devices import autocast
from pifi_probe.encoders import is_decoder, within_positions
from pifi_probe.features.cache import Entry
from pifi_probe.layers.content import weights_digest
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.open import open_named
from pifi_probe.layers.tokenizer import GivenTokenizer, load_tokenizer
from pifi_probe.layers.variants import twin_of
from pifi_probe.slm import embedding_rows, encoder_tokenizer, load_encoder
from pifi_probe.tasks.task import Split
from pifi_probe.tasks.tokens import tokenizer_digest

__all__ = ["Encoder", "Texts", "cached_interfaces"]

_VERSION = 1  # of how these features are computed
Floats = NDArray[np.float32]


class Encoder:
    """A frozen encoder with its tokenizer.

    Parameters
    ----------
    slm : str or PreTrainedModel
    max_tokens : int
        Tokens after which a text is cut.
    device : str
    cache : bool
        Keep what is computed on disk.
    precision : {"float32", "bf16"}
        Of the chain.
    tokenizer : str, Path or PreTrainedTokenizerBase, optional
        Another one than the encoder's own.
    texts_apart : bool
        Read the two texts of a pair one at a time.
    """

    def __init__(
        self,
        slm: str | PreTrainedModel,
        max_tokens: int,
        device: str,
        cache: bool,
        precision: str = "float32",
        tokenizer: GivenTokenizer | None = None,
        texts_apart: bool = False,
    ) -> None:
        self.model, name, source = load_encoder(slm)
        self.name = name or self.model.config.model_type
        self.tokenizer = (
            encoder_tokenizer(self.model, source)
            if tokenizer is None
            else load_tokenizer(tokenizer, n_rows=embedding_rows(self.model))
        )
        max_tokens = within_positions(self.model, max_tokens)
        self.max_tokens, self.device, self.cache, self.precision = max_tokens, device, cache, precision
        self.texts_apart = texts_apart
        parts = [weights_digest(self.model), tokenizer_digest(self.tokenizer), max_tokens]
        self.digest = _digest([*parts, "texts apart"] if texts_apart else parts)

    def states(self, rows: Split) -> TokenStates:
        """Return the token states of some rows."""
        if self.texts_apart and rows.pairs is not None:
            first, second = self._read(rows.texts, None), self._read(rows.pairs, None)
            return apart(first, second, rows.texts)
        return self._read(rows.texts, rows.pairs)

    def _read(self, texts: Sequence[str], pairs: Sequence[str] | None) -> TokenStates:
        return token_states(
            self.model,
            self.tokenizer,
            list(texts),
            None if pairs is None else list(pairs),
            max_tokens=self.max_tokens,
            last_pools=is_decoder(self.model.config),
            device=self.device,
        )


class Texts:
    """Some rows of a task as an encoder sees them; nothing is computed before it is asked for.

    Parameters
    ----------
    encoder : Encoder
    rows : Split
    whole : (Texts, list of int), optional
        Other texts and the places of these among them, whose states are taken from there.
    """

    def __init__(self, encoder: Encoder, rows: Split, whole: tuple[Texts, list[int]] | None = None) -> None:
        self.encoder, self.rows, self._whole = encoder, rows, whole
        self.digest = _digest([rows.texts, rows.pairs])

    def among(self, rows: Split) -> Texts:
        """Return some of these texts, by their identifiers."""
        place = {id_: row for row, id_ in enumerate(self.rows.ids)}
        return Texts(self.encoder, rows, (self, [place[id_] for id_ in rows.ids]))

    @cached_property
    def states(self) -> TokenStates:
        """Token states, computed at most once in this process."""
        return self.encoder.states(self.rows) if self._whole is None else self._whole[0].states.take(self._whole[1])

    @property
    def joined(self) -> list[str]:
        """One text a row, for the donor."""
        return joined(self.rows.texts, self.rows.pairs)

    def pooled(self) -> Floats:
        """Return what the encoder alone knows of each text; see `TokenStates.pooled`."""
        return self._cached({"part": "encoder, all layers"}, lambda: self.states.pooled)

    def late(self) -> Floats:
        """Return the best matches between the two texts of each pair; see `late_interaction`."""
        return self._cached({"part": "late interaction"}, lambda: late_interaction(self.states))

    def chain(
        self, interface: Interface, layers: Sequence[FrozenLayer], progress: bool, *, one_token: bool = False
    ) -> Floats:
        """Return the readout of a chain, or of the interface alone; see `chain_features`."""
        key: dict[str, Any] = {
            "part": "chain" if layers else "interface",
            "interface": interface.digest(),
            "layers": [layer.card.sha256 for layer in layers],
            "model": interface.donor,
        }
        if layers:  # numbers that are not weights, such as the base of rotary positions
            key["config"] = _digest(layers[0].donor_config.to_json_string(use_diff=False))
        device, precision = self.encoder.device, self.encoder.precision
        if layers and precision != "float32":
            key["precision"] = precision
        if one_token:
            key["one_token"] = True

        def compute() -> Floats:
            with autocast(precision if layers else "float32", torch.device(device)):
                return chain_features(
                    self.states, interface, layers, one_token=one_token, device=device, progress=progress
                )

        return self._cached(key, compute)

    def _cached(self, key: Mapping[str, Any], compute: Callable[[], Floats]) -> Floats:
        if not self.encoder.cache:
            return compute()
        whole = {
            "model_name": self.encoder.name,
            "kind": "chain",
            "encoder": self.encoder.digest,
            "rows": self.digest,
            "version": _VERSION,
            **key,
        }
        entry = Entry(whole, _digest(whole), 1, None)
        points = entry.points()
        if points is None:
            with entry.writing() as writable:
                points = entry.points() if writable else None
                if points is None:
                    found = compute()
                    if writable:
                        entry.save(0, found)
                    return found
        point = points[0]
        return np.load(point) if isinstance(point, Path) else point


def cached_interfaces(
    texts: Texts,
    llm: str,
    entries: Sequence[int],
    *,
    saw: Mapping[str, Any],
    seed: int = 0,
    variant: str = "real",
    variant_seed: int = 0,
    progress: bool = False,
) -> dict[int, Interface]:
    """Return interfaces to several entries of a donor, or of its twin; see `fit_interfaces`.

    Kept in the cache folder by the contents of both models and the texts.
    """
    encoder = texts.encoder
    return kept_interfaces(
        lambda: texts.states,
        (texts.rows.texts, texts.rows.pairs),
        open_named(llm),
        entries,
        llm=llm,
        encoder=encoder.digest,
        slm=encoder.name,
        max_tokens=2 * encoder.max_tokens,
        twin=None if variant == "real" else (f"{variant} {variant_seed}", partial(_twin, variant, variant_seed)),
        saw=saw,
        seed=seed,
        device=encoder.device,
        cache=encoder.cache,
        progress=progress,
    )


def _twin(variant: str, seed: int, layer: FrozenLayer) -> FrozenLayer:
    return twin_of(layer, variant, seed)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
