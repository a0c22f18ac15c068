"""Formats of quantised weights: one file each, all behind one registry."""

from pifi_probe.layers.formats import (  # noqa: F401  (each registers its own)
    awq,
    bitsandbytes,
    compressed,
    fp4,
    gptq,
    mlx,
    scaled,
    torchao,
)
from pifi_probe.layers.formats.arrange import arrange
from pifi_probe.layers.formats.base import Example, Format, Numbers, Packed
from pifi_probe.layers.formats.plan import Contents, Plan, make_plan
from pifi_probe.layers.formats.registry import find_packed, formats, register_format

__all__ = [
    "Contents",
    "Example",
    "Format",
    "Numbers",
    "Packed",
    "Plan",
    "arrange",
    "find_packed",
    "formats",
    "make_plan",
    "register_format",
]
