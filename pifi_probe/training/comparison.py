"""`Comparison`: a table of arms and test sets, with intervals and verdicts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pifi_probe.escaping import printable
from pifi_probe.kinds import metric_named
from pifi_probe.ladder import Effect
from pifi_probe.reporting.result import Result
from pifi_probe.reporting.tables import Table
from pifi_probe.telling import Tells
from pifi_probe.training.sight import Plugged, check_sight

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Comparison", "Row"]

HEADINGS = ("arm", "difference", "mean", "seeds", "balanced accuracy", "AUROC", "verdict")


@dataclass(frozen=True)
class Row:
    """One arm on one test set.

    Parameters
    ----------
    test, arm, baseline : str
        `baseline` is the label of the arm it is compared with; empty for an arm that is one.
    seeds : tuple of int
        Of the arm.
    mean, low, high : float
        Mean of the metric over seeds and examples, and its interval.
    difference, difference_low, difference_high : float or None
        To the baseline, over the seeds both have; positive is better, for the NLL too.
    p_value : float or None
        Two-sided, adjusted for all arms that meet one baseline on this test set; see `pifi_probe.differences`.
    balanced_accuracy, auroc : float or None
        Means over seeds.
    verdict : str
        As `pifi_probe.stats.verdict` says it, such as "better by 2.1 points [0.4, 3.9]".
    tags : tuple of str
        Of any of its runs.
    """

    test: str
    arm: str
    baseline: str
    seeds: tuple[int, ...]
    mean: float
    low: float
    high: float
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    p_value: float | None
    balanced_accuracy: float | None
    auroc: float | None
    verdict: str
    tags: tuple[str, ...] = ()

    def cells(self, metric: str) -> tuple[str, ...]:
        """Return the row as text, one cell for each of `HEADINGS`; shares in percent."""
        return (
            self.arm,
            _interval(self.difference, self.difference_low, self.difference_high, metric, sign="+"),
            _interval(self.mean, self.low, self.high, metric),
            str(len(self.seeds)),
            _percent(self.balanced_accuracy),
            _percent(self.auroc),
            self.verdict,
        )


@dataclass(frozen=True, repr=False)
class Comparison(Result, Tells):
    """What `pifi_probe.compare` returns.

    Parameters
    ----------
    rows : tuple of Row
        By test set, then by arm.
    metric : str
    level : float
        Nominal coverage of the intervals.
    sizes : dict
        Rows of the task's splits.
    effects : tuple of Effect
        What the projections, the block, the language model's weights and the choice of layer do; by test set, metric
        and wiring.
    missing : dict of str to list of str
        By wiring, the groups of arms without which some effects cannot be told.
    seconds : float
        Mean wall time of a run.
    donors : tuple of Plugged
        Of the arms with real layers.
    tags : tuple of str
        Those that were given, and those that all runs share.
    """

    rows: tuple[Row, ...]
    metric: str
    level: float
    sizes: dict[str, int]
    effects: tuple[Effect, ...] = ()
    missing: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    donors: tuple[Plugged, ...] = ()
    tags: tuple[str, ...] = ()
    noun: ClassVar[str] = "a comparison"

    def sight(self) -> list[str]:
        """Say, where no effect of the weights was found, whether these layers could have shown one.

        From the positive controls that this machine has measured; nothing is measured here. Empty where an effect was
        found, or nothing was asked of the weights.
        """
        asked = [e for e in self.effects if e.name == "knowledge" and e.metric == self.metric]
        if not asked or any(effect.verdict == "better" for effect in asked):
            return []
        found = [check_sight(one) for one in self.donors]
        return list(dict.fromkeys(f"{one.finding}{'; ' * bool(one.advice)}{one.advice}" for one in found))

    def plot(self) -> Figure:
        """Plot the ladder: encoder alone, + projections, + twins, + real layers, with intervals.

        Raises
        ------
        PifiProbeError
            If there is no encoder alone among the arms.
        """
        return self.plot_ladder()

    def _seconds_a_run(self) -> float:
        return self.seconds

    @property
    def frame(self) -> pd.DataFrame:
        """One row per test set and arm; the columns are the fields of `Row`, with tags as one text."""
        import pandas as pd

        return pd.DataFrame([asdict(row) | {"tags": ", ".join(row.tags)} for row in self.rows])

    @property
    def size(self) -> str:
        """What the table was made from: rows of the splits, seeds, level, and the tags of the comparison."""
        seeds = sorted({len(row.seeds) for row in self.rows})
        spread = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        counts = ", ".join(f"{count} {name}" for name, count in self.sizes.items())
        tags = f"; tags: {', '.join(self.tags)}" if self.tags else ""
        return f"{counts} texts; seeds: {spread}; {self.level:.0%} intervals{tags}"

    def verdict(self) -> str:
        """Say in words, one line per test set and arm, what was found."""
        found = [f"{row.test}, {row.arm}: {row.verdict} (against {row.baseline})" for row in self.rows if row.baseline]
        return "\n".join(found) or "one arm alone: nothing to compare"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        return super().to_dict() | {"size": self.size}

    def said(self) -> list[str]:
        """Return the answer of every wiring."""
        told = self.answers() if self.effects else []
        return [f"{wiring}: {text}" if len(told) > 1 else text for wiring, text in told]

    def tables(self) -> list[Table]:
        """Return a table for each test set, with the verdicts last."""
        import pandas as pd

        made = []
        for name in dict.fromkeys(row.test for row in self.rows):
            cells = [row.cells(self.metric) for row in self.rows if row.test == name]
            note = f"{self.metric}; {self.size}" if name == self.rows[-1].test else ""
            made.append(Table(pd.DataFrame(cells, columns=list(HEADINGS)), f"test {name}", note, below=HEADINGS[-1:]))
        return made

    def __str__(self) -> str:
        return printable(self.verdict())

    def __repr__(self) -> str:
        return str(self)


def _interval(middle: float | None, low: float | None, high: float | None, metric: str, sign: str = "") -> str:
    if middle is None or low is None or high is None:
        return ""
    known = metric_named(metric)
    scale, digits = known.scale, known.digits
    return f"{scale * middle:{sign}z.{digits}f} [{scale * low:{sign}z.{digits}f}, {scale * high:{sign}z.{digits}f}]"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
