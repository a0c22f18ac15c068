"""What the donor's states add on each task of the study, and how much of it the chain brings: tables, picture, misses.

Called by `aligned_page.py`. The headroom is the donor's own probe at the chain's exit with the encoder, minus the
encoder alone; the gain is the real chain with the encoder, minus the encoder alone. Both are from one table of one run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from weights import THEMES

from pifi_probe.ranking import rank_agreement
from pifi_probe.reporting.looks import ARMS
from pifi_probe.stats import Interval, smallest_detectable

PICTURES = Path(__file__).resolve().parent.parent / "_pictures"
WHO = {"headroom": "donor", "gain": "real"}  # what is read with the encoder
Gains = dict[str, dict[str, dict[str, Any]]]  # task -> "headroom", "gain" -> difference, low, high in shares


def table_of(lines: list[list[str]]) -> str:
    """Return lines of cells as a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])


def shown(row: dict[str, Any], bold: bool = False) -> str:
    """Return a difference in points with its interval, which does not break inside its brackets."""
    text = f"{100 * row['difference']:+.1f} [{100 * row['low']:.1f},\u00a0{100 * row['high']:.1f}]"
    return f"**{text}**" if bold else text


def gains(everything: dict[str, dict[str, Any]], difference: Any) -> Gains:
    """Return headroom and gain of every task, the largest headroom first."""
    found: Gains = {}
    for name, record in everything.items():
        test, n = record["info"]["task"], record["info"]["n_train"]
        rows = {key: difference(record, arm, "encoder", test, n) for key, arm in WHO.items()}
        found[name] = rows
    return dict(sorted(found.items(), key=lambda item: -item[1]["headroom"]["difference"]))


def section(found: Gains) -> str:
    """Return the section with its table and the rank agreement."""
    if len(found) < 4:
        return ""
    lines = [["task", "headroom", "gain of the chain"]]
    lines += [[name, *(shown(row[key]) for key in WHO)] for name, row in found.items()]
    points = {key: [row[key]["difference"] for row in found.values()] for key in WHO}
    agreement = rank_agreement(points["headroom"], points["gain"])
    pictures = "\n\n".join(
        f"```{{image}} _pictures/headroom-gain-{theme}.svg\n:class: only-{theme}\n"
        ":alt: The gain of the chain over the headroom of each task with intervals; gains rise with the headroom and "
        "stay below the line where they would be equal.\n```"
        for theme in THEMES
    )
    return (
        "## Does headroom predict the gain?\n\n"
        f"Over {len(found)} tasks the ranks of headroom and gain agree with Kendall's tau "
        f"{agreement['kendall']:.2f} (1: the same order). Headroom is what the donor's own states at the chain's exit "
        "add to the encoder: they need all layers below and the donor's tokenizer. In points, with 95 % intervals "
        f"over test texts:\n\n{table_of(lines)}\n\n{pictures}"
    )


def draw(found: Gains) -> None:
    """Write the picture in both themes."""
    parts = ("difference", "low", "high")
    found = {
        name: {key: {part: 100 * own[part] for part in parts} for key, own in row.items()}
        for name, row in found.items()
    }
    real, marker = ARMS["real"]
    for theme, ink in THEMES.items():
        keys = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
        style = {"svg.hashsalt": "headroom", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
        with matplotlib.rc_context(style | dict.fromkeys(keys, ink)):
            figure, axes = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
            for row in found.values():
                x, y = row["headroom"], row["gain"]
                axes.plot([x["low"], x["high"]], [y["difference"]] * 2, color=ink, alpha=0.4, linewidth=1)
                axes.plot([x["difference"]] * 2, [y["low"], y["high"]], color=real, linewidth=1.6)
                filled = "full" if y["low"] > 0 or y["high"] < 0 else "none"
                axes.plot(x["difference"], y["difference"], marker, color=real, markersize=5, fillstyle=filled)
            top = max(row["headroom"]["difference"] for row in found.values())
            axes.plot([0, top], [0, top], color=ink, linewidth=0.7, linestyle=":")
            axes.axhline(0, color=ink, linewidth=0.7)
            _name(axes, {name: tuple(row[key]["difference"] for key in WHO) for name, row in found.items()})
            axes.set(xlabel="headroom: the donor's own states add (points)", ylabel="the chain adds (points)")
            figure.savefig(PICTURES / f"headroom-gain-{theme}.svg", transparent=True, metadata={"Date": None})
            plt.close(figure)


def _name(axes: Any, points: dict[str, tuple[float, ...]]) -> None:
    """Write each name next to its point, at the first of four places where it covers no other name or point."""
    axes.figure.canvas.draw()
    size = 8.0  # of the font, in points
    scale = axes.figure.dpi / 72
    pixels = {name: axes.transData.transform(point) / scale for name, point in points.items()}
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in pixels.values()]
    for name, (x, y) in pixels.items():
        width, height = 0.55 * size * len(name), size
        for dx, dy, side in ((6, 4, "left"), (6, -4 - height, "left"), (-6, 4, "right"), (-6, -4 - height, "right")):
            left = x + dx - (width if side == "right" else 0)
            box = (left, y + dy, left + width, y + dy + height)
            if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                break
        taken.append(box)
        axes.annotate(name, points[name], (dx, dy), textcoords="offset points", fontsize=size, ha=side)


def missed(results: dict[str, dict[str, dict[str, Any]]], n_tests: dict[str, int]) -> str:
    """Return, where the claim is not reached, the smallest difference that would have been seen; empty if nowhere.

    Parameters
    ----------
    results : dict
        Of each task, or pair of domains: the difference to each other arm, in shares, with its 95 % interval.
    n_tests : dict
        The number of test texts of each.
    """
    if not results:
        return ""
    lines = [["where", "test texts", "points that would have been found in four of five studies"]]
    for name, own in results.items():
        widest = max(own.values(), key=lambda row: row["high"] - row["low"])
        seen = smallest_detectable(
            Interval(*(widest[key] for key in ("difference", "low", "high", "p_value")), 1, n_tests[name], "")
        )
        lines.append([name, f"{n_tests[name]:,}", f"{100 * seen:.1f}"])
    said = "Where the chain does not beat all four, what could have been found, before the correction:"
    return f"\n\n{said}\n\n{table_of(lines)}"


def depths(records: dict[str, dict[str, Any]]) -> str:
    """Return what encoder, donor and both know at every depth, one folded table a task; empty if nothing is recorded.

    Parameters
    ----------
    records : dict
        Of each task: what `pp.headroom` measured.
    """
    if not records:
        return ""
    parts = [
        "At every depth, of the tasks whose chains were all tried, on training texts. Depth d is the input of layer d; "
        "each depth has an interval of its own. The gain in the title is that of `pp.headroom`, which chooses the "
        "depth of each text without it. Bold: where both together have the best log-likelihood."
    ]
    for name, found in records.items():
        lines = [["depth", "encoder", "donor", "both", "both - encoder"]]
        columns = (found[key] for key in ("donor", "both", "added", "added_low", "added_high"))
        for depth, (donor, both, *added) in enumerate(zip(*columns, strict=True)):
            row = dict(zip(("difference", "low", "high"), (points / 100 for points in added), strict=True))
            shares = [f"{100 * share:.1f}" for share in (found["encoder"], donor, both)]
            lines.append([str(depth), *shares, shown(row, depth == found["depth"])])
        gain = {"difference": found["gain"] / 100, "low": found["low"] / 100, "high": found["high"] / 100}
        title = f"{name}: {len(lines) - 1} depths, {found['info']['n']:,} texts, gain {shown(gain)}"
        parts.append(f":::{{dropdown}} {title}\n\n{table_of(lines)}\n\n:::")
    return "\n\n".join(parts)
