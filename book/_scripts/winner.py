"""Write the explorable of the landing page: one task, every layer, three seeds, and a winner that changes with them.

    python book/_scripts/winner.py    # writes book/_theme/winner.html

The numbers are the recorded runs of LayerBench (`pifi_probe/layerbench.json`): accuracy on the test texts.
"""

from __future__ import annotations

import html
import json
import sys
from pathlib import Path
from typing import Any

from pifi_probe import layerbench

OUT = Path(__file__).resolve().parent.parent / "_theme" / "winner.html"
TABLE = "movie-reviews-matched"
CONTROLS = {
    "vanilla": "encoder alone",
    "linear": "two projections",
    "random": "random twin",
    "shuffled": "shuffled twin",
}


def measured() -> dict[str, Any]:
    """Return accuracies in percent by seed: of every layer, and of each control."""
    (table,) = (one for one in layerbench.tables() if one.name == TABLE)
    last = table.layers[-1]
    controls = {
        kind: [round(100 * float(table.scores[kind, last, seed].mean()), 2) for seed in table.seeds]
        for kind in CONTROLS
    }
    return {
        "table": table.name,
        "layers": list(table.layers),
        "seeds": list(table.seeds),
        "accuracy": [[round(float(value), 2) for value in column] for column in 100 * table.test.T],
        "controls": controls,
        "names": CONTROLS,
        "texts": table.sizes["test"],
    }


def fragment() -> str:
    """Return the piece of the page; without JavaScript it says what it would show."""
    found = measured()
    data = json.dumps(found, separators=(",", ":")).replace("<", "\\u003c")
    best = [html.escape(str(found["layers"][max(range(len(one)), key=one.__getitem__)])) for one in found["accuracy"]]
    return (
        '<figure class="pifi-winner" aria-label="Which layer wins, and what is left of it with another seed">'
        f'<script type="application/json">{data}</script>'
        f"<p>By seed, the layer with the highest test accuracy is {', '.join(best)}.</p></figure>\n"
    )


def main() -> int:
    OUT.write_text(fragment(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
