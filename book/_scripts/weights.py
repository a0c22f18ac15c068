"""Draw the first figure of README and landing page from the recorded control and the recorded conditions.

    python book/_scripts/weights.py    # writes book/_pictures/weights-light.svg, weights-dark.svg and weights.json

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

ROOT = Path(__file__).resolve().parent.parent.parent
CONTROL, CONDITIONS = ROOT / "benchmarks/results/control.json", ROOT / "book/_studies/conditions.json"
OUT = ROOT / "book" / "_pictures"
DONOR = "smollm2-135m"
ARMS = {"real": "real layer", "none": "no layer", "shuffled": "shuffled twin", "one token": "one token at a time"}
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
THEMES = {
    "light": {"ink": "#1f2328", "real": "#0072B2", "none": "#7A7A7A", "shuffled": "#D55E00", "one token": "#009E73"},
    "dark": {"ink": "#e6edf3", "real": "#56B4E9", "none": "#9AA4AE", "shuffled": "#E69F00", "one token": "#2FC79A"},
}


def drawn() -> dict[str, Any]:
    """Return the numbers of the figure, and where they are from."""
    control_record = json.loads(CONTROL.read_text(encoding="utf-8"))
    conditions = json.loads(CONDITIONS.read_text(encoding="utf-8"))
    control = PositiveControl.from_dict(control_record["measurements"][DONOR]["own states"]["control"])
    curves = {arm: [round(100 * row.accuracy(arm).mean, 2) for row in control.rows] for arm in ARMS}
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
    """Write one figure."""
    look = THEMES[theme]
    ink = look["ink"]
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
        for arm, label in ARMS.items():
            curve = numbers["next words read, percent"][arm]
            width = 2.2 if arm == "real" else 1.3
            left.plot(numbers["layers"], curve, color=look[arm], linewidth=width, label=label)
        left.set(xlabel=f"layer of {DONOR}", ylabel="next words read (%)", ylim=(0, 100))
        left.set_title("Repeated random words", loc="left", fontsize=10)
        left.legend(frameon=False, fontsize=8, loc="upper left")
        for place, (name, (mean, low, high)) in enumerate(numbers["points over the encoder"].items()):
            colour = look["real"] if name.startswith("real") else look["none"]
            right.plot([low, high], [-place, -place], color=colour, linewidth=1.6)
            right.plot(mean, -place, "o", color=colour, markersize=5)
        right.axvline(0, color=ink, linewidth=0.7)
        names = list(numbers["points over the encoder"])
        right.set_yticks([-place for place in range(len(names))], names)
        right.set_xlabel("points over the frozen encoder, 95 % intervals")
        right.set_title("Film reviews", loc="left", fontsize=10)
        figure.savefig(OUT / f"weights-{theme}.svg", transparent=True, metadata={"Date": None})
        plt.close(figure)


def main() -> None:
    """Write both figures and their numbers."""
    numbers = drawn()
    write_json(OUT / "weights.json", numbers)
    for theme in THEMES:
        draw(numbers, theme)


if __name__ == "__main__":
    main()
