"""One optimiser step of PiFi, against vanilla fine-tuning and against the paper's wiring in its reference code.

A step is forward, loss with label smoothing, backward, gradient clipping and Adam, in float32, on 32 texts of 64
tokens. The arms take turns in every round. Memory is that of a fresh process while it makes steps: weights,
gradients, Adam's moments and activations.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from _common import in_child, interleave, parser, ratio, record, spread, target
from _models import BATCH, LARGE, LENGTH, SMALL, TINY, batch_of, donor, paper_wiring, plugged, write_donor
from torch import nn

from pifi_probe.provenance import PeakMemory

VANILLA, PIFI, PAPER = "vanilla", "PiFi", "paper's wiring, whole layer"
ROUNDS = {SMALL: 30, LARGE: 24, TINY: 2}
MEMORY_STEPS = 3


def main() -> None:
    """Measure every pair, record."""
    options = parser(__doc__).parse_args()
    if options.child:
        print(json.dumps(memory_of(**json.loads(options.child))))
        return
    measurements = {}
    for pair in (TINY,) if options.quick else (SMALL, LARGE):
        with tempfile.TemporaryDirectory(prefix="pifi-step-") as folder:
            write_donor(pair, Path(folder), options.seed)
            task = {"pair": pair, "folder": folder, "seed": options.seed}
            memory = {arm: in_child(__file__, task | {"arm": arm}) for arm in (VANILLA, PIFI, PAPER)}
            if failed := [found["failed"] for found in memory.values() if "failed" in found]:
                raise SystemExit(failed[0])
            steps, alone = times_of(pair, Path(folder), options.seed)
        measurements[pair] = {"step_seconds": steps, "plugin_seconds": alone, "memory": memory}
    settings = {"batch": BATCH, "length": LENGTH, "rounds": ROUNDS, "dtype": "float32"}
    record("train_step", options, settings, measurements, tables(measurements, settings))


def build(pair: str, arm: str, folder: Path, seed: int) -> nn.Module:
    """Return the model of an arm, in training mode."""
    if arm == VANILLA:
        return plugged(pair, None, seed).train()
    make = plugged if arm == PIFI else paper_wiring
    return make(pair, donor(pair, folder), seed).train()


def times_of(pair: str, folder: Path, seed: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the seconds of whole steps, and of forward and backward of the plug-in alone."""
    models = {arm: build(pair, arm, folder, seed) for arm in (VANILLA, PIFI, PAPER)}
    batch = batch_of(pair, BATCH, seed)
    steps = interleave({arm: step(model, batch) for arm, model in models.items()}, ROUNDS[pair], seed=seed)
    blocks = {arm: pass_through(models[arm]) for arm in (PIFI, PAPER)}
    return steps, interleave(blocks, 4 * ROUNDS[pair], seed=seed)


def step(model: nn.Module, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """Return one optimiser step, as a function."""
    trained = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.Adam(trained, lr=5e-5)
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}

    def run() -> None:
        logits = model(**inputs).logits
        nn.functional.cross_entropy(logits, batch["labels"], label_smoothing=0.05).backward()
        nn.utils.clip_grad_norm_(trained, 5.0)
        adam.step()
        adam.zero_grad()

    return run


def pass_through(model: nn.Module) -> Callable[[], None]:
    """Return forward and backward of a model's plug-in, as a function."""
    plugin: Any = model.plugin
    h = torch.randn(BATCH, plugin.L_in.in_features, requires_grad=True)

    def run() -> None:
        plugin(h).sum().backward()
        h.grad = plugin.L_in.weight.grad = plugin.L_out.weight.grad = None

    return run


def memory_of(pair: str, arm: str, folder: str, seed: int) -> dict[str, Any]:
    """Measure one arm in this fresh process: bytes above those after imports, while it makes steps."""
    start = psutil.Process().memory_info().rss
    model = build(pair, arm, Path(folder), seed)
    run = step(model, batch_of(pair, BATCH, seed))
    with PeakMemory() as memory:
        for _ in range(MEMORY_STEPS):
            run()
    counts = [sum(p.numel() for p in model.parameters() if p.requires_grad is kind) for kind in (True, False)]
    return {"peak_bytes": memory.rss_bytes - start, "trained": counts[0], "frozen": counts[1]}


def tables(measurements: dict[str, dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """Return targets and rows."""
    return {
        "targets": [line for pair, found in measurements.items() for line in targets_of(pair, found)],
        "rows": [row(pair, arm, found) for pair, found in measurements.items() for arm in (VANILLA, PIFI, PAPER)],
    }


def targets_of(pair: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    steps, alone = found["step_seconds"], found["plugin_seconds"]
    lines = []
    if pair != LARGE:
        overhead = ratio(steps[PIFI], steps[VANILLA])["median"]
        lines.append(target(f"{pair}: step / vanilla step", overhead, most=1.05))
    for what, times in (("step", steps), ("plug-in alone, forward and backward", alone)):
        against = ratio(times[PIFI], times[PAPER])["median"]
        lines.append(target(f"{pair}: {what} / the same in the paper's wiring", against, most=1.0))
    return lines


def row(pair: str, arm: str, found: dict[str, Any]) -> dict[str, Any]:
    steps, alone, memory = found["step_seconds"], found["plugin_seconds"], found["memory"][arm]
    return {
        "pair": pair,
        "arm": arm,
        "step, ms": spread(1e3 * t for t in steps[arm]),
        "step / vanilla": ratio(steps[arm], steps[VANILLA]),
        "plug-in alone, ms": spread(1e3 * t for t in alone[arm]) if arm in alone else None,
        "peak MB": memory["peak_bytes"] / 1e6,
        "trained": memory["trained"],
        "frozen": memory["frozen"],
    }


if __name__ == "__main__":
    main()
