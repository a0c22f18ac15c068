"""What a chain of middle layers needs: one condition after the other is taken away, on movie reviews.

A frozen encoder, seven middle layers of a language model behind an interface aligned on unlabelled texts, and a linear
readout; then each token alone, an interface that is not aligned, fewer layers, layers that are too early or too late.
Sizes and seed are those of the study of aligned chains (`aligned.py`). The record is
`book/_studies/conditions.json`; chapter 00b and the figure on the first page read it.

    python benchmarks/conditions.py            # about a quarter of an hour on two cores
    python benchmarks/conditions.py --quick    # tiny sizes: does it work at all?
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pifi_probe as pp
from pifi_probe.files import write_json
from pifi_probe.provenance import collect

OUT = Path(__file__).parent.parent / "book" / "_studies" / "conditions.json"
SLM, LLM, TASK = "minilm-l6", "smollm2-135m", "movie-reviews"
TWINNED = ("interface", "real", "shuffled", "random")
CHAINS: dict[str, tuple[str, ...]] = {  # layers, and the arms that are run with them
    "8-14": (*TWINNED, "one token", "unaligned"),
    "12-14": TWINNED,
    "14": TWINNED,
    "0-6": TWINNED,
    "23-29": TWINNED,
}


def main() -> None:
    """Run every chain and write the record; a chain that is in it already is kept."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="tiny sizes, nothing is written")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, default=OUT)
    chosen = options.parse_args()
    n = 60 if chosen.quick else 1500
    sizes = {"n_train": n, "n_test": n, "n_align": min(n, 1000), "max_length": 64, "precision": "bf16"}
    task, found = pp.load_task(TASK), _kept(chosen.out)
    for layers, arms in CHAINS.items():
        if layers in found and not chosen.quick:
            continue
        table = pp.probe_chain(SLM, LLM, task, layers, arms=arms, seed=chosen.seed, progress=False, **sizes)
        found[layers] = json.loads(table.to_json(per_example=False))
        print(layers, table.answer, flush=True)
        if not chosen.quick:
            write_json(chosen.out, {"seed": chosen.seed, **sizes, **collect(), "chains": found})


def _kept(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))["chains"]) if file.is_file() else {}


if __name__ == "__main__":
    main()
