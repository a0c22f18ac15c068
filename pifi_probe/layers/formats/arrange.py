"""From weights as a file arranges them to weights as transformers stores them.

Formats see matrices; where a tool also moves them about, it is undone here, without copying where it can be.
Sources: ``sanitize`` of mlx-lm's models (``qwen3_next.py``, ``qwen3_5.py``); bitsandbytes and GPTQ on GPT-2, whose maps
are kept transposed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch

from pifi_probe.errors import UnsupportedFormatError
from pifi_probe.layers.formats.base import Packed

__all__ = ["arrange"]

_TRANSPOSED = ("gpt2",)  # families whose linear maps are stored (in, out)
_CONV1D = re.compile(r"\.(c_attn|c_proj|c_fc|q_attn)\.weight$")
# families of which mlx-lm changes values, not names alone: these norms plus one, convolutions with moved axes
_CHANGED_BY_MLX = re.compile(r"qwen3_next|qwen3_5")
_SHIFTED = re.compile(r"\.(input_layernorm|post_attention_layernorm|q_norm|k_norm)\.weight$")
_FUSED = ("qwen3_5_moe_text",)
_STACKED = re.compile(r"^(?P<before>.*)\.switch_mlp\.(?P<part>gate_proj|up_proj|down_proj)\.(?P<kind>weight|bias)$")
_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def arrange(
    weights: dict[str, torch.Tensor], packed: Iterable[Packed], family: str, *, moved: bool = False
) -> dict[str, torch.Tensor]:
    """Give the weights the names and the layout of a family as transformers stores it.

    `moved` tells whether the checkpoint's convolutions have the axes that MLX gives them.

    Raises
    ------
    UnsupportedFormatError
        If it is not known whether the tool changed values of this family.
    """
    packed = list(packed)
    if family in _TRANSPOSED:
        for weight in packed:
            if weight.format.linear and _CONV1D.search(weight.name):
                weights[weight.name] = weights[weight.name].T.contiguous()
    by_mlx = next((weight for weight in packed if weight.format.name == "mlx"), None)
    if _CHANGED_BY_MLX.search(family):
        if moved:
            weights = _as_before_mlx(weights)
        elif by_mlx is not None:
            raise UnsupportedFormatError(
                f"MLX adds one to norms of {family} and moves the axes of its convolutions, and in this file the "
                "convolutions are as they were, so that the norms may be either",
                where=by_mlx.parts["packed"].source.name,
                next="use the model's bfloat16 checkpoint, or convert it with mlx_lm.convert",
            )
    if family == "gpt_oss":
        return _gpt_oss(weights) if by_mlx is not None else weights
    return _experts(weights, fused=family in _FUSED)


def _as_before_mlx(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take one off the norms, whose weight transformers adds to one, and give convolutions their axes again."""
    found = dict(weights)
    for name, tensor in weights.items():
        if _SHIFTED.search(name) and tensor.dim() == 1:
            found[name] = (tensor.float() - 1.0).to(tensor.dtype)
        elif name.endswith("conv1d.weight"):
            found[name] = tensor.movedim(1, 2).contiguous()
    return found


def _experts(weights: dict[str, torch.Tensor], *, fused: bool) -> dict[str, torch.Tensor]:
    """Name each of the stacked experts by itself, as a view, so that transformers' own fusions apply.

    Where it has none, since the family stores gate and up as one (`fused`), they are joined here.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        match = _STACKED.match(name)
        if match is None:
            found[name] = tensor
        elif fused and match["part"] == "gate_proj":
            up = weights[name.replace("gate_proj", "up_proj")]
            found[f"{match['before']}.experts.gate_up_proj"] = torch.cat([tensor, up], dim=1)
        elif fused and match["part"] == "down_proj":
            found[f"{match['before']}.experts.down_proj"] = tensor
        elif not fused:
            part = _MIXTRAL[match["part"]] if match["before"].endswith("block_sparse_moe") else match["part"]
            for expert, rows in enumerate(tensor):
                found[f"{match['before']}.experts.{expert}.{part}.{match['kind']}"] = rows
    return found


def _gpt_oss(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Interleave gate and up again, which mlx-lm keeps apart, and swap in and out."""
    found = dict(weights)
    for name in weights:
        stem, _, kind = name.rpartition(".")
        if stem.endswith("experts.down_proj"):
            tensor = found.pop(name)
            found[stem if kind == "weight" else f"{stem}_bias"] = (
                tensor.transpose(1, 2).contiguous() if kind == "weight" else tensor
            )
        elif stem.endswith("experts.gate_proj"):
            up = found.pop(f"{stem.removesuffix('gate_proj')}up_proj.{kind}", None)
            if up is None:
                continue
            both = torch.stack([found.pop(name), up], dim=2).flatten(1, 2)  # even rows: gate, odd rows: up
            fused = stem.removesuffix("gate_proj") + "gate_up_proj"
            found[fused if kind == "weight" else f"{fused}_bias"] = (
                both.transpose(1, 2).contiguous() if kind == "weight" else both
            )
    return found
