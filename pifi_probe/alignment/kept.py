"""Interfaces kept on disk by what they were fitted to."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pifi_probe.alignment.fit import fit_interfaces
from pifi_probe.alignment.interface import Interface
from pifi_probe.alignment.tokens import TokenStates, aligned_tokenizer, joined
from pifi_probe.errors import CorruptFileError, SaveError
from pifi_probe.files import cache_root
from pifi_probe.layers.adapter import Adapter, adapter_content
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.content import content_of
from pifi_probe.layers.detect import refuse_missing_states
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.tokenizer_files import vocabulary_digest

__all__ = ["kept_interfaces"]

_VERSION = 3  # of how they are fitted


def kept_interfaces(
    states: Callable[[], TokenStates],
    texts: tuple[Sequence[str], Sequence[str] | None],
    donor: Checkpoint,
    entries: Sequence[int],
    *,
    llm: str,
    encoder: str,
    slm: str,
    max_tokens: int,
    twin: tuple[str, Callable[[FrozenLayer], FrozenLayer]] | None = None,
    adapter: Adapter | None = None,
    saw: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
    cache: bool = True,
    progress: bool = False,
) -> dict[int, Interface]:
    """Return interfaces to several entries of a donor: from the cache folder, or fitted and kept there.

    Parameters
    ----------
    states : callable
        Gives the encoder's token states; not called when all interfaces are there.
    texts : (sequence of str, sequence of str or None)
        Texts, and the second ones of pairs.
    entries, slm, max_tokens, saw, seed, device, progress
        As in `fit_interfaces`.
    donor : Checkpoint
    llm : str
        Its name.
    encoder : str
        Digest of the encoder's weights, its tokenizer, and how it cuts texts.
    twin : (str, callable), optional
        Name and `change` of `fit_interfaces`, for an interface to a twin's states.
    adapter : Adapter, optional
        As in `fit_interfaces`.
    cache : bool
        Read interfaces that are kept, and keep those that are fitted; a full disk keeps none and is no error.

    Returns
    -------
    dict of int to Interface
        By entry; each says what it saw, `saw` included.

    Raises
    ------
    UnsupportedFamilyError
        If one has to be fitted, and a layer up to its entry needs more than the states that enter it.
    TokenizerError
        If one has to be fitted, and the donor has no tokenizer that can be used.
    FeatureError
        As in `fit_interfaces`.
    """
    first, second = list(texts[0]), None if texts[1] is None else list(texts[1])
    models = [content_of(donor), vocabulary_digest(donor), encoder]
    models += [] if adapter is None else [adapter_content(adapter)]
    made_from = [*models, first, second, max_tokens, seed, twin[0] if twin else "", _VERSION]
    files = {entry: cache_root() / "interfaces" / _name([*made_from, entry]) for entry in entries}
    found: dict[int, Interface] = {}
    for entry, file in files.items():
        if cache and file.is_file():
            with contextlib.suppress(CorruptFileError):
                found[entry] = Interface.load(file)
    missing = [entry for entry in entries if entry not in found]
    if missing:
        refuse_missing_states(donor.config, max(missing), llm)
        aligned_tokenizer(donor)  # before the encoder reads all texts
        fitted = fit_interfaces(
            states(),
            joined(first, second),
            donor,
            missing,
            model=llm,
            slm=slm,
            max_tokens=max_tokens,
            change=twin[1] if twin else None,
            adapter=adapter,
            seed=seed,
            device=device,
            progress=progress,
        )
        for entry, interface in fitted.items():
            found[entry] = interface
            if cache:
                with contextlib.suppress(SaveError):
                    interface.save(files[entry])
    facts = dict(saw or {})
    return {entry: replace(found[entry], donor=llm, slm=slm, saw={**found[entry].saw, **facts}) for entry in entries}


def _name(made_from: list[Any]) -> str:
    return f"{hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]}.safetensors"
