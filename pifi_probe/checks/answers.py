"""Answers that are numbers, as the tensors that checks compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pifi_probe.checks.judge import require

__all__ = ["as_number", "as_numbers", "name_likely"]


def as_number(value: Any) -> torch.Tensor:
    """Return an answer as a tensor of one float64; a mistake unless it is a number."""
    single = isinstance(value, int | float | np.number) or (hasattr(value, "ndim") and value.ndim == 0)
    require(single, f"Return a number, not {type(value).__name__}.")
    return torch.tensor(float(value), dtype=torch.float64)


def as_numbers(value: Any, n: int, what: str) -> torch.Tensor:
    """Return an answer of `n` numbers as a tensor (n,); `what` says which they are."""
    whole = isinstance(value, tuple | list | np.ndarray | torch.Tensor) and len(value) == n
    require(whole, f"Return {n} numbers: {what}.")
    return torch.stack([as_number(one) for one in value])


def name_likely(got: Mapping[str, float], likely: Mapping[str, Mapping[str, float]], tolerance: float = 1e-9) -> None:
    """Name the mistake that gives these entries, if one is known; its entries may be a part of the answer's."""
    for mistake, wrong in likely.items():
        require(any(abs(got[key] - value) > tolerance for key, value in wrong.items()), mistake)
