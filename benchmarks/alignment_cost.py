"""What an aligned chain costs, next to the donor's own probe: alignment, an arm, headroom, and what must be kept.

Each part runs in a fresh process with an empty cache: the alignment of 2,000 texts up to layer 8 (encoder, donor,
ridge), one arm of the frozen evaluation on the same texts, the donor's own states up to the chain's exit, and
`pp.headroom` on 1,000 texts. Seconds of the processor stand next to seconds of the clock: on a machine that others use
too, the latter say little; divided by the cores, the former are a lower bound of a quiet machine's.

    python benchmarks/alignment_cost.py
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

from _common import Usage, in_child, parser, record, target

import pifi_probe as pp
from pifi_probe.alignment.tokens import joined
from pifi_probe.layers.frozen import list_of
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.slm import encoder_tokenizer, load_encoder

SLM, LLM, TASK, CHAIN = "minilm-l6", "smollm2-135m", "movie-reviews", (8, 14)
N_ALIGN, N_HEADROOM = 2000, 1000
PARTS = ("alignment", "arm", "donor", "headroom")


def main() -> None:
    """Measure every part, record."""
    chosen = parser(__doc__).parse_args()
    if chosen.child:
        print(json.dumps(measure(**json.loads(chosen.child))))
        return
    sizes = {"n_align": 60, "n_headroom": 60} if chosen.quick else {"n_align": N_ALIGN, "n_headroom": N_HEADROOM}
    parts = {part: in_child(__file__, {"part": part, **sizes, "seed": chosen.seed}) for part in PARTS}
    kept = in_child(__file__, {"part": "kept", **sizes, "seed": chosen.seed})
    settings = {"slm": SLM, "llm": LLM, "task": TASK, "chain": list(CHAIN), "cores": os.cpu_count(), **sizes}
    measurements = {"parts": parts, "kept": kept}
    record("alignment_cost", chosen, settings, measurements, tables(measurements, settings))


def measure(part: str, n_align: int, n_headroom: int, seed: int) -> dict[str, Any]:
    """Run one part in a cache of its own."""
    if part == "kept":
        return kept()
    task = pp.load_task(TASK)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PIFI_PROBE_FEATURES"] = folder
        if part == "headroom":
            usage = Usage()
            found = pp.headroom(SLM, LLM, task, n=n_headroom, cache=False, seed=seed, progress=False)
            return usage.until_now() | {"parts": found.provenance["seconds"], "answer": found.answer}
        return _chain_part(part, task, n_align, seed)


def _chain_part(part: str, task: pp.Task, n: int, seed: int) -> dict[str, Any]:
    from pifi_probe.alignment.chain import chain_features
    from pifi_probe.alignment.fit import fit_interfaces
    from pifi_probe.alignment.tokens import token_states
    from pifi_probe.features.donor import llm_features

    rows = task.subset(train=n, seed=seed).splits["train"]
    if part == "donor":
        usage = Usage()
        until = CHAIN[1] + 1
        llm_features(LLM, rows, pooling="mean+last", max_tokens=200, until=until, cache=False, progress=False)
        return usage.until_now()
    encoder, _, source = load_encoder(SLM)
    tokenizer = encoder_tokenizer(encoder, source)
    usage = Usage()
    states = token_states(encoder, tokenizer, rows.texts)
    entry = CHAIN[0] if part == "alignment" else 0  # an arm alone: any interface does
    checkpoint = open_checkpoint(LLM)
    (interface,) = fit_interfaces(states, joined(rows.texts, None), checkpoint, [entry], model=LLM).values()
    if part == "alignment":
        return usage.until_now() | {"r2": interface.r2, "tokens": interface.saw["tokens"]}
    layers = list_of(pp.extract(f"{LLM}[{CHAIN[0]}:{CHAIN[1] + 1}]", dtype="float32"))
    usage = Usage()
    chain_features(states, interface, layers)
    return usage.until_now()


def kept() -> dict[str, Any]:
    """Return the weights that each way needs at the end, in bytes of float32, the encoder apart."""
    checkpoint = open_checkpoint(LLM)
    config = checkpoint.config
    layer = list_of(pp.extract(f"{LLM}[{CHAIN[0]}]", dtype="float32"))[0]
    width, d_slm = int(config.hidden_size), int(load_encoder(SLM)[0].config.hidden_size)
    interface = 4 * (4 * d_slm * width + 2 * width)
    n_layers = CHAIN[1] - CHAIN[0] + 1
    return {
        "chain": n_layers * layer.nbytes + interface,
        "donor": (CHAIN[1] + 1) * layer.nbytes + 4 * width * int(config.vocab_size),
        "layer": layer.nbytes,
        "interface": interface,
    }


def tables(measurements: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return targets and rows."""
    parts, kept, cores = measurements["parts"], measurements["kept"], settings["cores"]

    def busy(part: str) -> float:
        return float(parts[part]["cpu_seconds"]) / cores

    names = {
        "alignment": "alignment: encoder, donor below the entry, ridge (2,000 texts)",
        "arm": "one arm: the chain on the same texts",
        "donor": "the donor's own states at the exit, on the same texts",
        "headroom": "headroom (1,000 texts, all depths)",
    }
    failed = [{"part": names[part], "failed": parts[part]["failed"]} for part in PARTS if "failed" in parts[part]]
    done = [part for part in PARTS if "failed" not in parts[part]]
    rows = [
        {
            "part": names[part],
            "seconds": parts[part]["seconds"],
            "processor seconds": parts[part]["cpu_seconds"],
            "peak MiB": parts[part]["peak_bytes"] / 2**20,
        }
        for part in done
    ]
    limits = {"alignment": ("alignment of 2,000 texts", 60), "headroom": ("headroom of 1,000 texts", 120)}
    goals = [
        target(f"{what}, {measured}", seconds, most=most, unit=" s")
        for part, (what, most) in limits.items()
        if part in done
        for measured, seconds in (
            ("by the clock", parts[part]["seconds"]),
            ("processor seconds a core", busy(part)),
        )
    ]
    goals.append(target("weights to keep, chain / donor's own probe", kept["chain"] / kept["donor"]))
    return {"targets": goals, "rows": rows or failed}


if __name__ == "__main__":
    main()
