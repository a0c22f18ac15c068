"""A layer is unpacked within the memory of the layer and one of its tensors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.quantised import SCHEMES, USUAL, save_quantised

SIZES = USUAL | {"hidden_size": 1024, "intermediate_size": 8192, "head_dim": 128}
MEASURED = ("fp8", "bitsandbytes int8", "bitsandbytes nf4", "gptq 4-bit", "awq", "compressed-tensors order")
ROOM = 40_000_000  # bytes: pieces in float32, and what an allocator keeps
# Large blocks are given back to the system as soon as they are free: glibc otherwise keeps some of them for later, more
# or less of them from one run to the next.
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
SCRIPT = """
import json, sys, torch
from pifi_probe.layers.open import open_checkpoint
def status(key):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return 1024 * int(lines[key].split()[0])
open_checkpoint(sys.argv[1]).read_layer(1, torch.bfloat16)  # a small one, for what is imported late
checkpoint = open_checkpoint(sys.argv[2])
open("/proc/self/clear_refs", "w").write("5")  # forget the peak until now
before = status("VmRSS")
tensors = checkpoint.read_layer(1, torch.bfloat16)
sizes = [tensor.nbytes for tensor in tensors.values()]
print(json.dumps({"peak": status("VmHWM") - before, "layer": sum(sizes), "largest": max(sizes)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("scheme", MEASURED)
def test_the_peak_is_the_layer_and_one_tensor(scheme: str, tmp_path: Path) -> None:
    save_quantised(tmp_path / "small", SCHEMES[scheme])
    save_quantised(tmp_path / "large", SCHEMES[scheme], sizes=SIZES, chosen=_second)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | GIVEN_BACK)
    found = json.loads(done.stdout)
    assert found["layer"] > 50_000_000
    assert found["peak"] < found["layer"] + found["largest"] + ROOM, found


N, K, EXPERTS = 4096, 2048, 4
FLOAT8 = torch.float8_e4m3fn


def _bytes(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return torch.randint(0, 255, (*shape[:-1], shape[-1] * dtype.itemsize), dtype=torch.uint8).view(dtype)


def _ones(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.ones(shape).to(dtype)


def _exponents(*shape: int) -> torch.Tensor:
    return torch.full(shape, 127, dtype=torch.uint8)


def _nested(kind: str) -> dict[str, torch.Tensor]:
    blocks = N * K // 64
    state = {"blocksize": 64, "shape": [N, K], "nested_blocksize": 256, "nested_offset": 0.5}
    return {
        "m.weight": _bytes(N * K // 2, 1),
        "m.weight.absmax": _bytes(blocks),
        "m.weight.quant_map": torch.linspace(-1, 1, 16),
        "m.weight.nested_absmax": torch.ones(blocks // 256),
        "m.weight.nested_quant_map": torch.linspace(-1, 1, 256),
        f"m.weight.quant_state.bitsandbytes__{kind}": torch.tensor([*json.dumps(state).encode()], dtype=torch.uint8),
    }


def _packed(bits: int) -> dict[str, torch.Tensor]:
    return {
        "m.weight_packed": _bytes(N, K * bits // 32, dtype=torch.int32),
        "m.weight_scale": _ones(N, K // 128),
        "m.weight_zero_point": _bytes(N * bits // 32, K // 128, dtype=torch.int32),
        "m.weight_shape": torch.tensor([N, K]),
    }


def _gptq(bits: int) -> dict[str, torch.Tensor]:
    return {
        "m.qweight": _bytes(K * bits // 32, N, dtype=torch.int32),
        "m.qzeros": _bytes(K // 64, N * bits // 32, dtype=torch.int32),
        "m.scales": _ones(K // 64, N),
    }


def _mlx(bits: int) -> dict[str, torch.Tensor]:
    words = _bytes(N, K * bits // 32, dtype=torch.uint32)
    return {"m.weight": words, "m.scales": _ones(N, K // 64), "m.biases": _ones(N, K // 64)}


# Stored parts of a matrix of N x K; of what they stand for, other tests tell.
PARTS: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
    "modelopt nvfp4": lambda: {
        "m.weight": _bytes(N, K // 2),
        "m.weight_scale": _ones(N, K // 16, dtype=torch.float8_e4m3fn),
        "m.weight_scale_2": torch.tensor(1.0),
    },
    "mlx": lambda: {
        "m.weight": _bytes(N, K // 8, dtype=torch.uint32),
        "m.scales": _ones(N, K // 64),
        "m.biases": _ones(N, K // 64),
    },
    "torchao int4": lambda: {
        "m._weight_qdata": _bytes(N, K // 2, dtype=torch.int8),
        "m._weight_scale": _ones(K // 32, N),
        "m._weight_zero_point": _ones(K // 32, N),
    },
    "gptq act-order": lambda: {
        "m.qweight": _bytes(K // 8, N, dtype=torch.int32),
        "m.qzeros": _bytes(K // 64, N // 8, dtype=torch.int32),
        "m.scales": _ones(K // 64, N),
        "m.g_idx": (torch.arange(K) % (K // 64)).int(),
    },
    "awq": lambda: {
        "m.qweight": _bytes(K, N // 8, dtype=torch.int32),
        "m.qzeros": _bytes(K // 64, N // 8, dtype=torch.int32),
        "m.scales": _ones(K // 64, N),
    },
    "mxfp4 of gpt-oss": lambda: {
        "m.w_blocks": _bytes(EXPERTS, N // EXPERTS, K // 32, 16),
        "m.w_scales": _ones(EXPERTS, N // EXPERTS, K // 32, dtype=torch.uint8) * 127,
    },
    "fp8 per tensor": lambda: {"m.weight": _ones(N, K, dtype=FLOAT8), "m.weight_scale": torch.tensor(1.0)},
    "fp8 deepseek": lambda: {"m.weight": _ones(N, K, dtype=FLOAT8), "m.scale": _ones(N // 128, K // 128)},
    "fp8 mistral": lambda: {"m.weight": _ones(N, K, dtype=FLOAT8), "m.qscale_weight": torch.tensor(1.0)},
    "mxfp8": lambda: {"m.weight": _ones(N, K, dtype=FLOAT8), "m.weight_scale_inv": _exponents(N, K // 32)},
    "fp4 deepseek": lambda: {
        "m.weight": _bytes(N, K // 2, dtype=torch.int8),
        "m.scale": _exponents(N, K // 32).view(torch.float8_e8m0fnu),
    },
    "compressed-tensors int8": lambda: {
        "m.weight": _bytes(N, K, dtype=torch.int8),
        "m.weight_scale": _ones(N, 1),
        "m.weight_zero_point": torch.zeros(N, 1, dtype=torch.int8),
    },
    "compressed-tensors nvfp4": lambda: {
        "m.weight_packed": _bytes(N, K // 2),
        "m.weight_scale": _ones(N, K // 16, dtype=FLOAT8),
        "m.weight_global_scale": torch.ones(1),
    },
    "compressed-tensors mxfp4": lambda: {
        "m.weight_packed": _bytes(N, K // 2),
        "m.weight_scale": _exponents(N, K // 32),
    },
    **{f"compressed-tensors packed int{bits}": partial(_packed, bits) for bits in (2, 3, 4, 8)},
    **{f"gptq {bits}-bit": partial(_gptq, bits) for bits in (2, 3, 8)},
    "awq gemv": lambda: {
        "m.qweight": _bytes(N, K // 8, dtype=torch.int32),
        "m.qzeros": _bytes(N, K // 1024, dtype=torch.int32),
        "m.scales": _ones(N, K // 128),
    },
    **{f"mlx {bits}-bit": partial(_mlx, bits) for bits in (2, 3, 5, 6, 8)},
    "mlx mxfp4": lambda: {"m.weight": _bytes(N, K // 8, dtype=torch.uint32), "m.scales": _exponents(N, K // 32)},
    "mlx nvfp4": lambda: {
        "m.weight": _bytes(N, K // 8, dtype=torch.uint32),
        "m.scales": _ones(N, K // 16, dtype=FLOAT8).view(torch.uint8),
    },
    "mlx mxfp8": lambda: {
        "m.weight": _ones(N, K, dtype=FLOAT8).view(torch.uint32),
        "m.scales": _exponents(N, K // 32),
    },
    "torchao float8": lambda: {"m._weight_qdata": _ones(N, K, dtype=FLOAT8), "m._weight_scale": _ones(N, 1)},
    "torchao int8": lambda: {"m._weight_qdata": _bytes(N, K, dtype=torch.int8), "m._weight_scale": _ones(N, 1)},
    **{f"bitsandbytes {kind}": partial(_nested, kind) for kind in ("nf4", "fp4")},
}
MATRICES = 4
EACH = """
import json, sys, torch
from pathlib import Path
from pifi_probe.layers.formats import Numbers, make_plan
from pifi_probe.layers.safetensors_io import read_header, read_tensors
from pifi_probe.layers.sources import FileSource
def status(key):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return 1024 * int(lines[key].split()[0])
found = {}
for name, settings in json.loads(sys.argv[2]).items():
    infos = read_header(FileSource(Path(sys.argv[1]) / name))
    plan = make_plan(infos, Numbers(settings), name)
    for _ in range(2):  # the first time for what is imported and kept
        open("/proc/self/clear_refs", "w").write("5")
        before = status("VmRSS")
        weights = plan.weights(read_tensors(plan.infos), torch.bfloat16)
        peak, sizes = status("VmHWM") - before, [each.nbytes for each in weights.values()]
        found[name] = {"peak": peak, "layer": sum(sizes), "largest": max(sizes)}
        del weights
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_so_it_is_for_what_is_packed_by_words_groups_and_experts(tmp_path: Path) -> None:
    settings: dict[str, dict[str, object]] = {name: {} for name in PARTS}
    for name in (name for name in PARTS if name.endswith("-bit") or name == "mlx"):
        bits = int(name.split()[1].removesuffix("-bit")) if " " in name else 4
        settings[name] = {"bits": bits, "group_size": 64}
    settings["mxfp8"] = {"weight_block_size": [1, 32]}
    settings["awq gemv"] = {"quant_method": "awq", "group_size": 128}
    for name, parts in PARTS.items():
        stored = {key.replace("m.", f"m{i}.", 1): part for i in range(MATRICES) for key, part in parts().items()}
        save_file(stored, tmp_path / name)
    command = [sys.executable, "-c", EACH, str(tmp_path), json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | GIVEN_BACK)
    every = json.loads(done.stdout)
    assert all(found["layer"] == MATRICES * found["largest"] == MATRICES * 2 * N * K for found in every.values())
    over = {name: found["peak"] - found["layer"] - found["largest"] for name, found in every.items()}
    assert max(over.values()) < ROOM // 4, {name: size for name, size in over.items() if size >= ROOM // 4}


def _second(name: str, tensor: object) -> bool:
    """Pack the layer that is read and no other, which saves time."""
    return ".layers.1." in name and name.endswith("proj.weight")
