"""The arms of frozen-SLM PiFi, and plug-in and head of all seeds of an arm as one module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from pifi_probe.errors import PlugInError
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.variants import make_variant
from pifi_probe.plugin.build import initialise
from pifi_probe.plugin.config import PiFiConfig, modes_of
from pifi_probe.plugin.modeling import Head
from pifi_probe.plugin.plugin import PlugIn
from pifi_probe.vocabulary import BASIC_CONTROLS

__all__ = ["Arm", "Tail", "make_arm", "make_tail", "stack"]


@dataclass(frozen=True)
class Arm:
    """What is trained, but for the seeds; made by `make_arm`.

    Parameters
    ----------
    control : str or None
        None for the real layer, else one of `BASIC_CONTROLS`.
    layers : tuple of FrozenLayer
        One for all seeds, one for each seed, or none.
    width : int
        d_llm.
    target_rms : float
        Root mean square of the layer's input inside its own model, for ``wiring="matched"``.
    """

    control: str | None = None
    layers: tuple[FrozenLayer, ...] = ()
    width: int = 0
    target_rms: float = 1.0

    @property
    def label(self) -> str:
        """Name for messages."""
        spec = self.layers[0].card.spec if self.layers else ""
        return " ".join(part for part in (self.control, spec) if part)


def make_arm(
    layer: FrozenLayer | None,
    control: str | None = None,
    *,
    target_rms: float = 1.0,
    seeds: Sequence[int] = (0, 1, 2),
) -> Arm:
    """Make the arm of a layer, or of the control that belongs to it.

    Parameters
    ----------
    layer : FrozenLayer or None
        In float32; left as it is. ``"vanilla"`` needs none, ``"linear"`` takes its width only.
    control : {None, "vanilla", "linear", "random", "shuffled"}
        ``"random"`` and ``"shuffled"`` draw another layer for each seed, as `plug_in` does.
    target_rms : float
        Root mean square of the layer's input inside its own model (`layers.residual.residual_rms`).
    seeds : sequence of int
        Those that `frozen_slm` will be given.

    Raises
    ------
    PlugInError
        If the control is unknown or needs a layer.
    """
    if control is not None and control not in BASIC_CONTROLS:
        raise PlugInError(
            f"unknown control {control!r}", where="control", next=f"use one of {', '.join(BASIC_CONTROLS)}"
        )
    if control == "vanilla":
        return Arm("vanilla")
    if layer is None:
        raise PlugInError("no layer was given", where="make_arm", next="give the layer that the arm is about")
    if control == "linear":
        return Arm("linear", width=layer.hidden_size)
    draws = [0] if control is None else seeds
    variants = [make_variant(layer, control or "real", single_token=True, seed=seed) for seed in draws]
    return Arm(control, tuple(variants), layer.hidden_size, target_rms)


class Tail(nn.Module):
    """The plugged model behind the encoder: the project's own plug-in and head.

    Parameters
    ----------
    plugin : PlugIn or None
        None for the control "vanilla".
    head : Head
    config : PiFiConfig
    """

    def __init__(self, plugin: PlugIn | None, head: Head, config: PiFiConfig) -> None:
        super().__init__()
        self.plugin, self.head, self.config = plugin, head, config

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Turn pooled vectors (batch, d_slm) into logits (batch, K)."""
        return self.head(h if self.plugin is None else self.plugin(h))


def make_tail(arm: Arm, calibration: torch.Tensor, n_labels: int, wiring: str, seed: int, position: int = 0) -> Tail:
    """Return plug-in and head of one seed, drawn and scaled as `plug_in` draws and scales them.

    Parameters
    ----------
    arm : Arm
    calibration : Tensor, (rows, d_slm)
        Pooled vectors that scales are matched on, for ``wiring="matched"``.
    n_labels : int
    wiring : str
    seed : int
    position : int
        Of the seed among the seeds `arm` was made for.
    """
    modes = {name: value for name, value in modes_of(wiring).items() if name != "pooling"}
    config = PiFiConfig(control=arm.control, plugin_width=arm.width, **modes)
    layers = list(arm.layers) if len(arm.layers) < 2 else [arm.layers[position]]
    d_slm = calibration.shape[1]
    plugin = None if arm.control == "vanilla" else PlugIn(list(layers), d_slm, arm.width, config)
    tail = Tail(plugin, Head(d_slm, n_labels, config.head_dropout), config)
    initialise(cast(Any, tail), seed)
    tail = tail.to(calibration.device)
    if plugin is not None:
        plugin.calibrate(calibration, None, arm.target_rms)
    return tail


class _Stacked(nn.Module):
    """Linear maps side by side: block s of the rows goes through map s, times a fixed scale of its own."""

    scale: torch.Tensor | None

    def __init__(self, maps: Sequence[nn.Linear], scales: Sequence[torch.Tensor] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([one.weight.detach() for one in maps]))  # (S, out, in)
        biases = [one.bias.detach() for one in maps if one.bias is not None]
        self.bias = nn.Parameter(torch.stack(biases)[:, None]) if biases else None  # (S, 1, out)
        self.register_buffer("scale", torch.stack(list(scales))[:, None, None] if scales else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(len(self.weight), -1, x.shape[-1])  # (S, rows, in)
        out = rows @ self.weight.mT  # (S, rows, out)
        out = out if self.bias is None else out + self.bias
        out = out if self.scale is None else out * self.scale
        return out.view(*x.shape[:-1], out.shape[-1])


class _SideBySide(nn.Module):
    """One layer for each seed: block s of the rows goes through layer s."""

    def __init__(self, layers: Iterable[FrozenLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        blocks = x.chunk(len(self.layers))
        return torch.cat([layer(block, attention_mask) for layer, block in zip(self.layers, blocks, strict=True)])


class _Dropout(nn.Module):
    """Dropout with a stream of its own for each seed."""

    def __init__(self, p: float, seeds: Sequence[int]) -> None:
        super().__init__()
        self.p, self.streams = p, [np.random.default_rng([seed, 1]) for seed in seeds]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        shape = (len(x) // len(self.streams), *x.shape[1:])
        drawn = np.concatenate([stream.random(shape, dtype=np.float32) for stream in self.streams])
        return x * torch.from_numpy(drawn >= self.p).to(x.device) / (1 - self.p)


def stack(tails: Sequence[Tail], arm: Arm, seeds: Sequence[int]) -> Tail:
    """Return the first tail with the parts of all seeds in the places of its own."""
    plugins = [tail.plugin for tail in tails if tail.plugin is not None]
    plugin = plugins[0] if plugins else None
    if plugin is not None:
        scales = [(one.scale_in.clone(), one.scale_out.clone()) for one in plugins]
        plugin.L_in = cast(Any, _Stacked([one.L_in for one in plugins], [scale for scale, _ in scales]))
        plugin.L_out = cast(Any, _Stacked([one.L_out for one in plugins], [scale for _, scale in scales]))
        plugin.scale_in.fill_(1.0)
        plugin.scale_out.fill_(1.0)
        if len(arm.layers) > 1:
            plugin.layers = nn.ModuleList([_SideBySide(arm.layers)])
    first, _, activation, last = zip(*(tail.head for tail in tails), strict=True)
    dropout = _Dropout(tails[0].config.head_dropout, seeds)
    head = nn.Sequential(_Stacked(first), dropout, activation[0], _Stacked(last))
    return Tail(plugin, cast(Head, head), tails[0].config)
