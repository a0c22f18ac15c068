"""torchao in safetensors: a tensor's parts lie next to each other under ``_weight_qdata`` and the like.

Types and shapes tell the kinds apart. Source: torchao ``prototype/safetensors``, ``quantization/quantize_``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from pifi_probe.layers.formats.base import Example, Format, Packed, refuse
from pifi_probe.layers.formats.numbers import look_up
from pifi_probe.layers.formats.registry import register_format
from pifi_probe.layers.formats.scaled import Scaled

__all__ = ["TorchaoBytes", "TorchaoInt4"]

_FLOATS = ("BF16", "F16", "F32")
_SIGNED = torch.tensor([*range(8), *range(-8, 0)]).float()
_SIGNED_PAIRS = torch.stack([_SIGNED.repeat(16), _SIGNED.repeat_interleave(16)], dim=1)  # by byte, the low half first


@register_format
class TorchaoInt4(Format):
    """Int4Tensor: two signed numbers a byte, the low half first, W = q s + z, scales (groups, out)."""

    name = "torchao int4"
    packed, becomes = "_weight_qdata", "weight"
    companions: ClassVar[Mapping[str, str]] = {"scale": "_weight_scale", "zero": "_weight_zero_point"}
    kinds: ClassVar[tuple[str, ...]] = ("I8", "U8")

    def fits(self, weight: Packed) -> bool:
        """Tell by types and ranks: the zero points are not whole numbers."""
        matrices = all(len(weight.size(role)) == 2 for role in weight.parts)
        return matrices and weight.dtype("packed") in ("I8", "U8") and weight.dtype("zero") in _FLOATS

    def shape(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Return (out, in)."""
        rows, half = weight.size("packed")
        groups, n = weight.size("scale")
        if n != rows or weight.size("zero") != (groups, n) or not groups or 2 * half % groups:
            refuse(
                f"scales of shape {[groups, n]} and zero points of shape {list(weight.size('zero'))} do not fit a "
                f"weight of shape {[rows, 2 * half]}"
            )
        return rows, 2 * half

    def rows(self, weight: Packed, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Return q s + z."""
        values = look_up(tensors["packed"][start:stop].view(torch.uint8), _SIGNED_PAIRS)
        scale, zero = (tensors[role][:, start:stop].T.float().unsqueeze(-1) for role in ("scale", "zero"))
        return values.unflatten(1, (scale.shape[1], -1)).mul_(scale).add_(zero).flatten(1)

    def example(self) -> Example:
        """Return two rows of four columns in two groups."""
        packed = torch.tensor([[0x10, 0x32], [-0x01 & 0x7F, -0x10]], dtype=torch.int8)  # 0 1 2 3, -1 7 0 -1
        scale, zero = torch.tensor([[1.0, 2.0], [0.5, 4.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.5]])
        weight = torch.tensor([[0.0, 1.0, 0.0, 0.5], [-1.0, 15.0, 0.5, -3.5]])
        names = {"m._weight_qdata": packed, "m._weight_scale": scale, "m._weight_zero_point": zero}
        return Example(names, weight)


@register_format
class TorchaoBytes(Scaled):
    """Float8Tensor, Int8Tensor and IntxUnpackedToInt8Tensor: one byte a weight, W = (q - z) s."""

    name = "torchao"
    packed, becomes = "_weight_qdata", "weight"
    companions: ClassVar[Mapping[str, str]] = {"scale": "_weight_scale"}
    optional: ClassVar[Mapping[str, str]] = {"zero": "_weight_zero_point"}
    kinds: ClassVar[tuple[str, ...]] = ("F8_E4M3", "F8_E5M2", "I8")

    def fits(self, weight: Packed) -> bool:
        """Tell by types: zero points are whole numbers."""
        return super().fits(weight) and weight.dtype("zero") not in _FLOATS

    def example(self) -> Example:
        """Return two rows in two groups."""
        tensors = {
            "m._weight_qdata": torch.tensor([[1, -3], [5, 7]], dtype=torch.int8),
            "m._weight_scale": torch.tensor([[0.5, 1.0], [2.0, 4.0]]),
            "m._weight_zero_point": torch.tensor([[1, 0], [-1, 0]], dtype=torch.int8),
        }
        return Example(tensors, torch.tensor([[0.0, -3.0], [12.0, 28.0]]))
