"""Quality beside cost for three pairs of models: what every arm reaches, and what it takes to train, ship and serve.

Writes one JSON a pair below ``book/_studies/costs/``. Runs are kept below ``runs/costs/``, so that it can be stopped
and started again; it refuses a busy machine.

    python benchmarks/cost_tables.py                  # all three: about an hour and a half on two cores
    python benchmarks/cost_tables.py minilm-gemma3    # one
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import MappingProxyType

import pifi_probe as pp

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "book" / "_studies" / "costs"
PAIRS = MappingProxyType(
    {
        "minilm-smollm2": ("minilm-l6", "smollm2-135m[-1]"),
        "minilm-gemma3": ("minilm-l6", "gemma3-270m[-1]"),
        "e5-smollm2": ("e5-small-multilingual", "smollm2-135m[-1]"),
    }
)
TASK, ELSEWHERE = "tweets", "product-reviews"
SIZES = MappingProxyType({"train": 200, "validation": 100, "test": 400})
N_ELSEWHERE = 200
# At the usual rate so few steps leave every arm at its start; four times as much moves them all.
RECIPE = pp.Recipe(learning_rate=2e-4, epochs=3, max_tokens=32)


def main() -> None:
    """Measure the pairs that are not there yet."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pairs", nargs="*", help=f"some of {', '.join(PAIRS)}; all when none is named")
    options.add_argument("--runs", type=Path, default=ROOT / "runs" / "costs", help="where runs are kept")
    chosen = options.parse_args()
    if unknown := [name for name in chosen.pairs if name not in PAIRS]:
        options.error(f"unknown pair {unknown[0]!r}")
    for name in chosen.pairs or PAIRS:
        file = OUT / f"{name}.json"
        if file.is_file():
            print(f"kept {file.name}", flush=True)
            continue
        slm, layer = PAIRS[name]
        task = pp.load_task(TASK).subset(**SIZES)
        other = pp.load_task(ELSEWHERE).subset(test=N_ELSEWHERE)
        found = pp.cost_table(slm, layer, task, RECIPE, out=chosen.runs / name, n_seeds=5, also=[other])
        found.to_json(file)
        print(f"wrote {file.name}: {found!r}", flush=True)


if __name__ == "__main__":
    main()
