"""Plots from plain frames: colours that colour-blind readers tell apart, each with a shape of its own."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pifi_probe.errors import PifiProbeError
from pifi_probe.escaping import printable
from pifi_probe.reporting.looks import ARMS, INK, group_of, looks_of, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FILLED",
    "MAX_LABEL",
    "add_legend",
    "checked",
    "depth_curve",
    "forest",
    "framed",
    "interval_mark",
    "learning_curves",
]

MAX_LABEL = 60
FILLED = "filled: the interval leaves out zero"


def depth_curve(
    frame: pd.DataFrame, *, value_label: str = "difference to vanilla (points)", depth_label: str = "layer"
) -> Figure:
    """Plot a value against the depth of the layer.

    Parameters
    ----------
    frame : DataFrame
        Columns ``depth`` (number), ``series`` and ``mean``, and where known ``low`` and ``high``. A row without a
        depth (NaN), such as a control, becomes a dashed line across.
    value_label, depth_label : str
        Names of the axes.

    Raises
    ------
    PifiProbeError
        If a column is missing or there is nothing to plot.
    """
    rows = checked(frame, ("depth", "series", "mean"), "mean")
    with styled():
        figure, (axes,) = framed(7.0, 4.0, 1)
        looks = looks_of(rows["series"])
        reach = rows["depth"].max() - rows["depth"].min()
        aside = min(0.012 * reach, 0.5 / max(len(looks), 1))  # intervals side by side, each nearest to its own layer
        for place, (series, own) in enumerate(rows.groupby("series", sort=False)):
            colour, marker = looks[series]
            curve = own.dropna(subset="depth").sort_values("depth")
            for level in own.loc[own["depth"].isna(), "mean"]:
                axes.axhline(level, color=colour, linestyle="--", linewidth=1.2)
            if len(curve):
                x = curve["depth"] + aside * (place - (len(looks) - 1) / 2)
                axes.errorbar(x, curve["mean"], yerr=_bars(curve), color=colour, marker=marker, capsize=3)
        low, high = axes.get_ylim()
        if low < 0 < high:
            axes.axhline(0, color=INK, linewidth=0.8)
        whole_ticks(axes, rows["depth"])
        axes.set_xlabel(printable(depth_label))
        axes.set_ylabel(printable(value_label))
        add_legend(figure, looks, dashed=set(rows.loc[rows["depth"].isna(), "series"]))
    return figure


def forest(frame: pd.DataFrame, *, value_label: str = "difference to vanilla (points)") -> Figure:
    """Plot arms against their differences, with intervals: one panel per group.

    Parameters
    ----------
    frame : DataFrame
        Columns ``arm``, ``mean``, ``low`` and ``high``; optionally ``group`` (such as the test set), and ``of``, the
        arm's place in `pifi_probe.reporting.looks.ARMS` where its name does not tell it ("" for none). Rows without
        a mean are left out. A marker is filled where the interval leaves out zero; colour and shape are those of
        the arm's group (`pifi_probe.reporting.looks`), black dots where its name does not tell.
    value_label : str
        Name of the axis.

    Raises
    ------
    PifiProbeError
        If a column is missing or there is nothing to plot.
    """
    rows = checked(frame, ("arm", "mean", "low", "high"), "mean")
    rows = rows if "group" in rows else rows.assign(group="")
    arms, groups = list(dict.fromkeys(rows["arm"])), list(dict.fromkeys(rows["group"]))
    with styled():
        names = ["\n".join(line[:MAX_LABEL] for line in printable(arm).splitlines()) for arm in arms]
        height = 1.4 + 0.34 * sum(1 + 0.5 * name.count("\n") for name in names)
        figure, panels = framed(3.0 + 2.6 * len(groups), height, len(groups), sharex=True, sharey=True)
        for axes, group in zip(panels, groups, strict=True):
            own = rows[rows["group"] == group]
            for row in own.itertuples():
                position = arms.index(row.arm)
                of = getattr(row, "of", group_of(row.arm))
                interval_mark(axes, position, row.mean, row.low, row.high, ARMS[of] if of else (INK, "o"))
            axes.axvline(0, color=INK, linewidth=0.8)
            axes.set_title(printable(group)[:MAX_LABEL])
        panels[0].set_yticks(range(len(arms)), names)
        panels[0].set_ylim(len(arms) - 0.5, -0.5)
        said = textwrap.fill(printable(value_label), int(11 * figure.get_figwidth()))
        figure.supxlabel(f"{said}\n{FILLED}", fontsize="medium")
    return figure


def learning_curves(
    frame: pd.DataFrame, *, value_label: str = "validation accuracy", step_label: str = "step"
) -> Figure:
    """Plot a value against training steps: the mean over seeds, and a band from the lowest to the highest.

    Parameters
    ----------
    frame : DataFrame
        Columns ``step``, ``value`` and ``series``; rows of equal step and series are seeds.
    value_label, step_label : str
        Names of the axes.

    Raises
    ------
    PifiProbeError
        If a column is missing or there is nothing to plot.
    """
    rows = checked(frame, ("step", "value", "series"), "value")
    with styled():
        figure, (axes,) = framed(7.0, 4.0, 1)
        looks = looks_of(rows["series"])
        for series, own in rows.groupby("series", sort=False):
            colour, marker = looks[series]
            curve = own.groupby("step")["value"].agg(["mean", "min", "max"])
            axes.plot(curve.index, curve["mean"], color=colour, marker=marker)
            axes.fill_between(curve.index, curve["min"], curve["max"], color=colour, alpha=0.2, linewidth=0)
        whole_ticks(axes, rows["step"])
        axes.set_xlabel(printable(step_label))
        axes.set_ylabel(printable(value_label))
        add_legend(figure, looks)
    return figure


def checked(frame: pd.DataFrame, columns: Sequence[str], value: str) -> pd.DataFrame:
    """Return the rows that have a value; a missing column, or no such row, is an error."""
    missing = [column for column in columns if column not in frame]
    if missing:
        raise PifiProbeError(
            f"the frame has no column {missing[0]!r}", where=f"columns {', '.join(map(str, frame))}", next="rename one"
        )
    rows = frame.dropna(subset=value)
    if not len(rows):
        raise PifiProbeError("there is nothing to plot", where=f"column {value!r}", next="give rows with values")
    return rows


def interval_mark(
    axes: Axes, y: float, mean: Any, low: Any, high: Any, look: tuple[str, str], *, width: float = 1.6, **mark: Any
) -> None:
    """Draw an interval and its mean at a height, the marker filled where the interval leaves out zero.

    Parameters
    ----------
    look : tuple of str
        Colour and marker.
    width : float
        Of the interval's line, in points.
    **mark
        Of the marker, as `matplotlib.axes.Axes.plot` takes it.
    """
    colour, marker = look
    axes.plot([low, high], [y, y], color=colour, linewidth=width)
    filled = "full" if low > 0 or high < 0 else "none"
    axes.plot(mean, y, marker, **{"color": colour, "fillstyle": filled} | mark)


def framed(width: float, height: float, panels: int, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of this size in inches, with panels side by side."""
    from pifi_probe.reporting.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False, **options)[0])


def whole_ticks(axes: Axes, values: pd.Series[Any]) -> None:
    """Set ticks at whole numbers where all values are: there is no layer 1.5 and no epoch 1.25."""
    from matplotlib.ticker import MaxNLocator

    known = values.dropna()
    if len(known) and (known % 1 == 0).all():
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def _bars(rows: pd.DataFrame) -> Any:
    """Return the lengths of error bars, (2, n), or None without intervals."""
    if "low" not in rows or "high" not in rows:
        return None
    return [(rows["mean"] - rows["low"]).clip(lower=0), (rows["high"] - rows["mean"]).clip(lower=0)]


def add_legend(
    figure: Figure, looks: dict[Any, tuple[str, str]], dashed: frozenset[Any] | set[Any] = frozenset()
) -> None:
    """Add the names of series above the axes, as many next to each other as there is room for."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker="" if name in dashed else marker, linestyle="--" if name in dashed else "-")
        for name, (colour, marker) in looks.items()
    ]
    names = [printable(name)[:MAX_LABEL] for name in looks]
    room = int(12 * figure.get_figwidth()) // (max(map(len, names), default=0) + 7)  # names in a line
    figure.legend(handles, names, loc="outside upper left", ncols=max(1, min(3, len(names), room)))
