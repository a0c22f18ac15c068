"""What a chain of middle layers needs: one condition after the other is taken away, on movie reviews.

A frozen encoder, seven middle layers of a language model behind an interface aligned on unlabelled texts, and a linear
readout; then each token alone, an interface that is not aligned, fewer layers, layers that are too early or too late.
Sizes and seed are those of the study of aligned chains (`aligned.py`). The record is
`book/_studies/conditions.json`; chapter 00b and the figure on the first page read it.

With ``--references``: what could stand in the chain's place. The donor's own probe at the exit, an MLP and layers drawn
anew that are trained and have as many weights, and the encoder once more (`book/_studies/references.json`; of another
task than movie-reviews ``references-TASK.json``).

    python benchmarks/conditions.py                 # about a quarter of an hour on two cores
    python benchmarks/conditions.py --references    # as long
    python benchmarks/conditions.py --references --task product-reviews
    python benchmarks/conditions.py --quick    # tiny sizes: does it work at all?
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import pifi_probe as pp
from pifi_probe.devices import has_bf16
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
REFERENCES = ("donor", "mlp", "trained layers", "encoder twice")


def main() -> None:
    """Run every chain and write the record; a chain that is in it already is kept."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="tiny sizes, nothing is written")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--references", action="store_true", help="what could stand in the place of layers 8 to 14")
    options.add_argument("--task", default=TASK, help="an embedded task, with --references")
    options.add_argument("--out", type=Path, help="conditions.json or references.json in book/_studies by default")
    chosen = options.parse_args()
    if chosen.task != TASK and not chosen.references:
        options.error("--task is for --references")
    name = "references" if chosen.task == TASK else f"references-{chosen.task}"
    out = chosen.out or (OUT.with_name(f"{name}.json") if chosen.references else OUT)
    n = 60 if chosen.quick else 1500
    precision = "bf16" if has_bf16(torch.device("cpu")) else "float32"  # as the machine has it; recorded
    sizes = {"n_train": n, "n_test": n, "n_align": min(n, 1000), "max_tokens": 64, "precision": precision}
    task, found = pp.load_task(chosen.task), _kept(out)
    if found and json.loads(out.read_text(encoding="utf-8"))["precision"] != precision:
        options.error(f"{out.name} was begun in another precision than this machine's {precision}")
    for layers, arms in {"8-14": TWINNED}.items() if chosen.references else CHAINS.items():
        if layers in found and not chosen.quick:
            continue
        references = REFERENCES if chosen.references else ()
        table = pp.probe_chain(
            SLM, LLM, task, layers, arms=arms, references=references, seed=chosen.seed, progress=False, **sizes
        )
        found[layers] = json.loads(table.to_json(per_example=False))
        print(layers, table.answer, flush=True)
        if not chosen.quick:
            write_json(out, {"seed": chosen.seed, **sizes, **collect(), "chains": found})


def _kept(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))["chains"]) if file.is_file() else {}


if __name__ == "__main__":
    main()
