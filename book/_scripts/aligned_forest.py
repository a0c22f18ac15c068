"""The first picture of the page on aligned chains: what each arm adds to the encoder, task by task.

Called by `aligned_page.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from result_pictures import piece

from pifi_probe.reporting.looks import ARMS, INK, styled
from pifi_probe.reporting.plots import FILLED, add_legend, framed, interval_mark

PICTURE = Path(__file__).resolve().parent.parent / "_pictures" / "aligned-forest.html"
LOOKS = {  # arm: (what the legend says, group of its colour and shape)
    "real": ("real chain", "real"),
    "interface": ("interface alone", "linear"),
    "shuffled": ("its shuffled twin", "twins"),
    "random": ("its random twin", "twins"),
}
DODGE = 0.19  # between the arms of a task, in rows
Row = Mapping[str, Mapping[str, float]]  # of every arm: difference to the encoder, low, high, in shares


def draw_forest(tasks: Mapping[str, Row]) -> None:
    """Write the picture.

    Parameters
    ----------
    tasks : dict
        What each arm adds on each task, in the order of the rows.
    """
    looks = {says: ARMS[of] for says, of in LOOKS.values()}
    looks["its random twin"] = (ARMS["twins"][0], "v")
    with styled():
        figure, (axes,) = framed(7.2, 1.2 + 0.5 * len(tasks), 1)
        for place, row in enumerate(tasks.values()):
            for n, (arm, (says, _)) in enumerate(LOOKS.items()):
                found = (100 * row[arm][part] for part in ("difference", "low", "high"))
                interval_mark(axes, place + DODGE * (n - 1.5), *found, looks[says])
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(tasks)), list(tasks))
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        figure.supxlabel(f"added to the encoder alone (points of accuracy)\n{FILLED}", fontsize="medium")
        add_legend(figure, looks)
    alt = "What the real chain, the interface alone and both twins add to the encoder on each task, with intervals: "
    PICTURE.write_text(piece(figure, alt + _said(tasks)), encoding="utf-8")


def _said(tasks: Mapping[str, Row]) -> str:
    others = [arm for arm in LOOKS if arm != "real"]
    ahead = [row for row in tasks.values() if row["real"]["low"] > max(row[arm]["difference"] for arm in others)]
    return f"on {len(ahead)} of {len(tasks)} the chain's interval lies above every other arm's mean."
