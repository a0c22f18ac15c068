"""Which device computes, and in which precision it may."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch

from pifi_probe.checked import nearest
from pifi_probe.errors import RecipeError

__all__ = ["DEVICES", "PRECISIONS", "autocast", "device_of", "has_bf16"]


PRECISIONS = ("float32", "bf16")
DEVICES = ("auto", "cpu", "cuda", "mps")


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context of automatic mixed precision; it does nothing for ``"float32"``."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def device_of(device: str, precision: str = "float32") -> torch.device:
    """Return the device that is asked for.

    Raises
    ------
    RecipeError
        If there is no such device or precision, the machine lacks the device, or the device the precision.
    """
    for name, value, known in (("device", device, DEVICES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise RecipeError(f"{name}={value!r} is unknown", where=f"recipe, {name}", next=nearest(value, known))
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = device if device != "auto" else next(kind for kind, there in available.items() if there)
    if not available[name]:
        raise RecipeError(
            f"this machine has no {name} device that this PyTorch can use",
            where="recipe, device",
            next='use device="auto", or install a PyTorch build for the device',
        )
    found = torch.device(name)
    if precision == "bf16" and not has_bf16(found):
        raise RecipeError(
            f"this {name} has no bf16 instructions",
            where="recipe, precision",
            next='use precision="float32"',
        )
    return found


def has_bf16(device: torch.device) -> bool:
    """Return True when the device computes bf16 products itself: CUDA from Ampere, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        abilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch cannot say
        return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16") or abilities.get("bf16"))
    return False
