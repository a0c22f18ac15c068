"""The demo's report: what was run, what came out, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pifi_probe.reporting import plots
from pifi_probe.reporting.html import Section, report
from pifi_probe.training import Comparison, RunResult

__all__ = ["write_report"]

_LIMITS = (
    "One small encoder, one 135M language model in 4-bit weights, short English sentences: this says nothing about "
    "larger models, other languages or harder tasks. Accuracy under domain shift mixes transfer with a bias towards "
    "one class; read the balanced accuracy and AUROC next to it. A difference whose interval includes zero is not "
    "shown, in either direction."
)


def write_report(
    path: Path,
    *,
    size: str,
    comparisons: Mapping[str, Comparison],
    results: Sequence[RunResult],
    record: Mapping[str, Any],
) -> None:
    """Write the report of a demo as one HTML file.

    Parameters
    ----------
    path : Path
    size : str
        The size of the runs, in words.
    comparisons : mapping of str to Comparison
        By baseline.
    results : sequence of RunResult
    record : mapping
        What is shown as provenance.
    """
    sections = comparisons["vanilla"].sections()
    sections.append({"title": "What was run", "text": f"{size}.\nBoth wirings, each with its own controls."})
    for baseline, comparison in comparisons.items():
        sections.append(_differences(baseline, comparison))
    sections += [_depth(comparisons["vanilla"]), _learning(results)]
    sections.append({"title": "What this does not show", "text": _LIMITS})
    provenance = {key: record[key] for key in ("command", "size", "seconds", "provenance")}
    report("PiFi demo", sections, path, provenance)


def _differences(baseline: str, comparison: Comparison) -> Section:
    frame = comparison.frame
    differences = pd.DataFrame(
        {
            "arm": frame["arm"],
            "group": frame["test"],
            "mean": 100 * frame["difference"].astype(float),
            "low": 100 * frame["difference_low"].astype(float),
            "high": 100 * frame["difference_high"].astype(float),
        }
    )
    return {
        "title": f"Against the {'encoder alone' if baseline == 'vanilla' else baseline + '-init layer'}",
        "text": comparison.size,
        "figure": plots.forest(differences, value_label=f"difference to {baseline} (points)"),
        "alt": f"Differences in accuracy of every arm to {baseline}, in points with intervals, one panel per test set.",
        "table": _table(comparison),
    }


def _table(comparison: Comparison) -> pd.DataFrame:
    """Return the tables of all test sets as one."""
    tests = dict.fromkeys(row.test for row in comparison.rows)
    shown = {test: table.frame for test, table in zip(tests, comparison.tables(), strict=True)}
    return pd.concat(shown, names=["test", ""]).reset_index("test")


def _depth(comparison: Comparison) -> Section:
    """Plot accuracy in domain and under shift against the layer's index; controls are lines across."""
    rows = [
        {
            "series": f"{row.test}, {row.arm.split(':')[0]}",
            "depth": _index_of(row.arm),
            "mean": 100 * row.mean,
            "low": 100 * row.low,
            "high": 100 * row.high,
        }
        for row in comparison.rows
        if _index_of(row.arm) is not None
    ]
    return {
        "title": "Which depth",
        "figure": plots.depth_curve(pd.DataFrame(rows), value_label="accuracy (%)"),
        "alt": "Accuracy against the index of the plugged layer, one curve per test set and wiring, with intervals.",
    }


def _index_of(arm: str) -> int | None:
    """Return the layer's index of an arm such as ``"pifi: smollm2-135m[29]"``; None for controls."""
    name = arm.split(": ", 1)[1]
    return int(name[name.rindex("[") + 1 : -1]) if name.endswith("]") and " " not in name else None


def _learning(results: Sequence[RunResult]) -> Section:
    rows = [
        {"series": run.label, "step": epoch, "value": 100 * values["accuracy"]}
        for run in results
        for epoch, values in enumerate(run.epochs)
        if "accuracy" in values
    ]
    return {
        "title": "Learning",
        "figure": plots.learning_curves(
            pd.DataFrame(rows), value_label="validation accuracy (%)", step_label="epoch (0: before training)"
        ),
        "alt": "Validation accuracy before training and after each epoch, for every arm: mean and range over seeds.",
    }
