"""What your functions are given: names of types, and the folded plug-in as it runs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Weights = dict[str, Array]


class Shape(NamedTuple):
    """What the weights of a layer do not say about it."""

    n_heads: int
    n_kv_heads: int
    d_head: int
    eps: float


def run_folded(h: Array, folded: Weights, d_llm: int, eps: float) -> Array:
    """Run what `adapters.fold` returns: (batch, d_slm) to (batch, d_slm)."""

    def inverse_rms(rotated: Array) -> Array:
        return 1 / np.sqrt(np.square(rotated).sum(-1, keepdims=True) / d_llm + eps)

    s = inverse_rms(h @ folded["norm_in"].T)  # (batch, 1)
    z = np.concatenate([h, s * h], axis=-1)  # (batch, 2 d_slm)
    n = inverse_rms(z @ folded["norm_mid"].T) * z
    gate = n @ folded["gate"].T  # (batch, d_mlp)
    hidden = gate / (1 + np.exp(-gate)) * (n @ folded["up"].T)
    return z @ folded["skip"].T + hidden @ folded["down"].T
