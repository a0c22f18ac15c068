"""What stands first wherever runs are compared: the answer in words, a panel for a terminal, sections of a report."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pifi_probe.kinds import metric_named
from pifi_probe.ladder import Effect, answer, needed
from pifi_probe.units import duration

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pifi_probe.reporting.html import Section

__all__ = ["COLUMNS", "LINES", "Tells", "needed_lines"]

LINES, COLUMNS = 8, 80  # of a panel, at most
_GROUPS = {"projections": "linear", "twins": "twins", "plugging in": "real"}  # effects that are steps of the picture
_ALT = (
    "Difference to the encoder alone in {unit}, with intervals: two projections, random and shuffled twins of the "
    "layers, and the real layers; one panel per test set and wiring."
)


class Tells:
    """What tells an answer from effects of the ladder: a comparison, or what a search found.

    Attributes
    ----------
    effects : tuple of Effect
    metric : str
        The one that the answer is about.
    level : float
    missing : dict of str to list of str
        See `pifi_probe.ladder.missing`.
    """

    effects: tuple[Effect, ...]
    metric: str
    level: float
    missing: dict[str, list[str]]
    _trained_by: ClassVar[str] = "train --arms all trains them"

    def answers(self, test: str | None = None) -> list[tuple[str, str]]:
        """Return wiring and answer for one test set (the task's own)."""
        own = self._own(test)
        wirings = dict.fromkeys(effect.wiring for effect in own)
        told = [(name, answer([e for e in own if e.wiring == name], self.unit, self._plugged())) for name in wirings]
        lacking = list(dict.fromkeys(name for names in self.missing.values() for name in names))
        return told or [("", answer([], lacking=lacking))]

    @property
    def answer(self) -> str:
        """One to three plain sentences about the task's own test set, for each wiring."""
        told = self.answers()
        return told[0][1] if len(told) == 1 else "\n".join(": ".join(each) for each in told)

    @property
    def unit(self) -> str:
        """Unit of the metric in words."""
        return metric_named(self.metric).of_differences

    def needed(self) -> list[str]:
        """Say for every undecided effect of the task's own test set what would decide it."""
        undecided = [effect for effect in self._own() if effect.verdict == "undecided"]
        return needed_lines(undecided, self._seconds_a_run(), self.level)

    def sight(self) -> list[str]:
        """Say whether a 'no effect' could have been anything else, where that is known."""
        return []

    def ladder(self) -> pd.DataFrame:
        """Return the steps from the encoder alone to the real layers: what `plot` shows.

        One row per test set, wiring and group of arms ("vanilla", "linear", "twins", "real"): the difference to the
        encoder alone with its interval, in points for shares. Empty without an encoder alone.
        """
        import pandas as pd

        scale = metric_named(self.metric).scale
        rows: list[dict[str, Any]] = []
        for effect in self.effects:
            if effect.metric != self.metric or effect.name not in _GROUPS:
                continue
            panel = ", ".join(part for part in (effect.test, effect.wiring) if part)
            if not any(row["panel"] == panel for row in rows):
                rows.append({"panel": panel, "group": "vanilla", "mean": 0.0, "low": 0.0, "high": 0.0})
            bounds = {name: scale * getattr(effect, name) for name in ("mean", "low", "high")}
            rows.append({"panel": panel, "group": _GROUPS[effect.name], **bounds})
        return pd.DataFrame(rows, columns=["panel", "group", "mean", "low", "high"])

    def plot_ladder(self) -> Figure:
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
        told = self.answers()
        lines: list[str] = []
        for wiring, text in told:
            lines += textwrap.wrap(f"{wiring}: {text}" if wiring and len(told) > 1 else text, COLUMNS - 2)
        last = self._last_lines(LINES - min(len(lines), LINES - 1))
        kept = lines[: LINES - len(last)]
        if len(kept) < len(lines):
            kept[-1] = textwrap.shorten(kept[-1] + " (more below)", COLUMNS - 2, placeholder=" (more below)")
        return "\n".join([*kept, *last])

    def _last_lines(self, room: int) -> list[str]:
        last = []
        if self.missing and room > 1:
            last = textwrap.wrap(self._not_told(), COLUMNS - 2)[:2]
        undecided = self.needed()
        if undecided and len(last) < room:
            lines = textwrap.wrap(f"To decide {undecided[0]}", COLUMNS - 2)
            last += lines if len(last) + len(lines) <= room else []
        return last

    def sections(self, title: str = "The answer") -> list[Section]:
        """Return what stands first in a report: the answer in words, and the ladder where there is one."""
        said = [f"{wiring}: {text}" if wiring else text for wiring, text in self.answers()]
        lacking = [self._not_told()] if self.missing else []
        first: Section = {"title": title, "text": "\n".join([*said, *lacking, *self.needed(), *self.sight()])}
        if len(self.ladder()):
            first["figure"] = self.plot_ladder()
            first["alt"] = _ALT.format(unit=self.unit)
        return [first]

    def _not_told(self) -> str:
        """Name the arms without which some effects cannot be told, and the command that trains them."""
        lacking = [f"{wiring} without {', '.join(names)}".strip() for wiring, names in self.missing.items()]
        return f"Not told: {'; '.join(lacking)} ({self._trained_by})."

    def _own(self, test: str | None = None) -> list[Effect]:
        """Return the effects on one test set (the task's own) in the metric of the answer."""
        own = [effect for effect in self.effects if effect.metric == self.metric]
        test = test or (own[0].test if own else "")
        return [effect for effect in own if effect.test == test]

    def _plugged(self) -> str:
        """Name what is plugged in, where it is one thing."""
        return ""

    def _seconds_a_run(self) -> float:
        raise NotImplementedError


def needed_lines(undecided: Sequence[Effect], seconds: float, level: float) -> list[str]:
    """Say what would decide each effect, at so many seconds a run; those that seeds cannot decide share a line."""
    lines, beyond = [], []
    for effect in undecided:
        more = needed(effect, seconds_a_run=seconds, level=level)
        what = ", ".join(part for part in (effect.wiring, effect.name) if part)
        if more is None:
            beyond.append(what)
        else:
            seeds, arms, total = more
            lines.append(f"{what}: about {seeds} more seed{'s' * (seeds != 1)} of {arms} arms, {duration(total)}")
    if beyond:
        names = ("; " if any("," in what for what in beyond) else ", ").join(beyond)
        it, them = ("it", "it") if len(beyond) == 1 else ("these", "them")
        lines.append(f"{names}: more seeds alone do not decide {it}; more test texts would narrow {them}")
    return lines
