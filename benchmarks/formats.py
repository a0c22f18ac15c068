"""One layer out of quantised checkpoints of Llama-3.1-8B shape, against the owning libraries reading the whole file.

The checkpoints are random, 16 of the 32 layers (--layers) without a vocabulary, and deleted
afterwards. Each arm runs in a fresh process
and is measured after imports. An owning library reads every weight of the file and turns it into bfloat16 with its own
function, holding one at a time, which favours it in memory. The libraries are looked for in --libraries, a folder
made by ``pip install --target``, so that they are not part of this environment.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from _checkpoint import llama_8b, llama_tiny
from _common import Usage, in_child, parser, ratio, record, spread, target
from safetensors import safe_open
from transformers import LlamaConfig

from pifi_probe.files import write_json

GROUP, BLOCK = 64, 128
NO_CPU = "the library that owns the format reads it on a GPU alone"
NF4 = [-1.0, -0.696, -0.525, -0.395, -0.284, -0.185, -0.091, 0.0, 0.08, 0.161, 0.246, 0.338, 0.441, 0.563, 0.723, 1.0]
Stored = dict[str, torch.Tensor]


def _words(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(0).bytes(min(count, 1 << 20))  # the same megabyte again and again
    return torch.frombuffer(bytearray((raw * (count // len(raw) + 1))[:count]), dtype=dtype).reshape(shape)


def fp8(name: str, n: int, k: int) -> Stored:
    """Store blocks of 128 x 128."""
    codes = (_words(n, k, dtype=torch.uint8) & 0x77).view(torch.float8_e4m3fn)
    return {f"{name}.weight": codes, f"{name}.weight_scale_inv": torch.rand(-(-n // BLOCK), -(-k // BLOCK)) + 0.1}


def int4(name: str, n: int, k: int) -> Stored:
    """Store compressed-tensors' packed int4."""
    stored = {"weight_packed": _words(n, k // 8), "weight_scale": torch.rand(n, k // GROUP).bfloat16() + 0.1}
    return {f"{name}.{key}": tensor for key, tensor in (stored | {"weight_shape": torch.tensor([n, k])}).items()}


def nf4(name: str, n: int, k: int) -> Stored:
    """Store bitsandbytes' NF4."""
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [n, k]}
    return {
        f"{name}.weight": _words(n * k // 2, 1, dtype=torch.uint8),
        f"{name}.weight.absmax": torch.rand(n * k // 64) + 0.1,
        f"{name}.weight.quant_map": torch.tensor(NF4),
        f"{name}.weight.quant_state.bitsandbytes__nf4": torch.tensor(
            list(json.dumps(state).encode()), dtype=torch.uint8
        ),
    }


def mlx(name: str, n: int, k: int) -> Stored:
    """Store MLX's four bits."""
    scales, biases = torch.rand(n, k // GROUP).half() + 0.1, torch.rand(n, k // GROUP).half()
    return {f"{name}.weight": _words(n, k // 8).view(torch.uint32), f"{name}.scales": scales, f"{name}.biases": biases}


def gptq(name: str, n: int, k: int) -> Stored:
    """Store GPTQ of four bits."""
    stored = {
        "qweight": _words(k // 8, n),
        "qzeros": _words(k // GROUP, n // 8),
        "scales": torch.rand(k // GROUP, n).half() + 0.1,
        "g_idx": (torch.arange(k) // GROUP).int(),
    }
    return {f"{name}.{key}": tensor for key, tensor in stored.items()}


def awq(name: str, n: int, k: int) -> Stored:
    """Store AWQ's GEMM layout."""
    stored = {"qweight": _words(k, n // 8), "qzeros": _words(k // GROUP, n // 8)}
    stored["scales"] = torch.rand(k // GROUP, n).half() + 0.1
    return {f"{name}.{key}": tensor for key, tensor in stored.items()}


def _by_transformers(file: Any, name: str) -> torch.Tensor:
    kind = import_module("transformers.integrations.finegrained_fp8").Fp8Dequantize
    parts = {"weight": [file.get_tensor(f"{name}.weight")], "scale": [file.get_tensor(f"{name}.weight_scale_inv")]}
    quantizer = type("Q", (), {"quantization_config": type("C", (), {"weight_block_size": (BLOCK, BLOCK)})()})()
    found = kind(quantizer).convert(
        {"weight$": parts["weight"], "weight_scale_inv": parts["scale"]}, full_layer_name=name
    )
    value: torch.Tensor = next(iter(found.values()))
    return (value[0] if isinstance(value, list) else value).bfloat16()


def _by_compressed_tensors(file: Any, name: str) -> torch.Tensor:
    quantization = import_module("compressed_tensors.quantization")
    registry = import_module("compressed_tensors.compressors").BaseCompressor
    args = quantization.QuantizationArgs(num_bits=4, strategy="group", group_size=GROUP)
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=args, format="pack-quantized")
    parts = {key: file.get_tensor(f"{name}.{key}") for key in ("weight_packed", "weight_scale", "weight_shape")}
    found: torch.Tensor = registry.get_value_from_registry("pack-quantized").decompress(parts, scheme)["weight"]
    return found


def _by_bitsandbytes(file: Any, name: str) -> torch.Tensor:
    functional = import_module("bitsandbytes.functional")
    keys = [key for key in file.keys() if key.startswith(f"{name}.weight.")]  # noqa: SIM118
    parts = {key.removeprefix(f"{name}.weight."): file.get_tensor(key) for key in keys}
    state = functional.QuantState.from_dict(parts, device=torch.device("cpu"))
    found: torch.Tensor = functional.dequantize_4bit(file.get_tensor(f"{name}.weight"), state)
    return found


def _by_mlx(file: Any, name: str) -> object:
    mx = import_module("mlx.core")
    words, scales, biases = (
        mx.array(file.get_tensor(f"{name}.{key}").numpy()) for key in ("weight", "scales", "biases")
    )
    found = mx.dequantize(words, scales, biases, group_size=GROUP, bits=4).astype(mx.bfloat16)
    mx.eval(found)
    return found


_INT4 = {"num_bits": 4, "type": "int", "group_size": GROUP, "strategy": "group"}
# format -> how a matrix is stored, what config.json says, the owning library and how it reads a weight
FORMATS: dict[
    str, tuple[Callable[[str, int, int], Stored], dict[str, Any], str, Callable[[Any, str], object] | None]
] = {
    "fp8": (fp8, {"quantization_config": {"weight_block_size": [BLOCK, BLOCK]}}, "transformers", _by_transformers),
    "compressed-tensors int4": (
        int4,
        {"quantization_config": {"config_groups": {"0": {"weights": _INT4}}}},
        "compressed-tensors",
        _by_compressed_tensors,
    ),
    "bitsandbytes nf4": (nf4, {}, "bitsandbytes", _by_bitsandbytes),
    "mlx 4-bit": (mlx, {"quantization": {"bits": 4, "group_size": GROUP}}, "mlx", _by_mlx),
    "gptq 4-bit": (gptq, {"quantization_config": {"quant_method": "gptq", "group_size": GROUP}}, "", None),
    "awq 4-bit": (awq, {"quantization_config": {"quant_method": "awq", "group_size": GROUP}}, "", None),
}


def main() -> None:
    """Write the checkpoints one after the other, run the arms, record."""
    options = parser(__doc__)
    options.add_argument("--layers", type=int, default=16)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--libraries", type=Path, help="folder that holds the owning libraries")
    options.add_argument(
        "--keep", type=Path, help="file for the formats that are done, from which a killed run goes on"
    )
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(measure(**json.loads(chosen.child))))
        return
    config = llama_tiny(2) if chosen.quick else llama_8b(chosen.layers, vocab_size=1024)
    rounds = 1 if chosen.quick else chosen.rounds
    paths = [str(chosen.libraries)] if chosen.libraries else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    settings = {"layers": config.num_hidden_layers, "rounds": rounds, "threads": torch.get_num_threads()}
    runs = kept(chosen.keep, settings)
    for name in (one for one in FORMATS if one not in runs):
        with tempfile.TemporaryDirectory(prefix="pifi-formats-") as folder:
            sizes = write(Path(folder), config, name)
            found: dict[str, Any] = {"sizes": sizes, "ours": [], "library": []}
            for _ in range(rounds):
                for arm in ("ours", "library") if is_here(name, paths) else ("ours",):
                    task = {"name": name, "folder": folder, "arm": arm}
                    quick = chosen.quick  # seconds for a child's imports, and no number of it is kept
                    found[arm].append(measure(**task) if quick else in_child(__file__, task, environment=environment))
            runs[name] = found
        if chosen.keep is not None:
            write_json(chosen.keep, {"settings": settings, "runs": runs})
    record("formats", chosen, settings, runs, tables(runs, settings))


def is_here(name: str, paths: list[str]) -> bool:
    """Return whether the library that owns a format is found, and reads it on a CPU."""
    *_, library, read = FORMATS[name]
    return read is not None and PathFinder.find_spec(library.replace("-", "_"), [*paths, *sys.path]) is not None


def kept(file: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the formats that a run with the same settings has measured before it was killed."""
    if file is None or not file.is_file():
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))
    return dict(found["runs"]) if found["settings"] == settings else {}


def write(folder: Path, config: LlamaConfig, name: str) -> dict[str, int]:
    """Write a random checkpoint; return the bytes of the file and of a layer in bfloat16."""
    pack, more, *_ = FORMATS[name]
    tensors: Stored = {"model.embed_tokens.weight": torch.zeros(config.vocab_size, config.hidden_size).bfloat16()}
    layer: Stored = {}
    count = 0
    for module, n, k in matrices(config):
        layer |= pack(module, n, k)
        count += n * k
    norm = torch.ones(config.hidden_size).bfloat16()
    layer |= {"input_layernorm.weight": norm, "post_attention_layernorm.weight": norm.clone()}
    for index in range(config.num_hidden_layers):
        tensors |= {f"model.layers.{index}.{key}": tensor.clone() for key, tensor in layer.items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_dict() | more))
    size = (folder / "model.safetensors").stat().st_size
    return {"file_bytes": size, "layer_bytes": 2 * (count + 2 * config.hidden_size)}


def matrices(config: LlamaConfig) -> Iterator[tuple[str, int, int]]:
    """Yield module, outputs and inputs of the matrices of a layer."""
    d, m = config.hidden_size, config.intermediate_size
    kv = d // config.num_attention_heads * config.num_key_value_heads
    for name, n in (("q", d), ("k", kv), ("v", kv), ("o", d)):
        yield f"self_attn.{name}_proj", n, d
    yield from (("mlp.gate_proj", m, d), ("mlp.up_proj", m, d), ("mlp.down_proj", d, m))


def measure(name: str, folder: str, arm: str) -> dict[str, Any]:
    """Run one arm in this process."""
    import pifi_probe as pp

    *_, library, read = FORMATS[name]
    if arm == "ours":
        with tempfile.TemporaryDirectory(prefix="pifi-formats-") as tiny:  # imports what is imported late
            write(Path(tiny), llama_tiny(2), name)
            pp.extract(f"{tiny}[1]")
        usage = Usage()
        layer = pp.extract(f"{folder}[1]")
        found = usage.until_now()
        return {**found, "weights": getattr(layer, "n_params", 0)}
    assert read is not None
    config = json.loads(Path(folder, "config.json").read_text())
    import_module({"transformers": "transformers", "mlx": "mlx.core"}.get(library, library.replace("-", "_")))
    usage = Usage()
    with safe_open(Path(folder, "model.safetensors"), "pt") as file:
        for index in range(config["num_hidden_layers"]):
            for module, *_ in matrices(LlamaConfig(**config)):
                read(file, f"model.layers.{index}.{module}")
    return {**usage.until_now(), "library": library, "version": version(library)}


def tables(runs: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return targets and rows."""
    targets, rows = [], []
    for name, found in runs.items():
        ours, library = found["ours"], [run for run in found["library"] if "failed" not in run]
        layer = found["sizes"]["layer_bytes"]
        peak = spread(run["peak_bytes"] / layer for run in ours)
        targets.append(target(f"{name}: peak memory over the layer in bfloat16", peak["median"], most=1.3))
        row: dict[str, Any] = {
            "format": name,
            "file": f"{found['sizes']['file_bytes'] / 1e9:.2f} GB",
            "our seconds, one layer": round(spread(run["seconds"] for run in ours)["median"], 2),
            "our peak / layer": round(peak["median"], 2),
        }
        if len(library) == len(ours):
            times = ratio([run["seconds"] for run in library], [run["seconds"] for run in ours])
            targets.append(target(f"{name}: faster than {library[0]['library']}", times["median"], least=10))
            row["library"] = f"{library[0]['library']} {library[0]['version']}"
            row["its seconds, whole file"] = round(spread(run["seconds"] for run in library)["median"], 2)
            row["its peak"] = f"{spread(run['peak_bytes'] for run in library)['median'] / 1e9:.2f} GB"
        else:
            why = NO_CPU if FORMATS[name][3] is None else "not installed"
            row["library"] = next((run["failed"] for run in found["library"] if "failed" in run), why)[:80]
            row["its seconds, whole file"] = row["its peak"] = "-"
        rows.append(row)
    return {"targets": targets, "rows": rows}


if __name__ == "__main__":
    sys.exit(main())
