"""Plots of searches, from plain frames: a curve with a band, steps, and scattered points in panels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pifi_probe.escaping import printable
from pifi_probe.reporting.looks import INK, looks_of, styled
from pifi_probe.reporting.plots import MAX_LABEL, add_legend, checked, framed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["depth_with_band", "scatter_panels", "steps"]


def depth_with_band(points: pd.DataFrame, band: pd.DataFrame, *, value_label: str) -> Figure:
    """Plot measured values over depth, and what is believed between them.

    Parameters
    ----------
    points : DataFrame
        Columns ``depth`` (0 to 1; NaN: a control without a layer, a dashed line across), ``series`` and ``value``.
    band : DataFrame
        Columns ``depth``, ``mean``, ``low`` and ``high``; may be empty.
    value_label : str
        Name of the axis.

    Raises
    ------
    PifiProbeError
        If there is nothing to plot.
    """
    rows = checked(points, ("depth", "series", "value"), "value")
    with styled():
        figure, (axes,) = framed(7.0, 4.0, 1)
        if len(band):
            ordered = band.sort_values("depth")
            axes.fill_between(ordered["depth"], ordered["low"], ordered["high"], color=INK, alpha=0.12, linewidth=0)
            axes.plot(ordered["depth"], ordered["mean"], color=INK, linewidth=1.2)
        looks = looks_of(rows["series"])
        flat = set()
        for series, own in rows.groupby("series", sort=False):
            colour, marker = looks[series]
            placed = own.dropna(subset="depth")
            axes.plot(placed["depth"], placed["value"], marker, color=colour)
            if not len(placed):
                flat.add(series)
                axes.axhline(own["value"].mean(), color=colour, linestyle="--", linewidth=1.2)
        axes.set_xlabel("depth of the layer (0: first, 1: last)")
        axes.set_ylabel(printable(value_label))
        add_legend(figure, looks, dashed=flat)
    return figure


def steps(frame: pd.DataFrame, *, x_label: str, value_label: str) -> Figure:
    """Plot how a value falls: columns ``cost`` and ``value``.

    Raises
    ------
    PifiProbeError
        If there is nothing to plot.
    """
    rows = checked(frame, ("cost", "value"), "value")
    with styled():
        figure, (axes,) = framed(7.0, 3.4, 1)
        axes.step(rows["cost"], rows["value"], where="post", color=INK, marker="o", markersize=4.5)
        top = axes.get_ylim()[1]
        axes.set_ylim(bottom=min(0.0, rows["value"].min()) - 0.04 * top)  # a step at zero is not hidden by the axis
        axes.set_xlabel(printable(x_label))
        axes.set_ylabel(printable(value_label))
    return figure


def scatter_panels(frame: pd.DataFrame, *, x_label: str, y_label: str) -> Figure:
    """Plot points in panels.

    Parameters
    ----------
    frame : DataFrame
        Columns ``panel`` (its title), ``x``, ``y``, ``series``, and where known ``best`` (a filled marker).
    x_label, y_label : str

    Raises
    ------
    PifiProbeError
        If there is nothing to plot.
    """
    rows = checked(frame, ("panel", "x", "y", "series"), "y")
    panels = list(dict.fromkeys(rows["panel"]))
    looks = looks_of(rows["series"])
    with styled():
        figure, axes_of = framed(1.0 + 3.8 * len(panels), 3.8, len(panels))
        for axes, panel in zip(axes_of, panels, strict=True):
            for row in rows[rows["panel"] == panel].itertuples():
                colour, marker = looks[row.series]
                axes.plot(
                    row.x, row.y, marker, color=colour, fillstyle="full" if getattr(row, "best", True) else "none"
                )
            axes.set_title(printable(panel)[:MAX_LABEL], fontsize="medium", loc="left")
            axes.set_xlabel(printable(x_label))
        axes_of[0].set_ylabel(printable(y_label))
        add_legend(figure, looks)
    return figure
