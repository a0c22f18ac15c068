"""What the block costs next to its rivals: encoders of four sizes with layers of four sizes, random weights.

Every encoder with the 8B layer, every layer with the base encoder, and the small encoder with the smallest layer.
Each pair is measured by `pp.benchmark` in a fresh process, when nothing else keeps the machine busy. With
``--device cuda`` in bf16, recorded under a name of its own.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from _checkpoint import write_checkpoint
from _common import in_child, parser, record, target
from transformers import BertConfig, BertModel, LlamaConfig

import pifi_probe as pp
from pifi_probe.efficiency.serving import MOST_BUSY, others_busy

SLMS: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512},
    "small": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
LAYERS = {  # width, inner width, heads, key-value heads
    "135M": (576, 1536, 9, 3),
    "1.5B": (1536, 8960, 12, 2),
    "8B": (4096, 14336, 32, 8),
    "70B": (8192, 28672, 64, 8),
}
PAIRS = [("small", "135M"), *((slm, "8B") for slm in SLMS), *(("base", layer) for layer in LAYERS if layer != "8B")]
SHOWN = ("1 x 128", "32 x 128")
ROUNDS, SECONDS, TEXTS = 5, 60.0, 256


def main() -> None:
    """Measure every pair, record."""
    options = parser(__doc__)
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(measure(**json.loads(chosen.child))))
        return
    found: dict[str, Any] = {}
    for slm, layer in PAIRS[:1] if chosen.quick else PAIRS:
        name = f"{slm} + {layer}"
        if not chosen.quick:
            wait_for_quiet()
        missing = missing_bytes(slm, layer)
        if missing > 0:
            found[name] = {"left_out": f"needs {missing / 1e9:.0f} GB more memory than this machine has free"}
            continue
        task = {"slm": slm, "layer": layer, "device": chosen.device, "seed": chosen.seed, "quick": chosen.quick}
        done = in_child(__file__, task)
        if "failed" in done and chosen.quick:
            raise SystemExit(done["failed"])
        found[name] = {"left_out": done["failed"]} if "failed" in done else done
    settings = {"rounds": ROUNDS, "seconds": SECONDS, "texts": TEXTS, "device": chosen.device}
    suffix = "" if chosen.device == "cpu" else f"_{chosen.device}"
    record(f"efficiency{suffix}", chosen, settings, found, tables(found, settings))


def wait_for_quiet() -> None:
    """Return when nothing else keeps the machine busy: to refuse it here would lose the pairs that are measured."""
    while (busy := others_busy()) > MOST_BUSY:
        print(f"waiting: other processes keep {busy:.1f} cores busy", flush=True)
        time.sleep(30)


def missing_bytes(slm: str, layer: str) -> float:
    """Return how many bytes the pair needs beyond those that are free; 0 or less when it fits.

    Of the layer: the frozen one, and one with gradient and moments; of the encoder: four copies, one of them with
    gradient and moments; and activations of 32 texts.
    """
    return 4 * (5 * layer_weights(layer) + 7 * encoder_weights(slm)) + 1e9 - psutil.virtual_memory().available


def layer_weights(layer: str) -> int:
    width, inner, heads, kv_heads = LAYERS[layer]
    return 2 * width * width * (heads + kv_heads) // heads + 3 * width * inner


def encoder_weights(slm: str) -> int:
    sizes = SLMS[slm]
    width = sizes["hidden_size"]
    return sizes["num_hidden_layers"] * (4 * width * width + 2 * width * sizes["intermediate_size"]) + 31_000 * width


def measure(slm: str, layer: str, device: str, seed: int, quick: bool) -> dict[str, Any]:
    """Measure one pair in this fresh process."""
    task = pp.load_task("movie-reviews").subset(train=TEXTS)
    torch.manual_seed(seed)
    encoder = BertModel(BertConfig(**SLMS[slm]), add_pooling_layer=False)
    width, inner, heads, kv_heads = LAYERS[layer]
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        num_hidden_layers=1,
        vocab_size=128,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    with tempfile.TemporaryDirectory(prefix="pifi-cost-") as folder:
        write_checkpoint(Path(folder), config, seed=seed)
        model = pp.plug_in(encoder, pp.extract(f"{folder}[0]", dtype="float32"), task=task, seed=seed)
        model.config.slm = "minilm-l6"  # whose tokenizer has BERT's vocabulary
        recipe = pp.Recipe(device=device, precision="bf16" if device == "cuda" else "float32", seed=seed)
        shapes = {"batches": (1, 2), "lengths": (8,)} if quick else {}
        rounds, seconds = (3, 1) if quick else (ROUNDS, SECONDS)
        cost = pp.benchmark(model, task, recipe, rounds=rounds, most_seconds=seconds, allow_busy=quick, **shapes)
    found = cost.to_dict()
    return {key: found[key] for key in ("device", "precision", "macs_length", "arms", "left_out")}


def tables(measurements: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return targets and rows."""
    pairs = {pair: found for pair, found in measurements.items() if "arms" in found}
    apart = [
        max(arm["macs_measured"], arm["macs_counted"]) / min(arm["macs_measured"], arm["macs_counted"])
        for found in pairs.values()
        for arm in found["arms"]
    ]
    rows = [row(pair, arm, found["arms"][0]) for pair, found in pairs.items() for arm in found["arms"]]
    left_out = [
        {**dict.fromkeys(rows[0]), "encoder + layer": pair, "arm": f"left out: {found['left_out']}"}
        for pair, found in measurements.items()
        if "arms" not in found
    ]
    return {
        "targets": [target("MACs measured / counted, the furthest apart", max(apart), most=1.02)],
        "rows": rows + left_out,
    }


def row(pair: str, arm: dict[str, Any], vanilla: dict[str, Any]) -> dict[str, Any]:
    step = arm["step"]
    values = {
        "encoder + layer": pair,
        "arm": arm["arm"],
        "trained, M": arm["trainable"] / 1e6,
        "MB": arm["n_bytes"] / 1e6,
        "GMACs": arm["macs_measured"] / 1e9,
        "step, ms": scaled(step, 1e3) if step else None,
        "step / vanilla": step["median"] / vanilla["step"]["median"] if step and vanilla["step"] else None,
        "training MB": arm["training_bytes"] / 1e6 if arm["training_bytes"] else None,
    }
    return values | {
        f"{shape}, ms": scaled(arm["latency"][shape], 1e3) if shape in arm["latency"] else None for shape in SHOWN
    }


def scaled(spread: dict[str, float], factor: float) -> dict[str, float]:
    return {name: value if name == "n" else factor * value for name, value in spread.items()}


if __name__ == "__main__":
    main()
