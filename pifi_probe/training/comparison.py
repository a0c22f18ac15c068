"""`Comparison`: a table of arms and test sets, with intervals and verdicts."""

from __future__ import annotations

import html
import json
import textwrap
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pifi_probe.escaping import printable
from pifi_probe.files import write_text
from pifi_probe.training.ladder import Effect, answer, needed
from pifi_probe.training.result import SHARES
from pifi_probe.training.sight import Plugged, check_sight

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["Comparison", "Row"]

HEADINGS = ("test", "arm", "seeds", "mean", "difference", "balanced accuracy", "AUROC", "verdict")


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
        Two-sided, adjusted for the number of arms on this test set (Holm).
    balanced_accuracy, auroc : float or None
        Means over seeds.
    verdict : str
        In words.
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

    def cells(self, metric: str) -> tuple[str, ...]:
        """Return the row as text, one cell for each of `HEADINGS`; shares in percent."""
        return (
            self.test,
            self.arm,
            str(len(self.seeds)),
            _interval(self.mean, self.low, self.high, metric),
            _interval(self.difference, self.difference_low, self.difference_high, metric, sign="+"),
            _percent(self.balanced_accuracy),
            _percent(self.auroc),
            self.verdict,
        )


@dataclass(frozen=True)
class Comparison:
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
    """

    rows: tuple[Row, ...]
    metric: str
    level: float
    sizes: dict[str, int]
    effects: tuple[Effect, ...] = ()
    missing: dict[str, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    donors: tuple[Plugged, ...] = ()

    @property
    def answer(self) -> str:
        """One to three plain sentences about the task's own test set, for each wiring."""
        return self.answers()[0][1] if len(self.answers()) == 1 else "\n".join(": ".join(a) for a in self.answers())

    def answers(self, test: str | None = None) -> list[tuple[str, str]]:
        """Return wiring and answer for one test set (the task's own)."""
        test = test or self.rows[0].test
        own = [effect for effect in self.effects if effect.test == test and effect.metric == self.metric]
        wirings = dict.fromkeys(effect.wiring for effect in own)
        return [(name, answer([e for e in own if e.wiring == name], self.unit)) for name in wirings] or [
            ("", answer([]))
        ]

    @property
    def unit(self) -> str:
        """Unit of the metric in words."""
        return "points" if self.metric in SHARES else {"nll": "nats"}.get(self.metric, self.metric.replace("_", " "))

    def needed(self) -> list[str]:
        """Say for every undecided effect of the task's own test set what would decide it."""
        lines = []
        for effect in self.effects:
            if effect.test != self.rows[0].test or effect.metric != self.metric or effect.verdict != "undecided":
                continue
            more = needed(effect, seconds_a_run=self.seconds, level=self.level)
            what = f"{effect.wiring}, {effect.name}: "
            if more is None:
                lines.append(f"{what}more seeds alone do not decide it; more test texts would narrow it")
            else:
                seeds, arms, seconds = more
                lines.append(f"{what}about {seeds} more seed{'s' * (seeds != 1)} of {arms} arms, {_time(seconds)}")
        return lines

    def sight(self) -> list[str]:
        """Say, where no effect of the weights was found, whether these layers could have shown one.

        From the positive controls that this machine has measured; nothing is measured here. Empty where an effect was
        found, or nothing was asked of the weights.
        """
        asked = [e for e in self.effects if e.name == "knowledge" and e.metric == self.metric]
        if not asked or any(effect.verdict == "better" for effect in asked):
            return []
        found = [check_sight(one) for one in self.donors]
        return [f"{one.finding}{'; ' * bool(one.advice)}{one.advice}" for one in found]

    def ladder(self) -> pd.DataFrame:
        """Return the rungs from the encoder alone to the real layers: what `plot` shows.

        One row per test set, wiring and group of arms ("vanilla", "linear", "twins", "real"): the difference to the
        encoder alone with its interval, in points for shares. Empty without an encoder alone.
        """
        import pandas as pd

        groups = {"projections": "linear", "twins": "twins", "plugging in": "real"}
        scale = 100.0 if self.metric in SHARES else 1.0
        rows: list[dict[str, Any]] = []
        for effect in self.effects:
            if effect.metric != self.metric or effect.name not in groups:
                continue
            panel = f"{effect.test}, {effect.wiring}"
            if not any(row["panel"] == panel for row in rows):
                rows.append({"panel": panel, "group": "vanilla", "mean": 0.0, "low": 0.0, "high": 0.0})
            bounds = {name: scale * getattr(effect, name) for name in ("mean", "low", "high")}
            rows.append({"panel": panel, "group": groups[effect.name], **bounds})
        return pd.DataFrame(rows, columns=["panel", "group", "mean", "low", "high"])

    def plot(self) -> Figure:
        """Plot the ladder: encoder alone, + projections, + twins, + real layers, with intervals.

        Raises
        ------
        PifiProbeError
            If there is no encoder alone among the arms.
        """
        from pifi_probe.reporting.ladder import ladder

        return ladder(self.ladder(), value_label=f"difference to the encoder alone ({self.unit})")

    def panel(self) -> str:
        """Return the answer in at most eight lines of 80 columns: what a person reads first."""
        lines: list[str] = []
        for wiring, text in self.answers():
            lines += textwrap.wrap(f"{wiring}: {text}" if wiring and len(self.answers()) > 1 else text, 78)
        lacking = [f"{wiring} without {', '.join(names)}" for wiring, names in self.missing.items()]
        last = []
        if lacking and len(lines) < 7:
            last = textwrap.wrap(f"Not told: {'; '.join(lacking)} (train --arms all trains them).", 78)[:2]
        undecided = self.needed()
        if undecided and len(lines) + len(last) < 8:
            last.append(textwrap.shorten(f"To decide {undecided[0]}", 78, placeholder="..."))
        kept = lines[: 8 - len(last)]
        if len(kept) < len(lines):
            kept[-1] = textwrap.shorten(kept[-1] + " (more below)", 78, placeholder=" (more below)")
        return "\n".join([*kept, *last])

    @property
    def frame(self) -> pd.DataFrame:
        """One row per test set and arm; the columns are the fields of `Row`."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])

    @property
    def size(self) -> str:
        """What the table was made from: rows of the splits, seeds, level."""
        seeds = sorted({len(row.seeds) for row in self.rows})
        spread = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        counts = ", ".join(f"{count} {name}" for name, count in self.sizes.items())
        return f"{counts} texts; seeds: {spread}; {self.level:.0%} intervals"

    def verdict(self) -> str:
        """Say in words, one line per test set and arm, what was found."""
        found = [f"{row.test}, {row.arm}: {row.verdict} (against {row.baseline})" for row in self.rows if row.baseline]
        return "\n".join(found) or "one arm alone: nothing to compare"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        return asdict(self) | {"size": self.size}

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the comparison as JSON, and write it to `path`, atomically, when one is given."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"
        if path is not None:
            write_text(path, text)
        return text

    def to_rich(self, title: str = "") -> Table:
        """Return the table for a terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title or None, caption=f"{self.metric}; {self.size}")
        for heading in HEADINGS:
            table.add_column(heading)
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row.cells(self.metric)))  # Text: names may hold [markup]
        return table

    def __str__(self) -> str:
        return printable(self.verdict())

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row.cells(self.metric))}</tr>"
            for row in self.rows
        )
        said = "".join(
            f"<p>{html.escape(f'{wiring}: {text}' if len(self.answers()) > 1 else text)}</p>"
            for wiring, text in self.answers()
        )
        caption = html.escape(f"{self.metric}; {self.size}")
        table = f"<table><caption>{caption}</caption><tr>{head}</tr>{body}</table>"
        return f"{said if self.effects else ''}{table}"


def _interval(middle: float | None, low: float | None, high: float | None, metric: str, sign: str = "") -> str:
    if middle is None or low is None or high is None:
        return ""
    scale, digits = (100.0, 1) if metric in SHARES else (1.0, 3)
    return f"{scale * middle:{sign}.{digits}f} [{scale * low:{sign}.{digits}f}, {scale * high:{sign}.{digits}f}]"


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
