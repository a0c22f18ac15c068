"""The value path of a family's attention: all that attention computes of a single token.

With one token the softmax over one key is 1, so attention is ``W_o rep(W_v n + b_v) + b_o``: queries, keys,
positions and masks play no part (book/methods.md, One token). Only the attention module is replaced; norms, residuals,
multipliers, MLP and experts stay the family's own code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from pifi_probe.layers.frozen import FrozenLayer

__all__ = ["ValueAttention", "reduce_structure"]


class ValueAttention(nn.Module):
    """Attention over one token: the value projection and the output projection, nothing else.

    Parameters
    ----------
    value : Module
        (…, d) -> (…, n_kv * d_head).
    output : Linear
        (…, n_kv * d_head) -> (…, d), the columns of each group of heads summed; or, where `repeats` > 1,
        (…, n_heads * d_head) -> (…, d).
    repeats : int
        How often each key-value head is repeated before `output`; 1 when the columns are summed.
    clip : float or None
        Bound on the absolute value of the value states, for the families that have one.
    adds_residual : bool
        True when the family's attention adds the residual itself (bloom).
    """

    def __init__(
        self,
        value: nn.Module,
        output: nn.Linear,
        *,
        head_dim: int,
        repeats: int,
        clip: float | None,
        adds_residual: bool,
    ) -> None:
        super().__init__()
        self.value = value
        self.output = output
        self.head_dim, self.repeats, self.clip, self.adds_residual = head_dim, repeats, clip, adds_residual

    def forward(
        self, hidden_states: torch.Tensor, residual: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """Map states (batch, 1, d) to (batch, 1, d); None stands where attention gives its weights."""
        states = self.value(hidden_states)  # (batch, 1, n_kv * d_head)
        if self.clip is not None:
            states = states.clamp(min=-self.clip, max=self.clip)
        if self.repeats > 1:
            heads = states.unflatten(-1, (-1, self.head_dim))  # (batch, 1, n_kv, d_head)
            states = heads.repeat_interleave(self.repeats, dim=-2).flatten(-2)  # (batch, 1, n_heads * d_head)
        output = self.output(states)
        return (output + residual if self.adds_residual and residual is not None else output), None


class _LatentValue(nn.Module):
    """The value path of multi-head latent attention: down, norm, up; the inner norm blocks one matrix."""

    def __init__(self, down: nn.Linear, norm: nn.Module, up: nn.Linear) -> None:
        super().__init__()
        self.down, self.norm, self.up = down, norm, up

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.up(self.norm(self.down(hidden_states)))


def reduce_structure(layer: FrozenLayer) -> None:
    """Replace the attention module of `layer` in place; works on any device, without a test."""
    family = layer.family
    attention = getattr(layer.block, family.attention)
    value = _VALUE_PATHS[str(family.value)](layer, attention)
    kv_width = value.up.out_features if isinstance(value, _LatentValue) else value.out_features
    output, head_dim = _linear(getattr(attention, family.output)), _head_dim(layer)
    repeats = output.in_features // kv_width
    # Summing rounds once more, which float32 and float64 can bear and shorter types cannot.
    summed = layer.card.summed
    if summed is None:
        summed = output.weight.dtype in (torch.float32, torch.float64)
    if repeats > 1 and summed:
        output, repeats = _sum_groups(output, repeats, head_dim), 1
    reduced = ValueAttention(
        value,
        output,
        head_dim=head_dim,
        repeats=repeats,
        clip=_clip(layer),
        adds_residual=layer.card.family == "bloom",
    )
    setattr(layer.block, family.attention, reduced)
    layer.with_card(reduced=True, summed=summed)
    layer.freeze()


def _sum_groups(output: nn.Linear, repeats: int, head_dim: int) -> nn.Linear:
    """Sum the columns of heads that read the same key-value head: (d, H * d_head) -> (d, n_kv * d_head)."""
    grouped = output.weight.detach().unflatten(1, (-1, repeats, head_dim)).sum(2).flatten(1)
    return _make_linear(grouped, output.bias)


def _make_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return linear


def _linear(module: Any) -> nn.Linear:
    """Return the module as a Linear; GPT-2's Conv1D keeps its weight transposed."""
    weight = module.weight.detach()
    return _make_linear(weight if isinstance(module, nn.Linear) else weight.T, module.bias)


def _head_dim(layer: FrozenLayer) -> int:
    config = layer.config
    latent = getattr(config, "v_head_dim", None) if layer.family.value == "mla" else None
    latent = latent or getattr(getattr(layer.block, layer.family.attention), "head_dim", None)  # of this layer
    return int(latent or getattr(config, "head_dim", None) or layer.hidden_size // config.num_attention_heads)


def _clip(layer: FrozenLayer) -> float | None:
    holder = getattr(layer.config, "attn_config", layer.config)
    return getattr(holder, "clip_qkv", None) or None


def _rows(linear: nn.Linear, rows: torch.Tensor) -> nn.Linear:
    bias = None if linear.bias is None else linear.bias.detach()[rows]
    return _make_linear(linear.weight.detach()[rows], bias)


def _separate(layer: FrozenLayer, attention: nn.Module) -> nn.Linear:
    return _linear(attention.v_proj)


def _concatenated(layer: FrozenLayer, attention: nn.Module) -> nn.Linear:
    """Take the last rows: queries, keys and values stand one after the other (phi3, gpt2, mpt)."""
    name = next(name for name in ("qkv_proj", "c_attn", "Wqkv") if hasattr(attention, name))
    fused = _linear(getattr(attention, name))
    width = _linear(getattr(attention, layer.family.output)).in_features
    kv_width = (fused.out_features - width) // 2
    return _rows(fused, torch.arange(fused.out_features - kv_width, fused.out_features))


def _per_head(layer: FrozenLayer, attention: nn.Module) -> nn.Linear:
    """Take every third block of rows: query, key and value of head 0, then of head 1 (gpt_neox, bloom)."""
    fused, head_dim = _linear(attention.query_key_value), _head_dim(layer)
    return _rows(fused, torch.arange(fused.out_features).view(-1, 3, head_dim)[:, 2].reshape(-1))


def _falcon(layer: FrozenLayer, attention: nn.Module) -> nn.Linear:
    """Take the last head of each group: its queries, one key, one value; all heads may be one group."""
    config, head_dim = layer.config, _head_dim(layer)
    if config.new_decoder_architecture:
        per_group = config.num_attention_heads // config.num_kv_heads + 2
    else:
        per_group = config.num_attention_heads + 2 if config.multi_query else 3
    fused = _linear(attention.query_key_value)
    return _rows(fused, torch.arange(fused.out_features).view(-1, per_group, head_dim)[:, -1].reshape(-1))


def _latent(layer: FrozenLayer, attention: nn.Module) -> _LatentValue:
    config = layer.config
    down: nn.Linear = attention.kv_a_proj_with_mqa  # type: ignore[assignment]
    up: nn.Linear = attention.kv_b_proj  # type: ignore[assignment]
    rows = torch.arange(up.out_features).view(-1, config.qk_nope_head_dim + config.v_head_dim)
    norm: nn.Module = attention.kv_a_layernorm  # type: ignore[assignment]
    return _LatentValue(
        _rows(down, torch.arange(config.kv_lora_rank)),
        norm,
        _rows(up, rows[:, config.qk_nope_head_dim :].reshape(-1)),
    )


_VALUE_PATHS: dict[str, Callable[[FrozenLayer, nn.Module], Any]] = {
    "v_proj": _separate,
    "qkv_concat": _concatenated,
    "qkv_per_head": _per_head,
    "falcon": _falcon,
    "mla": _latent,
}
