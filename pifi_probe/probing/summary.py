"""A `ProbeTable` in words, tables and plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pifi_probe.reporting import depths
from pifi_probe.reporting.html import Section, report

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pifi_probe.probing.table import ProbeTable
    from pifi_probe.scoring.points import Kind

__all__ = ["caption", "curves", "heatmap", "measured", "ranges", "summary", "write_report"]

_READING = (
    "Best depth: where the score is best. Among the best: the depths that cannot be told from it (95 %, corrected for "
    "the number of depths); the true best is one of them, and a pick inside the set is as good as the data can say. "
    "Permuted labels: the same score when labels mean nothing, its mean and where its better 5 % begin. p: how often "
    "permuted labels reach the best score at any depth; of a difference between two arms, how often chance alone makes "
    "one so large (corrected for the number of depths)."
)
_LIMITS = (
    "A score says how well these features predict these labels on held-out examples. No encoder was fine-tuned with a "
    "layer for it, and whether it tells which layer helps there is a question of its own. The examples are those of "
    "one task; its test split was never read."
)


def caption(table: ProbeTable) -> str:
    """Return one line: family, model, task, examples."""
    info = table.info
    on = f" on {info['task']}" if "task" in info else ""
    of = f" of {info['llm']}" if "llm" in info else ""
    split = f" of the {info['split']} split" if "split" in info else ""
    return f"{table.family} scores{of}{on}, {info.get('n', '?')} examples{split}"


def measured(table: ProbeTable) -> list[tuple[str, str]]:
    """Return what was measured, as names and words."""
    return [(key.replace("_", " "), _words(value)) for key, value in table.info.items() if key != "notes"]


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_words(part)}" for key, part in value.items())
    return ", ".join(map(_words, value)) if isinstance(value, list) else str(value)


def ranges(numbers: Iterable[int]) -> str:
    """Write whole numbers in short: ``[1, 2, 3, 7]`` becomes ``"1–3, 7"``."""
    ordered = sorted(set(numbers))
    starts = [b for a, b in pairwise([ordered[0] - 2, *ordered]) if b - a > 1] if ordered else []
    ends = [a for a, b in pairwise([*ordered, ordered[-1] + 2]) if b - a > 1] if ordered else []
    return ", ".join(f"{a}" if a == b else f"{a}\u2013{b}" for a, b in zip(starts, ends, strict=True))


def summary(table: ProbeTable) -> pd.DataFrame:
    """Return a row for each estimator (and projection), as text."""
    import pandas as pd

    rows = table.headlines()
    lines = [_line(table, own) for _, own in rows.groupby(["estimator", "projection"], sort=False)]
    found = pd.DataFrame(lines)
    return found if (rows["arm"] != "real").any() else found.drop(columns="arm")


def _line(table: ProbeTable, own: pd.DataFrame) -> dict[str, str]:
    first = own.iloc[0]
    kind = table.kinds[first["estimator"]]
    name = _title(table, first)
    values = own.dropna(subset="value")
    if not len(values):
        return dict(zip(_COLUMNS, [name, first["arm"], *["\u2013"] * (len(_COLUMNS) - 2)], strict=True))
    best = values.iloc[int(values["value"].argmax() if kind.larger_is_better else values["value"].argmin())]
    interval = "" if _missing(best["low"]) else f" [{_number(best['low'])}, {_number(best['high'])}]"
    null = "\u2013" if _missing(best["null_mean"]) else f"{_number(best['null_mean'])}; {_number(best['null_high'])}"
    chosen = [int(depth) for depth in own.loc[own["in_best_set"], "depth"]]
    among = f"{ranges(chosen)} ({len(chosen)} of {len(values)})"
    p_value = "\u2013" if _missing(best["p_adjusted"]) else f"{best['p_adjusted']:.2g}"
    score = f"{_number(best['value'])}{interval} {kind.unit}".strip()
    return dict(zip(_COLUMNS, [name, first["arm"], str(best["depth"]), score, among, null, p_value], strict=True))


QUIET = ("real", "real - shuffled")  # arms that go without saying
_COLUMNS = ("estimator", "arm", "best depth", "score there", "among the best", "permuted labels: mean; best 5 %", "p")


def _missing(value: Any) -> bool:
    return value is None or value != value


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"


def _title(table: ProbeTable, row: pd.Series[Any]) -> str:
    projection = f", {row['projection']}" if row["projection"] else ""
    return _directed(table.kinds[row["estimator"]]) + projection


def _directed(kind: Kind) -> str:
    """Return an estimator's title, which says when smaller is better."""
    return kind.title + ("" if kind.larger_is_better else " (smaller is better)")


def curves(table: ProbeTable, estimators: Sequence[str] | None = None) -> Figure:
    """Plot the headline series of estimators against depth, one panel each, controls as dashed lines.

    Where the headline is a difference between arms, the arms it is made of follow in a panel of their own.
    """
    import pandas as pd

    for name in estimators or []:
        table.kind(name)
    frame = table.frame[table.frame["estimator"].isin(estimators or list(table.kinds)) & table.frame["value"].notna()]
    headline = frame.index.isin(table.headlines().index)
    difference = frame["arm"].str.contains(" - ", regex=False)
    control = frame["depth"].isna()
    differing = frame["estimator"].isin(frame.loc[headline & difference, "estimator"])
    controlled = frame["estimator"].isin(frame.loc[control & (frame["arm"] != "encoder"), "estimator"])
    panels = [
        _panels(table, frame[headline | (control & ~differing)], ""),
        _panels(table, frame[differing & controlled & ~difference], ": every arm"),
    ]
    return depths.depth_panels(pd.concat(panels), depth_label=_depth_label(table))


def _panels(table: ProbeTable, rows: pd.DataFrame, suffix: str) -> pd.DataFrame:
    """Return rows as `depth_panels` wants them."""
    series = [
        ", ".join(part for part in (projection, "" if arm in QUIET and not suffix else arm) if part) or "score"
        for projection, arm in zip(rows["projection"], rows["arm"], strict=True)
    ]
    panels = [_directed(table.kinds[name]) + suffix for name in rows["estimator"]]
    return rows.assign(panel=panels, series=series, best=rows["in_best_set"])


def heatmap(table: ProbeTable) -> Figure:
    """Plot how far every score lies behind the best of its row, in half-widths of the row's interval."""
    import pandas as pd

    parts = []
    for _, own in table.headlines().groupby(["estimator", "projection"], sort=False):
        sign = 1.0 if table.kinds[own["estimator"].iloc[0]].larger_is_better else -1.0
        signed = sign * own["value"]
        half = float(((own["high"] - own["low"]) / 2).median())
        behind = (signed - signed.max()) / half if half > 0 else signed * float("nan")
        parts.append(own.assign(row=_title(table, own.iloc[0]), behind=behind, best=own["in_best_set"]))
    return depths.depth_heatmap(pd.concat(parts), depth_label=_depth_label(table))


def _depth_label(table: ProbeTable) -> str:
    outputs = table.frame.loc[table.frame["position"] == "output", "depth"]
    if table.family != "own-state" or not len(outputs):
        return "layer"
    return f"depth ({outputs.iloc[0]}: output of the last layer)"


def _matrix(agreement: pd.DataFrame) -> pd.DataFrame:
    """Return Kendall's tau of all pairs as a triangle with names on both sides."""
    square = agreement.pivot(index="b", columns="a", values="kendall")
    square = square.loc[list(dict.fromkeys(agreement["b"])), list(dict.fromkeys(agreement["a"]))]
    return square.map(lambda tau: "" if tau != tau else f"{tau:.2f}").rename_axis("Kendall").reset_index()


def write_report(table: ProbeTable, path: str | Path) -> None:
    """Write tables and plots as one HTML file."""
    import pandas as pd

    what = pd.DataFrame(measured(table), columns=["what", "how"])
    agreement = table.agreement()
    sections: list[Section] = [
        {"title": "Which layers", "text": _READING, "table": summary(table)},
        {"title": "What was measured", "text": "\n".join(table.notes), "table": what},
        {
            "title": "Over depth",
            "figure": curves(table),
            "alt": f"{caption(table)}, against depth: one panel per estimator with interval, null and best set.",
        },
    ]
    if table.headlines()["low"].notna().any():
        sections.append(
            {
                "title": "All estimators",
                "figure": heatmap(table),
                "alt": "Layers against estimators: how far each score lies behind the best of its row, in half-widths "
                "of its interval; dots mark what cannot be told from the best.",
            }
        )
    if len(agreement):
        sections.append({"title": "Do they agree?", "text": agreement.attrs["warning"], "table": _matrix(agreement)})
    sections.append({"title": "What this does not show", "text": _LIMITS})
    report(caption(table), sections, path, table.provenance)
