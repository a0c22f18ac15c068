"""The contestants: the plugged model, and what else the same encoder could be trained as."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from pifi_probe.errors import PifiProbeError, RunInterrupted, SaveError
from pifi_probe.layers.extract import extract_from
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.references import open_reference
from pifi_probe.layers.variants import make_variant
from pifi_probe.plugin.config import PiFiConfig
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.plugin.plugin import PlugIn

__all__ = ["ARMS", "FOLDED", "PIFI", "VANILLA", "adapted", "build_arms", "failures"]

logger = logging.getLogger(__name__)

VANILLA, PIFI, FOLDED = "vanilla", "PiFi", "PiFi, folded"
RANK = 8  # of LoRA: peft's own default
Model = PiFiForSequenceClassification


@contextlib.contextmanager
def failures(failed: dict[str, str], name: str) -> Iterator[None]:
    """Note why an arm failed, and continue; but an interrupt or a full disk would be no arm's own fault."""
    try:
        yield
    except (RunInterrupted, SaveError):
        raise
    except (PifiProbeError, ValueError, RuntimeError, MemoryError) as error:  # of the machine, and of peft
        failed[name] = " ".join(str(error).split())[:300]
        logger.warning("%s: %s", name, failed[name])


def build_arms(model: Model, device: torch.device) -> tuple[dict[str, Model], dict[str, str]]:
    """Return a model for each of `ARMS`, and why others could not be made.

    Parameters
    ----------
    model : PiFiForSequenceClassification
        With one frozen layer. Copied but for that layer, which no arm changes. Arms that train the whole encoder
        share one copy of it: what a step costs does not depend on the weights' values.
    device : device
        Where the arms are put.
    """
    shared = {id(layer): layer for layer in model.frozen_layers if model.device == device}
    own = copy.deepcopy(model, shared).to(device)
    arms: dict[str, Model] = {}
    left_out: dict[str, str] = {}
    for name, make in ARMS.items():
        with failures(left_out, name):
            arms[name] = make(own).to(device)
    return arms, left_out


def _with_plugin(model: Model, plugin: nn.Module | None) -> Model:
    """Return a model of the same encoder and head."""
    arm = copy.copy(model)
    arm._modules = dict(model._modules) | {"plugin": plugin}
    return arm


def _trained_layer(model: Model) -> Model:
    """Return the model with the whole layer, trained: its single-token form would not go back into the donor."""
    (layer,) = model.frozen_layers
    whole, card = layer, layer.card
    if card.reduced:
        donor = open_reference(card.ref, layer.named_by)
        whole = extract_from(donor, card.index, model=card.model, dtype=card.dtype)
    plugin: Any = copy.copy(model.plugin)
    plugin._modules = dict(plugin._modules) | {
        "layers": nn.ModuleList([make_variant(whole, "unfrozen", single_token=False).to(model.device)])
    }
    return _with_plugin(model, plugin)


def _mlp(model: Model) -> Model:
    """Return the model with a trained MLP that has as many weights as both projections."""
    assert isinstance(model.plugin, PlugIn)
    config = PiFiConfig.from_dict({**model.config.to_dict(), "control": "mlp"})
    d_llm, d_slm = model.plugin.L_in.weight.shape
    return _with_plugin(model, PlugIn([], d_slm, d_llm, config).to(model.device))


def adapted(model: Model, kind: str) -> Model:
    """Return the encoder alone with adapters of peft; its own weights stay frozen."""
    from peft import IA3Config, LoraConfig, inject_adapter_in_model

    arm = copy.deepcopy(_with_plugin(model, None))
    settings = LoraConfig(r=RANK) if kind == "lora" else IA3Config()
    inject_adapter_in_model(settings, arm.encoder)
    return arm


ARMS: Mapping[str, Callable[[Model], Model]] = MappingProxyType(
    {
        VANILLA: lambda model: _with_plugin(model, None),
        PIFI: lambda model: model,
        FOLDED: lambda model: model.fold(),
        "LoRA": lambda model: adapted(model, "lora"),
        "IA3": lambda model: adapted(model, "ia3"),
        "layer trained too": _trained_layer,
        "MLP of equal size": _mlp,
    }
)


def frozen_layer_of(model: Model) -> FrozenLayer | None:
    """Return the one frozen layer of a plain plugged model; None for any other."""
    plain = not model.config.folded and model.config.control is None and model.fold_report is None
    return model.frozen_layers[0] if plain and len(model.frozen_layers) == 1 else None
