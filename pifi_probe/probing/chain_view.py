"""A `ChainTable` for people: one row an arm, in points."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from pifi_probe.probing.chain_table import ChainTable

__all__ = ["summary"]


def summary(table: ChainTable) -> pd.DataFrame:
    """Return test, labels, arm, its accuracy alone and with the encoder, and its differences with intervals."""
    rows = []
    columns = [table.scores[name] for name in ("test", "n_labels", "arm", "reading")]
    scores = dict(zip(zip(*columns, strict=True), table.scores["accuracy"], strict=True))
    for (test, size), part in table.scores.groupby(["test", "n_labels"], sort=False):
        for arm in dict.fromkeys(part["arm"]):
            alone = float(scores.get((test, size, arm, "alone"), float("nan")))
            both = alone if arm == "encoder" else float(scores[test, size, arm, "with encoder"])
            rows.append(
                {
                    "test": test,
                    "labels": size,
                    "arm": arm,
                    "alone": "" if alone != alone else f"{100 * alone:.1f}",
                    "with encoder": f"{100 * both:.1f}",
                    "- encoder": _shown(table, arm, "encoder", test, size),
                    "real - it": _shown(table, "real", arm, test, size),
                }
            )
    return pd.DataFrame(rows)


def _shown(table: ChainTable, a: str, b: str, test: object, size: object) -> str:
    rows = table.differences
    chosen = rows[
        (rows["metric"] == "accuracy")
        & (rows["a"] == a)
        & (rows["b"] == b)
        & (rows["test"] == test)
        & (rows["n_labels"] == size)
    ]
    if chosen.empty:
        return ""
    row = chosen.iloc[0]
    return f"{100 * row['difference']:+.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
