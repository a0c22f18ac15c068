"""GPTQ: whole numbers packed along the input, with scales and zero points for groups of inputs.

W[n, k] = scales[g_idx[k], n] (q[k, n] - z[g_idx[k], n]). Files of version 1 store z - 1. An order of activations
(``desc_act``) is the permutation in ``g_idx`` and nothing else. Sources: GPTQModel ``qlinear`` and
``model_dequant.py``; AutoRound ``qlinear_torch.py`` and ``qlinear_torch_zp.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from pifi_probe.layers.formats.base import Example, Format, Packed, refuse
from pifi_probe.layers.formats.numbers import affine, unpack, unpack_floats
from pifi_probe.layers.formats.registry import register_format

__all__ = ["Gptq"]

_WIDTHS = (2, 3, 4, 8)


def _is_one_less(weight: Packed) -> bool:
    """Tell whether zero points are stored less one: by version 2 they are not, nor by AutoRound's own packing."""
    numbers = weight.numbers
    if "round" in numbers.method:
        packing = numbers.text("packing_format") or numbers.text("backend")
        return "gptq" in packing or not packing
    return (numbers.text("checkpoint_format") or numbers.text("format")).lower() != "gptq_v2"


@register_format
class Gptq(Format):
    """GPTQ of 2, 3, 4 or 8 bits, versions 1 and 2."""

    name = "gptq"
    packed, becomes = "qweight", "weight"
    companions: ClassVar[Mapping[str, str]] = {"zero": "qzeros", "scale": "scales"}
    optional: ClassVar[Mapping[str, str]] = {"group": "g_idx"}
    kinds: ClassVar[tuple[str, ...]] = ("I32", "U32")
    linear = True

    def fits(self, weight: Packed) -> bool:
        """Tell GPTQ from AWQ: its packed weight has a column for each output, as the scales have."""
        packed, scale, zero = (weight.size(role) for role in ("packed", "scale", "zero"))
        matrices = len(packed) == len(scale) == len(zero) == 2
        integers = weight.dtype("packed") in ("I32", "U32") and weight.dtype("zero") in ("I32", "U32")
        return matrices and integers and packed[1] == scale[1] and weight.numbers.method != "awq"

    def shape(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Return (out, in), from the shapes alone: the zero points say how many bits a number has."""
        (words, n), (groups, zeros) = weight.size("packed"), weight.size("zero")
        bits = self._bits(weight)
        inputs = words * 32 // bits
        size = self._group_size(weight, inputs)
        if weight.size("scale") != (groups, n) or zeros * 32 != n * bits or inputs * bits != words * 32:
            refuse(f"zero points of shape {[groups, zeros]} do not fit scales of shape {list(weight.size('scale'))}")
        if groups != -(-inputs // size):
            refuse(f"{groups} groups of {size} do not make up {inputs} inputs")
        if "group" in weight.parts and weight.size("group") != (inputs,):
            refuse(f"g_idx has the shape {list(weight.size('group'))}, and there are {inputs} inputs")
        return n, inputs

    def prepare(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return words, scales and zero points with a row for each output, and the order of inputs if there is one."""
        n, inputs = self.shape(weight, {})
        bits = self._bits(weight)
        z = unpack(tensors["zero"], bits, n)
        if _is_one_less(weight):
            z = (z + 1) & ((1 << bits) - 1)
        of = self._order(weight, tensors, inputs, weight.size("scale")[0])
        sides = {"scale": tensors["scale"].T.float().contiguous(), "zero": z.T.float().contiguous()}
        return {"packed": tensors["packed"].T.contiguous(), **sides} | ({} if of is None else {"group": of})

    def rows(self, weight: Packed, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Return scale (q - z) for the outputs from `start` to `stop`."""
        bits = self._bits(weight)
        inputs = weight.size("packed")[0] * 32 // bits
        q = unpack_floats(tensors["packed"][start:stop], bits, inputs)
        order = tensors.get("group")
        of = self._group_size(weight, inputs) if order is None else order
        return affine(q, of, tensors["scale"][start:stop], tensors["zero"][start:stop])

    def label(self, weight: Packed) -> str:
        """Say how many bits."""
        return f"gptq {self._bits(weight)}-bit"

    def _order(
        self, weight: Packed, tensors: Mapping[str, torch.Tensor], inputs: int, groups: int
    ) -> torch.Tensor | None:
        """Return the group of each input, None when they follow one another: then some tools leave it out, or zeros."""
        stored = tensors.get("group")
        if stored is None or (groups > 1 and not bool(stored.any())):
            return None
        low, high = (int(value) for value in torch.aminmax(stored))
        if low < 0 or high >= groups:
            refuse(f"g_idx names groups from {low} to {high}, and there are {groups}")
        size = self._group_size(weight, inputs)
        return None if torch.equal(stored, torch.arange(inputs, dtype=stored.dtype) // size) else stored.long()

    def _group_size(self, weight: Packed, inputs: int) -> int:
        groups = weight.size("scale")[0]
        stated = weight.numbers.whole("group_size")
        if stated is not None and (-(-inputs // stated) == groups or not weight.numbers.vary):
            return stated  # the last group may be shorter
        return max(-(-inputs // max(groups, 1)), 1)

    def _bits(self, weight: Packed) -> int:
        zeros, n = weight.size("zero")[1], weight.size("packed")[1]
        bits = next((b for b in _WIDTHS if n and zeros * 32 == n * b), 0)
        return bits or refuse(
            f"zero points of shape {list(weight.size('zero'))} and {n} outputs are of none of the widths that are "
            f"read ({', '.join(map(str, _WIDTHS))} bits)"
        )

    def example(self) -> Example:
        """Return 8 inputs in two groups that alternate (``g_idx``), 8 outputs, 4 bits, zero points of 8."""
        q = torch.arange(8).repeat(8, 1).T  # (in, out): the input's number
        packed = (q << torch.arange(0, 32, 4)[:, None]).sum(0, keepdim=True).to(torch.int32)
        zero = torch.full((2, 1), 0x77777777, dtype=torch.int32)
        scale = torch.tensor([[1.0], [0.5]]).repeat(1, 8)
        of = torch.arange(8, dtype=torch.int32) % 2
        weight = ((torch.arange(8.0) - 8) * torch.tensor([1.0, 0.5]).repeat(4)).repeat(8, 1)
        return Example({"m.qweight": packed, "m.qzeros": zero, "m.scales": scale, "m.g_idx": of}, weight, {"bits": 4})
