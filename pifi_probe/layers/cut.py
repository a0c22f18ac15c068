"""Configurations: of a whole model without its vocabulary, and cut down to one of its layers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import PretrainedConfig

from pifi_probe.layers.families import family_of

__all__ = ["cut_config", "donor_config"]

_PER_LAYER = (
    "layer_types",
    "no_rope_layers",
    "mlp_layer_types",
    "layers_block_type",
)  # may have entries of extra layers


def donor_config(config: PretrainedConfig, *, silenced: bool = True) -> PretrainedConfig:
    """Return the whole configuration as a layer is built from: all layers, and a vocabulary of four tokens.

    Parameters
    ----------
    config : PretrainedConfig
        Of the donor; unchanged.
    silenced : bool
        Whether what the family multiplies before the first layer becomes neutral.
    """
    donor = copy.deepcopy(config)
    donor.vocab_size = 4
    try:
        donor.pad_token_id = None
    except StrictDataclassFieldValidationError:  # modernbert-decoder wants one
        donor.pad_token_id = 0
    vars(donor).pop("quantization_config", None)  # weights are dequantised before they are loaded
    if silenced:
        for name, value in family_of(config).neutral.items():
            setattr(donor, name, value)
    return donor


def cut_config(config: PretrainedConfig, index: int) -> PretrainedConfig:
    """Return what the family's loop over the layers reads when layer `index` is the only one.

    The layer itself keeps the whole configuration, since its index and the number of layers may enter its
    arithmetic.
    """
    n_layers = int(config.num_hidden_layers)
    one = copy.deepcopy(config)
    entries: dict[str, Any] = {}
    for name, values in _lists(config):
        if len(values) == n_layers or (name in _PER_LAYER and len(values) > index):
            entries[name] = [values[index]]
    computed = {name: entries[name] for name in entries if isinstance(getattr(type(one), name, None), property)}
    for name in entries.keys() - computed.keys():
        setattr(one, name, entries[name])
    one.num_hidden_layers = 1
    if computed:
        one.__class__ = _computed_anew(type(one), computed)
    return one


def _lists(config: PretrainedConfig) -> list[tuple[str, Sequence[Any]]]:
    """Return the lists of a configuration, those that it computes (bamba, jamba) included."""
    stored = [(name, value) for name, value in vars(config).items() if not name.endswith(("token_id", "architectures"))]
    computed = [
        (name, getattr(config, name, None))
        for name in _PER_LAYER
        if isinstance(getattr(type(config), name, None), property)
    ]
    return [(name, value) for name, value in (*stored, *computed) if isinstance(value, (list, tuple))]


def _computed_anew(kind: type[PretrainedConfig], entries: dict[str, Any]) -> type[PretrainedConfig]:
    """Return a class of configurations whose computed lists have one entry."""

    def entry(name: str) -> property:
        return property(lambda self: entries[name])

    def reduced(self: PretrainedConfig) -> tuple[Any, ...]:
        return _restored, (kind, entries, dict(vars(self)))

    methods: dict[str, Any] = {name: entry(name) for name in entries}
    methods |= {"__reduce__": reduced, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), methods)


def _restored(kind: type[PretrainedConfig], entries: dict[str, Any], values: dict[str, Any]) -> PretrainedConfig:
    """Rebuild a configuration that was pickled or copied."""
    config: PretrainedConfig = object.__new__(kind)
    vars(config).update(values)
    config.__class__ = _computed_anew(kind, entries)
    return config
