"""AWQ: four bits packed along the output (GEMM) or the input (GEMV), with scales and zero points for groups of inputs.

A word of the GEMM layout holds its eight columns in the order 0, 2, 4, 6, 1, 3, 5, 7; in plain order every weight
would be wrong. Zero points are stored as they are. Source: AutoAWQ ``awq/utils/packing_utils.py``, ``gemv.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch

from pifi_probe.layers.formats.base import Example, Format, Packed, refuse
from pifi_probe.layers.formats.numbers import as_bytes, unpack
from pifi_probe.layers.formats.registry import register_format

__all__ = ["AwqGemm", "AwqGemv"]

_BITS = 4


def _columns(words: torch.Tensor) -> torch.Tensor:
    """Read the columns of the GEMM layout in order: ``(rows, w)`` to ``(rows, 8 w)``."""
    stored = as_bytes(words).unflatten(1, (-1, 4))
    low, high = (stored & 15).unbind(-1), (stored >> 4).unbind(-1)  # of the bytes: columns 0 4 1 5, and 2 6 3 7
    order = [low[0], low[2], high[0], high[2], low[1], low[3], high[1], high[3]]
    return torch.stack(order, dim=-1).flatten(1)


class _Awq(Format):
    name = "awq"
    packed, becomes = "qweight", "weight"
    companions: ClassVar[Mapping[str, str]] = {"zero": "qzeros", "scale": "scales"}
    linear = True

    def fits(self, weight: Packed) -> bool:
        """Tell by types and ranks, and the layout by which side of the packed weight is that of the scales."""
        matrices = all(len(weight.size(role)) == 2 for role in ("packed", "scale", "zero"))
        integers = weight.dtype("packed") in ("I32", "U32") and weight.dtype("zero") in ("I32", "U32")
        return matrices and integers and self._is_layout(weight)

    def _is_layout(self, weight: Packed) -> bool:
        raise NotImplementedError

    def label(self, weight: Packed) -> str:
        """Say how many bits."""
        return f"{self.name} {_BITS}-bit"


@register_format
class AwqGemm(_Awq):
    """The layout of nearly all AWQ files: ``qweight`` (in, out / 8)."""

    def _is_layout(self, weight: Packed) -> bool:
        return weight.size("packed")[1] * 8 == weight.size("scale")[1]

    def shape(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Return (out, in)."""
        (inputs, words), (groups, n) = weight.size("packed"), weight.size("scale")
        if weight.size("zero") != (groups, words):
            refuse(f"zero points of shape {list(weight.size('zero'))} do not fit scales of shape {[groups, n]}")
        if not groups or inputs % groups:
            refuse(f"{groups} groups do not make up {inputs} inputs")
        stated = weight.numbers.whole("group_size")
        if stated is not None and groups > 1 and stated != inputs // groups:
            refuse(f"the configuration states groups of {stated}, and the scales make up groups of {inputs // groups}")
        return n, inputs

    def rows(self, weight: Packed, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Return ((q - z) s) transposed, for the outputs from `start` to `stop`."""
        first, last = start // 8, -(-stop // 8)  # words
        part = slice(start - 8 * first, stop - 8 * first)
        q, z = (_columns(tensors[role][:, first:last])[:, part].float() for role in ("packed", "zero"))
        by_group = q.unflatten(0, (weight.size("scale")[0], -1))
        by_group.sub_(z[:, None]).mul_(tensors["scale"][:, start:stop].float()[:, None])
        return by_group.flatten(0, 1).T

    def example(self) -> Example:
        """Return one input and eight outputs: the word holds columns 0, 2, 4, 6, 1, 3, 5, 7 from its low end."""
        word = sum(column << 4 * at for at, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)))
        packed = torch.tensor([[word]], dtype=torch.int32)
        zero = torch.full((1, 1), 0x11111111, dtype=torch.int32)
        weight = 0.5 * (torch.arange(8.0)[:, None] - 1)
        return Example({"m.qweight": packed, "m.qzeros": zero, "m.scales": torch.full((1, 8), 0.5)}, weight)


@register_format
class AwqGemv(_Awq):
    """The layout of old files for single tokens: ``qweight`` (out, in / 8) in plain order, scales padded."""

    def _is_layout(self, weight: Packed) -> bool:
        packed, scale = weight.size("packed"), weight.size("scale")
        return packed[0] == scale[0] == weight.size("zero")[0] and packed[1] * 8 != scale[1]

    def shape(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Return (out, in)."""
        n, words = weight.size("packed")
        inputs = 8 * words
        size = self._group_size(weight)
        if size < 32 or inputs % size:
            refuse(f"groups of {size} do not make up {inputs} inputs")
        multiple = 1 if size >= 128 else 2 if size == 64 else 4
        words_used = math.ceil(inputs // size / 8)
        width = math.ceil(words_used / multiple) * multiple
        if weight.size("zero") != (n, width) or weight.size("scale") != (n, 8 * width):
            refuse(
                f"zero points of shape {list(weight.size('zero'))} and scales of shape {list(weight.size('scale'))} "
                f"do not fit {inputs} inputs in groups of {size}"
            )
        return n, inputs

    def rows(self, weight: Packed, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Return (q - z) s."""
        _, inputs = self.shape(weight, {})
        groups = inputs // self._group_size(weight)
        q = unpack(tensors["packed"][start:stop], _BITS, inputs).float()
        z = unpack(tensors["zero"][start:stop], _BITS, groups).float()
        by_group = q.unflatten(1, (groups, -1))
        by_group.sub_(z[..., None]).mul_(tensors["scale"][start:stop, :groups].float()[..., None])
        return by_group.flatten(1)

    def _group_size(self, weight: Packed) -> int:
        return weight.numbers.whole("group_size") or 128

    def example(self) -> Example:
        """Return three outputs and 128 inputs in one group, scales and zero points padded to eight."""
        packed = torch.full((3, 16), 0x76543210, dtype=torch.int32)
        zero = torch.ones(3, 1, dtype=torch.int32)
        scale = torch.zeros(3, 8)
        scale[:, 0] = 2.0
        weight = 2 * (torch.arange(8.0).repeat(3, 16) - 1)
        return Example({"m.qweight": packed, "m.qzeros": zero, "m.scales": scale}, weight, {"group_size": 128})
