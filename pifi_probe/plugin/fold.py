"""The exact inference form of a plugged model: projections folded into the layer (book/methods.md, Folding)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.activations import ACT2FN

from pifi_probe.errors import PlugInError
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.reduce import largest_relative_error, probes, reduce
from pifi_probe.layers.value_path import ValueAttention
from pifi_probe.plugin.aligned import AlignedPlugIn
from pifi_probe.plugin.plugin import PlugIn

if TYPE_CHECKING:
    from pifi_probe.plugin.modeling import PiFiForSequenceClassification

__all__ = ["FoldReport", "FoldedPlugIn", "fold_plugin", "n_macs"]

TOLERANCE = 1e-5


@dataclass(frozen=True)
class FoldReport:
    """What folding changed in the plug-in; multiply-accumulates (MACs) are counted for one example.

    Parameters
    ----------
    form : {"z", "grouped"}
    reason : str
        Why this form.
    params_before, params_after : int
    bytes_before, bytes_after : int
    macs_before, macs_after : int
    relative_error : float
        Of the folded to the unfolded plug-in on random inputs; for the z-form of a layer in a shorter type, to
        the same layer computing in float32.
    """

    form: str
    reason: str
    params_before: int
    params_after: int
    bytes_before: int
    bytes_after: int
    macs_before: int
    macs_after: int
    relative_error: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a plain dict."""
        return asdict(self)


class FoldedPlugIn(nn.Module):
    """A gated MLP on ``[h; h / |L_in h|; 1]`` that equals ``L_out(layer(L_in h))`` exactly.

    Parameters
    ----------
    d_slm, width, rank_in, rank : int
        Width of the encoder; hidden units of the layer's MLP; rows of the two triangular factors.
    d_llm : int
        Width the norms average over.
    eps_in, eps_mid : float
        Of the layer's two norms.
    act : str
        Activation of the layer's MLP.
    bypass : bool
        Add `h`.
    """

    def __init__(
        self,
        *,
        d_slm: int,
        d_llm: int,
        width: int,
        rank_in: int,
        rank: int,
        eps_in: float,
        eps_mid: float,
        act: str,
        bypass: bool,
    ) -> None:
        super().__init__()
        self.shapes = {
            "d_slm": d_slm,
            "d_llm": d_llm,
            "width": width,
            "rank_in": rank_in,
            "rank": rank,
            "eps_in": eps_in,
            "eps_mid": eps_mid,
            "act": act,
            "bypass": bypass,
        }
        d_z = 2 * d_slm + 1
        self.d_llm, self.eps_in, self.eps_mid, self.bypass = d_llm, eps_in, eps_mid, bypass
        self.norm_in = nn.Linear(d_slm, rank_in, bias=False)  # R of L_in
        self.norm_mid = nn.Linear(d_z, rank, bias=False)  # R of [L_in, attention L_in, bias]
        self.gate_up = nn.Linear(d_z, 2 * width, bias=True)
        self.skip = nn.Linear(d_z, d_slm, bias=True)
        self.down = nn.Linear(width, d_slm, bias=False)
        self.act = ACT2FN[act]
        self.requires_grad_(False)

    def forward(self, h: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Pass (batch, d_slm) to (batch, d_slm)."""
        s = self._inverse_rms(self.norm_in(h), self.eps_in)  # (batch, 1)
        z = torch.cat([h, s * h, torch.ones_like(s)], dim=-1)  # (batch, 2 d_slm + 1)
        t = self._inverse_rms(self.norm_mid(z), self.eps_mid)
        gate, up = (t * nn.functional.linear(z, self.gate_up.weight) + self.gate_up.bias).chunk(2, dim=-1)
        out = self.skip(z) + self.down(self.act(gate) * up)
        return h + out if self.bypass else out

    def fixed_maps(self) -> list[nn.Module]:
        """Return the maps that are never trained: all."""
        return [self]

    def fitted(self) -> list[torch.Tensor]:
        """Return what has no start, and must come from a checkpoint: everything."""
        return list(self.parameters())

    def set_start(self) -> None:
        """Do nothing: there is no start."""

    def _inverse_rms(self, rotated: torch.Tensor, eps: float) -> torch.Tensor:
        # |R x| = |Q R x|, so the norm over d_llm entries needs only the triangular factor.
        return (rotated.float().square().sum(-1, keepdim=True) / self.d_llm + eps).rsqrt().to(rotated.dtype)


def fold_plugin(model: PiFiForSequenceClassification, form: str = "auto") -> tuple[PlugIn | FoldedPlugIn, FoldReport]:
    """Fold the plug-in of a model; see `PiFiForSequenceClassification.fold`.

    Parameters
    ----------
    model : PiFiForSequenceClassification
        Left as it is.
    form : {"auto", "z", "grouped"}
        ``"z"``: both projections folded into the layer. ``"grouped"``: the same projections around the single-token
        form of each layer. ``"auto"``: the z-form where it is exact and has fewer bytes, else ``"grouped"``.

    Returns
    -------
    plugin : FoldedPlugIn or PlugIn
        For the z-form, or for the grouped form, which shares its projections with `model`.
    report : FoldReport
        Sizes before and after, and the error that was measured.

    Raises
    ------
    PlugInError
        If there is no frozen layer, it reads more than one token, several layers are combined other than in series,
        the form is unknown or not exact for this layer, or the plug-in gives NaN.
    """
    plugin = model.plugin
    if not isinstance(plugin, PlugIn) or not model.frozen_layers:
        raise PlugInError(
            "only a model with a frozen layer can be folded",
            where=f"control={model.config.control!r}" if plugin is None else "model",
            next="fold the PiFi model itself; vanilla and linear models have no layer to fold",
        )
    if isinstance(plugin, AlignedPlugIn):
        raise PlugInError(
            "an aligned chain cannot be folded: it reads every token of a text, where folding needs one vector",
            where=model.config.layer_specs,
            next='deploy the model as it is; single layers with wiring="pifi" or "matched" fold',
        )
    if model.config.feed == "sequence":
        raise PlugInError(
            "a layer that attends over a whole sequence cannot be folded: folding needs one token",
            where='feed="sequence"',
            next='train with feed="pooled" (the paper\'s wiring), or deploy the model unfolded',
        )
    if model.config.combine not in (None, "serial"):
        raise PlugInError(
            f"a combination of layers ({model.config.combine}) cannot be folded: one layer folds, and so does a plain "
            "series",
            where=model.config.layer_specs,
            next="deploy the model as it is; its layers are already in their single-token form",
        )
    if form not in ("auto", "z", "grouped"):
        raise PlugInError(f"unknown form {form!r}", where="form", next="use auto, z or grouped")
    grouped = _grouped(plugin)
    chosen: PlugIn | FoldedPlugIn = grouped
    reason, error = _why_not_z(grouped), 0.0
    if not reason and form != "grouped":
        exact = _in_float32(plugin)
        z = _fold_z(_grouped(exact))
        error = _relative_error(exact, z)
        if not error <= TOLERANCE:
            reason = f"the folded form differs by {error:.1e}"
        elif form == "auto" and _n_bytes(z) >= _n_bytes(grouped):
            reason = (
                f"the folded form is not smaller: 2 x {plugin.L_in.in_features} is not below {plugin.L_in.out_features}"
            )
        else:
            chosen, reason = z, "both projections folded into the layer" + _what_rounds(plugin, exact)
    if form == "z" and chosen is grouped:
        raise PlugInError(
            f"this layer has no exact z-form: {reason}", where=model.config.layer_specs, next="use grouped"
        )
    if isinstance(chosen, PlugIn):
        error = _relative_error(plugin, chosen)
    if math.isnan(error):
        raise PlugInError(
            "the plug-in gives NaN, so that no folded form can be compared with it",
            where=model.config.layer_specs,
            next="train again with a smaller learning rate, or load an earlier checkpoint: these weights have diverged",
        )
    return chosen, _report(plugin, chosen, reason or "asked for", error)


def _report(before: PlugIn, after: PlugIn | FoldedPlugIn, reason: str, error: float) -> FoldReport:
    return FoldReport(
        form="z" if isinstance(after, FoldedPlugIn) else "grouped",
        reason=reason,
        params_before=_n_params(before),
        params_after=_n_params(after),
        bytes_before=_n_bytes(before),
        bytes_after=_n_bytes(after),
        macs_before=n_macs(before),
        macs_after=n_macs(after),
        relative_error=error,
    )


def _grouped(plugin: PlugIn) -> PlugIn:
    """Return a plug-in with the same projections and the single-token form of each layer."""
    return _with_layers(plugin, (reduce(layer) for layer in plugin.layers if isinstance(layer, FrozenLayer)))


def _with_layers(plugin: PlugIn, layers: Iterable[FrozenLayer]) -> PlugIn:
    """Return a plug-in with the same projections around other layers."""
    other = copy.copy(plugin)
    other._modules = dict(plugin._modules)
    other.layers = nn.ModuleList(layers)
    return other


def _in_float32(plugin: PlugIn) -> PlugIn:
    """Return a plug-in whose layer computes in float32 with the same weights, where the projections do so, too."""
    layer = plugin.layers[0]
    assert isinstance(layer, FrozenLayer)
    if layer.dtype not in (torch.bfloat16, torch.float16) or plugin.L_in.weight.dtype != torch.float32:
        return plugin
    wide = copy.deepcopy(layer)
    for parameter in wide.parameters():
        parameter.data = parameter.data.float()
    return _with_layers(plugin, [wide])


def _what_rounds(plugin: PlugIn, exact: PlugIn) -> str:
    if exact is plugin:
        return ""
    layer = plugin.layers[0]
    assert isinstance(layer, FrozenLayer)
    short, away = str(layer.dtype).removeprefix("torch."), _relative_error(exact, plugin)
    return f" in float32; computing in {short}, the unfolded layer is {away:.0e} away from that"


def _why_not_z(plugin: PlugIn) -> str:
    if len(plugin.layers) != 1:
        return "several layers in series"
    layer = plugin.layers[0]
    assert isinstance(layer, FrozenLayer)
    if not layer.card.reduced:
        return f"this layer of {layer.card.family} has no exact single-token form"
    if not layer.family.gated_mlp:
        return f"{layer.card.family} has no gated MLP after a root-mean-square norm and a plain residual"
    return ""


@torch.no_grad()
def _fold_z(plugin: PlugIn) -> FoldedPlugIn:
    """Fold in float64, then cast (book/methods.md, Folding).

    With x = L_in h, a norm is ``gain * x / |x|``, so what follows it is linear in ``s h`` with s = 1 / |x|; attention
    over one token is ``W_o W_v``. What enters the layer's second half is then ``mixed @ [h; s h; 1]``, and every map
    before or after it is multiplied into one matrix.
    """
    layer: Any = plugin.layers[0]
    block: Any = layer.block
    attention: Any = getattr(block, layer.family.attention)
    # 1. everything that is multiplied, in float64: gains of the two norms, projections with their fixed factors
    gain_in, gain_mid = _gain(block.input_layernorm), _gain(block.post_attention_layernorm)
    l_in = plugin.L_in.weight.double() * plugin.scale_in.double()  # (d_llm, d_slm)
    l_out = plugin.L_out.weight.double() * plugin.scale_out.double()  # (d_slm, d_llm)
    # 2. attention over one token, W_o R (W_v n + b_v) + b_o with n = gain_in * s x: linear in s h, and a constant
    w_out = _ungrouped(attention)  # W_o R, (d_llm, n_kv * d_head)
    attend = w_out @ ((attention.value.weight.double() * gain_in) @ l_in)  # (d_llm, d_slm)
    constant = _bias(attention.output, layer.hidden_size) + w_out @ _bias(attention.value, w_out.shape[1])
    # 3. the residual stream behind it, x + a = M z with z = [h; s h; 1]
    mixed = torch.cat([l_in, attend, constant[:, None]], dim=1)  # M, (d_llm, 2 d_slm + 1)
    gate, up, down = block.mlp.gate_proj, block.mlp.up_proj, block.mlp.down_proj
    width = gate.out_features
    # 4. the norms need |L_in h| and |M z| alone; with M = QR, |M z| = |R z|, and R has no more rows than columns
    r_in, r_mid = torch.linalg.qr(l_in).R, torch.linalg.qr(mixed).R
    folded = FoldedPlugIn(
        d_slm=l_in.shape[1],
        d_llm=layer.hidden_size,
        width=width,
        rank_in=r_in.shape[0],
        rank=r_mid.shape[0],
        eps_in=_eps(block.input_layernorm),
        eps_mid=_eps(block.post_attention_layernorm),
        act=_activation(layer.config),
        bypass=plugin.bypass,
    )
    # 5. the MLP reads gain_mid * t M z, where t is the second norm's factor: its input matrices take in gain and M
    stacked = torch.cat([gate.weight, up.weight]).double() * gain_mid  # (2 width, d_llm)
    # 6. L_out (M z + W_down (...) + b_down): L_out goes into the skip, the matrix behind the gate, and the bias
    values = {
        "norm_in.weight": r_in,
        "norm_mid.weight": r_mid,
        "gate_up.weight": stacked @ mixed,
        "gate_up.bias": torch.cat([_bias(gate, width), _bias(up, width)]),
        "skip.weight": l_out @ mixed,
        "skip.bias": l_out @ _bias(down, layer.hidden_size),
        "down.weight": l_out @ down.weight.double(),
    }
    folded.load_state_dict(values)
    return folded.to(plugin.L_in.weight.device, plugin.L_in.weight.dtype).requires_grad_(False)


def _ungrouped(attention: ValueAttention) -> torch.Tensor:
    """Return the output projection with the columns of each group summed, in float64."""
    weight = attention.output.weight.double()
    if attention.repeats == 1:
        return weight  # each head has values of its own, or the columns are summed already
    # R copies a key-value head for each of the `repeats` neighbouring heads that read it: W_o R sums their columns,
    # (d_llm, n_kv * repeats * d_head) -> (d_llm, n_kv, repeats, d_head) -> (d_llm, n_kv * d_head)
    return weight.unflatten(1, (-1, attention.repeats, attention.head_dim)).sum(2).flatten(1)


def _gain(norm: nn.Module) -> torch.Tensor:
    """Return what a root-mean-square norm multiplies by, whether stored as w or as 1 + w."""
    weight: torch.Tensor = norm.weight  # type: ignore[assignment]
    # the norm of ones is gain / sqrt(1 + eps), since their mean square is 1; in float32, so that it is rounded
    ones = torch.ones_like(weight, dtype=torch.float32)
    measured = norm(ones).double() * (1 + _eps(norm)) ** 0.5
    # what it is nearer to, w or 1 + w, is the gain to all digits
    stored = weight.double()
    return min((stored, 1 + stored), key=lambda gain: float((gain - measured).abs().sum()))


def _eps(norm: nn.Module) -> float:
    value = getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", 0.0)
    return float(value)  # type: ignore[arg-type]


def _activation(config: Any) -> str:
    return str(getattr(config, "hidden_activation", None) or config.hidden_act)


def _bias(linear: nn.Module, size: int) -> torch.Tensor:
    bias = getattr(linear, "bias", None)
    return torch.zeros(size, dtype=torch.float64) if bias is None else bias.detach().double()


def _relative_error(before: PlugIn, after: PlugIn | FoldedPlugIn) -> float:
    """Return the largest relative difference over random inputs of three scales; the bypass left out."""
    weight = before.L_in.weight

    def alone(plugin: PlugIn | FoldedPlugIn) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda h: plugin(h) - h if before.bypass else plugin(h)

    inputs = (h.to(weight) for h in probes(16, weight.shape[1]))  # (16, d_slm)
    return largest_relative_error(alone(before), alone(after), inputs)


def _n_params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _n_bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def n_macs(module: nn.Module) -> int:
    """Return the multiply-accumulates (MACs) that a module does for one token.

    Parameters
    ----------
    module : Module
        One MAC is counted for each entry of its matrices (2-d parameters). Routed experts are stacked matrices (3-d);
        of these count as many as act on a token (``top_k``). Attention scores and norms are not counted.

    Returns
    -------
    int
    """
    total = 0
    for part in module.modules():
        experts = int(getattr(part, "num_experts", 1) or 1)
        active = int(getattr(part, "top_k", experts))
        for parameter in part.parameters(recurse=False):
            if parameter.dim() == 2:
                total += parameter.numel()
            elif parameter.dim() == 3:
                total += parameter.numel() * active // experts
    return total
