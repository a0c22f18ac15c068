"""What an experiment found, as a Markdown page and as an HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pifi_probe.experiments.findings import Finding
from pifi_probe.files import write_text
from pifi_probe.reporting import plots
from pifi_probe.reporting.html import Section, report

if TYPE_CHECKING:
    from pifi_probe.experiments.reproduce import Reproduction

__all__ = ["HEADINGS", "cells", "write_page", "write_summary"]

HEADINGS = ("claim", "paper", "measured here", "verdict", "source")
_LIMITS = (
    "A difference whose interval includes zero is not shown, in either direction. The verdict is about the "
    "scale above; it neither confirms nor refutes the paper's own experiment."
)


def cells(finding: Finding) -> tuple[str, ...]:
    """Return a finding as text, one cell for each of `HEADINGS`."""
    measured = "not measured"
    if finding.measured is not None:
        measured = f"{finding.measured:+z.2f} [{finding.low:+z.2f}, {finding.high:+z.2f}] {finding.unit}"
    paper = "no number" if finding.paper is None else f"{finding.paper:+z.2f} points"
    return (finding.says, paper, measured, finding.verdict, finding.source or "not in the paper")


def write_summary(path: Path, record: Mapping[str, Any], findings: Sequence[Finding]) -> None:
    """Write the Markdown page.

    Parameters
    ----------
    path : Path
    record : mapping
        As in ``summary.json``.
    findings : sequence of Finding
    """
    parts = [f"# {record['title']}"]
    for block, text in record["answers"].items():
        parts.append(f"{block}: {text}" if len(record["answers"]) > 1 else text)
    parts.append(f"Scale: {record['scale']}. {record['stands_for']}")
    parts.append(_markdown(HEADINGS, [cells(finding) for finding in findings]))
    parts += [f"Left out: {name}: {why}" for name, why in record["left_out"].items()]
    for title, rows in record["extras"].items():
        parts.append(f"## {title.capitalize()}")
        frame = pd.DataFrame(rows)
        text = [[_text(value) for value in row] for row in frame.itertuples(index=False, name=None)]
        parts.append(_markdown([str(name) for name in frame], text))
    write_text(path, "\n\n".join([*parts, _LIMITS]) + "\n")


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _text(value: Any) -> str:
    if value is None or value != value:  # NaN
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def write_page(path: Path, record: Mapping[str, Any], found: Reproduction) -> None:
    """Write the HTML page: the answer of every block, claims with a plot, further tables, and every arm.

    Parameters
    ----------
    path : Path
    record : mapping
        As in ``summary.json``.
    found : Reproduction
    """
    findings, comparisons = found.findings, found.comparisons
    claims: Section = {
        "title": "Claims",
        "text": record["stands_for"],
        "table": found.tables()[0].frame,
    }
    points = [one for one in findings if one.measured is not None and one.unit == "points"]
    if points:
        frame = pd.DataFrame(
            [{"arm": one.says, "mean": one.measured, "low": one.low, "high": one.high} for one in points]
        )
        claims["figure"] = plots.forest(frame, value_label="difference (points)")
        claims["alt"] = "The measured difference of every claim in points, with its interval."
    left_out = "\n".join(f"{name}: {why}" for name, why in record["left_out"].items())
    tables: list[Section] = [
        {"title": title.capitalize(), "table": pd.DataFrame(rows)} for title, rows in record["extras"].items() if rows
    ]
    arms: list[Section] = [
        {
            "title": f"Every arm: {block}, {table.title}",
            "text": f"{comparison.metric}; {comparison.size}",
            "table": table.frame,
        }
        for block, comparison in comparisons.items()
        for table in comparison.tables()
    ]
    rest: list[Section] = [{"title": "Left out", "text": left_out}] if left_out else []
    limits: Section = {"title": "What this does not show", "text": _LIMITS}
    shown = ("experiment", "scale", "settings", "seconds", "provenance")
    provenance = {key: record[key] for key in shown}
    many = len(comparisons) > 1
    answers = [
        section
        for block, comparison in comparisons.items()
        for section in comparison.sections(f"The answer: {block}" if many else "The answer")
    ]
    report(record["title"], [*answers, claims, *tables, *arms, *rest, limits], path, provenance)
