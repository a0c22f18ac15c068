"""Pictures of the results page, from the records: what was found, before the tables that hold it.

Each is a piece of a page with an SVG in the colour of the page's text, in book/_pictures/results.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from pifi_probe.reporting.looks import ARMS, INK, other_looks, styled
from pifi_probe.reporting.plots import add_legend, forest, framed
from pifi_probe.reporting.svg import to_svg

PICTURES = Path(__file__).resolve().parent.parent / "_pictures" / "results"
STEPS = {  # effect: (what is compared, the arm's group)
    "plugging in": ("real - encoder", "real"),
    "projections": ("projections - encoder", "linear"),
    "block": ("twins - projections", "twins"),
    "knowledge": ("real - twins", "real"),
}
SETS = ("pair", "triple", "block")


def shown(name: str) -> str:
    """Return the Markdown that puts a picture into the page."""
    return f"```{{raw}} html\n:file: _pictures/results/{name}.html\n```"


def claims(found: Sequence[Mapping[str, Any]], said: str) -> str:
    """Return the claims of an experiment with what was measured, in points."""
    rows = [
        {"arm": textwrap.fill(one["says"], 46), "mean": one["measured"], "low": one["low"], "high": one["high"]}
        for one in found
        if one["measured"] is not None and one["unit"] == "points"
    ]
    return piece(forest(pd.DataFrame(rows), value_label="difference (points)"), said)


def demo(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return every arm of the demo against the encoder alone, a panel for each test set."""
    frame = pd.DataFrame(
        [
            {"arm": row["arm"], "group": row["test"]}
            | {key: 100 * row[name] for key, name in (("mean", "difference"), *_BOUNDS)}
            for row in rows
            if row["difference"] is not None
        ]
    )
    return piece(
        forest(frame, value_label="difference to the encoder alone (points)"),
        "Differences of every arm of the demo to the encoder alone, in points with intervals, on three test sets.",
    )


def tables(decided: Mapping[str, Sequence[Mapping[str, Any]]], *, points: bool) -> str:
    """Return what each step adds on every table in which layers were trained; `points`: those with an accuracy."""
    rows = [
        {"arm": f"{judged[0]['test']}, {effect['wiring']}: {said}", "of": of}
        | {name: (100 if points else 1) * effect[name] for name in ("mean", "low", "high")}
        for judged in decided.values()
        if (judged[0]["metric"] == "accuracy") == points
        for step, (said, of) in STEPS.items()
        for effect in judged[0]["effects"]
        if effect["name"] == step
    ]
    unit = "points of accuracy" if points else "squared error; positive is better"
    return piece(
        forest(pd.DataFrame(rows), value_label=f"difference ({unit})"),
        f"What each step from the encoder alone to the real layers adds on every table, in {unit}.",
    )


def combinations(record: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return every arm of a study of combinations against the encoder alone; `names`: what each arm is called."""
    frame = pd.DataFrame(
        [
            {"arm": textwrap.fill(names[row["arm"]], 46), "of": _group(row["arm"])}
            | {key: 100 * row[name] for key, name in (("mean", "difference"), *_BOUNDS)}
            for row in record["rows"]
            if row["metric"] == "accuracy" and row["difference"] is not None and row["arm"] != "vanilla"
        ]
    )
    return piece(
        forest(frame, value_label="difference to the encoder alone (points)"),
        f"Every set of layers and every control on {record['task']} against the encoder alone, with intervals.",
    )


def _group(arm: str) -> str:
    if arm.startswith("shuffled"):
        return "twins"
    return "real" if arm in (*SETS, "single", "last", "best-in-full") or arm.startswith("repeated") else ""


def density(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return real minus shuffled of every set of layers, a panel for each language model."""
    frame = pd.DataFrame(
        [
            {"arm": f"{row['task']}, {row['layers together']}", "group": row["LLM"], "of": "real"}
            | dict(zip(("mean", "low", "high"), _numbers(row["real - shuffled"]), strict=True))
            for row in rows
        ]
    )
    return piece(
        forest(frame, value_label="real - shuffled (thousandths of a nat)"),
        "Usable information of real layers minus that of shuffled ones, with intervals, for two language models.",
    )


def regret(measured: Mapping[str, Any]) -> str:
    """Return what every strategy's choice loses on seeds that did not choose it, over what was spent."""
    looks = dict(zip(measured["curves"], other_looks(), strict=False))
    with styled():
        figure, (axes,) = framed(7.0, 4.6, 1)
        for name, curve in measured["curves"].items():
            colour, marker = looks[name]
            means = [1000 * sum(values) / len(values) for values in curve.values()]
            axes.plot([float(cost) for cost in curve], means, color=colour, marker=marker, markersize=4, linewidth=1.3)
        axes.set(xscale="log", xlabel="spent (full runs)", ylabel="regret (thousandths of a nat)")
        add_legend(figure, looks)
    return piece(figure, "Regret of every strategy, in held-out NLL above the best layer, against what it spent.")


def trained(measured: Mapping[str, Any]) -> str:
    """Return the validation NLL of every layer, trained in full: each seed, and the mean."""
    colour, marker = ARMS["real"]
    layers, seeds = range(len(measured["nll"])), zip(*measured["nll"], strict=True)
    with styled():
        figure, (axes,) = framed(7.0, 3.6, 1)
        for place, values in enumerate(seeds):
            axes.plot(layers, values, ".", color=colour, alpha=0.5, label="" if place else "one seed")
        means = [sum(values) / len(values) for values in measured["nll"]]
        axes.plot(layers, means, marker, color=colour, label="mean of the seeds")
        axes.set(xlabel="layer of smollm2-135m", ylabel="validation NLL (nats)")
        axes.legend()
    return piece(figure, "Validation NLL of every layer, trained in full with three seeds; no layer stands out.")


def agreement(measured: Mapping[str, Any]) -> str:
    """Return how well every cheap score ranks the layers as the full runs do, the best first."""
    rows = [row for row in measured["proxies"] if row["Kendall"] is not None and not math.isnan(row["Kendall"])]
    rows.sort(key=lambda row: -row["Kendall"])
    places = range(len(rows))
    with styled():
        figure, (axes,) = framed(7.6, 0.2 * len(rows) + 1, 1)
        chance = [row["null 95 %"] for row in rows]
        axes.hlines(places, [-one for one in chance], chance, color=ARMS["twins"][0], alpha=0.4, linewidth=6)
        axes.plot([row["Kendall"] for row in rows], places, "o", color=INK, markersize=5)
        axes.set_yticks(places, [row["score"] for row in rows], fontsize=8)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        figure.supxlabel(
            "Kendall's tau with the full runs\ngrey: what two smooth curves reach by chance (95 %)", fontsize="medium"
        )
    return piece(
        figure, "Kendall's tau of every cheap score with the full runs, most of it within what chance reaches."
    )


SELECTION = {"regret": regret, "trained": trained, "agreement": agreement}


def _numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"[-+]?\d+\.\d+", text)]


def write(pictures: Mapping[str, str]) -> None:
    """Write the pictures, and remove those that are not made any more."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for file in PICTURES.glob("*.html"):
        if file.stem not in pictures:
            file.unlink()
    for name, piece in pictures.items():
        (PICTURES / f"{name}.html").write_text(piece, encoding="utf-8")


def piece(figure: Any, alt: str) -> str:
    """Return a figure as a piece of a page."""
    label = escape(alt, quote=True)
    return f'<div class="pifi-figure" tabindex="0" role="group" aria-label="{label}">{to_svg(figure, alt)}</div>\n'


_BOUNDS = (("low", "difference_low"), ("high", "difference_high"))
