"""Recorded experiments, as the notebooks read them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pifi_probe.checks.session import recorded
from pifi_probe.errors import PifiProbeError
from pifi_probe.reading import read_object
from pifi_probe.vocabulary import in_words_of_today

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Record", "experiment"]

FOLDER = "book/_studies/experiments"


@dataclass(frozen=True, repr=False)
class Record:
    """What an experiment of the paper found, as it was recorded; a notebook shows it as text.

    Parameters
    ----------
    name : str
        Of the experiment.
    summary : mapping
        As `pifi_probe.reproduce` writes it; empty while nothing is recorded.
    """

    name: str
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """What makes the record again."""
        return f"pifi-probe reproduce {self.name} --scale small"

    @property
    def findings(self) -> list[dict[str, Any]]:
        """The claims, with what was measured and the verdict."""
        return [in_words_of_today(one) for one in self.summary.get("findings", ())]

    @property
    def measured(self) -> list[dict[str, Any]]:
        """The claims that were measured, in points."""
        return [one for one in self.findings if one["measured"] is not None and one["unit"] == "points"]

    def extra(self, title: str) -> list[dict[str, Any]]:
        """Return the rows of a table that was measured besides the runs; none while nothing is recorded."""
        return list(self.summary.get("extras", {}).get(title, ()))

    def figure(self) -> Figure | None:
        """Plot each claim's difference with its interval; None when nothing was measured."""
        import pandas as pd

        from pifi_probe.reporting.plots import forest

        if not self.measured:
            return None
        rows = [
            {"arm": textwrap.fill(one["says"], 44), "mean": one["measured"], "low": one["low"], "high": one["high"]}
            for one in self.measured
        ]
        return forest(pd.DataFrame(rows), value_label="difference (points)")

    def __repr__(self) -> str:
        if not self.summary:
            return f"{self.name}: nothing is recorded yet; to make it: {self.command}"
        settings = self.summary["settings"]
        lines = [f"{self.summary['title']} ({self.summary['scale']} scale, {settings['seeds']} seeds)"]
        for place, one in enumerate(self.findings, start=1):
            paper = "" if one["paper"] is None else f"the paper {one['paper']:+z.2f} points; "
            here = "nothing measured"
            if one["measured"] is not None:
                here = f"here {one['measured']:+z.2f} [{one['low']:+z.2f}, {one['high']:+z.2f}] {one['unit']}"
            lines += [f"{place}. {one['says']}", f"   {paper}{here}: {one['verdict']}"]
        lines += [f"left out: {name}" for name in self.summary["left_out"]]
        return "\n".join([*lines, f"made by: {self.command}"])


def experiment(name: str) -> Record:
    """Read a recorded experiment.

    Parameters
    ----------
    name : str
        Such as ``"nlg"``; the record is ``book/_studies/experiments/NAME/summary.json``.

    Returns
    -------
    Record
        An empty one, which says how to make it, while there is none.
    """
    try:
        file = recorded(f"{FOLDER}/{name}/summary.json")
    except PifiProbeError:
        return Record(name)
    return Record(name, read_object(file))
