"""Pack small matrices with the libraries that own the formats, and keep what those libraries read back.

    pip install compressed-tensors==0.20.1 bitsandbytes==0.50.2 "mlx[cpu]==0.32.4" torchao==0.18.0
    python -m tests.make_format_cases

writes ``tests/data/format_cases.safetensors``: tensors ``CASE|NAME`` as stored, ``CASE|=`` as the library reads them,
and in the metadata each case's settings and the versions. The libraries are no dependency of the tests: once they
are installed, transformers and peft import them, and what they print and need is not ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

PATH = Path(__file__).parent / "data" / "format_cases.safetensors"
LIBRARIES = ("compressed-tensors", "bitsandbytes", "mlx", "torchao", "torch")
N, K = 24, 64
Case = tuple[str, dict[str, torch.Tensor], torch.Tensor, dict[str, Any]]  # name, stored, read back, settings


def matrix(seed: int = 0, columns: int = K) -> torch.Tensor:
    return torch.randn(N, columns, generator=torch.Generator().manual_seed(seed))


def compressed_tensors() -> Iterator[Case]:
    quantization = import_module("compressed_tensors.quantization")
    utils = import_module("compressed_tensors.quantization.utils")
    registry = import_module("compressed_tensors.compressors").BaseCompressor

    def case(name: str, kind: str, **settings: Any) -> Case:
        args = quantization.QuantizationArgs(**settings)
        scheme = quantization.QuantizationScheme(targets=["Linear"], weights=args, format=kind)
        weight, group = matrix(), args.group_size or K
        parts = weight.reshape(N, -1, group)
        if args.strategy == "tensor":
            parts = weight.reshape(1, 1, -1)
        low, high = parts.amin(-1), parts.amax(-1)
        stored = {"weight": weight}
        if kind.startswith("nvfp4"):
            stored["weight_global_scale"] = utils.generate_gparam(low.min(), high.max())
        scale, zero = utils.calculate_qparams(low, high, args, stored.get("weight_global_scale"))
        stored |= {"weight_scale": scale.reshape(1) if args.strategy == "tensor" else scale, "weight_zero_point": zero}
        compressor = registry.get_value_from_registry(kind)
        packed = compressor.compress(stored, scheme)
        back = compressor.decompress(dict(packed), scheme)["weight"].float()
        weights = json.loads(args.model_dump_json(include={"num_bits", "type", "group_size", "strategy", "symmetric"}))
        config = {"quant_method": "compressed-tensors", "format": kind, "config_groups": {"0": {"weights": weights}}}
        return name, {f"m.{key}": value for key, value in packed.items()}, back, config

    for bits in (2, 3, 4, 5, 6, 8):
        for symmetric in (True, False):
            name = f"compressed-tensors int{bits}{'' if symmetric else ' asymmetric'}"
            yield case(name, "pack-quantized", num_bits=bits, strategy="group", group_size=32, symmetric=symmetric)
    yield case("compressed-tensors int4 rows", "pack-quantized", num_bits=4, strategy="channel")
    yield case("compressed-tensors int8 unpacked", "int-quantized", num_bits=8, strategy="channel", symmetric=False)
    yield case("compressed-tensors float8", "float-quantized", num_bits=8, type="float", strategy="channel")
    yield case("compressed-tensors float8 tensor", "float-quantized", num_bits=8, type="float", strategy="tensor")
    four = {"num_bits": 4, "type": "float"}
    yield case("compressed-tensors nvfp4", "nvfp4-pack-quantized", strategy="tensor_group", group_size=16, **four)
    mx = {"strategy": "group", "group_size": 32, "scale_dtype": torch.uint8, "zp_dtype": torch.uint8}
    yield case("compressed-tensors mxfp4", "mxfp4-pack-quantized", **four, **mx)


def bitsandbytes() -> Iterator[Case]:
    bnb = import_module("bitsandbytes.functional")

    for kind in ("nf4", "fp4"):
        for nested in (False, True):
            packed, state = bnb.quantize_4bit(matrix(), quant_type=kind, compress_statistics=nested, blocksize=64)
            stored = {"m.weight": packed} | {
                f"m.weight.{key}": value for key, value in state.as_dict(packed=True).items()
            }
            yield f"bitsandbytes {kind}{' nested' * nested}", stored, bnb.dequantize_4bit(packed, state).float(), {}
    codes, maxima, _ = bnb.int8_vectorwise_quant(matrix().half())
    back = bnb.int8_vectorwise_dequant(codes, maxima).float()
    yield "bitsandbytes int8", {"m.weight": codes, "m.SCB": maxima}, back, {}


def mlx() -> Iterator[Case]:
    mx = import_module("mlx.core")

    def from_mlx(array: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(array))

    weight = mx.array(matrix().numpy())
    for bits in (2, 3, 4, 5, 6, 8):
        words, scales, biases = mx.quantize(weight, group_size=32, bits=bits)
        stored = {"m.weight": from_mlx(words), "m.scales": from_mlx(scales), "m.biases": from_mlx(biases)}
        back = from_mlx(mx.dequantize(words, scales, biases, group_size=32, bits=bits)).float()
        yield f"mlx {bits}-bit", stored, back, {"bits": bits, "group_size": 32}
    for mode in ("mxfp4", "nvfp4", "mxfp8"):
        words, scales = mx.quantize(weight, mode=mode)
        back = from_mlx(mx.dequantize(words, scales, mode=mode).astype(mx.float32))
        yield f"mlx {mode}", {"m.weight": from_mlx(words), "m.scales": from_mlx(scales)}, back, {"mode": mode}


def torchao() -> Iterator[Case]:
    ao = import_module("torchao.quantization")
    made = {
        "torchao float8": ao.Float8Tensor.from_hp(matrix()),
        "torchao int8": ao.Int8Tensor.from_hp(matrix(), ao.PerRow()),
        "torchao intx": ao.IntxUnpackedToInt8Tensor.from_hp(matrix(), (1, 32), getattr(torch, "int4")),  # noqa: B009,
    }
    try:
        made["torchao int4"] = ao.Int4Tensor.from_hp(matrix().bfloat16(), [1, 32])
    except (ImportError, RuntimeError, AssertionError, NotImplementedError) as error:
        print("no torchao int4 on this machine:", error)
    for name, tensor in made.items():
        names = [*tensor.tensor_data_names, *getattr(tensor, "optional_tensor_data_names", [])]
        stored = {f"m._weight_{key}": getattr(tensor, key) for key in names if getattr(tensor, key) is not None}
        yield name, stored, tensor.dequantize().float(), {"quant_method": "torchao"}


def main() -> None:
    tensors: dict[str, torch.Tensor] = {}
    settings: dict[str, Any] = {}
    for library in (compressed_tensors, bitsandbytes, mlx, torchao):
        for name, stored, back, config in library():
            settings[name] = config
            tensors |= {f"{name}|{key}": value.contiguous().clone() for key, value in stored.items()}
            tensors[f"{name}|="] = back.contiguous()
    metadata = {"settings": json.dumps(settings), "versions": json.dumps({name: version(name) for name in LIBRARIES})}
    safetensors.torch.save_file(tensors, PATH, metadata=metadata)
    print(f"{len(settings)} cases, {PATH.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
