"""What leaves the widget: frames, files, and a picture that needs no Python."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pifi_probe.errors import PifiProbeError, SearchError
from pifi_probe.escaping import csv_text
from pifi_probe.files import atomic_write, write_record, write_text
from pifi_probe.widgets.rows import Row
from pifi_probe.widgets.state import SearchState

if TYPE_CHECKING:
    import pandas as pd

    from pifi_probe.selection.study import Study

__all__ = ["Markup", "frame_of", "save", "snapshot"]

_COLUMNS = ("label", "fidelity", "seed", "phase", "state", "value", "accuracy", "cost", "seconds", "why", "message")
SHOWN = 20  # rows of a snapshot's table


@dataclass(frozen=True, repr=False)
class Markup:
    """A piece of HTML that a notebook shows; elsewhere `words`."""

    html: str
    words: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.words


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    """Return trials as a frame by number; ``value`` is the validation NLL in nats (minus the score on "estimator")."""
    import pandas as pd

    frame = pd.DataFrame([{name: row[name] for name in _COLUMNS} for row in rows], columns=list(_COLUMNS))
    frame.index = pd.Index([row["n"] for row in rows], name="trial", dtype="int64")
    return frame


def save(path: Path, study: Study, rows: Sequence[Row]) -> Path:
    """Write trials or depth chart, by the suffix of `path`, and return it."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        write_text(path, csv_text(frame_of(rows), index=True))
    elif suffix == ".json":
        result = study.result
        write_record(
            path,
            {
                "settings": study.settings.to_dict() | {"budget": str(study.budget)},
                "result": None if result is None else result.to_dict(),
                "trials": list(rows),
            },
        )
    elif suffix == ".svg":
        write_text(path, _svg(study))
    elif suffix == ".png":
        with atomic_write(path, "wb") as file:
            study.plot("depth").savefig(file, format="png", dpi=144)
    else:
        raise SearchError("files of this type cannot be saved", where=str(path), next="use .csv, .json, .svg or .png")
    return path


def _svg(study: Study) -> str:
    from pifi_probe.reporting.svg import standalone_svg

    return standalone_svg(study.plot("depth"), f"validation NLL over depth; {study.best.label if study.best else ''}")


def snapshot(state: SearchState, study: Study | None, *, picture: bool = True) -> str:
    """Return state, verdict, chart and the best candidates as HTML; no time is in it, so that it can be compared."""
    from pifi_probe.reporting.tables import to_html

    lines = [f"Layer search: {state.word}, {len(state.rows())} trials"]
    if state.message:
        lines.append(state.message)
    try:
        result = None if study is None else study.result
        if study is None or result is None:
            return _paragraph(lines)
        board = study.leaderboard().drop(columns="cost").head(SHOWN).round(3)
        return _paragraph([*lines, *result.verdict.splitlines()]) + (_svg(study) if picture else "") + to_html(board)
    except PifiProbeError as error:
        return _paragraph([*lines, str(error)])


def _paragraph(lines: Sequence[str]) -> str:
    return f"<p>{'<br>'.join(html.escape(line) for line in lines)}</p>"
