"""What a result says about its model: enough to build it again and to tell two arms apart."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin.aligned import AlignedPlugIn
from pifi_probe.plugin.combine import Unshared
from pifi_probe.plugin.config import WIRINGS, is_aligned, join_specs, modes_of
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.plugin.plugin import PlugIn
from pifi_probe.training.history import trained_state

__all__ = ["count_parameters", "describe_model", "label_of", "layer_digests", "start_digest"]

_MODES = (
    "slm",
    "wiring",
    "control",
    "feed",
    "mask",
    "scale",
    "bypass",
    "pooling",
    "lr_projection_factor",
    "head_dropout",
)
_OVERRIDABLE = ("feed", "mask", "scale", "bypass", "pooling")


def describe_model(model: PiFiForSequenceClassification) -> dict[str, Any]:
    """Return encoder, wiring, control, modes, layers (specification and sha256) and shapes, and a `label`.

    Combinations with trained weights also have ``combine`` and ``branches``; aligned chains ``read``,
    ``train_projections`` and ``interface``.
    """
    config = model.config
    values = {name: getattr(config, name) for name in _MODES}
    names = ("spec", "model", "revision", "index", "dtype", "sha256", "variant", "reduced")
    values["layers"] = [{name: getattr(layer.card, name) for name in names} for layer in model.frozen_layers]
    values["shapes"] = _shapes(model)
    if config.aligned is not None:
        interface = config.aligned.get("interface", {})
        values |= {name: config.aligned[name] for name in ("read", "train_projections")}
        values["interface"] = {name: interface.get(name) for name in ("entry", "r2", "saw")}
    if config.combine not in (None, "serial"):
        values |= {"combine": config.combine, "branches": config.branches}
    values["label"] = label_of(values)
    return values


def label_of(description: dict[str, Any]) -> str:
    """Return the name of an arm, such as ``"pifi: random smollm2-135m[29]"`` or ``"matched: A[3] | A[20] (mix)"``.

    Where a mode was set against its wiring, the name says so: ``"custom: A[3] (pifi, pooling=mean)"``.
    """
    combine = description.get("combine")
    specs = join_specs([layer["spec"] for layer in description["layers"]], combine, description.get("branches", []))
    width = "" if specs or not combine else f"of width {description['shapes']['L_in'][0]}"
    parts = [description["control"], specs or width, f"({combine})" if combine else "", _overrides(description)]
    return f"{description['wiring']}: {' '.join(part for part in parts if part)}"


def _overrides(description: dict[str, Any]) -> str:
    """Return the wiring that was begun with and the modes that are not its own; empty for a wiring as it is."""
    chosen = [f"read={description['read']}"] if description.get("read") == "back" else []
    chosen += ["projections trained"] if description.get("train_projections") else []
    if description["wiring"] in WIRINGS:
        return f"({', '.join(chosen)})" if chosen else ""
    factor = description["lr_projection_factor"]  # of all modes the one that cannot be overridden
    base = next(
        (
            name
            for name, preset in WIRINGS.items()
            if preset["lr_projection_factor"] == factor and is_aligned(name) == ("read" in description)
        ),
        "",
    )
    preset = {"mask": "causal", **(modes_of(base) if base else {})}
    changed = [f"{name}={description[name]}" for name in _OVERRIDABLE if description[name] != preset.get(name)]
    return f"({', '.join(part for part in (base, *changed, *chosen) if part)})"


def _shapes(model: PiFiForSequenceClassification) -> dict[str, Any]:
    shapes: dict[str, Any] = {"encoder": int(model.encoder.config.hidden_size)}
    plugin = model.plugin
    if isinstance(plugin, AlignedPlugIn):
        return shapes | {
            "layers": [layer.hidden_size for layer in model.frozen_layers],
            "interface": list(plugin.L_in.weight.shape),  # (d_llm, 4 d_slm)
            "readout": list(plugin.L_out.weight.shape),
        }
    if isinstance(plugin, PlugIn):
        layers = plugin.branch(0) if isinstance(plugin, Unshared) else model.frozen_layers
        shapes |= _branch_shapes(layers, plugin.L_in, plugin.L_out)
    if isinstance(plugin, Unshared):
        shapes["further"] = [
            _branch_shapes(plugin.branch(j), own.L_in, own.L_out) for j, own in enumerate(plugin.own, start=1)
        ]
    return shapes


def _branch_shapes(layers: list[FrozenLayer], inner: nn.Linear, outer: nn.Linear) -> dict[str, Any]:
    return {
        "layers": [layer.hidden_size for layer in layers],
        "L_in": list(inner.weight.shape),  # (d_llm, d_slm)
        "L_out": list(outer.weight.shape),  # (d_slm, d_llm)
    }


def count_parameters(model: PiFiForSequenceClassification) -> dict[str, int]:
    """Return the numbers of trainable and of frozen weights."""
    counts = {"trainable": 0, "frozen": 0}
    for parameter in model.parameters():
        counts["trainable" if parameter.requires_grad else "frozen"] += parameter.numel()
    return counts


def layer_digests(model: PiFiForSequenceClassification) -> list[str]:
    """Return the sha256 of every plugged layer as it is now."""
    return [layer.digest() for layer in model.frozen_layers]


def start_digest(model: PiFiForSequenceClassification) -> str:
    """Return the sha256 over all trained weights and buffers: equal digests start equal runs."""
    digest = hashlib.sha256()
    for name, tensor in sorted(trained_state(model).items()):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
