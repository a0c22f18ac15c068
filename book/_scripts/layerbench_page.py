"""Write `book/layerbench.md` from the recorded leaderboard.

python book/_scripts/layerbench_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pifi_probe import layerbench

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "benchmarks" / "results" / "layerbench.json"
PAGE = ROOT / "book" / "layerbench.md"

HEAD = """# LayerBench: choosing a layer without training

Which of 30 layers helps an encoder on a task, and how cheaply can you find out? To answer with certainty, every layer
must be trained, several times. We did that, and kept the score of every test text. LayerBench is these tables: a
strategy asks for runs, the table answers at once, and the choice is scored on a seed that the strategy has not seen.
In some tables the encoder is trained, too. In the others, those whose name ends in *frozen*, projections and head are
trained on its vectors alone; that is so much cheaper that there are five seeds of every layer and of every control.

```python
import pifi_probe as pp

frame = pp.layerbench.load()  # a row per run: task, slm, llm, wiring, layer or control, seed, scores of every text
pp.layerbench.leaderboard()  # regret and cost of our strategies
```

## A strategy of your own

A strategy is a function. `ask(layer, seed, fidelity)` returns a validation loss, and its price is counted once:

```python
def coarse_to_fine(ask):
    coarse = ask.layers[:: max(1, len(ask.layers) // 4)]
    best = min(coarse, key=ask)  # one full run each
    near = [layer for layer in ask.layers if abs(layer - best) <= 2]
    return min(near, key=lambda layer: sum(ask(layer, seed) for seed in range(ask.seeds)))


for found in pp.layerbench.replay(coarse_to_fine):
    print(f"{found.table}: regret {found.regret:.4f}, {found.cost:.1f} full runs")
```

`ask.fidelities` names the cheaper ones that a table has ("frozen", "short", ...), `ask.spent` what was paid so far, and
`ask.rng` gives random numbers. `replay("auto")` replays a strategy of `pp.search` by its name.

## A table of your own

1. Add a `Table` to `benchmarks/truth_table.py`: task, wiring, layers, controls, seeds, encoder trained or frozen.
2. `python benchmarks/truth_table.py NAME` trains what is missing, run by run; it can be killed and started again, and
   several processes may share it. `--cheap` adds the cheaper fidelities, where the encoder is trained.
3. `python benchmarks/layerbench.py` gathers the tables and plays the leaderboard again.

A file of the same form from elsewhere is read by `pp.layerbench.load("mine.json")` and
`pp.layerbench.tables("mine.json")`.
"""
REGRET = """Regret is the validation loss of the choice above that of the best layer of the held-out seed. Nobody could
know that layer: part of the regret is that seed's luck, the same for every strategy of a table, so compare strategies
within a table. Intervals are Student's t over held-out seeds; with two seeds they say nearly nothing. Points are the
test score below that of the best layer, in hundredths of the table's metric. Costs are full runs. The strategies of
`pp.search` begin at cheaper fidelities, so they are replayed where a table has these."""


TOLD = """All runs of a table are judged together ([methods](methods.md)). *Layers* asks whether any layer differs from
the mean of all, for all of them at once; *choice* what the best one gains on that mean, shrunk for its luck; *depth* is
the last layer less the first on a straight line. Positive is better."""


def answered(told: dict[str, Any]) -> str:
    """Return what a table says: the answer first, its steps folded."""
    lines = [["question", "difference", "verdict"]]
    for one in told["steps"]:
        of = f" ({one['layer']})" if "layer" in one else ""
        lines.append([f"{one['name']}{of}", one["difference"], one["verdict"]])
    return f"**{told['table']}.** {told['answer']}\n\n:::{{dropdown}} Every step\n{markdown(lines)}\n:::"


def page(record: dict[str, Any]) -> str:
    """Return the page."""
    parts = [HEAD.strip(), "## What is complete", completeness(), "## What the tables say", TOLD]
    parts += [answered(one) for one in record["measurements"]["told"]]
    parts.append(f"## Leaderboard\n\n{REGRET}")
    parts.append(
        f"From `benchmarks/results/layerbench.json`; `{record['command']}`, {record['date'][:10]}, "
        f"LayerBench {record['settings']['version']}. {reached(record['targets'][0])}"
    )
    for table in layerbench.tables():
        rows = [row for row in record["rows"] if row["table"] == table.name]
        lines = [["strategy", "full runs", "regret", "in seed sd", "points"]]
        for row in rows:
            regret = f"{row['regret']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
            lines.append(
                [row["strategy"], f"{row['cost']:.1f}", regret, f"{row['in_noise']:.2f}", f"{row['points']:.2f}"]
            )
        parts.append(f"### {table.name}\n\n{markdown(lines)}")
    parts.append(
        "## Citing\n\nThe tables have a version of their own, and results are only compared within one. "
        f"Name it: *{layerbench.CITE}*, with the package (`CITATION.cff`)."
    )
    return "\n\n".join(parts) + "\n"


def reached(target: dict[str, Any]) -> str:
    """Say whether the target was reached, and what it asks."""
    said = "reached" if target["holds"] else "not reached"
    return (
        f"Target {said}: {target['what']}, {target['measured']:.2f} ({target['to reach']}). It is measured against the "
        "best layer of a held-out seed, which nobody could know; against exhaustive search, as the results page "
        "compares, less is lost."
    )


def completeness() -> str:
    """Return which tables are whole, and what would complete the others."""
    lines = [["table", "wiring", "encoder", "layers", "seeds", "controls", "cheaper fidelities", "whole"]]
    for table in layerbench.tables():
        lines.append(
            [
                table.name,
                table.wiring,
                table.encoder,
                f"{len(table.layers)} of {table.n_layers}",
                str(len(table.seeds)),
                str(len(table.controls)),
                ", ".join(table.cheap) or "none",
                "yes" if table.complete and len(table.seeds) >= 3 else "no",
            ]
        )
    whole = sum(line[-1] == "yes" for line in lines[1:])
    return (
        f"{whole} of {len(lines) - 1} tables {'has' if whole == 1 else 'have'} every layer with three seeds or more. "
        "What the others say of a strategy is a hint: ten layers are easier to choose from than thirty, and with two "
        "seeds one is left to choose by. `python benchmarks/truth_table.py TABLE` makes what a table's plan in that "
        "file still lacks; a longer plan (all layers, three seeds) makes the table whole. With a frozen encoder there "
        "is no MLP and no unfrozen layer among the controls.\n\n"
        f"{markdown(lines)}"
    )


def markdown(lines: list[list[str]]) -> str:
    """Return lines of cells as a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])


if __name__ == "__main__":
    PAGE.write_text(page(json.loads(RECORD.read_text(encoding="utf-8"))), encoding="utf-8")
