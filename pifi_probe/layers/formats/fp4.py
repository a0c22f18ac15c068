"""Weights in four bits of E2M1, two a byte, with scales for small groups along the rows.

MXFP4 has a power of two for 32 weights, NVFP4 an E4M3 number for 16 and one float32 number for all. They differ in
names and in where the second scale stands. Sources: the OCP Microscaling specification, ``transformers.integrations.
mxfp4`` and llama.cpp ``conversion/gpt_oss.py`` (gpt-oss), compressed-tensors ``nvfp4_quantized`` and ``fp4_quantized``,
ModelOpt ``nvfp4_tensor``, DeepSeek-V4's converters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from pifi_probe.layers.formats.base import Example, Format, Packed, refuse
from pifi_probe.layers.formats.numbers import decode, fp4
from pifi_probe.layers.formats.registry import register_format

__all__ = ["Fp4"]

_ALL_CODES = bytes(low | high << 4 for low, high in zip(range(0, 16, 2), range(1, 16, 2), strict=True))


class Fp4(Format):
    """Base of the formats with two E2M1 numbers a byte along the rows."""

    group: ClassVar[int] = 32
    kinds: ClassVar[tuple[str, ...]] = ("U8",)
    scale_kinds: ClassVar[tuple[str, ...]] = ("U8", "F8_E8M0")
    whole: ClassVar[str] = ""  # "times" or "over": what the one scale for all does

    def fits(self, weight: Packed) -> bool:
        """Tell by types and ranks."""
        ranks = {len(weight.size("packed")), len(weight.size("scale"))}
        return weight.dtype("packed") in self.kinds and weight.dtype("scale") in self.scale_kinds and len(ranks) == 1

    def shape(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
        """Return the shape: twice as many columns as bytes, and a scale for each group."""
        packed, scale = weight.size("packed"), weight.size("scale")
        columns = 2 * packed[-1] if packed else 0
        if len(packed) < 2 or scale != (*packed[:-1], -(-columns // self.group)):
            refuse(f"scales of shape {list(scale)} do not fit bytes of shape {list(packed)}, {self.group} to a scale")
        if "all" in weight.parts and weight.size("all") not in ((), (1,), (packed[0], *[1] * (len(packed) - 1))):
            refuse(f"the scale for all has the shape {list(weight.size('all'))}")
        return (*packed[:-1], columns)

    def rows(self, weight: Packed, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Return code times scale."""
        values = fp4(tensors["packed"][start:stop])
        scale = decode(tensors["scale"][start:stop])
        if "all" in tensors:
            one = tensors["all"].float()
            one = one[start:stop] if one.numel() > 1 else one.reshape(())
            scale = scale / one if self.whole == "over" else scale * one
        if values.shape[-1] % self.group:
            return values.mul_(scale.repeat_interleave(self.group, -1)[..., : values.shape[-1]])
        return values.unflatten(-1, (-1, self.group)).mul_(scale.unsqueeze(-1)).flatten(-2)

    @staticmethod
    def codes(rows: int, group: int) -> torch.Tensor:
        """Return bytes with all 16 codes in order, again and again: `rows` rows of one group."""
        return torch.frombuffer(bytearray(_ALL_CODES), dtype=torch.uint8).repeat(rows, group // 16)


_ROW = (0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6)


def _example(made: Fp4, names: Mapping[str, torch.Tensor], packed: str, factors: tuple[float, float]) -> Example:
    codes = made.codes(2, made.group).view(torch.int8 if made.kinds == ("I8",) else torch.uint8)
    row = torch.tensor(_ROW).repeat(made.group // 16)
    return Example({packed: codes, **names}, torch.stack([row * factor for factor in factors]))


def _powers(*exponents: int) -> torch.Tensor:
    return torch.tensor([[127 + exponent] for exponent in exponents], dtype=torch.uint8)


def _e4m3(*values: float) -> torch.Tensor:
    return torch.tensor([[value] for value in values]).to(torch.float8_e4m3fn)


@register_format
class ModelOptNvfp4(Fp4):
    """NVFP4 as ModelOpt writes it: ``weight_scale_2`` is multiplied."""

    name = "nvfp4"
    packed = becomes = ""
    companions: ClassVar[Mapping[str, str]] = {"scale": "_scale", "all": "_scale_2"}
    scales = ("scale", "all")
    small_scales = ("scale",)
    group = 16
    scale_kinds: ClassVar[tuple[str, ...]] = ("F8_E4M3",)
    whole = "times"

    def example(self) -> Example:
        """Return two groups."""
        names = {"m.weight_scale": _e4m3(2.0, 0.5), "m.weight_scale_2": torch.tensor(4.0)}
        return _example(self, names, "m.weight", (8.0, 2.0))


@register_format
class PackedNvfp4(Fp4):
    """NVFP4 as compressed-tensors writes it: ``weight_global_scale`` is divided by."""

    name, variant = "nvfp4", "packed"
    packed, becomes = "_packed", ""
    companions: ClassVar[Mapping[str, str]] = {"scale": "_scale", "all": "_global_scale"}
    scales = ("scale", "all")
    small_scales = ("scale",)
    group = 16
    scale_kinds: ClassVar[tuple[str, ...]] = ("F8_E4M3",)
    whole = "over"

    def example(self) -> Example:
        """Return two groups."""
        names = {"m.weight_scale": _e4m3(2.0, 0.5), "m.weight_global_scale": torch.tensor([4.0])}
        return _example(self, names, "m.weight_packed", (0.5, 0.125))


@register_format
class PackedMxfp4(Fp4):
    """MXFP4 as compressed-tensors writes it."""

    name = "mxfp4"
    packed, becomes = "_packed", ""
    companions: ClassVar[Mapping[str, str]] = {"scale": "_scale"}

    def example(self) -> Example:
        """Return two groups."""
        return _example(self, {"m.weight_scale": _powers(1, -1)}, "m.weight_packed", (2.0, 0.5))


@register_format
class DeepSeekFp4(Fp4):
    """DeepSeek-V4's routed experts: the bytes are called int8."""

    name = "fp4"
    packed = becomes = "weight"
    companions: ClassVar[Mapping[str, str]] = {"scale": "scale"}
    kinds: ClassVar[tuple[str, ...]] = ("I8",)

    def example(self) -> Example:
        """Return two groups."""
        return _example(self, {"m.scale": _powers(1, -1).view(torch.float8_e8m0fnu)}, "m.weight", (2.0, 0.5))


@register_format
class TorchaoMx(Fp4):
    """MXFP4 as torchao writes it."""

    name, variant = "mxfp4", "torchao"
    packed, becomes = "_weight_qdata", "weight"
    companions: ClassVar[Mapping[str, str]] = {"scale": "_weight_scale"}

    def example(self) -> Example:
        """Return two groups."""
        names = {"m._weight_scale": _powers(1, -1).view(torch.float8_e8m0fnu)}
        return _example(self, names, "m._weight_qdata", (2.0, 0.5))


@register_format
class GptOss(Fp4):
    """gpt-oss: all experts of a layer in one tensor, groups in a dimension of their own, in and out swapped.

    ``experts.gate_up_proj_blocks`` (E, out, in / 32, 16) and ``_scales`` (E, out, in / 32) become (E, in, out), as the
    model has it.
    """

    name, variant = "mxfp4", "experts"
    packed, becomes = "_blocks", ""
    companions: ClassVar[Mapping[str, str]] = {"scale": "_scales"}

    def fits(self, weight: Packed) -> bool:
        """Tell by types and ranks."""
        return weight.dtype("packed") == weight.dtype("scale") == "U8" and len(weight.size("packed")) == 4

    def shape(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
        """Return (experts, in, out)."""
        experts, out, groups, half = weight.size("packed")
        if half != self.group // 2 or weight.size("scale") != (experts, out, groups):
            refuse(
                f"scales of shape {list(weight.size('scale'))} do not fit blocks of shape "
                f"{list(weight.size('packed'))}, 16 bytes to a scale"
            )
        return experts, groups * self.group, out

    def rows(self, weight: Packed, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Return the experts from `start` to `stop`."""
        values = fp4(tensors["packed"][start:stop]).mul_(decode(tensors["scale"][start:stop]).unsqueeze(-1))
        return values.flatten(-2).transpose(1, 2)

    def example(self) -> Example:
        """Return two experts of two rows."""
        blocks = self.codes(4, 32).reshape(2, 2, 1, 16)
        scales = torch.tensor([[[127], [128]], [[126], [127]]], dtype=torch.uint8)
        row = torch.tensor(_ROW).repeat(2)
        weight = torch.stack([torch.stack([row, 2 * row]), torch.stack([row / 2, row])]).transpose(1, 2)
        return Example({"m.w_blocks": blocks, "m.w_scales": scales}, weight)
