"""Draw the first figure of README and landing page from the recorded control and the recorded conditions.

    python book/_scripts/weights.py    # writes book/_pictures/weights-*.svg and weights.json

The numbers are those of `benchmarks/results/control.json` (`benchmarks/control.py`) and `book/_studies/conditions.json`
(`benchmarks/conditions.py`); `weights.json` holds what is drawn, and says where it is from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt

from pifi_probe.files import write_json
from pifi_probe.layers.control import PositiveControl
from pifi_probe.reporting.looks import ARMS, INK, group_of
from pifi_probe.reporting.plots import interval_mark

ROOT = Path(__file__).resolve().parent.parent.parent
CONTROL, CONDITIONS = ROOT / "benchmarks/results/control.json", ROOT / "book/_studies/conditions.json"
OUT = ROOT / "book" / "_pictures"
DONOR = "smollm2-135m"
CURVES = {  # arm: (what the legend says, group of `ARMS`, line)
    "real": ("real layer", "real", "-"),
    "one token": ("real layer, one token at a time", "real", ":"),
    "shuffled": ("shuffled twin", "twins", "-"),
    "none": ("no layer", "vanilla", "--"),
}
BARS = {
    "real, layers 8 to 14": ("8-14", "real"),
    "one token at a time": ("8-14", "one token"),
    "interface not aligned": ("8-14", "unaligned"),
    "layer 14 alone": ("14", "real"),
    "layers 23 to 29": ("23-29", "real"),
    "no layer": ("8-14", "interface"),
    "shuffled twin": ("8-14", "shuffled"),
    "random twin": ("8-14", "random"),
}
THEMES = {"light": "#1f2328", "dark": "#e6edf3"}  # the ink of each


def drawn() -> dict[str, Any]:
    """Return the numbers of the figure, and where they are from."""
    control_record = json.loads(CONTROL.read_text(encoding="utf-8"))
    conditions = json.loads(CONDITIONS.read_text(encoding="utf-8"))
    control = PositiveControl.from_dict(control_record["measurements"][DONOR]["own states"]["control"])
    curves = {arm: [round(100 * row.accuracy(arm).mean, 2) for row in control.rows] for arm in CURVES}
    bars = {name: _gain(conditions, *which) for name, which in BARS.items()}
    made = {
        file.relative_to(ROOT).as_posix(): {key: record[key] for key in ("command", "date", "seed")}
        for file, record in ((CONTROL, control_record), (CONDITIONS, conditions))
    }
    layers = [row.layers[0] for row in control.rows]
    return {"from": made, "layers": layers, "next words read, percent": curves, "points over the encoder": bars}


def _gain(conditions: dict[str, Any], layers: str, arm: str) -> list[float]:
    rows = conditions["chains"][layers]["differences"]
    wanted = {"metric": "accuracy", "a": arm, "b": "encoder", "n_labels": conditions["n_train"]}
    (place,) = [i for i in range(len(rows["a"])) if all(rows[key][i] == value for key, value in wanted.items())]
    return [round(100 * rows[key][place], 2) for key in ("difference", "low", "high")]


def draw(numbers: dict[str, Any], theme: str) -> None:
    """Write the figure, and each half of it alone, for pages as narrow as a telephone."""
    ink = THEMES[theme]
    style = {
        "svg.hashsalt": "weights",
        "text.color": ink,
        "axes.edgecolor": ink,
        "axes.labelcolor": ink,
        "xtick.color": ink,
        "ytick.color": ink,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(style):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.1), layout="constrained", width_ratios=(1.15, 1))
        draw_words(left, numbers, ink)
        draw_reviews(right, numbers, ink)
        _save(figure, f"weights-{theme}")
        for name, half in (("words", draw_words), ("reviews", draw_reviews)):
            figure, axes = plt.subplots(figsize=(4.4, 3.1), layout="constrained")
            half(axes, numbers, ink)
            _save(figure, f"weights-{name}-{theme}")


def draw_words(axes: Any, numbers: dict[str, Any], ink: str) -> None:
    """Draw what can be read after each layer."""
    for arm, (label, group, line) in CURVES.items():
        curve = numbers["next words read, percent"][arm]
        width = 2.2 if arm == "real" else 1.4
        axes.plot(numbers["layers"], curve, line, color=inked(group, ink), linewidth=width, label=label)
    axes.set(xlabel=f"layer of {DONOR}", ylabel="next words read (%)", ylim=(0, 100))
    axes.set_title("Repeated random words", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def draw_reviews(axes: Any, numbers: dict[str, Any], ink: str) -> None:
    """Draw what each chain adds to the encoder."""
    for place, (name, (mean, low, high)) in enumerate(numbers["points over the encoder"].items()):
        group = group_of(BARS[name][1]) or "real"  # real weights, but for twins and the interface
        interval_mark(axes, -place, mean, low, high, (inked(group, ink), ARMS[group][1]), markersize=5)
    axes.axvline(0, color=ink, linewidth=0.7)
    names = list(numbers["points over the encoder"])
    axes.set_yticks([-place for place in range(len(names))], names)
    axes.set_xlabel("points over the frozen encoder\n95 % intervals; filled: without zero")
    axes.set_title("Film reviews", loc="left", fontsize=10)


def _save(figure: Any, name: str) -> None:
    figure.savefig(OUT / f"{name}.svg", transparent=True, metadata={"Date": None})
    plt.close(figure)


def inked(group: str, ink: str) -> str:
    """Return the colour of a group of arms on a page with this ink."""
    return ARMS[group][0].replace(INK, ink)


def main() -> None:
    """Write both figures and their numbers."""
    numbers = drawn()
    write_json(OUT / "weights.json", numbers)
    for theme in THEMES:
        draw(numbers, theme)


if __name__ == "__main__":
    main()
