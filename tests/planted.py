"""Features with a planted signal, and one way to call any estimator on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pifi_probe.scoring import estimators


@dataclass(frozen=True)
class Sample:
    """Features x with class means `signal` apart, labels y, and others: z is partly made of x, h knows nothing."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    h: np.ndarray


def sample(
    signal: float = 2.0, *, n: int = 60, dim: int = 120, k: int = 2, seed: int = 0, share: float | None = None
) -> Sample:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % k) if share is None else (np.arange(n) < share * n).astype(int)
    means = rng.normal(size=(k, dim)) / np.sqrt(dim / 8)
    noise, z, h = rng.normal(size=(n, dim)), rng.normal(size=(n, 40)), rng.normal(size=(n, 5))
    x = noise + signal * means[y]
    return Sample(x, y, z + signal * x @ rng.normal(size=(dim, 40)) / np.sqrt(dim), h)


def second(name: str, data: Sample) -> dict[str, Any]:
    """Return the second feature set, if the estimator compares two."""
    if estimators.get(name).family != "pair":
        return {}
    return {"other": data.h if name in ("usable_information", "span") else data.z}


def call(name: str, data: Sample, **options: Any) -> float:
    estimator = estimators.get(name)
    return estimator(data.x, data.y if estimator.needs_labels else None, **second(name, data), **options)


def better(name: str, value: float) -> float:
    """Turn a score so that larger is better."""
    return value if estimators.get(name).larger_is_better else -value
