"""bitsandbytes' four bits: codes into a table of 16 numbers, with a maximum for each block of 64.

The table, the size of the blocks, the shape and the offset of nested maxima lie in the file. The high half of a byte
comes first. Source: bitsandbytes ``functional.py`` (``QuantState``, ``dequantize_4bit``); its CPU kernel is not used,
since it is wrong where a row does not fill its last block.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from pifi_probe.layers.formats.base import Example, Format, Packed, refuse
from pifi_probe.layers.formats.numbers import by_column, look_up
from pifi_probe.layers.formats.registry import register_format
from pifi_probe.reading import Refused, parse_json

__all__ = ["Fp4Blocks", "Nf4"]

_MOST_STATE = 1 << 14  # bytes of JSON


class _FourBit(Format):
    packed = becomes = ""
    optional: ClassVar[Mapping[str, str]] = {"nested_map": ".nested_quant_map", "nested": ".nested_absmax"}
    scales = ("scale", "nested")
    linear = True

    def fits(self, weight: Packed) -> bool:
        """Any type holds the bytes: ``quant_storage`` may be that of the model."""
        return True

    def count(self, weight: Packed) -> int:
        """Return two for each byte."""
        return 2 * weight.parts["packed"].nbytes

    def shape(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
        """Return the shape that the state names, checked against the bytes."""
        if ("nested" in weight.parts) != ("nested_map" in weight.parts):
            refuse(
                f"its maxima are nested, and {'nested_absmax' if 'nested_map' in weight.parts else 'nested_quant_map'} "
                "is missing"
            )
        if weight.size("map") != (16,):
            refuse(f"its table has the shape {list(weight.size('map'))}, not 16 numbers")
        if not tensors:
            return (self.count(weight),)
        state = _state(tensors)
        shape, block = state.get("shape"), state.get("blocksize")
        if not isinstance(shape, list) or not shape or not all(type(n) is int and 0 < n < 1 << 40 for n in shape):
            refuse(f"its state names the shape {shape!r:.60}")
        if type(block) is not int or not 0 < block < 1 << 20:
            refuse(f"its state names blocks of {block!r:.20}")
        total = math.prod(shape)
        if -(-total // 2) != weight.parts["packed"].nbytes:
            refuse(f"its state names the shape {shape}, and there are {weight.parts['packed'].nbytes:,} bytes")
        maxima = math.prod(weight.size("scale"))
        if maxima != -(-total // block):
            refuse(f"{maxima} maxima do not fit {total:,} weights in blocks of {block}")
        return tuple(shape)

    def prepare(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return bytes, the two numbers that each byte stands for, maxima, and what the state says of sizes."""
        state, table = _state(tensors), tensors["map"].float().flatten()
        return {
            "packed": tensors["packed"].flatten().view(torch.uint8),
            "pairs": torch.stack([table.repeat_interleave(16), table.repeat(16)], dim=-1),  # the high half first
            "maxima": _maxima(tensors, state),
            "sizes": torch.tensor([state["blocksize"], *state["shape"]]),
        }

    def rows(self, weight: Packed, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Return table[code] times the maximum of the block."""
        block, _, *inner = tensors["sizes"].tolist()
        width = math.prod(inner)
        first, last = start * width, stop * width
        codes = tensors["packed"][first // 2 : -(-last // 2)]
        values = look_up(codes, tensors["pairs"])[first % 2 : first % 2 + last - first]
        maxima = tensors["maxima"][first // block : -(-last // block)]
        if first % block == 0 == (last - first) % block:
            values.view(-1, block).mul_(maxima[:, None])
        else:
            each = by_column(maxima[None], block, len(maxima) * block)[0]
            values *= each[first % block : first % block + last - first]
        return values.reshape(stop - start, *inner)

    def _example(self, table: list[float], state: str) -> Example:
        """Return all 16 codes, the high half of a byte first, in two blocks with maxima of 1 and 2."""
        stored = {"quant_type": state, "blocksize": 8, "dtype": "float32", "shape": [2, 8]}
        weight = torch.tensor(table).reshape(2, 8) * torch.tensor([[1.0], [2.0]])
        codes = bytearray(high << 4 | low for high, low in zip(range(0, 16, 2), range(1, 16, 2), strict=True))
        tensors = {
            "m.weight": torch.frombuffer(codes, dtype=torch.uint8)[:, None],
            "m.weight.absmax": torch.tensor([1.0, 2.0]),
            "m.weight.quant_map": torch.tensor(table),
            f"m.weight.quant_state.bitsandbytes__{state}": torch.frombuffer(
                bytearray(json.dumps(stored).encode()), dtype=torch.uint8
            ),
        }
        return Example(tensors, weight)


def _state(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Read the JSON that stands next to the weight."""
    raw = tensors["state"]
    if raw.dtype != torch.uint8 or raw.numel() > _MOST_STATE:
        refuse("its state is not text")
    try:
        state = parse_json(bytes(raw.tolist()), most_values=200)
    except Refused as error:
        raise Refused(f"its state cannot be read: {error}") from error
    return state if isinstance(state, dict) else refuse("its state is not a JSON object")


def _maxima(tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> torch.Tensor:
    """Return the maxima of the blocks; nested ones are codes into a table, with a maximum for each 256 of them."""
    stored = tensors["scale"].flatten()
    if "nested" not in tensors:
        return stored.float() if stored.is_floating_point() else refuse("its maxima are codes without a table")
    size, offset = state.get("nested_blocksize"), state.get("nested_offset")
    table, nested = tensors["nested_map"].float().flatten(), tensors["nested"].float().flatten()
    if type(size) is not int or size < 1 or not isinstance(offset, int | float) or table.numel() != 256:
        refuse("its nested maxima have no block size, offset or table of 256 numbers")
    if stored.dtype != torch.uint8 or nested.numel() != -(-stored.numel() // size):
        refuse(f"{nested.numel()} nested maxima do not fit {stored.numel()} in blocks of {size}")
    outer = by_column(nested[None], size, stored.numel())[0]
    return table.index_select(0, stored.int()).mul_(outer).add_(offset)


def _companions(state: str) -> Mapping[str, str]:
    return {"scale": ".absmax", "map": ".quant_map", "state": f".quant_state.bitsandbytes__{state}"}


_NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
_FP4 = [0.0, 0.0052, 0.6667, 1.0, 0.3333, 0.5, 0.1667, 0.25, 0.0, -0.0052, -0.6667, -1.0, -0.3333, -0.5, -0.1667, -0.25]


@register_format
class Nf4(_FourBit):
    """bitsandbytes' NF4, plain or nested."""

    name = "bitsandbytes nf4"
    companions: ClassVar[Mapping[str, str]] = _companions("nf4")

    def example(self) -> Example:
        """Return two blocks."""
        return self._example(_NF4, "nf4")


@register_format
class Fp4Blocks(_FourBit):
    """bitsandbytes' FP4, plain or nested."""

    name = "bitsandbytes fp4"
    companions: ClassVar[Mapping[str, str]] = _companions("fp4")

    def example(self) -> Example:
        """Return two blocks."""
        return self._example(_FP4, "fp4")
