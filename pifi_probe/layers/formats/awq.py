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
from pifi_probe.layers.formats.numbers import affine, unpack_floats
from pifi_probe.layers.formats.registry import register_format

__all__ = ["AwqGemm", "AwqGemv"]

_BITS = 4
_AT_ONCE = 32  # columns of words


def _by_column(words: torch.Tensor) -> torch.Tensor:
    """Pack along the rows what the GEMM layout packs along the columns: ``(k, w)`` to ``(8 w, ceil(k / 8))``."""
    k, w = words.shape
    found = torch.empty(8 * w, -(-k // 8), dtype=torch.int32)
    for first in range(0, w, _AT_ONCE):
        part = words[:, first : first + _AT_ONCE].view(torch.int32)
        found[8 * first : 8 * (first + _AT_ONCE)] = _transposed(torch.nn.functional.pad(part, (0, 0, 0, -k % 8)))
    return found


def _transposed(words: torch.Tensor) -> torch.Tensor:
    """Transpose matrices of 8 x 8 half bytes, eight words one below the other, in their place.

    Their off-diagonal quarters are exchanged, then those of the quarters, then those of these.
    """
    k, w = words.shape
    for size, mask in ((4, 0x0000FFFF), (2, 0x00FF00FF), (1, 0x0F0F0F0F)):  # half bytes to a side
        upper, lower = words.view(-1, 2, size, w).unbind(1)
        change = (upper >> 4 * size).bitwise_xor_(lower).bitwise_and_(mask)
        lower ^= change
        upper ^= change << 4 * size
    # the half byte 4 a + b of a word is column 2 b + a
    return words.view(-1, 2, 4, w).permute(3, 2, 1, 0).reshape(8 * w, k // 8)


class _Awq(Format):
    name = "awq"
    packed, becomes = "qweight", "weight"
    companions: ClassVar[Mapping[str, str]] = {"zero": "qzeros", "scale": "scales"}
    kinds: ClassVar[tuple[str, ...]] = ("I32", "U32")
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
        if stated is not None and groups > 1 and stated != inputs // groups and not weight.numbers.vary:
            refuse(f"the configuration states groups of {stated}, and the scales make up groups of {inputs // groups}")
        return n, inputs

    def prepare(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return words, zero points and scales with a row for each output."""
        zero = unpack_floats(_by_column(tensors["zero"]), _BITS, weight.size("zero")[0])
        scale = tensors["scale"].T.float().contiguous()
        return {"packed": _by_column(tensors["packed"]), "zero": zero, "scale": scale}

    def rows(self, weight: Packed, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Return (q - z) s for the outputs from `start` to `stop`."""
        inputs, groups = weight.size("packed")[0], weight.size("scale")[0]
        q = unpack_floats(tensors["packed"][start:stop], _BITS, inputs)
        return affine(q, inputs // groups, tensors["scale"][start:stop], tensors["zero"][start:stop])

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

    variant = "gemv"

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
        q = unpack_floats(tensors["packed"][start:stop], _BITS, inputs)
        z = unpack_floats(tensors["zero"][start:stop], _BITS, groups)
        return affine(q, inputs // groups, tensors["scale"][start:stop, :groups].float(), z)

    def _group_size(self, weight: Packed) -> int:
        if weight.numbers.settings.get("group_size") == -1:
            return 8 * weight.size("packed")[1]  # all inputs
        return weight.numbers.whole("group_size") or 128

    def example(self) -> Example:
        """Return three outputs and 128 inputs in one group, scales and zero points padded to eight."""
        packed = torch.full((3, 16), 0x76543210, dtype=torch.int32)
        zero = torch.ones(3, 1, dtype=torch.int32)
        scale = torch.zeros(3, 8)
        scale[:, 0] = 2.0
        weight = 2 * (torch.arange(8.0).repeat(3, 16) - 1)
        return Example({"m.qweight": packed, "m.qzeros": zero, "m.scales": scale}, weight, {"group_size": 128})
