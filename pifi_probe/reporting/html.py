"""A report as one HTML file that needs nothing else: no script, no font, no address."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from pifi_probe.errors import PifiProbeError
from pifi_probe.escaping import printable
from pifi_probe.files import write_text
from pifi_probe.reporting.svg import to_svg
from pifi_probe.reporting.tables import to_html

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Section", "report"]


class Section(TypedDict, total=False):
    """A part of a report; each entry may be missing.

    ``title`` and ``text`` (lines stay lines), ``figure`` with ``alt`` (what it shows, in words; shown below it
    too), ``table`` (its index is left out).
    """

    title: str
    text: str
    figure: Figure
    alt: str
    table: pd.DataFrame


def report(
    title: str, sections: Sequence[Section], path: str | Path, provenance: Mapping[str, Any] | None = None
) -> None:
    """Write a report that reads well on light and dark, narrow and wide pages.

    Parameters
    ----------
    title : str
        Of the page.
    sections : sequence of Section
        In their order; all texts are escaped.
    path : str or Path
        The ``.html`` file, written atomically.
    provenance : mapping, optional
        Values that JSON can hold, shown folded at the end.

    Raises
    ------
    PifiProbeError
        If a figure has no `alt`.
    SaveError
        If the file cannot be written.
    """
    import jinja2

    template = importlib.resources.files("pifi_probe.reporting").joinpath("report.html.jinja").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(template).render(
        title=printable(title),
        sections=[_rendered(section) for section in sections],
        provenance=printable(json.dumps(provenance, indent=2, ensure_ascii=False)) if provenance else "",
    )
    write_text(path, page)


def _rendered(section: Section) -> dict[str, Any]:
    """Return a section's parts as text, and those that are HTML already marked so."""
    from markupsafe import Markup

    figure, table, alt = section.get("figure"), section.get("table"), section.get("alt", "")
    if figure is not None and not alt:
        raise PifiProbeError(
            "a figure has no alt text", where=f"section {section.get('title', '')!r}", next="say what it shows in alt="
        )
    return {
        "title": printable(section.get("title", "")),
        "text": printable(section.get("text", "")),
        "alt": printable(alt),
        "figure": None if figure is None else Markup(to_svg(figure, alt)),
        "table": None if table is None else Markup(to_html(table)),
    }
