"""`Benchmark`: what each arm costs, as a table, a plot and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pifi_probe.efficiency.arms import ARMS
from pifi_probe.reporting.result import Result
from pifi_probe.reporting.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["ArmCost", "Benchmark", "Spread"]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of single measurements.

    Parameters
    ----------
    median, q25, q75 : float
    n : int
        How many measurements.
    values : tuple of float
        Each of them, in the order in which they were made.
    """

    median: float
    q25: float
    q75: float
    n: int
    values: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Summarise measurements."""
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        return cls(statistics.median(values), low, high, len(values), tuple(values))

    def times(self, factor: float) -> Spread:
        """Return the spread in another unit."""
        return Spread(
            factor * self.median,
            factor * self.q25,
            factor * self.q75,
            self.n,
            tuple(factor * value for value in self.values),
        )

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.q25:.3g} to {self.q75:.3g})"


@dataclass(frozen=True)
class ArmCost:
    """What one arm costs.

    Parameters
    ----------
    arm : str
    trainable, total : int
        Weights.
    n_bytes : int
        Of weights and buffers.
    macs_measured, macs_counted : int
        Multiply-accumulates of one text of `Benchmark.macs_length` tokens: measured while it runs, and counted from
        the shapes.
    step, epoch : Spread or None
        Seconds of one optimiser step, and of one pass over the training texts; None for an arm that is not trained.
    training_bytes : int or None
        The most bytes of tensors held while training.
    latency : dict of str to Spread
        Seconds of one forward pass by ``"batch x tokens"``.
    """

    arm: str
    trainable: int
    total: int
    n_bytes: int
    macs_measured: int
    macs_counted: int
    step: Spread | None
    epoch: Spread | None
    training_bytes: int | None
    latency: dict[str, Spread] = field(default_factory=dict)

    def throughput(self, shape: str) -> Spread:
        """Return texts per second of a shape in ``latency``."""
        rows, own = int(shape.split()[0]), self.latency[shape]
        return Spread(rows / own.median, rows / own.q75, rows / own.q25, own.n)


@dataclass(frozen=True, repr=False)
class Benchmark(Result):
    """What `pifi_probe.benchmark` returns.

    Parameters
    ----------
    model, task, device, precision : str
    macs_length : int
        Tokens of the text whose multiply-accumulates are given.
    arms : tuple of ArmCost
        Vanilla first.
    left_out : dict of str to str
        Arm or shape to the reason.
    provenance : dict
    """

    model: str
    task: str
    device: str
    precision: str
    macs_length: int
    arms: tuple[ArmCost, ...]
    left_out: dict[str, str]
    provenance: dict[str, Any] = field(default_factory=dict)
    noun: ClassVar[str] = "a benchmark"

    @property
    def frame(self) -> pd.DataFrame:
        """One row per arm: sizes, medians, and texts per second of every shape; why, of an arm that failed."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for own in self.arms:
            row: dict[str, Any] = {
                "arm": own.arm,
                "trained, M": own.trainable / 1e6,
                "weights, M": own.total / 1e6,
                "MB": own.n_bytes / 1e6,
                "GMACs": own.macs_measured / 1e9,
                "counted GMACs": own.macs_counted / 1e9,
                "step ms": 1e3 * own.step.median if own.step else None,
                "epoch s": own.epoch.median if own.epoch else None,
                "training MB": own.training_bytes / 1e6 if own.training_bytes else None,
            }
            for shape, spread in own.latency.items():
                row[f"{shape} ms"] = 1e3 * spread.median
                row[f"{shape} texts/s"] = own.throughput(shape).median
            rows.append(row)
        failed = {name: why for name, why in self.left_out.items() if name in ARMS}
        rows += [{"arm": name, "failed": why} for name, why in failed.items()]
        frame = pd.DataFrame(rows)
        return frame.fillna({"failed": ""}) if failed else frame

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        record = super().to_dict()
        for arm, own in zip(record["arms"], self.arms, strict=True):
            arm["throughput"] = {shape: asdict(own.throughput(shape)) for shape in own.latency}
        return record

    def __repr__(self) -> str:
        return f"Benchmark({self.model}, {self.task}, {self.device}; {', '.join(own.arm for own in self.arms)})"

    def tables(self) -> list[Table]:
        """Return one table: a row for each arm, failures too."""
        shown = self.frame.set_index("arm").map(_number).reset_index()
        first = [name for name in ("arm", "trained, M", "MB", "training MB", "step ms") if name in shown]
        ordered = shown[[*first, *(name for name in shown if name not in first)]]
        return [Table(ordered, f"{self.model}, {self.task}, {self.device}, {self.precision}", below=("failed",))]

    def figure(self) -> Figure:
        """Plot what each arm costs above vanilla, in percent, with quartiles: step, memory, and inference.

        Intervals are the arm's own quartiles over vanilla's median.
        """
        import pandas as pd

        from pifi_probe.reporting.plots import forest

        return forest(pd.DataFrame(list(self._above_vanilla())), value_label="cost above vanilla (%)")

    def _above_vanilla(self) -> list[dict[str, Any]]:
        base, rows = self.arms[0], []
        shapes = list(base.latency)
        for own in self.arms[1:]:
            pairs = {"training step": (own.step, base.step)}
            pairs |= {f"inference {shape}": (own.latency[shape], base.latency[shape]) for shape in _ends(shapes)}
            for group, (spread, reference) in pairs.items():
                if spread and reference:
                    low, middle, high = (
                        100 * (value / reference.median - 1) for value in (spread.q25, spread.median, spread.q75)
                    )
                    rows.append({"arm": own.arm, "group": group, "mean": middle, "low": low, "high": high})
            if own.training_bytes and base.training_bytes:
                more = 100 * (own.training_bytes / base.training_bytes - 1)
                rows.append({"arm": own.arm, "group": "training memory", "mean": more, "low": more, "high": more})
        return rows


def _ends(shapes: Sequence[str]) -> list[str]:
    """Return the smallest and the largest shape."""
    return list(dict.fromkeys([*shapes[:1], *shapes[-1:]]))


def _number(value: Any) -> str:
    if value is None or value != value:  # NaN
        return "\u2013"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
