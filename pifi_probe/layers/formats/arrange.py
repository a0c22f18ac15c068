"""From weights as a file arranges them to weights as transformers stores them.

Formats see matrices; where a tool also moves them about, it is undone here, without copying where it can be.
Sources: ``sanitize`` of mlx-lm's models; bitsandbytes and GPTQ on GPT-2, whose maps are kept transposed.
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
# families of which mlx-lm changes values, not names alone: norms plus one, convolutions with moved axes
_CHANGED_BY_MLX = re.compile(r"qwen3_next|qwen3_5")
_STACKED = re.compile(r"^(?P<before>.*)\.switch_mlp\.(?P<part>gate_proj|up_proj|down_proj)\.(?P<kind>weight|bias)$")
_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def arrange(weights: dict[str, torch.Tensor], packed: Iterable[Packed], family: str) -> dict[str, torch.Tensor]:
    """Give the weights the names and the layout of a family as transformers stores it.

    Raises
    ------
    UnsupportedFormatError
        If the tool changed values of this family in a way that is not undone here.
    """
    packed = list(packed)
    if family in _TRANSPOSED:
        for weight in packed:
            if weight.format.linear and _CONV1D.search(weight.name):
                weights[weight.name] = weights[weight.name].T.contiguous()
    by_mlx = next((weight for weight in packed if weight.format.name == "mlx"), None)
    if by_mlx is None:
        return weights
    if _CHANGED_BY_MLX.search(family):
        raise UnsupportedFormatError(
            f"MLX files of {family} hold norms and convolutions that were changed, which is not undone",
            where=by_mlx.parts["packed"].source.name,
            next="use the model's bfloat16 checkpoint",
        )
    return _gpt_oss(weights) if family == "gpt_oss" else _experts(weights)


def _experts(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name each of the stacked experts by itself, as a view, so that transformers' own fusions apply."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        match = _STACKED.match(name)
        if match is None:
            found[name] = tensor
            continue
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
