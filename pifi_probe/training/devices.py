"""Which device a run uses, and in which precision it may."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pifi_probe.errors import RecipeError
from pifi_probe.kinds.evaluating import autocast
from pifi_probe.training.recipe import Recipe

__all__ = ["autocast", "device_of", "has_bf16"]


def device_of(recipe: Recipe) -> torch.device:
    """Return the device a recipe asks for.

    Raises
    ------
    RecipeError
        If the machine has no such device, or the device cannot compute in the recipe's precision.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = recipe.device if recipe.device != "auto" else next(kind for kind, there in available.items() if there)
    if not available[name]:
        raise RecipeError(
            f"this machine has no {name} device that this PyTorch can use",
            where="recipe, device",
            next='use device="auto", or install a PyTorch build for the device',
        )
    device = torch.device(name)
    if recipe.precision == "bf16" and not has_bf16(device):
        raise RecipeError(
            f"this {name} has no bf16 instructions",
            where="recipe, precision",
            next='use precision="float32"',
        )
    return device


def has_bf16(device: torch.device) -> bool:
    """Return True when the device computes bf16 products itself: CUDA from Ampere, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        abilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch cannot say
        return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16") or abilities.get("bf16"))
    return False
