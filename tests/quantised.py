"""Small checkpoints in every format of quantised weights that is read, packed by code of their own.

The packers go number by number where the package goes by words: they share no code with what they test.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from tests.tiny import tiny_config, tiny_model

FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
GROUP = 32
Tensors = dict[str, torch.Tensor]
# (name of the weight, the weight) -> tensors as stored, and the weight that they stand for
Packer = Callable[[str, torch.Tensor], tuple[Tensors, torch.Tensor]]


@dataclass(frozen=True)
class Scheme:
    """A format: how a matrix is packed, what the configuration says, and what a card should say."""

    pack: Packer
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    key: str = "quantization_config"

    @property
    def config(self) -> dict[str, Any]:
        """What a model's configuration says of the format."""
        return {self.key: dict(self.settings)} if self.settings else {}


# --- packing, bit by bit -----------------------------------------------------------------------------------------


def stream(rows: np.ndarray, bits: int) -> torch.Tensor:
    """Pack each row of small numbers into 32-bit words, the lowest bit first."""
    *before, k = rows.shape
    rows = rows.reshape(-1, k)
    n = len(rows)
    flags = (rows[:, :, None].astype(np.uint32) >> np.arange(bits)) & 1
    flags = flags.reshape(n, k * bits)
    flags = np.pad(flags, ((0, 0), (0, -flags.shape[1] % 32)))
    words = (flags.reshape(n, -1, 32).astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(-1).astype(np.uint32)
    return torch.from_numpy(words.view(np.int32).copy()).reshape(*before, -1)


def pairs(codes: torch.Tensor, *, high_first: bool = False) -> torch.Tensor:
    """Pack two codes a byte along the last dimension."""
    first, second = codes[..., 0::2].to(torch.uint8), codes[..., 1::2].to(torch.uint8)
    return (first << 4 | second) if high_first else (second << 4 | first)


def grouped(weight: torch.Tensor, group: int = GROUP) -> torch.Tensor:
    return weight.reshape(*weight.shape[:-1], -1, group)


def affine(weight: torch.Tensor, bits: int, group: int = GROUP) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return codes (N, K), scales and zero points (N, K / group) of an asymmetric quantisation."""
    parts = grouped(weight, group)
    low, high = parts.amin(-1), parts.amax(-1)
    scale = ((high - low) / ((1 << bits) - 1)).half().float()
    zero = (-low / scale).round().clamp(1, (1 << bits) - 1)
    codes = (parts / scale[..., None] + zero[..., None]).round().clamp(0, (1 << bits) - 1)
    return codes.flatten(-2), scale, zero


def nearest(weight: torch.Tensor, table: list[float]) -> torch.Tensor:
    return (weight[..., None] - torch.tensor(table)).abs().argmin(-1)


def rest(name: str) -> str:
    return name.removesuffix("weight")


# --- the formats -------------------------------------------------------------------------------------------------


def fp8(ending: str, block: tuple[int, int] | None, kind: torch.dtype = torch.float8_e4m3fn) -> Packer:
    def pack(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        n, k = weight.shape
        bm, bn = block or (n, k)
        scale = torch.empty(-(-n // bm), -(-k // bn))
        codes, value = torch.empty(n, k), torch.empty(n, k)
        for i in range(scale.shape[0]):
            for j in range(scale.shape[1]):
                part = weight[i * bm : (i + 1) * bm, j * bn : (j + 1) * bn]
                s = (part.abs().max() / 448.0).log2().ceil().exp2() if kind == torch.float8_e8m0fnu else None
                s = part.abs().max() / 448.0 if s is None else s
                q = (part / s).to(torch.float8_e4m3fn)
                scale[i, j] = s
                codes[i * bm : (i + 1) * bm, j * bn : (j + 1) * bn] = q.float()
                value[i * bm : (i + 1) * bm, j * bn : (j + 1) * bn] = q.float() * s
        if block is None:
            scale = scale.reshape(())
        stored = scale.to(kind) if kind == torch.float8_e8m0fnu else scale
        companion = name + ending if ending.startswith("_") else rest(name) + ending
        return {name: codes.to(torch.float8_e4m3fn), companion: stored}, value

    return pack


def rows_of_bytes(name: str, weight: torch.Tensor, ending: str, divisor: float) -> tuple[Tensors, torch.Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 127
    codes = (weight / scale).round()
    companion = name + ending if ending.startswith("_") else rest(name) + ending
    stored = scale * divisor if divisor != 1 else scale
    value = codes * stored / divisor if divisor != 1 else codes * scale
    return {name: codes.to(torch.int8), companion: stored.flatten() if ending == "SCB" else stored}, value


def int8(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    return rows_of_bytes(name, weight, "_scale", 1)


def scb(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    tensors, value = rows_of_bytes(name, weight, "SCB", 127)
    return tensors | {rest(name) + "weight_format": torch.tensor(0, dtype=torch.uint8)}, value


def affine_in_order(
    weight: torch.Tensor, bits: int, order: bool, group: int = GROUP
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the group of each column, codes, scales and zeros; with `order` the groups are columns drawn at random.

    A `group` of -1 is a whole row.
    """
    k = weight.shape[1]
    group = k if group == -1 else group
    of = torch.arange(k) // group
    if order:
        of = of[torch.randperm(k, generator=torch.Generator().manual_seed(k))]
    inner = torch.argsort(of, stable=True)
    codes, scale, zero = affine(weight[:, inner], bits, group)
    return of, codes[:, torch.argsort(inner)], scale, zero


def gptq(bits: int, version: int = 1, order: bool = False, group: int = GROUP) -> Packer:
    def pack(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        of, codes, scale, zero = affine_in_order(weight, bits, order, group)
        stored = zero.T.contiguous() - (1 if version == 1 else 0)
        tensors = {
            "qweight": stream(codes.numpy(), bits).T.contiguous(),
            "qzeros": stream(stored.numpy(), bits),
            "scales": scale.T.contiguous().half(),
        }
        if order:
            tensors["g_idx"] = of.int()
        return {rest(name) + key: value for key, value in tensors.items()}, (codes - zero[:, of]) * scale[:, of]

    return pack


def awq_gemm(group: int = GROUP) -> Packer:
    def pack(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        of, codes, scale, zero = affine_in_order(weight, 4, False, group)
        order = [0, 2, 4, 6, 1, 3, 5, 7]

        def packed(rows: torch.Tensor) -> torch.Tensor:
            return stream(rows.reshape(rows.shape[0], -1, 8)[:, :, order].flatten(1).numpy(), 4)

        tensors = {"qweight": packed(codes.T), "qzeros": packed(zero.T), "scales": scale.T.contiguous().half()}
        return {rest(name) + key: value for key, value in tensors.items()}, (codes - zero[:, of]) * scale[:, of]

    return pack


def awq_gemv(group: int = 64) -> Packer:
    def pack(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        of, codes, scale, zero = affine_in_order(weight, 4, False, group)
        words = {32: 4, 64: 2}.get(
            group if group > 0 else weight.shape[1], 1
        )  # zero points of eight groups a word, a multiple of so many words
        padded = -(-scale.shape[1] // (8 * words)) * 8 * words
        wide = [torch.nn.functional.pad(each, (0, padded - each.shape[1])) for each in (scale, zero)]
        tensors = {"qweight": stream(codes.numpy(), 4), "qzeros": stream(wide[1].numpy(), 4), "scales": wide[0].half()}
        return {rest(name) + key: value for key, value in tensors.items()}, (codes - zero[:, of]) * scale[:, of]

    return pack


def four_bits(kind: str, nested: bool = False) -> Packer:
    table = NF4 if kind == "nf4" else [
        0.0, 0.0052, 0.6667, 1.0, 0.3333, 0.5, 0.1667, 0.25, -0.0, -0.0052, -0.6667, -1.0, -0.3333, -0.5, -0.1667, -0.25
    ]  # fmt: skip

    def pack(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        blocks = weight.reshape(-1, 64)
        maxima = blocks.abs().amax(1)
        state: dict[str, Any] = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": [*weight.shape]}
        codes = nearest(blocks / maxima[:, None], table)
        tensors = {"": pairs(codes.reshape(1, -1), high_first=True).T.contiguous(), ".quant_map": torch.tensor(table)}
        if nested:
            grid, offset = torch.linspace(-1, 1, 256), float(maxima.mean())
            size = 16
            padded = torch.nn.functional.pad(maxima - offset, (0, -len(maxima) % size)).reshape(-1, size)
            outer = padded.abs().amax(1)
            inner = nearest(padded / outer[:, None], grid.tolist()).flatten()[: len(maxima)]
            maxima = grid[inner] * outer[torch.arange(len(maxima)) // size] + offset
            state |= {"nested_blocksize": size, "nested_dtype": "float32", "nested_offset": offset}
            tensors |= {".absmax": inner.to(torch.uint8), ".nested_absmax": outer, ".nested_quant_map": grid}
        else:
            tensors[".absmax"] = maxima
        text = json.dumps(state).encode()
        tensors[f".quant_state.bitsandbytes__{kind}"] = torch.tensor(list(text), dtype=torch.uint8)
        value = (torch.tensor(table)[codes] * maxima[:, None]).reshape(weight.shape)
        return {name + key: tensor for key, tensor in tensors.items()}, value

    return pack


def packed_integers(bits: int, *, symmetric: bool, order: bool = False, group: int = GROUP) -> Packer:
    half = 1 << (bits - 1)

    def pack(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        of, codes, scale, zero = affine_in_order(weight, bits, order, group)
        zero = torch.full_like(zero, half) if symmetric else zero
        tensors = {
            "_packed": stream(codes.numpy(), bits),
            "_scale": scale.bfloat16(),
            "_shape": torch.tensor(weight.shape),
        }
        if not symmetric:
            tensors["_zero_point"] = stream(zero.T.numpy(), bits).T.contiguous()
        if order:
            tensors["_g_idx"] = of.int()
        scale = scale.bfloat16().float()
        return {name + key: tensor for key, tensor in tensors.items()}, (codes - zero[:, of]) * scale[:, of]

    return pack


def e8m0(weight: torch.Tensor, group: int, largest: float) -> torch.Tensor:  # exponents + 127
    return ((grouped(weight, group).abs().amax(-1) / largest).log2().ceil() + 127).to(torch.uint8)


def nvfp4(scale_name: str, second: str, invert: bool) -> Packer:
    def pack(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        whole = weight.abs().max() / (448 * 6)
        scale = (grouped(weight, 16).abs().amax(-1) / 6 / whole).to(torch.float8_e4m3fn)
        factor = (scale.float() / (1 / whole) if invert else scale.float() * whole).repeat_interleave(16, 1)
        codes = nearest(weight / factor, FP4)
        packed = name + "_packed" if invert else name
        second_value = (1 / whole).reshape(1) if invert else whole.reshape(())
        tensors = {packed: pairs(codes), name + scale_name: scale, name + second: second_value}
        extra = rest(name) + "input_scale" if not invert else rest(name) + "input_global_scale"
        return tensors | {extra: torch.tensor(1.0)}, torch.tensor(FP4)[codes] * factor

    return pack


def mxfp4(packed: str, scale_name: str, kind: torch.dtype, scale_kind: torch.dtype) -> Packer:
    def pack(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        scale = e8m0(weight, 32, 6)
        factor = (scale.float() - 127).exp2().repeat_interleave(32, 1)
        codes = nearest(weight / factor, FP4)
        names = (name + packed, name + scale_name) if scale_name[0] == "_" else (name, rest(name) + scale_name)
        return {names[0]: pairs(codes).view(kind), names[1]: scale.view(scale_kind)}, torch.tensor(FP4)[codes] * factor

    return pack


def mlx_affine(bits: int, group: int = GROUP) -> Packer:
    def pack(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        parts = grouped(weight, group)
        bias = parts.amin(-1).half()
        scale = ((parts.amax(-1) - bias) / ((1 << bits) - 1)).half()
        codes = ((parts - bias[..., None]) / scale[..., None]).round().clamp(0, (1 << bits) - 1)
        value = (codes * scale.float()[..., None] + bias.float()[..., None]).flatten(-2)
        words = stream(codes.flatten(-2).numpy(), bits).view(torch.uint32)
        return {name: words, rest(name) + "scales": scale, rest(name) + "biases": bias}, value

    return pack


def mlx_float(mode: str) -> Packer:
    def pack(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        if mode == "nvfp4":
            scale = (grouped(weight, 16).abs().amax(-1) / 6).to(torch.float8_e4m3fn)
            factor, stored = scale.float().repeat_interleave(16, 1), scale.view(torch.uint8)
        else:
            stored = e8m0(weight, 32, 6 if mode == "mxfp4" else 448)
            factor = (stored.float() - 127).exp2().repeat_interleave(32, 1)
        if mode == "mxfp8":
            codes = (weight / factor).to(torch.float8_e4m3fn)
            words, value = codes.view(torch.uint8), codes.float() * factor
        else:
            index = nearest(weight / factor, FP4)
            words, value = pairs(index), torch.tensor(FP4)[index] * factor
        return {name: words.contiguous().view(torch.uint32), rest(name) + "scales": stored}, value

    return pack


def torchao_int8(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    tensors, value = rows_of_bytes(name, weight, "_scale", 1)
    return {
        f"{rest(name)}_weight_{'scale' if key.endswith('_scale') else 'qdata'}": t for key, t in tensors.items()
    }, value


def torchao_float8(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    stem = rest(name) + "_weight_"
    return {stem + "qdata": codes, stem + "scale": scale}, codes.float() * scale


def torchao_int4(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    parts = grouped(weight)
    scale = ((parts.amax(-1) - parts.amin(-1)) / 15).bfloat16().float()
    zero = (parts.amin(-1) + 8 * scale).bfloat16().float()
    codes = ((parts - zero[..., None]) / scale[..., None]).round().clamp(-8, 7)
    value = (codes * scale[..., None] + zero[..., None]).flatten(-2)
    stem = rest(name) + "_weight_"
    packed = pairs(codes.flatten(-2).to(torch.int8).view(torch.uint8) & 15).view(torch.int8)
    sides = {"scale": scale.T.contiguous().bfloat16(), "zero_point": zero.T.contiguous().bfloat16()}
    return {stem + "qdata": packed} | {stem + key: tensor for key, tensor in sides.items()}, value


def _ct(bits: int, **more: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int", "group_size": GROUP, "strategy": "group"} | more
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}


_AWQ = {"quant_method": "awq", "bits": 4}
_FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
_BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
_AO = {"quant_method": "torchao"}
U8, I8, E8 = torch.uint8, torch.int8, torch.float8_e8m0fnu

SCHEMES: dict[str, Scheme] = {
    "fp8": Scheme(fp8("_scale_inv", (128, 128)), "fp8", _FP8),
    "fp8 ue8m0": Scheme(fp8("_scale_inv", (128, 128), E8), "fp8", _FP8 | {"scale_fmt": "ue8m0"}),
    "fp8 without settings": Scheme(fp8("_scale_inv", (128, 128)), "fp8"),
    "fp8 per tensor": Scheme(fp8("_scale_inv", None), "fp8", {"quant_method": "fp8"}),
    "fp8 deepseek": Scheme(fp8("scale", (128, 128), E8), "fp8", _FP8),
    "fp8 mistral": Scheme(fp8("qscale_weight", None), "fp8"),
    "mxfp8": Scheme(fp8("_scale_inv", (1, 32), E8), "mxfp8", {"quant_method": "fp8", "weight_block_size": [1, 32]}),
    "fp4 deepseek": Scheme(mxfp4("", "scale", I8, E8), "fp4", _FP8),
    "bitsandbytes int8": Scheme(scb, "int8", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "bitsandbytes nf4": Scheme(four_bits("nf4"), "nf4", _BNB),
    "bitsandbytes nf4 nested": Scheme(four_bits("nf4", nested=True), "nf4", _BNB),
    "bitsandbytes fp4": Scheme(four_bits("fp4"), "fp4", _BNB),
    **{
        f"gptq {bits}-bit{' v2' * (version - 1)}{' order' * order}": Scheme(
            gptq(bits, version, order),
            f"gptq {bits}-bit",
            {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": order}
            | ({"checkpoint_format": "gptq_v2"} if version == 2 else {}),
        )
        for bits in (2, 3, 4, 8)
        for version, order in ((1, False), (2, True))
    },
    "awq": Scheme(awq_gemm(), "awq 4-bit", _AWQ | {"group_size": GROUP, "version": "gemm"}),
    "awq gemv": Scheme(awq_gemv(), "awq 4-bit", _AWQ | {"group_size": 64, "version": "gemv"}),
    **{
        f"compressed-tensors int{bits}{'' if symmetric else ' asymmetric'}": Scheme(
            packed_integers(bits, symmetric=symmetric), f"compressed-tensors int{bits}", _ct(bits)
        )
        for bits in (2, 3, 4, 8)
        for symmetric in (True, False)
    },
    "compressed-tensors order": Scheme(packed_integers(4, symmetric=False, order=True), "int4", _ct(4)),
    "compressed-tensors int8 rows": Scheme(int8, "int8", {"quant_method": "compressed-tensors"}),
    "compressed-tensors float8": Scheme(fp8("_scale", None), "fp8", {"quant_method": "compressed-tensors"}),
    "compressed-tensors nvfp4": Scheme(nvfp4("_scale", "_global_scale", True), "nvfp4"),
    "compressed-tensors mxfp4": Scheme(mxfp4("_packed", "_scale", U8, U8), "mxfp4"),
    "modelopt nvfp4": Scheme(nvfp4("_scale", "_scale_2", False), "nvfp4", {"quant_method": "modelopt"}),
    **{
        f"mlx {bits}-bit": Scheme(
            mlx_affine(bits), f"mlx {bits}-bit", {"bits": bits, "group_size": GROUP}, "quantization"
        )
        for bits in (2, 3, 4, 5, 6, 8)
    },
    **{
        f"mlx {mode}": Scheme(mlx_float(mode), f"mlx {mode}", {"mode": mode}, "quantization")
        for mode in ("mxfp4", "nvfp4", "mxfp8")
    },
    "torchao int8": Scheme(torchao_int8, "torchao int8", _AO),
    "torchao float8": Scheme(torchao_float8, "torchao fp8", _AO),
    "torchao int4": Scheme(torchao_int4, "torchao int4", _AO),
}


def is_packed(name: str, tensor: torch.Tensor) -> bool:
    """Tell whether a format packs this tensor of a model: the matrices of its layers."""
    return ".layers." in name and tensor.dim() == 2 and name.endswith(".weight") and "norm" not in name


USUAL = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16, "num_hidden_layers": 2}


@functools.cache
def _state(family: str, **sizes: int) -> Tensors:
    return {name: tensor.detach() for name, tensor in tiny_model(family, **sizes).state_dict().items()}


def save_quantised(
    folder: Path,
    scheme: Scheme,
    family: str = "llama",
    *,
    chosen: Callable[[str, torch.Tensor], bool] = is_packed,
    change: Callable[[Tensors], Tensors] = dict,
    sizes: Mapping[str, int] = USUAL,
) -> Tensors:
    """Save a tiny model of two layers in a format; return the float32 weights that it stands for, by name.

    `change` renames or splits weights before they are packed; `sizes` replaces the usual ones.
    """
    stored, plain = packed(scheme, change(_state(family, **sizes)), chosen)
    write(folder, stored, tiny_config(family, **sizes).to_dict() | {"dtype": "float32"} | scheme.config)
    return plain


def packed(
    scheme: Scheme, tensors: Mapping[str, torch.Tensor], chosen: Callable[[str, torch.Tensor], bool] = is_packed
) -> tuple[Tensors, Tensors]:
    """Return the tensors of a model as a format stores them, and what they stand for."""
    stored: Tensors = {}
    plain: Tensors = {}
    for name, tensor in tensors.items():
        if chosen(name, tensor):
            parts, plain[name] = scheme.pack(name, tensor)
            stored |= parts
        else:
            stored[name] = plain[name] = tensor
    return stored, plain


def first_layers(whole: Any, n_layers: int) -> tuple[Tensors, dict[str, Any]]:
    """Return the weights and the configuration of a real model cut after its first layers, without its head."""
    left_out = (*(f".layers.{i}." for i in range(n_layers, 1000)), "lm_head.weight")
    tensors = {n: t.detach() for n, t in whole.model.state_dict().items() if not any(part in n for part in left_out)}
    config = whole.model.config.to_dict() | {"num_hidden_layers": n_layers, "dtype": "float32"}
    config.pop("quantization_config", None)
    if config.get("layer_types"):
        config["layer_types"] = config["layer_types"][:n_layers]
    return tensors, json.loads(json.dumps(config, default=str))


def write(folder: Path, tensors: Tensors, config: Mapping[str, Any], tokenizer: Any = None) -> None:
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items() if name != "lm_head.weight"}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
