"""MLX: rows as streams of bits in 32-bit words, with a scale and, when affine, a bias for each group along the row.

W = s q + b for 2 to 8 bits; the mx and nv modes are E2M1 or E4M3 numbers times a scale. Bits and groups are stated in
the configuration, for all modules or for one by its name. Source: mlx ``mlx/ops.cpp`` (``quantize``, ``dequantize``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from pifi_probe.layers.formats.base import Example, Format, Packed, refuse
from pifi_probe.layers.formats.numbers import decode, floats, fp4, unpack_floats
from pifi_probe.layers.formats.registry import register_format

__all__ = ["MlxAffine", "MlxFloat"]

_BITS, _GROUPS = (4, 8, 2, 3, 5, 6), (64, 32, 128)
_WORDS_A_SCALE = {4: ("mxfp4", 32, 4), 2: ("nvfp4", 16, 4), 8: ("mxfp8", 32, 8)}  # mode, group, bits


@register_format
class MlxAffine(Format):
    """MLX's own quantisation, with ``scales`` and ``biases``; also of stacked experts and embeddings."""

    name = "mlx"
    packed = becomes = "weight"
    companions: ClassVar[Mapping[str, str]] = {"scale": "scales", "bias": "biases"}
    kinds: ClassVar[tuple[str, ...]] = ("I32", "U32")

    def fits(self, weight: Packed) -> bool:
        """Tell by the type of the words."""
        return weight.dtype("packed") in ("U32", "I32") and len(weight.size("packed")) >= 2

    def shape(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
        """Return the shape: as many columns as scales times the length of a group."""
        packed, scale = weight.size("packed"), weight.size("scale")
        if scale != weight.size("bias") or scale[:-1] != packed[:-1]:
            refuse(
                f"scales of shape {list(scale)} and biases of shape {list(weight.size('bias'))} do not fit words of "
                f"shape {list(packed)}"
            )
        _, group = self._widths(weight)
        return (*packed[:-1], group * scale[-1])

    def rows(self, weight: Packed, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Return s q + b."""
        bits, group = self._widths(weight)
        scale, bias = (tensors[role][start:stop].float() for role in ("scale", "bias"))
        values = unpack_floats(tensors["packed"][start:stop], bits, scale.shape[-1] * group)
        values = values.unflatten(-1, (-1, group)).mul_(scale.unsqueeze(-1)).add_(bias.unsqueeze(-1))
        return values.flatten(-2)

    def _widths(self, weight: Packed) -> tuple[int, int]:
        """Return bits and length of a group: as stated, or the only ones that fit the shapes."""
        words, scales = weight.size("packed")[-1], weight.size("scale")[-1]
        bits, group = (weight.numbers.of_module(weight.module, key) for key in ("bits", "group_size"))
        fitting = [
            (b, g)
            for b in ([bits] if bits else _BITS)
            for g in ([group] if group else _GROUPS)
            if g * b * scales == 32 * words and b in _BITS and g in _GROUPS
        ]
        if len(fitting) == 1:
            return fitting[0]
        stated = f"{bits or '?'} bits in groups of {group or '?'}"
        return refuse(
            f"scales of shape {list(weight.size('scale'))} and words of shape {list(weight.size('packed'))} do not "
            f"fit {stated}, which config.json states"
            if not fitting
            else f"config.json states neither bits nor group_size, and several fit ({fitting})"
        )

    def label(self, weight: Packed) -> str:
        """Say how many bits."""
        return f"mlx {self._widths(weight)[0]}-bit"

    def example(self) -> Example:
        """Return two rows of 32 columns, 4 bits."""
        words = torch.tensor([0x76543210, -0x01234568], dtype=torch.int32).repeat(2, 2).view(torch.uint32)
        q = torch.arange(16.0).repeat(2, 2)
        scale, bias = torch.tensor([[0.5], [2.0]]), torch.tensor([[-1.0], [3.0]])
        tensors = {"m.weight": words, "m.scales": scale, "m.biases": bias}
        return Example(tensors, scale * q + bias, {"bits": 4, "group_size": 32})


@register_format
class MlxFloat(Format):
    """MLX's mxfp4, nvfp4 and mxfp8, which the numbers of words and scales tell apart."""

    name, variant = "mlx", "float"
    packed = becomes = "weight"
    companions: ClassVar[Mapping[str, str]] = {"scale": "scales"}
    kinds: ClassVar[tuple[str, ...]] = ("I32", "U32")

    def fits(self, weight: Packed) -> bool:
        """Tell by types: the scales are bytes."""
        return weight.dtype("packed") in ("U32", "I32") and weight.dtype("scale") == "U8"

    def shape(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
        """Return the shape."""
        packed, scale = weight.size("packed"), weight.size("scale")
        if len(packed) < 2 or scale[:-1] != packed[:-1]:
            refuse(f"scales of shape {list(scale)} do not fit words of shape {list(packed)}")
        _, group, _ = self._mode(weight)
        return (*packed[:-1], group * scale[-1])

    def rows(self, weight: Packed, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Return code times scale."""
        mode, group, bits = self._mode(weight)
        packed, scale = tensors["packed"][start:stop].contiguous(), tensors["scale"][start:stop].contiguous()
        values = fp4(packed.view(torch.uint8)) if bits == 4 else floats(packed.view(torch.float8_e4m3fn))
        factors = scale.view(torch.float8_e4m3fn).float() if mode == "nvfp4" else decode(scale)
        return values.unflatten(-1, (-1, group)).mul_(factors.unsqueeze(-1)).flatten(-2)

    def _mode(self, weight: Packed) -> tuple[str, int, int]:
        words, scales = weight.size("packed")[-1], weight.size("scale")[-1]
        found = _WORDS_A_SCALE.get(words // scales if scales and words % scales == 0 else 0)
        return found or refuse(f"{words} words and {scales} scales in a row are of no mode that is read")

    def label(self, weight: Packed) -> str:
        """Name the mode."""
        return f"mlx {self._mode(weight)[0]}"

    def example(self) -> Example:
        """Return two rows of 32 columns, MXFP4."""
        words = torch.tensor([0x76543210, -0x01234568], dtype=torch.int32).repeat(2, 2).view(torch.uint32)
        codes = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6]).repeat(2, 2)
        scale = torch.tensor([[126], [128]], dtype=torch.uint8)
        return Example({"m.weight": words, "m.scales": scale}, codes * torch.tensor([[0.5], [2.0]]))
