"""`CostTable`: what `cost_table` found, as a frame, a picture and JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pifi_probe.reporting.result import Result
from pifi_probe.reporting.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["CostRow", "CostTable"]


@dataclass(frozen=True)
class CostRow:
    """One arm; what was not measured is None, and what failed says why.

    Parameters
    ----------
    arm : str
    failed : str
        Why there is no row, or what of it could not be measured.
    point : int or None
        Of the donor by probe: how many of its layers are run.
    metric : str
        The score that ``quality`` is the mean of.
    quality, low, high : float or None
        Over examples and seeds, with its 95 % interval.
    by_seed : list of float
        The score of each seed.
    forgetting : float or None
        By how much the loss on the test sets of other domains lies above the encoder's alone, in nats.
    trained, total : int or None
        Weights.
    train_s_per_1000 : float or None
        Seconds of training, validation included, for 1,000 texts.
    train_s, train_bytes : list
        Of each run in the order of the seeds: its seconds of training, and its most bytes.
    peak_bytes, p99_bytes : int or None
        Resident memory of the process while training: the most, and the 99th percentile of samples every 10 ms; on CUDA
        what PyTorch had allocated there. No other model is held meanwhile.
    search_s : float or None
        What choosing the layer took, for arms that plug it in, where a study was named.
    file : dict
        See `file_costs`.
    stream : dict
        See `single_stream`: raw seconds.
    offline : dict
        See `offline`.
    """

    arm: str
    failed: str = ""
    point: int | None = None
    metric: str = ""
    quality: float | None = None
    low: float | None = None
    high: float | None = None
    by_seed: list[float] = field(default_factory=list)
    forgetting: float | None = None
    trained: int | None = None
    total: int | None = None
    train_s_per_1000: float | None = None
    peak_bytes: int | None = None
    p99_bytes: int | None = None
    search_s: float | None = None
    file: dict[str, float] = field(default_factory=dict)
    stream: dict[str, Any] = field(default_factory=dict)
    offline: dict[str, Any] = field(default_factory=dict)
    train_s: list[float] = field(default_factory=list)  # of records since these were kept
    train_bytes: list[int] = field(default_factory=list)

    def percentile(self, what: str, q: float) -> float | None:
        """Return a percentile of ``"forward_s"`` or ``"whole_s"`` in seconds."""
        return float(np.percentile(self.stream[what], q)) if self.stream.get(what) else None


@dataclass(frozen=True, repr=False)
class CostTable(Result):
    """What `cost_table` returns.

    Parameters
    ----------
    pair, task, device, precision : str
    n_seeds : int
    rows : tuple of CostRow
    search : dict
        Of the study that chose the layer: ``study``, ``strategy``, ``trials``, ``full_runs``, and seconds of the
        selection, ``select_s``, and with the confirmation on fresh seeds, ``whole_s``. Empty where none was named.
    provenance : dict
        Its ``settings`` say how many rows each split had, which test sets of other domains were read, how many texts
        were read one at a time, and how many cores other processes kept busy before training and before use.
    """

    pair: str
    task: str
    device: str
    precision: str
    n_seeds: int
    rows: tuple[CostRow, ...]
    search: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    noun: ClassVar[str] = "a table of costs"

    @property
    def frame(self) -> pd.DataFrame:
        """One row an arm, failures too."""
        import pandas as pd

        return pd.DataFrame([_shown(row) for row in self.rows])

    def __repr__(self) -> str:
        return f"CostTable({self.pair}, {self.task}, {self.device}; {', '.join(row.arm for row in self.rows)})"

    def tables(self) -> list[Table]:
        """Return one table: a row for each arm, failures too."""
        return [Table(self.frame, f"{self.pair}, {self.task}, {self.device}, {self.precision}")]

    def figure(self) -> Figure:
        """Plot quality over P90 of one text at a time; the size of a mark is that of the file."""
        from pifi_probe.reporting.pareto import pareto

        return pareto(self.frame, f"{self.pair}, {self.task}, {self.device}")


def _shown(row: CostRow) -> dict[str, Any]:
    scaled: Callable[[float | None, float], float | None] = lambda value, by: None if value is None else value * by  # noqa: E731
    per_1000 = 1000 / row.offline.get("n_texts", 1000)
    return {  # what a narrow terminal should show comes first
        "arm": row.arm,
        "quality": row.quality,
        "low": row.low,
        "high": row.high,
        "P90 ms": scaled(row.percentile("forward_s", 90), 1e3),
        "file MB": scaled(row.file.get("bytes"), 1e-6),
        "train s / 1,000": row.train_s_per_1000,
        "failed": row.failed,
        "trained, M": scaled(row.trained, 1e-6),
        "forgetting": row.forgetting,
        "peak MB": scaled(row.peak_bytes, 1e-6),
        "texts/s": row.offline.get("texts_per_s"),
        "P50 ms": scaled(row.percentile("forward_s", 50), 1e3),
        "P50 ms, tokenised": scaled(row.percentile("whole_s", 50), 1e3),
        "P90 ms, tokenised": scaled(row.percentile("whole_s", 90), 1e3),
        "texts": len(row.stream.get("forward_s", ())) or None,
        "first ms": scaled(row.stream.get("first_s"), 1e3),
        "weights, M": scaled(row.total, 1e-6),
        "p99 MB": scaled(row.p99_bytes, 1e-6),
        "at once": row.offline.get("batch_size"),
        "search s": row.search_s,
        "J / 1,000, processor": scaled(row.offline.get("joules", {}).get("processor"), per_1000),
        "J / 1,000, card": scaled(row.offline.get("joules", {}).get("card"), per_1000),
        "load cold ms": scaled(row.file.get("cold_s"), 1e3),
        "load warm ms": scaled(row.file.get("warm_s"), 1e3),
        "metric": row.metric,
    }
