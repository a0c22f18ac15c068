"""Counters of energy that a machine lets read: RAPL of processors, NVML of NVIDIA cards."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["counters", "used"]

RAPL = Path("/sys/class/powercap")


def counters(device: torch.device) -> dict[str, float]:
    """Return joules since some moment: ``"processor"``, and ``"card"`` on CUDA; what cannot be read is left out."""
    found = {"processor": _processor(), "card": _card(device) if device.type == "cuda" else None}
    return {name: value for name, value in found.items() if value is not None}


def used(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return joules between two readings; a counter that began again in between is left out."""
    return {name: after[name] - start for name, start in before.items() if after.get(name, -1.0) >= start}


def _processor() -> float | None:
    """Return the sum over all packages (RAPL); None where there is none, or reading is not allowed."""
    try:
        packages = [one for one in RAPL.glob("intel-rapl:*") if (one / "name").read_text().startswith("package")]
        return sum(int((one / "energy_uj").read_text()) for one in packages) / 1e6 if packages else None
    except (OSError, ValueError):
        return None


def _card(device: torch.device) -> float | None:
    """Return the counter of one card (NVML); None where pynvml is missing or the card has no counter."""
    try:
        pynvml: Any = importlib.import_module("pynvml")
        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid  # CUDA_VISIBLE_DEVICES may number cards otherwise
        return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))) / 1e3
    except Exception:  # NVML has a type of its own for every failure; a blank cell says enough
        return None
