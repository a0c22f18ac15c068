"""Weights in one byte each, times a scale for the whole, a row, a group or a block.

W = (q - z) s, with s and z repeated over their blocks. float8 (fine-grained, as DeepSeek-V3 has it, per tensor,
per channel, MXFP8) and int8 (compressed-tensors, bitsandbytes) differ in the names of the scales and in little else.
Sources: DeepSeek-V3 ``inference/kernel.py``, ``transformers.integrations.finegrained_fp8``, compressed-tensors
``naive_quantized``, bitsandbytes ``int8_vectorwise_dequant``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from pifi_probe.layers.formats.base import Example, Format, Packed, refuse
from pifi_probe.layers.formats.numbers import decode, floats, spread
from pifi_probe.layers.formats.registry import register_format

__all__ = ["BitsAndBytesInt8", "Scaled", "blocks_of"]

_FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_FACTORS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E8M0", "U8")
_BLOCK = (128, 128)  # where none is stated: DeepSeek's, which all files with blocks have


def blocks_of(shape: tuple[int, ...], grid: tuple[int, ...], stated: tuple[int, int] | None) -> tuple[int, ...]:
    """Return the length of a block along each dimension of a weight.

    Parameters
    ----------
    shape : tuple of int
        Of the weight, the last two being rows and columns.
    grid : tuple of int
        Of its scales; as many dimensions, or fewer than two: one for all, or one a row.
    stated : tuple of int, optional
        Rows and columns of a block as configured.

    Raises
    ------
    Refused
        If no such block fits. The size is never derived from rows ÷ scales: 192 rows with 2 scales are one block of
        128 and one of 64.
    """
    if len(grid) != len(shape):
        refuse(f"scales of shape {list(grid)} do not fit a weight of shape {list(shape)}")
    sizes = []
    for dim, (size, count) in enumerate(zip(shape, grid, strict=True)):
        at = dim - (len(shape) - 2)
        blocks = [b[at] for b in (stated, _BLOCK) if b is not None] if at >= 0 else []
        fitting = [b for b in blocks if -(-size // b) == count]
        if count == size:
            sizes.append(1)
        elif fitting and blocks[0] == fitting[0]:
            sizes.append(fitting[0])
        elif count == 1 and (stated is None or at < 0 or grid[-2] == shape[-2]):
            sizes.append(max(size, 1))
        elif fitting and stated is None:
            sizes.append(fitting[0])
        elif at == 1 and sizes[-1] == 1 and size % count == 0 and (stated is None or stated[1] == size // count):
            sizes.append(size // count)  # groups along a row, which fill it
        else:
            refuse(
                f"scales of shape {list(grid)} do not fit a weight of shape {list(shape)} with blocks of "
                f"{list(stated or _BLOCK)}"
            )
    return tuple(sizes)


class Scaled(Format):
    """Base of the formats with one byte a weight."""

    linear = False
    kinds: ClassVar[tuple[str, ...]] = _FLOAT8

    def fits(self, weight: Packed) -> bool:
        """Tell by the type of the packed weight."""
        return weight.dtype("packed") in self.kinds and weight.dtype("scale") in _FACTORS

    def grid(self, weight: Packed, role: str = "scale") -> tuple[int, ...]:
        """Return the shape of the scales with as many dimensions as the weight."""
        shape, grid = weight.size("packed"), weight.size(role)
        if len(grid) == len(shape):
            return grid
        if grid in ((), (1,)):
            return (1,) * len(shape)
        if len(grid) == len(shape) - 1 and grid == shape[: len(grid)]:
            return (*grid, 1)  # one for each row
        return refuse(f"scales of shape {list(grid)} do not fit a weight of shape {list(shape)}")

    def shape(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
        """Return the shape of the packed weight."""
        shape = weight.size("packed")
        if not shape:
            refuse("the weight is a single number")
        for role in ("scale", "zero"):
            if role in weight.parts:
                self.blocks(weight, role)
        return shape

    def prepare(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return the codes, and scales and zero points as float32 in the shape of their grid."""
        found = {"packed": tensors["packed"], "scale": decode(tensors["scale"]).reshape(self.grid(weight))}
        if "zero" in tensors:
            found["zero"] = tensors["zero"].float().reshape(self.grid(weight, "zero"))
        return found

    def rows(self, weight: Packed, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Return (q - z) s."""
        values = floats(tensors["packed"][start:stop])
        if "zero" in tensors:
            for part, zero in spread(values, tensors["zero"], self.blocks(weight, "zero"), start):
                part -= zero
        for part, scale in spread(values, tensors["scale"], self.blocks(weight), start):
            part *= scale
        return values

    def blocks(self, weight: Packed, role: str = "scale") -> tuple[int, ...]:
        """Return the length of a block along each dimension; one number for all needs no statement."""
        stated = None if weight.size(role) in ((), (1,)) else _stated(weight)
        return blocks_of(weight.size("packed"), self.grid(weight, role), stated)

    def label(self, weight: Packed) -> str:
        """Say how many weights share a scale."""
        blocks = self.blocks(weight)
        whole = all(b == max(size, 1) for b, size in zip(blocks, weight.size("packed"), strict=True))
        kind = "int8" if weight.dtype("packed") == "I8" else "fp8"
        powers = weight.dtype("scale") in ("U8", "F8_E8M0")
        kind = "mxfp8" if kind == "fp8" and powers and blocks[-2:] == (1, 32) else kind
        name = kind if self.name == "fp8" else f"{self.name} {kind}"
        return name + (" per tensor" if whole else f" in blocks of {'x'.join(map(str, blocks[-2:]))}")


def _stated(weight: Packed) -> tuple[int, int] | None:
    """Return the block that the configuration states, in the words of any of the formats."""
    found = weight.numbers.block()
    if found is not None:
        return found
    for group in weight.numbers.groups():
        block, size = group.get("block_structure"), group.get("group_size")
        if isinstance(block, list) and len(block) == 2 and all(type(n) is int and n > 0 for n in block):
            return block[0], block[1]
        if group.get("strategy") == "group" and type(size) is int and size > 0:
            return None  # groups along rows: their size follows from the shapes
    return None


@register_format
class FineGrained(Scaled):
    """float8 with ``weight_scale_inv``, which is multiplied despite its name."""

    name = "fp8"
    packed = becomes = ""
    companions: ClassVar[Mapping[str, str]] = {"scale": "_scale_inv"}

    def example(self) -> Example:
        """Return 192 rows with 2 rows of scales: blocks of 128 and 64."""
        weight = torch.ones(192, 2)
        scale = torch.tensor([[2.0], [3.0]])
        expected = torch.cat([torch.full((128, 2), 2.0), torch.full((64, 2), 3.0)])
        tensors = {"m.weight": weight.to(torch.float8_e4m3fn), "m.weight_scale_inv": scale}
        return Example(tensors, expected, {"weight_block_size": [128, 128]})


@register_format
class DeepSeekScale(Scaled):
    """The same under the names of DeepSeek's own files: ``scale`` next to ``weight``."""

    name, variant = "fp8", "deepseek"
    packed = becomes = "weight"
    companions: ClassVar[Mapping[str, str]] = {"scale": "scale"}

    def example(self) -> Example:
        """Return one block, its scale a power of two."""
        tensors = {"m.weight": torch.ones(2, 2).to(torch.float8_e4m3fn)}
        tensors["m.scale"] = torch.full((1, 1), 128, dtype=torch.uint8).view(torch.float8_e8m0fnu)
        return Example(tensors, torch.full((2, 2), 2.0))


@register_format
class MistralScale(Scaled):
    """One scale for the whole weight, under the name that Mistral's own files give it."""

    name, variant = "fp8", "mistral"
    packed = becomes = "weight"
    companions: ClassVar[Mapping[str, str]] = {"scale": "qscale_weight"}

    def example(self) -> Example:
        """Return one scale for all."""
        tensors = {"m.weight": torch.ones(2, 2).to(torch.float8_e4m3fn), "m.qscale_weight": torch.tensor(0.5)}
        return Example(tensors, torch.full((2, 2), 0.5))


@register_format
class Unpacked(Scaled):
    """compressed-tensors that are not packed, and ModelOpt's float8: ``weight_scale``, perhaps a zero point."""

    name = "compressed-tensors"
    packed = becomes = ""
    companions: ClassVar[Mapping[str, str]] = {"scale": "_scale"}
    optional: ClassVar[Mapping[str, str]] = {"zero": "_zero_point"}
    kinds: ClassVar[tuple[str, ...]] = (*_FLOAT8, "I8")

    def example(self) -> Example:
        """Return one scale and one zero point a row."""
        tensors = {
            "m.weight": torch.tensor([[1, -3], [5, 7]], dtype=torch.int8),
            "m.weight_scale": torch.tensor([[0.5], [2.0]]),
            "m.weight_zero_point": torch.tensor([[1], [-1]], dtype=torch.int8),
        }
        return Example(tensors, torch.tensor([[0.0, -2.0], [12.0, 16.0]]))


@register_format
class BitsAndBytesInt8(Scaled):
    """bitsandbytes' LLM.int8(): W = q SCB / 127, one maximum a row."""

    name = "bitsandbytes"
    packed = becomes = "weight"
    companions: ClassVar[Mapping[str, str]] = {"scale": "SCB"}
    optional: ClassVar[Mapping[str, str]] = {"layout": "weight_format"}
    kinds: ClassVar[tuple[str, ...]] = ("I8",)
    linear = True

    def prepare(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Look at the order in which it is stored first."""
        if "layout" in tensors and bool((tensors["layout"] != 0).any()):
            refuse("bitsandbytes stored it in the order of a GPU kernel (weight_format is not 0)")
        return super().prepare(weight, tensors)

    def rows(self, weight: Packed, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Return q SCB / 127."""
        return super().rows(weight, tensors, start, stop).div_(127.0)

    def example(self) -> Example:
        """Return two rows."""
        tensors = {
            "m.weight": torch.tensor([[127, -127], [0, 127]], dtype=torch.int8),
            "m.SCB": torch.tensor([0.5, 3.0]),
        }
        return Example(tensors, torch.tensor([[0.5, -0.5], [0.0, 3.0]]))
