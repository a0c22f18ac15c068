"""A sample of texts through a checkpoint of Llama-3.1-8B shape: peak memory, and bytes read.

The checkpoint is random, 4 of the 32 layers with the whole vocabulary and an untied head (3.8 GB), and deleted
afterwards; --full writes all 32 layers (16 GB). Each way of streaming runs in a fresh process and is measured after
imports.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from _checkpoint import llama_8b, llama_tiny, size_of, write_checkpoint
from _common import Usage, in_child, parser, record, spread, target

MEMORY, DISK, BF16 = "float32, states in memory", "float32, states on disk", "bf16 autocast, states in memory"
ARMS: dict[str, dict[str, Any]] = {
    MEMORY: {"precision": "float32", "on_disk": False},
    DISK: {"precision": "float32", "on_disk": True},
    BF16: {"precision": "bf16", "on_disk": False},
}
TEXTS, TOKENS, BATCH = 32, 64, 8  # texts, tokens of each, texts of a batch


def main() -> None:
    """Write the checkpoint, stream through it in every way, record."""
    options = parser(__doc__)
    options.add_argument("--full", action="store_true", help="all 32 layers")
    options.add_argument("--rounds", type=int, default=1)
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(measure(**json.loads(chosen.child))))
        return
    config = llama_tiny(3) if chosen.quick else llama_8b(32 if chosen.full else 4)
    rounds = 1 if chosen.quick else chosen.rounds
    size = size_of(config)
    room = shutil.disk_usage(tempfile.gettempdir()).free
    if room < 1.1 * size:
        raise SystemExit(f"needs {1.1 * size / 1e9:.0f} GB in {tempfile.gettempdir()}, which has {room / 1e9:.0f}")
    with tempfile.TemporaryDirectory(prefix="pifi-stream-") as name:
        folder = write_checkpoint(Path(name) / "model", config, seed=chosen.seed)
        runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms()}
        for i in range(rounds):
            for arm in runs:
                found = in_child(__file__, {"arm": arm, "folder": str(folder), "seed": chosen.seed})
                if "failed" in found:
                    raise SystemExit(f"{arm}: {found['failed']}")
                print(f"round {i + 1}, {arm}: {found['seconds']:.1f} s, peak {found['peak_bytes'] / 1e6:,.0f} MB")
                runs[arm].append(found)
        stored = stored_bytes(folder)
    budget = activation_budget(config.hidden_size, config.intermediate_size)
    settings = {
        "layers": config.num_hidden_layers,
        "texts": TEXTS,
        "tokens": TOKENS,
        "batch": BATCH,
        "checkpoint_bytes": size,
        "activation_budget_bytes": budget,
        **stored,
    }
    record("stream_memory_full" if chosen.full else "stream_memory", chosen, settings, runs, tables(runs, settings))


def arms() -> list[str]:
    """Return the ways that this processor has."""
    import torch

    from pifi_probe.devices import has_bf16

    return [arm for arm in ARMS if arm != BF16 or has_bf16(torch.device("cpu"))]


def activation_budget(width: int, inner: int) -> dict[str, int]:
    """Return the bytes, in float32, that states and computing may take, for states in memory and on disk.

    All states, where they are in memory; of one batch five times the states (input, output, and what attention
    holds), and three times the inner activations of the MLP; and 128 MB for the pieces of the embeddings that are
    read at once, allocator and libraries.
    """
    batch = 4 * BATCH * TOKENS * (5 * width + 3 * inner) + 128 * 10**6
    return {"in memory": 4 * TEXTS * TOKENS * width + batch, "on disk": batch}


def measure(arm: str, folder: str, seed: int) -> dict[str, Any]:
    """Stream in this fresh process; count what is read."""
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    from pifi_probe.layers.open import open_checkpoint
    from pifi_probe.layers.stream import Batch, stream

    checkpoint = open_checkpoint(folder)
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(TEXTS // BATCH):
        ids = torch.randint(checkpoint.config.vocab_size, (BATCH, TOKENS), generator=generator)
        batches.append(Batch(ids, torch.ones_like(ids)))
    visited = []
    way = ARMS[arm]
    usage = Usage()
    stream(
        checkpoint,
        batches,
        lambda point, batch, states: visited.append((point, batch)),
        model="model",
        memory=0 if way["on_disk"] else 10**12,
        precision=way["precision"],
        progress=False,
    )
    found: dict[str, Any] = usage.until_now()
    assert len(visited) == (checkpoint.config.num_hidden_layers + 1) * len(batches)
    return found | {"bytes_read": checkpoint.bytes_read}


def stored_bytes(folder: Path) -> dict[str, int]:
    """Return what is to be read, headers and all tensors but the head, and the bytes of a layer in float32."""
    from pifi_probe.layers.open import open_checkpoint

    checkpoint = open_checkpoint(str(folder))
    needed = [info for name, info in checkpoint.tensors.items() if name != "lm_head.weight"]
    headers: dict[str, int] = {}
    for info in sorted(checkpoint.tensors.values(), key=lambda info: info.offset):
        headers.setdefault(info.source.name, info.offset)
    read = {info.source.name for info in needed}
    total = sum(info.nbytes for info in needed) + sum(headers[name] for name in read)
    layer = 2 * sum(checkpoint.tensors[name].nbytes for name in checkpoint.layer_names(0))  # stored as bfloat16
    return {"needed_bytes": total, "layer_bytes": layer}


def tables(runs: dict[str, list[dict[str, Any]]], settings: dict[str, Any]) -> dict[str, Any]:
    """Return targets and rows."""
    targets, rows = [], []
    for arm, found in runs.items():
        allowed = allowance(arm, settings)
        peak = max(run["peak_bytes"] for run in found)
        targets.append(target(f"{arm}: peak above the start / (2 layers + activation budget)", peak / allowed, most=1))
        once = max(run["bytes_read"] for run in found) / settings["needed_bytes"]
        targets.append(target(f"{arm}: bytes read / bytes of headers, embeddings and layers", once, most=1))
        rows.append(
            {
                "streamed": arm,
                "seconds": spread(run["seconds"] for run in found),
                "peak MB": peak / 1e6,
                "2 layers + budget MB": allowed / 1e6,
                "one layer MB": settings["layer_bytes"] / 1e6,
                "read MB": max(run["bytes_read"] for run in found) / 1e6,
                "checkpoint MB": settings["checkpoint_bytes"] / 1e6,
            }
        )
    return {"targets": targets, "rows": rows}


def allowance(arm: str, settings: dict[str, Any]) -> int:
    place = "on disk" if ARMS[arm]["on_disk"] else "in memory"
    return int(2 * settings["layer_bytes"] + settings["activation_budget_bytes"][place])


if __name__ == "__main__":
    main()
