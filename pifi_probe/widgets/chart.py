"""`SearchChart`: the picture of a search, with its table and cards, drawn in the browser by the files of `SCRIPTS`."""

from __future__ import annotations

import hashlib
import html
import json
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from pifi_probe.widgets.rows import Row

__all__ = ["METRICS", "SCRIPTS", "VIEWS", "SearchChart", "script"]

VIEWS = ("auto", "gain", "map", "depth", "fidelities", "regret", "pareto")
METRICS = ("nll", "accuracy")
_VALUES = ("rows", "facts", "summary", "texts", "selected", "view", "metric")
_HERE = Path(__file__).parent
# one module in the browser, in this order; split for those who read it
SCRIPTS = tuple(
    f"{name}.js"
    for name in (
        "chart",
        "chart_draw",
        "chart_ladder",
        "chart_gain",
        "chart_map",
        "chart_views",
        "chart_card",
        "chart_page",
    )
)


def script() -> str:
    """Return the JavaScript of the chart as one module."""
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)


class SearchChart(anywidget.AnyWidget):
    """Shows trials, and lets one be selected.

    While a search runs, new trials come as messages; a view that opens later asks for all of them. When it has ended
    they are in `rows`, so that a saved notebook and a static page show them without Python.

    Attributes
    ----------
    rows : list of dict
        See `pifi_probe.widgets.rows.row_of`.
    facts, summary : dict
        State of the search; what was concluded.
    texts : dict
        By candidate what it changes against the projections: ``words``, and texts it has ``fixed`` and ``broken``.
    selected : int or None
        Number of the selected trial.
    view : {"auto", "gain", "map", "depth", "fidelities", "regret", "pareto"}
        "auto": the gain over the projections once those were run, else the loss over
        depth; chains have a map of entry and length.
    metric : {"nll", "accuracy"}
    """

    _esm = script()
    _css = _HERE / "chart.css"
    rows: Any = traitlets.List().tag(sync=True)
    facts = traitlets.Dict().tag(sync=True)
    summary = traitlets.Dict().tag(sync=True)
    texts = traitlets.Dict().tag(sync=True)
    selected = traitlets.Int(None, allow_none=True).tag(sync=True)
    view = traitlets.Enum(VIEWS, "auto").tag(sync=True)
    metric = traitlets.Enum(METRICS, "nll").tag(sync=True)

    def tell(self, rows: list[Row], *, every: bool = False) -> None:
        """Send new or changed trials to all open views; `every`: there are no others."""
        self.send({"kind": "rows", "rows": rows, "every": every})

    def page(self, still: str = "") -> str:
        """Return the chart, table and card as HTML with its own style and script, for pages without Python.

        Parameters
        ----------
        still : str
            HTML that stands there until the script runs, and stays where none does.
        """
        values = {name: getattr(self, name) for name in _VALUES}
        data = json.dumps(values, sort_keys=True)
        name = f"search-{hashlib.sha256(data.encode()).hexdigest()[:12]}"
        return (
            f"<style>{(_HERE / 'chart.css').read_text(encoding='utf-8')}</style>\n"
            f'<div class="{name}" data-values="{html.escape(data, quote=True)}">{still}</div>\n'
            f'<script type="module">\n{script()}\n'
            f'for (const el of document.querySelectorAll(".{name}:not([data-open])")) {{\n'
            '  el.dataset.open = "";\n  el.replaceChildren();\n'
            "  mount(el, JSON.parse(el.dataset.values));\n}\n</script>"
        )

    def __repr__(self) -> str:
        return f"SearchChart({len(self.rows)} trials, {self.view})"

    def _repr_keys(self) -> Any:
        return iter(())
