"""The picture of the ladder: encoder alone, two projections, a twin of the layer, the layer itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pifi_probe.escaping import printable
from pifi_probe.reporting.looks import ARMS, INK, styled
from pifi_probe.reporting.plots import FILLED, MAX_LABEL, checked, framed, interval_mark

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["ladder"]

NAMES = {
    "vanilla": "encoder alone",
    "linear": "+ two projections",
    "twins": "+ a random twin",
    "real": "+ the real layer",
}


def ladder(frame: pd.DataFrame, *, value_label: str = "difference to the encoder alone (points)") -> Figure:
    """Plot the steps from the encoder alone to the real layer, with intervals: one panel per panel name.

    Parameters
    ----------
    frame : DataFrame
        Columns ``group`` ("vanilla", "linear", "twins" or "real"), ``mean``, ``low`` and ``high``; optionally
        ``panel``, such as a test set. A marker is filled where the interval leaves out zero.
    value_label : str
        Name of the axis.

    Raises
    ------
    PifiProbeError
        If a column is missing or there is nothing to plot.
    """
    rows = checked(frame, ("group", "mean", "low", "high"), "mean")
    rows = rows if "panel" in rows else rows.assign(panel="")
    panels, groups = list(dict.fromkeys(rows["panel"])), [name for name in ARMS if name in set(rows["group"])]
    with styled():
        figure, all_axes = framed(2.6 + 2.4 * len(panels), 1.3 + 0.42 * len(groups), len(panels), sharey=True)
        for axes, panel in zip(all_axes, panels, strict=True):
            axes.axvline(0, color=INK, linewidth=0.8)
            for row in rows[rows["panel"] == panel].itertuples():
                whole = {"fillstyle": "full"} if row.group == "vanilla" else {}  # zero itself
                place, look = groups.index(row.group), ARMS[row.group]
                interval_mark(axes, place, row.mean, row.low, row.high, look, width=2.2, **whole)
            axes.set_title(printable(panel)[:MAX_LABEL])
        all_axes[0].set_yticks(range(len(groups)), [NAMES[name] for name in groups])
        all_axes[0].set_ylim(len(groups) - 0.5, -0.5)
        figure.supxlabel(f"{printable(value_label)}\n{FILLED}", fontsize="medium")
    return figure
