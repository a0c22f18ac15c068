"""One layer out of a checkpoint of Llama-3.1-8B shape, against loading the model for it.

The checkpoint is random, 8 of the 32 layers with the whole vocabulary (5.6 GB), and deleted afterwards; --layers
writes more of them, --full all (16 GB). Each contestant runs in a fresh process and is measured after imports, until
every page of the layer is in memory: a memory-mapped file costs nothing before its pages are touched. One that needs
more memory than there is for the whole model is stopped when the memory is nearly full, before it would slow down:
its time is then a lower bound of what it would take.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from _checkpoint import llama_8b, llama_tiny, size_of, write_checkpoint
from _common import Usage, in_child, limit_memory, parser, ratio, record, spread, target
from _rivals import Unavailable, python_of
from torch import nn

OURS, OURS_32 = "pp.extract, bfloat16 as stored", "pp.extract, float32"
REFERENCE = ("transformers", "4.44.2")  # which the paper's reference code asks for
PAPER, PAPER_32 = (f"from_pretrained of transformers {REFERENCE[1]}, {dtype}" for dtype in ("bfloat16", "float32"))
LOAD, LOAD_32 = "from_pretrained, bfloat16 as stored, mapped", "from_pretrained, float32"
OFFLOAD, ACCELERATE = "from_pretrained, device_map with disk", "accelerate, load_checkpoint_in_model with disk"
# baseline of each arm, in the same type
ARMS = {
    OURS: OURS,
    PAPER: OURS,
    LOAD: OURS,
    OFFLOAD: OURS,
    ACCELERATE: OURS,
    OURS_32: OURS_32,
    PAPER_32: OURS_32,
    LOAD_32: OURS_32,
}
OLD = (PAPER, PAPER_32)  # in an environment of their own
WHOLE = (PAPER_32, LOAD_32)  # hold the whole model, in float32
NEARLY_FULL = 2 * 10**9  # bytes of memory left at which an arm that needs more than there is, is stopped


def main() -> None:
    """Write the checkpoint, run the contestants, record."""
    options = parser(__doc__)
    options.add_argument("--layers", type=int, choices=(8, 16, 32), default=8, help="of the 32")
    options.add_argument("--full", action="store_const", const=32, dest="layers", help="all of them")
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(measure(**json.loads(chosen.child))))
        return
    config = llama_tiny(3) if chosen.quick else llama_8b(chosen.layers)
    rounds = 1 if chosen.quick else chosen.rounds
    size = size_of(config)
    room = shutil.disk_usage(tempfile.gettempdir()).free
    if room < 2.2 * size:  # accelerate's offload folder is a second copy
        raise SystemExit(f"needs {2.2 * size / 1e9:.0f} GB in {tempfile.gettempdir()}, which has {room / 1e9:.0f}")
    arms = [arm for arm in ARMS if not (chosen.quick and arm in OLD)]
    with tempfile.TemporaryDirectory(prefix="pifi-extract-") as name:
        folder = write_checkpoint(Path(name) / "model", config, seed=chosen.seed)
        runs = compete(arms, folder, size, rounds)
        bytes_of_layer = layer_bytes(folder)
    settings = {"layers": config.num_hidden_layers, "rounds": rounds, "checkpoint_bytes": size, **bytes_of_layer}
    name = "extract" if chosen.layers == 8 else f"extract_{chosen.layers}"
    record(name, chosen, settings, runs, tables(runs, settings))


def compete(arms: Sequence[str], folder: Path, size: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Run every arm in every state of the page cache, `rounds` times in turn; ``failed`` ends an arm."""
    available = psutil.virtual_memory().available
    states = ["cold"] if hasattr(os, "posix_fadvise") and rounds > 1 else []
    if size < available / 3 or not states:  # a larger one does not fit together with a copy
        states.append("warm")
    runs: dict[str, dict[str, Any]] = {state: {arm: [] for arm in arms} for state in states}
    for i in range(rounds):
        for state in states:
            for arm in [*arms[i % len(arms) :], *arms[: i % len(arms)]]:
                if isinstance(runs[state][arm], dict):
                    continue
                found = run_alone(arm, state, folder, size, available)
                print(f"round {i + 1}, {state}, {arm}: {found.get('failed') or round(found['seconds'], 3)}", flush=True)
                if "failed" in found:
                    runs[state][arm] = found
                else:
                    runs[state][arm].append(found)
    return runs


def run_alone(arm: str, state: str, folder: Path, size: int, available: int) -> dict[str, Any]:
    """Run one arm in a fresh process of limited memory, or say why not."""
    too_large = arm in WHOLE and 2 * size > 0.9 * available
    limit = (2 * size if too_large else int(0.9 * available)) + size  # mapped pages can be given back at any time
    try:
        python = python_of(*REFERENCE) if arm in OLD else sys.executable
    except Unavailable as reason:
        return {"failed": str(reason)}
    task = {"arm": arm, "state": state, "folder": str(folder), "limit": limit}
    return in_child(__file__, task | ({"leave": NEARLY_FULL} if too_large else {}), str(python))


def measure(arm: str, state: str, folder: str, limit: int, leave: int | None = None) -> dict[str, Any]:
    """Measure one arm in this fresh process, or what it takes until no more than `leave` bytes of memory are left."""
    import transformers.models.llama.modeling_llama

    if arm not in OLD:
        import pifi_probe.layers.extract  # noqa: F401

    set_page_cache(Path(folder), state)
    limit_memory(limit)
    with tempfile.TemporaryDirectory(dir=Path(folder).parent) as scratch:
        usage = Usage()
        if leave is not None:
            threading.Thread(target=stop_when_full, args=(usage, leave), daemon=True).start()
        layer = EXTRACTORS[arm](folder, scratch)
        for parameter in layer.parameters():
            parameter.detach().reshape(-1)[::1024].sum()  # touches every page
        found: dict[str, Any] = usage.until_now()
    assert isinstance(layer, transformers.models.llama.modeling_llama.LlamaDecoderLayer)
    return found | {"layer_bytes": sum(p.numel() * p.element_size() for p in layer.parameters())}


def stop_when_full(usage: Usage, leave: int) -> None:
    """End this process when memory runs out or the system begins to swap, and print what it took until then."""
    swapped = psutil.swap_memory().sout
    while psutil.virtual_memory().available > leave and psutil.swap_memory().sout == swapped:
        time.sleep(0.01)
    print(json.dumps(usage.until_now() | {"stopped": True}), flush=True)
    os._exit(0)


def set_page_cache(folder: Path, state: str) -> None:
    """Drop the files from the page cache, or read them into it."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            if state == "cold":
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                buffer = bytearray(1 << 24)
                while file.readinto(buffer):
                    pass


def ours(dtype: str) -> Callable[[str, str], nn.Module]:
    def run(folder: str, scratch: str) -> nn.Module:
        import pifi_probe as pp

        layer = pp.extract(f"{folder}[-1]", dtype=dtype)
        assert isinstance(layer, pp.FrozenLayer)
        return layer.block

    return run


def load(**dtype: Any) -> Callable[[str, str], nn.Module]:
    """Load the model and keep one layer, as the reference code of the paper does, which names no dtype."""

    def run(folder: str, scratch: str) -> nn.Module:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder, **dtype).model.layers[-1]

    return run


def load_with_offload(folder: str, scratch: str) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    places = all_but_last_on_disk(AutoConfig.from_pretrained(folder).num_hidden_layers)
    model = AutoModelForCausalLM.from_pretrained(folder, device_map=places, offload_folder=scratch)
    return model.model.layers[-1]


def load_with_accelerate(folder: str, scratch: str) -> nn.Module:
    from accelerate import init_empty_weights, load_checkpoint_in_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    places = all_but_last_on_disk(config.num_hidden_layers)
    load_checkpoint_in_model(model, folder, device_map=places, dtype=config.dtype, offload_folder=scratch)
    return model.model.layers[-1]


def all_but_last_on_disk(n_layers: int) -> dict[str, str]:
    layers = {f"model.layers.{i}": "disk" for i in range(n_layers - 1)}
    rest = dict.fromkeys(("model.embed_tokens", "model.norm", "lm_head"), "disk")
    return rest | layers | {f"model.layers.{n_layers - 1}": "cpu", "model.rotary_emb": "cpu"}


EXTRACTORS: dict[str, Callable[[str, str], nn.Module]] = {
    OURS: ours("auto"),
    OURS_32: ours("float32"),
    PAPER: load(torch_dtype=torch.bfloat16),
    PAPER_32: load(),  # its default
    LOAD: load(dtype="auto"),
    LOAD_32: load(dtype="float32"),
    OFFLOAD: load_with_offload,
    ACCELERATE: load_with_accelerate,
}


def layer_bytes(folder: Path) -> dict[str, int]:
    """Return the bytes of the layer as stored, and those of the headers that lead to it, by the reader's count."""
    from pifi_probe.layers.open import open_checkpoint

    checkpoint = open_checkpoint(str(folder))
    index = int(checkpoint.config.num_hidden_layers) - 1
    stored = sum(checkpoint.tensors[name].nbytes for name in checkpoint.layer_names(index))
    checkpoint.read_layer(index)
    return {"layer_bytes": stored, "header_bytes": checkpoint.bytes_read - stored}


def tables(runs: dict[str, dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """Return targets and rows; a contestant that failed has no ratio."""
    return {
        "targets": size_targets(runs, settings["layer_bytes"]) + time_targets(runs, settings["layers"]),
        "rows": [row(arm, state, found, runs) for state, arms in runs.items() for arm, found in arms.items()],
    }


def size_targets(runs: dict[str, dict[str, Any]], stored: int) -> list[dict[str, Any]]:
    found = []
    for arm in (OURS, OURS_32):
        all_runs = [run for arms in runs.values() if isinstance(arms.get(arm), list) for run in arms[arm]]
        if not all_runs:
            continue
        asked = [run["bytes_asked"] / stored for run in all_runs if run["bytes_asked"] is not None]
        if asked:
            found.append(target(f"{arm}: bytes read / bytes of the layer, headers included", max(asked), most=1.01))
        peak = max(run["peak_bytes"] / run["layer_bytes"] for run in all_runs)
        found.append(target(f"{arm}: peak memory above the start / bytes of the layer", peak, most=1.3))
    return found


def time_targets(runs: dict[str, dict[str, Any]], n_layers: int) -> list[dict[str, Any]]:
    """Return how much longer loading the model takes: the reference code's line, and what is told next to it."""
    bounds: dict[str, dict[str, Any]] = {PAPER_32: {"least": 20 if n_layers == 32 else 8}}
    found = []
    for arm, bound in (bounds | {LOAD_32: {}, PAPER: {}, LOAD: {}}).items():
        for state, arms in runs.items():
            if isinstance(arms.get(arm), list) and isinstance(arms[ARMS[arm]], list):
                times = ratio(seconds(arms[arm]), seconds(arms[ARMS[arm]]))["median"]
                what = f"{named(arm, arms[arm])}: time / ours, {state} page cache"
                decided = not stopped(arms[arm]) or times >= bound.get("least", 0)
                found.append(target(what, times, **(bound if decided else {})))
    return found


def row(arm: str, state: str, found: Any, runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    cells: dict[str, Any] = {"page cache": state, "contestant": named(arm, found)}
    if isinstance(found, dict):
        return cells | dict.fromkeys(COLUMNS) | {"seconds": f"failed: {found['failed'][:80]}"}
    base = runs[state][ARMS[arm]]
    ratios = ratio(seconds(found), seconds(base)) if isinstance(base, list) else None
    cells |= {"seconds": spread(seconds(found)), "time / ours": ratios}
    for column, key in (
        ("peak MB", "peak_bytes"),
        ("MB by read calls", "bytes_asked"),
        ("MB from disk", "bytes_from_disk"),
    ):
        values = [run[key] / 1e6 for run in found if run[key] is not None]
        cells[column] = max(values) if values else None
    return cells


def named(arm: str, found: Any) -> str:
    """Return the arm's name, and that its times are lower bounds where it was stopped."""
    return f"{arm}, stopped when memory was full (a lower bound)" if stopped(found) else arm


def stopped(found: Any) -> bool:
    return isinstance(found, list) and any(run.get("stopped") for run in found)


COLUMNS = ("seconds", "time / ours", "peak MB", "MB by read calls", "MB from disk")


def seconds(found: list[dict[str, float]]) -> list[float]:
    return [run["seconds"] for run in found]


if __name__ == "__main__":
    main()
