"""Quality over latency: what is paid for what is gained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pifi_probe.reporting.looks import INK, looks_of, styled
from pifi_probe.reporting.plots import framed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["pareto"]


def pareto(frame: pd.DataFrame, title: str = "") -> Figure:
    """Plot quality over the 90th percentile of latency, and join the arms that no other beats in both.

    Parameters
    ----------
    frame : DataFrame
        Columns ``arm``, ``metric``, ``quality``, ``low``, ``high``, ``P90 ms`` and ``file MB``, to which the area of a
        mark is in proportion. Rows without quality or latency are left out.
    """
    rows = frame.dropna(subset=["quality", "P90 ms"]).sort_values(["P90 ms", "quality"], ascending=[True, False])
    larger_is_better = not any(name.endswith("error") for name in rows["metric"])
    with styled():
        figure, (axes,) = framed(7.0, 4.4, 1)
        looks, most = looks_of(frame["arm"]), rows["file MB"].max()
        best, front = None, []
        for row in rows.to_dict("records"):
            x, y, colour = row["P90 ms"], row["quality"], looks[row["arm"]][0]
            if best is None or (y > best if larger_is_better else y < best):
                best = y
                front.append((x, y))
            axes.errorbar(x, y, [[y - row["low"]], [row["high"] - y]], color=colour, linewidth=1)
            size = 30 + 270 * row["file MB"] / most
            axes.scatter([x], [y], s=size, color=colour, marker=looks[row["arm"]][1], label=row["arm"], alpha=0.85)
        axes.plot(*zip(*front, strict=True), color=INK, linewidth=1, linestyle="--", zorder=0)
        axes.set_xlabel("P90 of one text at a time (ms), forward pass")
        axes.set_ylabel(rows["metric"].iloc[0].replace("_", " ") if len(rows) else "quality")
        axes.set_title(title)
        figure.legend(loc="outside right upper", title="mark: size of file")
    return figure
