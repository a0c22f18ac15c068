"""Combinations of frozen layers with trained weights, each starting exactly at its first layer alone.

======================  =========================================================  ====================
design                  plug-in, with F_j a branch and x = L_in h                  at the start
======================  =========================================================  ====================
``"serial"``            L_out F_k(... F_1(x))                                      (nothing is trained)
``"gated-serial"`` D1   L_out x_k, x_1 = F_1(x), x_j = x_{j-1} + g_j B_j(x_{j-1})  g = 0
``"mix"`` D2            L_out (F_1(x) + sum_{j>1} w_j B_j(x))                      w = 0
``"unshared"`` D3       sum_j L_out^j F_j(L_in^j h)                                L_out^j = 0 for j > 1
``"gated"`` D4          L_out (F_1(x) + sum_j u_j(h) B_j(x))                       u = 0
======================  =========================================================  ====================

B_j(x) = F_j(x) - x is what a branch adds. With ``scale="matched"`` every branch after the first is asked at its
own scale: with r = s_j / RMS(x), token by token, B_j(x) = (F_j(r x) - r x) / r, where s_j is the root mean
square that its input has inside its own model. With ``scale="none"`` nothing is matched, here neither.

D4 is u(h) = softmax(W h + b) - softmax(b_0), with W = 0 and b = b_0 = (5, 0, ...) at the start. The second term
makes the start exact: a softmax alone never leaves out a branch. Weights and gates are free, not a softmax,
elsewhere. Source: book/methods.md, Combinations.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import nn
from transformers.initialization import copy_, ones_, zeros_

from pifi_probe.errors import PlugInError
from pifi_probe.layers.frozen import FrozenLayer, FrozenLayers, branches_of, list_of
from pifi_probe.plugin.config import COMBINATIONS, PiFiConfig
from pifi_probe.plugin.plugin import PlugIn, output_scale, rms

__all__ = ["GATES", "Unshared", "arrange", "make_plugin"]

GATES = "plugin.gates"  # how the names of all weights of combinations begin
_SERIES, _PARALLEL = ("serial", "gated-serial"), ("mix", "unshared", "gated")
_FIRST_LOGIT = 5.0
_EPS = 1e-12  # keeps the gradient at a vector of zeros finite


class _Combination(PlugIn):
    """What all designs share: layers in branches."""

    def __init__(self, layers: list[FrozenLayer], d_slm: int, d_llm: int, config: PiFiConfig) -> None:
        super().__init__(layers, d_slm, d_llm, config)
        self.sizes = config.branches

    def branch(self, j: int) -> list[FrozenLayer]:
        """Return the layers of branch `j`, in series."""
        layers, start = [layer for layer in self.layers if isinstance(layer, FrozenLayer)], sum(self.sizes[:j])
        return layers[start : start + self.sizes[j]]

    def core(self, x: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Pass (batch, seq, d_llm) through the first branch."""
        return self.series(self.branch(0), x, attention_mask)


class _Shared(_Combination):
    """Branches behind one L_in and one L_out."""

    input_rms: torch.Tensor

    def __init__(self, layers: list[FrozenLayer], d_slm: int, d_llm: int, config: PiFiConfig) -> None:
        super().__init__(layers, d_slm, d_llm, config)
        self.register_buffer("input_rms", torch.ones(len(self.sizes) - 1))

    def set_start(self) -> None:
        """Set what does not start from a draw."""
        super().set_start()
        ones_(self.input_rms)

    def added(self, j: int, x: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return what branch `j` (not the first) adds to (batch, seq, d_llm), asked at its own scale."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # a small difference of large numbers
        if not self.matched:
            return self.series(self.branch(j), x, attention_mask) - x
        factor = self.input_rms[j - 1] * (x.square().mean(-1, keepdim=True) + _EPS).rsqrt()  # (batch, seq, 1)
        return (self.series(self.branch(j), factor * x, attention_mask) - factor * x) / factor

    @torch.no_grad()
    def calibrate(self, h: torch.Tensor, attention_mask: torch.Tensor | None, *target_rms: float) -> None:
        """Set the fixed factors of ``scale="matched"``; see `PlugIn.calibrate`."""
        self.input_rms.copy_(torch.tensor(target_rms[1:]))
        super().calibrate(h, attention_mask, *target_rms)


class _Weighted(_Shared):
    """One trained number for each branch after the first."""

    def __init__(self, layers: list[FrozenLayer], d_slm: int, d_llm: int, config: PiFiConfig) -> None:
        super().__init__(layers, d_slm, d_llm, config)
        self.gates = nn.Parameter(torch.zeros(len(self.sizes) - 1))

    def set_start(self) -> None:
        """Set what does not start from a draw; all gates are closed."""
        super().set_start()
        zeros_(self.gates)


class GatedSerial(_Weighted):
    """D1: layers in series, each after the first behind a gate."""

    def core(self, x: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Pass (batch, seq, d_llm) through all layers."""
        x = super().core(x, attention_mask)
        for j, gate in enumerate(self.gates, start=1):
            x = x + (gate * self.added(j, x, attention_mask)).to(x.dtype)
        return x


class Mix(_Weighted):
    """D2: what the branches add to one input, with a free weight for each after the first."""

    def core(self, x: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Pass (batch, seq, d_llm) through all branches."""
        y = super().core(x, attention_mask)
        for j, weight in enumerate(self.gates, start=1):
            y = y + (weight * self.added(j, x, attention_mask)).to(y.dtype)
        return y


class Gated(_Shared):
    """D4: as `Mix`, with weights that depend on the encoder's vector."""

    def __init__(self, layers: list[FrozenLayer], d_slm: int, d_llm: int, config: PiFiConfig) -> None:
        super().__init__(layers, d_slm, d_llm, config)
        self.gates = nn.Linear(d_slm, len(self.sizes))
        self.set_start()

    def set_start(self) -> None:
        """Set what does not start from a draw; the weights are those of the first branch alone."""
        super().set_start()
        zeros_(self.gates.weight)
        with torch.no_grad():
            copy_(self.gates.bias, torch.tensor([_FIRST_LOGIT] + [0.0] * (len(self.sizes) - 1)))

    def through(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return what the plug-in makes of (batch, seq, d_slm), before the bypass."""
        x = self.scale_in * self.L_in(states)
        first = self.core(x, attention_mask)
        weights = self.weights(states)  # (batch, seq, k)
        y = first + (weights[..., :1] * (first - x)).to(first.dtype)
        for j in range(1, len(self.sizes)):
            y = y + (weights[..., j : j + 1] * self.added(j, x, attention_mask)).to(y.dtype)
        return self.L_out(self.scale_out * y)

    def weights(self, states: torch.Tensor) -> torch.Tensor:
        """Return how far the weight of each branch is from the start, (batch, seq, k); they add up to 0."""
        logits = self.gates(states)
        start = torch.zeros_like(logits)
        start[..., 0] = _FIRST_LOGIT
        return logits.softmax(-1) - start.softmax(-1)


class _Projections(nn.Module):
    """L_in and L_out of a further branch, with their fixed factors."""

    scale_in: torch.Tensor
    scale_out: torch.Tensor

    def __init__(self, d_slm: int, d_llm: int) -> None:
        super().__init__()
        self.L_in = nn.Linear(d_slm, d_llm, bias=False)
        self.L_out = nn.Linear(d_llm, d_slm, bias=False)
        self.register_buffer("scale_in", torch.ones(()))
        self.register_buffer("scale_out", torch.ones(()))


class Unshared(_Combination):
    """D3: every branch with projections of its own; the branches may have different widths."""

    def __init__(self, layers: list[FrozenLayer], d_slm: int, d_llm: int, config: PiFiConfig) -> None:
        super().__init__(layers, d_slm, d_llm, config)
        widths = [self.branch(j)[0].hidden_size for j in range(1, len(self.sizes))]
        self.further = nn.ModuleList(_Projections(d_slm, width) for width in widths)

    def through(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return what the plug-in makes of (batch, seq, d_slm), before the bypass."""
        out = super().through(states, attention_mask)
        for j, own in enumerate(self.own, start=1):
            y = self.series(self.branch(j), own.scale_in * own.L_in(states), attention_mask)
            out = out + own.L_out(own.scale_out * y)
        return out

    @property
    def own(self) -> list[_Projections]:
        """Projections of every branch after the first."""
        return [own for own in self.further if isinstance(own, _Projections)]

    def projections(self) -> dict[str, nn.Linear]:
        """Return the trained maps by the names of the streams they are drawn from."""
        found = super().projections()
        for j, own in enumerate(self.own, start=1):
            found |= {f"L_in.{j}": own.L_in, f"L_out.{j}": own.L_out}
        return found

    def set_start(self) -> None:
        """Let every branch but the first start at zero, and the first one where the modes do."""
        super().set_start()
        for own in self.own:
            for factor in (own.scale_in, own.scale_out):
                ones_(factor)
            zeros_(own.L_out.weight)

    @torch.no_grad()
    def calibrate(self, h: torch.Tensor, attention_mask: torch.Tensor | None, *target_rms: float) -> None:
        """Set the fixed factors of ``scale="matched"``; see `PlugIn.calibrate`."""
        super().calibrate(h, attention_mask, *target_rms)
        if not self.matched:
            return
        states = h if h.dim() == 3 else h[:, None]
        for j, own in enumerate(self.own, start=1):
            x = own.L_in(states)
            own.scale_in.fill_(target_rms[j] / float(rms(x)))
            own.scale_out.fill_(output_scale(h, self.series(self.branch(j), own.scale_in * x, attention_mask)))


_DESIGNS: Mapping[str, type[PlugIn]] = MappingProxyType(
    {"gated-serial": GatedSerial, "mix": Mix, "unshared": Unshared, "gated": Gated}
)


def make_plugin(layers: list[FrozenLayer], d_slm: int, config: PiFiConfig) -> PlugIn:
    """Return the untrained plug-in of a configuration; controls without a layer have no branches."""
    width = layers[0].hidden_size if layers else config.plugin_width
    design = _DESIGNS.get(config.combine or "", PlugIn) if layers else PlugIn
    return design(layers, d_slm, width, config)


def arrange(layers: FrozenLayers, combine: str | None) -> tuple[str | None, list[int]]:
    """Return the design of a set of layers, and the number of layers in each branch.

    Parameters
    ----------
    layers : FrozenLayer, FrozenChain or FrozenParallel
    combine : str or None
        None: nothing for one layer, ``"serial"`` for a chain; for a parallel set ``"mix"`` when the hidden sizes
        agree, else ``"unshared"``.

    Raises
    ------
    PlugInError
        If the design does not fit the layers.
    """
    if combine not in (None, *COMBINATIONS):
        raise PlugInError(
            f"unknown combination {combine!r}", where="combine", next=f"use one of {', '.join(COMBINATIONS)}"
        )
    branches = [list_of(branch) for branch in branches_of(layers)]
    where = " | ".join(" >> ".join(layer.card.spec for layer in branch) for branch in branches)
    if len(branches) > 1:
        return _parallel([branch[0].hidden_size for branch in branches], combine, where), [*map(len, branches)]
    n = len(branches[0])
    if n == 1 and combine is not None:
        raise PlugInError(
            f"there is nothing to combine as {combine!r}: this is one layer",
            where=where,
            next='name several, for example "smollm2-135m[8] | smollm2-135m[20]", or leave combine out',
        )
    if combine in _PARALLEL:
        raise PlugInError(
            f"layers in series cannot be combined as {combine!r}",
            where=where,
            next=f"use one of {', '.join(_SERIES)}, or write A | B for layers side by side",
        )
    return None if n == 1 else combine or "serial", [1] * n if combine == "gated-serial" else [n]


def _parallel(widths: list[int], combine: str | None, where: str) -> str:
    alike = len(set(widths)) == 1
    design = combine or ("mix" if alike else "unshared")
    if design in _SERIES:
        raise PlugInError(
            f"layers side by side cannot be combined as {design!r}",
            where=where,
            next=f"use one of {', '.join(_PARALLEL)}, or write A >> B for a series",
        )
    if design != "unshared" and not alike:
        raise PlugInError(
            f"{design!r} needs equal hidden sizes, got {', '.join(map(str, widths))}",
            where=where,
            next='use combine="unshared", which gives each branch projections of its own',
        )
    return design
