"""What a layer of a model of 100 billion weights and more takes is said before it travels, out of headers alone."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from math import prod
from typing import Any, SupportsIndex

import pytest

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import CheckpointError
from tests.hub_server import HubServer

BYTES = {"F8_E4M3": 1, "U8": 1, "BF16": 2, "F32": 4, "I32": 4}
Specs = dict[str, tuple[str, tuple[int, ...]]]


class Sparse(bytes):
    """A header, and zeros up to a length that no memory holds."""

    total: int

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        assert isinstance(key, slice)
        start, stop, _ = key.indices(self.total)
        found = bytes(self)[start:stop]
        return found + bytes(stop - start - len(found))


def shard(specs: Specs) -> Sparse:
    """Return a safetensors file of such tensors."""
    header, end = {}, 0
    for name, (dtype, shape) in specs.items():
        start, end = end, end + BYTES[dtype] * prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    found = Sparse(len(raw).to_bytes(8, "little") + raw)
    found.total = 8 + len(raw) + end
    return found


def bf16(**shapes: tuple[int, ...]) -> Specs:
    return {name.replace("__", "."): ("BF16", shape) for name, shape in shapes.items()}


def gpt_oss_layer(index: int) -> Specs:
    experts, width, inner = 128, 2880, 2880
    found = bf16(
        input_layernorm__weight=(width,),
        post_attention_layernorm__weight=(width,),
        self_attn__sinks=(64,),
        mlp__router__weight=(experts, width),
        mlp__router__bias=(experts,),
        mlp__experts__gate_up_proj_bias=(experts, 2 * inner),
        mlp__experts__down_proj_bias=(experts, width),
    )
    for name, out, inputs in (("q", 4096, width), ("k", 512, width), ("v", 512, width), ("o", width, 4096)):
        found |= bf16(**{f"self_attn__{name}_proj__weight": (out, inputs), f"self_attn__{name}_proj__bias": (out,)})
    for name, out, inputs in (("gate_up", 2 * inner, width), ("down", width, inner)):
        stem = f"mlp.experts.{name}_proj"
        found |= {f"{stem}_blocks": ("U8", (experts, out, inputs // 32, 16))}
        found |= {f"{stem}_scales": ("U8", (experts, out, inputs // 32))}
    return found


def fp8(name: str, n: int, k: int) -> Specs:
    return {f"{name}.weight": ("F8_E4M3", (n, k)), f"{name}.weight_scale_inv": ("F32", (-(-n // 128), -(-k // 128)))}


def plain(name: str, n: int, k: int) -> Specs:
    return {f"{name}.weight": ("BF16", (n, k))}


def int4(name: str, n: int, k: int) -> Specs:
    parts: Specs = {"packed": ("I32", (n, k // 8)), "scale": ("BF16", (n, k // 32)), "shape": ("I32", (2,))}
    return {f"{name}.weight_{part}": spec for part, spec in parts.items()}


@dataclass(frozen=True)
class Deep:
    """Shapes of DeepSeek-V3 and of Kimi K2, which is built alike."""

    experts: int
    heads: int
    first_dense: int
    dense: Any  # how matrices outside the experts are stored
    routed: Any

    def __call__(self, index: int) -> Specs:
        d, heads = 7168, self.heads
        found = bf16(
            input_layernorm__weight=(d,),
            post_attention_layernorm__weight=(d,),
            self_attn__q_a_layernorm__weight=(1536,),
            self_attn__kv_a_layernorm__weight=(512,),
        )
        matrices = {
            "q_a_proj": (1536, d), "q_b_proj": (heads * 192, 1536), "kv_a_proj_with_mqa": (576, d),
            "kv_b_proj": (heads * 256, 512), "o_proj": (d, heads * 128),
        }  # fmt: skip
        for name, shape in matrices.items():
            found |= self.dense(f"self_attn.{name}", *shape)
        if index < self.first_dense:
            return found | self.mlp("mlp", 18432, self.dense)
        found |= {
            "mlp.gate.weight": ("BF16", (self.experts, d)),
            "mlp.gate.e_score_correction_bias": ("F32", (self.experts,)),
        }
        found |= self.mlp("mlp.shared_experts", 2048, self.dense)
        for expert in range(self.experts):
            found |= self.mlp(f"mlp.experts.{expert}", 2048, self.routed)
        return found

    @staticmethod
    def mlp(name: str, inner: int, stored: Any) -> Specs:
        sides = {"gate_proj": (inner, 7168), "up_proj": (inner, 7168), "down_proj": (7168, inner)}
        return {key: spec for side, shape in sides.items() for key, spec in stored(f"{name}.{side}", *shape).items()}


_INT4 = {"num_bits": 4, "type": "int", "group_size": 32, "strategy": "group", "symmetric": True}
_CT = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": _INT4}},
}
_FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"}
_KIMI = {
    "model_type": "kimi_k2", "hidden_size": 7168, "num_hidden_layers": 61, "n_routed_experts": 384,
    "num_attention_heads": 64, "num_key_value_heads": 64, "first_k_dense_replace": 1, "moe_intermediate_size": 2048,
    "n_group": 1, "topk_group": 1, "vocab_size": 163840,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
}  # fmt: skip
# model -> configuration, a layer's tensors, and what info says of the largest layer: format, bits for each weight,
# weights, bytes as stored and in memory
MODELS: dict[str, tuple[dict[str, Any], Any, tuple[str, float, str, str, str]]] = {
    "openai/gpt-oss-120b": (
        {"model_type": "gpt_oss", "num_hidden_layers": 36, "quantization_config": {"quant_method": "mxfp4"}},
        gpt_oss_layer,
        ("mxfp4", 4.353, "3.21 G", "1.75 GB", "6.43 GB"),
    ),
    "deepseek-ai/DeepSeek-R1": (
        {"model_type": "deepseek_v3", "num_hidden_layers": 61, "quantization_config": _FP8},
        Deep(256, 128, 3, fp8, fp8),
        ("fp8 in blocks of 128x128", 8.003, "11.5 G", "11.5 GB", "23 GB"),
    ),
    "moonshotai/Kimi-K2-Thinking": (
        _KIMI | {"quantization_config": _CT},
        Deep(384, 64, 1, plain, int4),
        ("compressed-tensors int4", 4.6, "17.1 G", "9.81 GB", "34.1 GB"),
    ),
}


def publish(server: HubServer, name: str) -> int:
    """Publish a model of the real shapes, one layer a file; return the bytes of the longest header."""
    config, layer, _ = MODELS[name]
    files: dict[str, bytes] = {"config.json": json.dumps(config | {"dtype": "bfloat16"}).encode()}
    where: dict[str, str] = {}
    n_layers = config["num_hidden_layers"]
    for index in range(n_layers):
        file = f"model-{index + 1:05d}-of-{n_layers:05d}.safetensors"
        specs = {f"model.layers.{index}.{key}": spec for key, spec in layer(index).items()}
        where |= dict.fromkeys(specs, file)
        files[file] = shard(specs)
    files["model.safetensors.index.json"] = json.dumps({"weight_map": where}).encode()
    server.add_repo(name, files)
    return max(len(bytes(file)) for file in files.values() if isinstance(file, Sparse))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_layer_of_the_real_shapes_is_announced(
    name: str, server: HubServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = publish(server, name)
    _, _, (quantised, bits, weights, stored, memory) = MODELS[name]
    assert main(["info", name]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for line in (
        f"quantised {quantised} bits per weight {bits}",
        f"layer weights {weights} layer bytes {stored} layer memory {memory}",
    ):
        assert line in shown
    frozen = re.search(r"PiFi adds frozen bytes \(slm 384\) ([\d.]+) GB", shown)  # attention is smaller for one token
    assert frozen and 0.95 < float(frozen[1]) / float(memory.removesuffix(" GB")) <= 1
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("M", (), {"available": 5_000_000_000}))
    size = f"{weights} weights, {stored} stored, {memory} in memory, and 5 GB are free"
    with pytest.raises(CheckpointError, match=f"the layer does not fit into memory: {size}"):
        pp.extract(f"{name}[30]")
    assert server.bytes_sent("/objects/") < 4 * headers  # of three layers or four, and no weight
