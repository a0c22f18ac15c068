"""A set of features: what it depends on, where its points lie, and how they come to lie there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pifi_probe.errors import FeatureError, LayerIndexError
from pifi_probe.features.cache import Entry, Point
from pifi_probe.tasks.task import Split

__all__ = ["FeatureKey", "Features", "Save", "collect"]

_VERSION = 1  # of how features are computed; another one never reads the cache of this one

Save = Callable[[int, NDArray[np.float32]], None]


@dataclass(frozen=True)
class FeatureKey:
    """What features depend on, and so their address in the cache.

    Parameters
    ----------
    model : str
        ``"repo@commit"`` of the hub, or a sha256 over the contents of local files or weights.
    tokenizer, rows : str
        sha256 over the tokenizer, and over identifiers and texts (labels do not count).
    precision, pooling, template : str
    normalise, drop_first : bool
    max_length : int
        Tokens after which a text is cut; the name is part of the address of what is kept.
    kind : {"llm", "slm"}
    version : int
        Of the computation.
    """

    model: str
    tokenizer: str
    rows: str
    precision: str
    pooling: str
    template: str
    normalise: bool
    drop_first: bool
    max_length: int
    kind: str = "llm"
    version: int = _VERSION

    @property
    def digest(self) -> str:
        """Hexadecimal digest over all fields, 128 bits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


class Features:
    """Features of some rows at every point, read from disk one point at a time.

    Made by `llm_features` and `slm_features`.

    Parameters
    ----------
    points : sequence of Path or array
        For each point a ``.npy`` file, or the array where it could not be cached.
    rows : Split
        What the features are of.
    info : dict
        What was done: model, pooling, token handling, cut texts; ``notes`` for readers of a table.
    """

    def __init__(self, points: Sequence[Point], rows: Split, info: dict[str, Any]) -> None:
        self._points, self._rows, self.info = list(points), rows, info

    @property
    def n_points(self) -> int:
        """Number of points: layers of the model plus one; 1 for a small language model."""
        return len(self._points)

    @property
    def ids(self) -> tuple[str, ...]:
        """Identifier of each row, length N."""
        return self._rows.ids

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each row, (N,)."""
        return np.asarray(self._rows.labels, dtype=np.int64)

    def __len__(self) -> int:
        return self.n_points

    def __getitem__(self, point: int) -> NDArray[np.float32]:
        """Return the features (N, D), float32, of a point; mapped from disk, not to be written to.

        Raises
        ------
        LayerIndexError
            If there is no such point.
        FeatureError
            If the file was deleted meanwhile.
        """
        if not -self.n_points <= point < self.n_points:
            raise LayerIndexError(
                f"there is no point {point}: the features have {self.n_points}", where=str(self.info.get("model"))
            )
        found = self._points[point]
        if not isinstance(found, Path):
            return found
        try:
            stored: NDArray[np.float32] = np.load(found, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise FeatureError(
                f"cached features cannot be read: {error}", where=str(found), next="compute them again"
            ) from error
        return stored

    def __repr__(self) -> str:
        return f"Features({self.info.get('model')!r}, {self.n_points} points, {len(self._rows)} rows)"


def collect(
    key: FeatureKey,
    n_points: int,
    shape: tuple[int, int],
    compute: Callable[[Save, Path | None], None],
    model: str | None,
) -> list[Point]:
    """Return the features of all points: from the cache, or computed into it; without `model`, computed only."""
    if model is None:
        return _compute_in_memory(compute)
    entry = Entry({"model_name": model, **asdict(key)}, key.digest, n_points, shape)
    found = entry.points()
    if found is not None:
        return found
    with entry.writing() as writable:
        if not writable:
            return _compute_in_memory(compute)
        if found := entry.points():  # another process was faster
            return found
        entry.forget_states_without_points()
        compute(entry.save, entry.states)
        if found := entry.points():
            return found
    raise FeatureError(
        "cached features vanished while they were computed", where=str(entry.folder), next="run the same call again"
    )


def _compute_in_memory(compute: Callable[[Save, Path | None], None]) -> list[Point]:
    points: list[Point] = []
    compute(lambda point, features: points.append(features), None)
    return points
