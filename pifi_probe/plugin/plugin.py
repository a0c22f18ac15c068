"""`PlugIn`: ``h -> L_in -> frozen layers -> L_out``, its modes and its controls without a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from transformers.initialization import ones_, zeros_

from pifi_probe.errors import PlugInError
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin.config import PiFiConfig

__all__ = ["PlugIn", "output_scale", "rms"]


def rms(states: torch.Tensor) -> torch.Tensor:
    """Return the root mean square over all entries, as a scalar tensor."""
    return states.float().square().mean().sqrt()


class PlugIn(nn.Module):
    """``L_out(layers(L_in h))``, or ``h + L_out(...)`` with a bypass (paper, section 3).

    Parameters
    ----------
    layers : list of FrozenLayer
        In series; empty for the controls ``"linear"`` and ``"mlp"``.
    d_slm : int
        Width of the encoder.
    d_llm : int
        Width of the layers; for the controls without a layer, the width they would have had.
    config : PiFiConfig
        Modes; see there.

    Notes
    -----
    ``scale="matched"`` multiplies by two fixed numbers, `scale_in` and `scale_out`, which `calibrate` sets
    from one batch. Scaling the weights instead would freeze them: Adam's steps do not grow with the weight.
    """

    scale_in: torch.Tensor
    scale_out: torch.Tensor
    gradient_checkpointing = False  # transformers sets this, and how it is done
    _gradient_checkpointing_func: Callable[..., torch.Tensor]

    def __init__(self, layers: list[FrozenLayer], d_slm: int, d_llm: int, config: PiFiConfig) -> None:
        super().__init__()
        self.L_in = nn.Linear(d_slm, d_llm, bias=False)
        self.L_out = nn.Linear(d_llm, d_slm, bias=False)
        self.layers = nn.ModuleList(layers)
        self.activation = nn.GELU() if config.control == "mlp" else nn.Identity()
        self.mask, self.bypass, self.matched = config.mask, config.bypass, config.scale == "matched"
        self.register_buffer("scale_in", torch.ones(()))
        self.register_buffer("scale_out", torch.ones(()))

    def forward(self, h: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Pass vectors through the plug-in.

        Parameters
        ----------
        h : Tensor, (batch, d_slm) or (batch, seq, d_slm)
            The pooled vector, or all tokens.
        attention_mask : Tensor, (batch, seq), optional
            For all tokens: 1 for tokens, 0 for padding.

        Returns
        -------
        Tensor, shape of `h`
        """
        out = self.through(h if h.dim() == 3 else h[:, None], attention_mask)  # (batch, seq or 1, d_slm)
        out = out if h.dim() == 3 else out[:, 0]
        return h + out if self.bypass else out

    def through(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return what the plug-in makes of (batch, seq, d_slm), before the bypass."""
        return self.L_out(self.scale_out * self.core(self.scale_in * self.L_in(states), attention_mask))

    def core(self, x: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Pass (batch, seq, d_llm) through the layers, or through what stands for them."""
        return self.series(self.layers, self.activation(x), attention_mask)

    def series(self, layers: Iterable[nn.Module], x: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Pass (batch, seq, d_llm) through layers one after the other."""
        for layer in layers:
            mask = None if attention_mask is None else self._layer_mask(layer, attention_mask)
            if self.gradient_checkpointing and self.training:  # a frozen layer never knows that this is training
                x = self._gradient_checkpointing_func(layer.__call__, x, mask)
            else:
                x = layer(x, mask)
        return x

    def _layer_mask(self, layer: nn.Module, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the mask the layer is given: 2-d (it adds causality itself), or 4-d and final."""
        if self.mask == "causal":
            return attention_mask
        dtype = next(layer.parameters()).dtype
        batch, seq = attention_mask.shape
        scores = torch.zeros(batch, 1, seq, seq, dtype=dtype, device=attention_mask.device)
        if self.mask == "bidirectional":
            hidden = attention_mask[:, None, None, :] == 0
            scores = scores.masked_fill(hidden, torch.finfo(dtype).min)
        return scores

    def projections(self) -> dict[str, nn.Linear]:
        """Return the trained maps by the names of the streams they are drawn from."""
        return {"L_in": self.L_in, "L_out": self.L_out}

    def trained_maps(self) -> list[nn.Module]:
        """Return the maps that start from a draw, and a gate that is a map."""
        gate = getattr(self, "gates", None)
        return [*self.projections().values(), *([gate] if isinstance(gate, nn.Module) else [])]

    def fixed_maps(self) -> list[nn.Module]:
        """Return the maps outside the layers that are never trained: none."""
        return []

    def fitted(self) -> list[torch.Tensor]:
        """Return what has no start, and must come from a checkpoint: nothing."""
        return []

    def set_start(self) -> None:
        """Set what does not start from a draw: factors to one, and to zero what the modes let start at zero.

        What transformers has just loaded stays; its functions know.
        """
        for factor in (self.scale_in, self.scale_out):
            ones_(factor)
        if self.bypass:
            zeros_(self.L_out.weight)

    @torch.no_grad()
    def calibrate(self, h: torch.Tensor, attention_mask: torch.Tensor | None, *target_rms: float) -> None:
        """Set the fixed factors of ``scale="matched"`` from one batch (book/methods.md, Scale).

        Parameters
        ----------
        h : Tensor, (batch, d_slm) or (batch, seq, d_slm)
            What the encoder gives.
        attention_mask : Tensor, (batch, seq), optional
        *target_rms : float
            Root mean square the input of each branch has inside its own model; here the first one's.
        """
        if not self.matched:
            return
        states = h if h.dim() == 3 else h[:, None]
        x = self.L_in(states)
        self.scale_in.fill_(target_rms[0] / float(rms(x)))
        y = self.core(self.scale_in * x, attention_mask)
        # with a zero-start L_out there is no output to match yet
        self.scale_out.fill_(output_scale(h, y if self.bypass else self.L_out(y)))


def output_scale(h: torch.Tensor, y: torch.Tensor) -> float:
    """Return the factor that gives `y` the root mean square of `h`.

    Raises
    ------
    PlugInError
        If `y` is zero or not finite.
    """
    if not torch.isfinite(y).all():  # most often a layer in float16, whose largest number is 65,504
        raise PlugInError(
            "the scale of the plug-in cannot be matched: the layer's output is not finite",
            where="calibration batch",
            next='plug in pp.extract("MODEL[i]", dtype="float32"), which cannot overflow as short types do',
        )
    factor = float(rms(h) / rms(y))
    if not 0 < factor < float("inf"):
        raise PlugInError(
            "the scale of the plug-in cannot be matched: the layer's output is zero",
            where="calibration batch",
            next='use scale="none", or another layer',
        )
    return factor
