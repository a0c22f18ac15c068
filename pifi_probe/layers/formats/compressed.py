"""compressed-tensors, packed: whole numbers as one stream of bits a row, shifted to be positive.

W = (q - z) s with q and z stored plus 2^(bits - 1). Source: compressed-tensors ``pack_quantized``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from pifi_probe.layers.formats.base import Example, Format, Packed, refuse
from pifi_probe.layers.formats.numbers import affine, unpack, unpack_floats
from pifi_probe.layers.formats.registry import register_format

__all__ = ["PackedIntegers"]

_WIDTHS = (4, 8, 2, 3, 5, 6, 7, 1)


@register_format
class PackedIntegers(Format):
    """``weight_packed`` (out, ceil(in bits / 32)) with scales (out, groups), symmetric or not."""

    name, variant = "compressed-tensors", "packed"
    packed, becomes = "_packed", ""
    companions: ClassVar[Mapping[str, str]] = {"scale": "_scale", "size": "_shape"}
    optional: ClassVar[Mapping[str, str]] = {"zero": "_zero_point", "group": "_g_idx"}
    kinds: ClassVar[tuple[str, ...]] = ("I32",)

    def fits(self, weight: Packed) -> bool:
        """Tell by the type of the words."""
        return weight.dtype("packed") == "I32" and len(weight.size("packed")) == 2

    def shape(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Return the stored shape, checked against words, scales, zero points and order."""
        rows, words = weight.size("packed")
        if weight.size("size") != (2,):
            refuse(f"its shape is stored as {list(weight.size('size'))} numbers, not two")
        columns = 32 * words // self._stated_bits(weight)
        if tensors:
            rows, columns = tensors["size"].long().tolist()
            bits = self._bits(weight, columns)
            if rows != weight.size("packed")[0] or columns < 1 or not bits:
                refuse(f"its stored shape is [{rows}, {columns}], and the words are {list(weight.size('packed'))}")
            self._check(weight, rows, columns, bits)
        return rows, columns

    def _check(self, weight: Packed, rows: int, columns: int, bits: int) -> None:
        scale = weight.size("scale")
        whole = scale in ((1,), ())
        if not whole and (len(scale) != 2 or scale[0] not in (1, rows) or not scale[1]):
            refuse(f"scales of shape {list(scale)} do not fit a weight of shape {[rows, columns]}")
        groups = 1 if whole else scale[1]
        size = self._group_size(weight, columns, groups)
        if "group" not in weight.parts and groups != -(-columns // size):
            refuse(f"{groups} groups of {size} do not make up {columns} columns")
        if "group" in weight.parts and weight.size("group") != (columns,):
            refuse(f"the groups of {weight.size('group')} columns are stored, and there are {columns}")
        if "zero" in weight.parts:
            packed = weight.dtype("zero") == "I32"
            expected = (-(-rows * bits // 32), groups) if packed and not whole else scale
            if weight.size("zero") != expected:
                refuse(f"zero points of shape {list(weight.size('zero'))} do not fit scales of shape {list(scale)}")

    def prepare(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return words, scales and zero points (out, groups), an order if there is one, and bits and columns."""
        n, columns = self.shape(weight, tensors)
        bits = self._bits(weight, columns)
        scale = tensors["scale"].reshape(weight.size("scale") if len(weight.size("scale")) == 2 else (1, 1))
        found = {"packed": tensors["packed"], "scale": scale.expand(n, -1), "sizes": torch.tensor([bits, columns])}
        if "zero" in tensors:
            found["zero"] = self._zeros(tensors["zero"], bits, n, scale.shape[1])
        if (order := self._order(tensors, scale.shape[1])) is not None:
            found["group"] = order
        return found

    def rows(self, weight: Packed, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Return (q - z) s."""
        bits, columns = tensors["sizes"].tolist()
        scale, zero, order = tensors["scale"][start:stop].float(), tensors.get("zero"), tensors.get("group")
        of = self._group_size(weight, columns, scale.shape[1]) if order is None else order
        values = unpack_floats(tensors["packed"][start:stop], bits, columns, float(1 << (bits - 1)))
        return affine(values, of, scale, None if zero is None else zero[start:stop])

    def _zeros(self, stored: torch.Tensor, bits: int, n: int, groups: int) -> torch.Tensor:  # (n, groups)
        """Return the zero points; they are packed along the rows, in old files not at all."""
        if stored.dtype != torch.int32:
            return stored.float().reshape(-1, groups).expand(n, -1)
        found = unpack(stored.T.contiguous(), bits, n).T
        return found.float() - float(1 << (bits - 1))

    def _order(self, tensors: Mapping[str, torch.Tensor], groups: int) -> torch.Tensor | None:
        """Return the group of each column, None when they follow one another."""
        if "group" not in tensors or bool((tensors["group"] < 0).all()):  # -1 everywhere: no order
            return None
        low, high = (int(value) for value in torch.aminmax(tensors["group"]))
        if low < 0 or high >= groups:
            refuse(f"its columns name groups from {low} to {high}, and there are {groups}")
        return tensors["group"].long()

    def _group_size(self, weight: Packed, columns: int, groups: int) -> int:
        """Return how many columns share a scale: the stated number where it fits, else what makes equal groups."""
        for group in weight.numbers.groups(weight.module):
            size = group.get("group_size")
            if type(size) is int and size > 0 and -(-columns // size) == groups:
                return size
        return max(-(-columns // max(groups, 1)), 1)

    def _stated_bits(self, weight: Packed) -> int:
        """Return how many bits the configuration states, for a first count; the stored shape decides.

        Of several groups of modules it is one whose numbers fit the scales, one that names the module before others.
        """
        stated: list[tuple[bool, int]] = []
        words, scale = weight.size("packed")[1], weight.size("scale")
        for group in weight.numbers.groups(weight.module):
            bits, size = group.get("num_bits"), group.get("group_size")
            if group.get("type", "int") == "int" and type(bits) is int and bits in _WIDTHS:
                columns = 32 * words // bits
                parts = -(-columns // size) if type(size) is int and size > 0 else 1
                stated.append((parts != (scale[1] if len(scale) == 2 else 1), bits))
        return min(stated, key=lambda each: each[0], default=(False, 4))[1]

    def _bits(self, weight: Packed, columns: int) -> int:
        """Return how many bits fill the words of a row; 0 if none do."""
        words = weight.size("packed")[1]
        widths = (self._stated_bits(weight), *_WIDTHS)
        return next((bits for bits in widths if -(-columns * bits // 32) == words), 0)

    def label(self, weight: Packed) -> str:
        """Say how many bits."""
        return f"compressed-tensors int{self._stated_bits(weight)}"

    def example(self) -> Example:
        """Return two rows of eight columns in two groups, with packed zero points."""
        packed = torch.tensor([[0x76543210], [-0x01234568]], dtype=torch.int32)  # the second: 8, 9, ... 15
        zero = torch.tensor([[0x98], [0xA7]], dtype=torch.int32).T.contiguous()  # minus 8: 0 and 1; -1 and 2
        scale = torch.tensor([[1.0, 2.0], [0.5, 4.0]])
        q = torch.arange(16.0).reshape(2, 2, 4) - 8
        weight = (q - torch.tensor([[0.0, -1.0], [1.0, 2.0]])[..., None]) * scale[..., None]
        tensors = {
            "m.weight_packed": packed,
            "m.weight_scale": scale,
            "m.weight_zero_point": zero,
            "m.weight_shape": torch.tensor([2, 8]),
        }
        groups = {"group_0": {"weights": {"num_bits": 4, "group_size": 4}}}
        return Example(tensors, weight.reshape(2, 8), {"config_groups": groups})
