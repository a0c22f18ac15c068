"""`Metric`: what is to be known of a metric's numbers by whoever compares, shows or reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pifi_probe.errors import TaskError
from pifi_probe.registry import mistyped

__all__ = ["ACCURACY", "EXACT_MATCH", "F1", "MACRO_F1", "NLL", "PRIORS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """A metric of a kind of task: its range, its direction, and how it is shown.

    Parameters
    ----------
    name : str
        As `Kind.metrics` and `Kind.scores` call it.
    low, high : float
        What its values lie between. A result with a value outside is refused. Between 0 and 1 it is a share, which is
        shown in percent, and whose differences are in points.
    larger_is_better : bool
    unit : str
        Of what is no share, in words; "": the metric's name.
    shown : bool
        A column of the table of a result.
    listed : bool
        A list of such values, one for each label.

    Raises
    ------
    TaskError
        If something is of the wrong type, `low` is not below `high`, or the unit is points.
    """

    name: str
    low: float = -math.inf
    high: float = math.inf
    larger_is_better: bool = True
    unit: str = ""
    shown: bool = True
    listed: bool = False

    def __post_init__(self) -> None:
        types = dict.fromkeys(("larger_is_better", "shown", "listed"), "True or False")
        wrong = mistyped(self, {"name": "a text", "unit": "a text", "low": "a number", "high": "a number"} | types)
        if not wrong and not self.low < self.high:
            wrong = f"has low={self.low!r}, which is not below high={self.high!r}"
        if not wrong and self.unit == "points":
            wrong = "has unit='points', which are hundredths of a share: those have no unit"
        if wrong:
            raise TaskError(
                f"a metric {wrong}",
                where="Metric",
                next='write Metric("closeness", 0, 1), or Metric("cost", 0, larger_is_better=False)',
            )

    @property
    def is_share(self) -> bool:
        """Whether it lies between 0 and 1."""
        return (self.low, self.high) == (0, 1)

    @property
    def sign(self) -> float:
        """What its values are multiplied by so that larger is better."""
        return 1.0 if self.larger_is_better else -1.0

    @property
    def scale(self) -> float:
        """What its values are multiplied by where they are shown: shares are, in percent."""
        return 100.0 if self.is_share else 1.0

    @property
    def digits(self) -> int:
        """Decimal places where its values are shown."""
        return 1 if self.is_share else 3

    @property
    def of_differences(self) -> str:
        """Unit of differences, in words."""
        return "points" if self.is_share else self.unit or self.name.replace("_", " ")


# those of several kinds
ACCURACY = Metric("accuracy", 0, 1)
EXACT_MATCH = Metric("exact_match", 0, 1)
F1 = Metric("f1", 0, 1)
MACRO_F1 = Metric("macro_f1", 0, 1)
NLL = Metric("nll", 0, larger_is_better=False, unit="nats")
PRIORS = (
    Metric("label_prior", 0, 1, shown=False, listed=True),
    Metric("predicted_prior", 0, 1, shown=False, listed=True),
)
