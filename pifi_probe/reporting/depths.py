"""Plots of scores over the depth of a model: curves in panels, and a heat map of layers against estimators."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from pifi_probe.escaping import printable
from pifi_probe.reporting.looks import ARMS, INK, looks_of, styled
from pifi_probe.reporting.plots import MAX_LABEL, checked, framed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["depth_heatmap", "depth_panels"]

NULL = ARMS["twins"][0]
SHADES = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")  # of viridis (CC0), darkest first
WORST = -len(SHADES)


def depth_panels(frame: pd.DataFrame, *, depth_label: str = "depth") -> Figure:
    """Plot scores against depth, one panel per estimator.

    Parameters
    ----------
    frame : DataFrame
        Columns ``panel`` (its title), ``series``, ``depth`` and ``value``; where known ``low`` and ``high`` (a band),
        ``null_mean`` and ``null_high`` (a grey band: under permuted labels), ``best`` (a filled marker: cannot be told
        from the best) and ``unit``. A row without a depth (NaN), such as a control, becomes a dashed line across.
    depth_label : str
        Name of the shared axis.

    Raises
    ------
    PifiProbeError
        If a column is missing or there is nothing to plot.
    """
    rows = checked(frame, ("panel", "series", "depth", "value"), "value")
    panels = list(dict.fromkeys(rows["panel"]))
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    looks = looks_of(rows["series"])
    with styled():
        from pifi_probe.reporting.figure import Figure

        figure = Figure(figsize=(0.6 + 3.5 * columns, 0.9 + 2.2 * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False, sharex=True).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            _panel(axes, rows[rows["panel"] == panel], looks)
            axes.set_title(textwrap.fill(printable(panel)[:MAX_LABEL], 44), fontsize="medium", loc="left")
        for axes in grid[len(panels) :]:
            axes.remove()
        for axes in grid[max(0, len(panels) - columns) : len(panels)]:
            axes.set_xlabel(printable(depth_label), fontsize="small")
            axes.tick_params(labelbottom=True)
        _explain(figure, rows, looks)
    return figure


def _panel(axes: Axes, rows: pd.DataFrame, looks: dict[Any, tuple[str, str]]) -> None:
    for series, own in rows.groupby("series", sort=False):
        colour, marker = looks[series]
        for level in own.loc[own["depth"].isna(), "value"]:
            axes.axhline(level, color=colour, linestyle="--", linewidth=1.2)
        curve = own.dropna(subset="depth").sort_values("depth").astype({"depth": float})
        if not len(curve):
            continue
        x = curve["depth"].to_numpy()
        if _known(curve, "null_mean", "null_high"):
            axes.fill_between(x, curve["null_mean"], curve["null_high"], color=NULL, alpha=0.35, linewidth=0)
        if _known(curve, "low", "high"):
            axes.fill_between(x, curve["low"], curve["high"], color=colour, alpha=0.2, linewidth=0)
        axes.plot(x, curve["value"], color=colour, linewidth=1.4)
        best = curve["best"].to_numpy(dtype=bool) if "best" in curve else np.zeros(len(curve), dtype=bool)
        axes.plot(x[best], curve["value"][best], marker, color=colour, markersize=4.5)
        axes.plot(x[~best], curve["value"][~best], marker, color=colour, markersize=2.5, fillstyle="none")
    low, high = axes.get_ylim()
    if low < 0 < high:
        axes.axhline(0, color=INK, linewidth=0.8)
    if "unit" in rows:
        axes.set_ylabel(textwrap.fill(printable(rows["unit"].iloc[0]), 22))


def _known(rows: pd.DataFrame, *columns: str) -> bool:
    return all(column in rows and rows[column].notna().any() for column in columns)


def _explain(figure: Figure, rows: pd.DataFrame, looks: dict[Any, tuple[str, str]]) -> None:
    """Say above the panels what lines, bands and markers mean."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    layered = set(rows.loc[rows["depth"].notna(), "series"])
    handles: list[Any] = []
    for name, (colour, marker) in looks.items():
        look: dict[str, Any] = {"marker": marker} if name in layered else {"linestyle": "--"}
        handles.append(Line2D([], [], color=colour, markersize=4.5, label=printable(name)[:MAX_LABEL], **look))
    if "best" in rows and rows["best"].any():
        handles.append(Line2D([], [], color=INK, marker="o", markersize=4.5, linestyle="", label="among the best"))
    if _known(rows, "low", "high"):
        colour = next(iter(looks.values()))[0]
        handles.append(Patch(color=colour, alpha=0.2, linewidth=0, label="95 % interval"))
    if _known(rows, "null_mean", "null_high"):
        handles.append(Patch(color=NULL, alpha=0.35, linewidth=0, label="permuted labels: mean to best 5 %"))
    figure.legend(handles=handles, loc="outside upper left", ncols=2, fontsize="small")


def depth_heatmap(frame: pd.DataFrame, *, depth_label: str = "depth") -> Figure:
    """Plot layers against estimators: how far every score lies behind the best of its row.

    Parameters
    ----------
    frame : DataFrame
        Columns ``row`` (the estimator), ``depth`` and ``behind`` (0 for the best, negative behind it; in half-widths
        of the interval, so that differences within the noise look alike); optionally ``best``: a dot marks what
        cannot be told from the best. A row without a value stays empty.
    depth_label : str
        Name of the axis.

    Raises
    ------
    PifiProbeError
        If a column is missing or there is nothing to plot.
    """
    rows = checked(frame, ("row", "depth", "behind"), "behind")
    depths = range(int(rows["depth"].min()), int(rows["depth"].max()) + 1)
    names = list(dict.fromkeys(rows["row"]))
    cells = rows.pivot(index="row", columns="depth", values="behind").reindex(names, columns=depths)
    with styled():
        import seaborn
        from matplotlib.colors import BoundaryNorm, ListedColormap

        figure, (axes,) = framed(max(6.0, 2.8 + 0.19 * len(depths)), 1.5 + 0.3 * len(cells), 1)
        norm = BoundaryNorm(np.arange(WORST, 1), len(SHADES))
        shown = cells.clip(WORST + 1e-6, -1e-6)
        seaborn.heatmap(shown, ax=axes, cmap=ListedColormap(list(SHADES)), norm=norm, cbar=False, yticklabels=False)
        if "best" in rows:
            x, y = rows["depth"] - depths[0] + 0.5, rows["row"].map(names.index) + 0.5
            best = rows["best"].to_numpy(dtype=bool)
            axes.plot(x[best], y[best], "o", color="#000001", markersize=3.5, markeredgecolor="#f4f4f4")
        axes.set_yticks(np.arange(len(names)) + 0.5, [printable(name)[:MAX_LABEL] for name in names])
        axes.set_ylabel("")
        axes.set_xlabel(printable(depth_label))
        axes.grid(False)
        bar = figure.colorbar(
            axes.collections[0], ax=axes, orientation="horizontal", location="top", shrink=0.6, aspect=30
        )
        bar.set_label("behind the best, in half-widths of the interval", fontsize="small")
        bar.set_ticks([*range(WORST, 1)], labels=["worse", *map(str, range(WORST + 1, 0)), "best"])
        bar.ax.tick_params(labelsize="small")
    return figure
