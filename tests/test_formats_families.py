"""Families in the formats that they are published in, and GPT-2, whose maps are kept transposed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pifi_probe as pp
from pifi_probe.errors import UnsupportedFormatError
from pifi_probe.layers.frozen import FrozenLayer
from tests import causal
from tests.quantised import FP4 as TABLE
from tests.quantised import SCHEMES, USUAL, Scheme, Tensors, e8m0, mlx_affine, nearest, pairs, save_quantised, write

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}


def layer(folder: Path, index: int = 1) -> FrozenLayer:
    found = pp.extract(f"{folder}[{index}]")
    assert isinstance(found, FrozenLayer)
    return found


def assert_computes_alike(folder: Path, plain: Tensors) -> FrozenLayer:
    """Assert that the quantised layer computes what the layer of the plain model does."""
    config = json.loads((folder / "config.json").read_text())
    write(folder / "plain", plain, {key: value for key, value in config.items() if not key.startswith("quantization")})
    found, expected = layer(folder), layer(folder / "plain")
    states = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(found(states), expected(states), rtol=1e-4, atol=1e-5)
    assert found.card.quantised
    return found


@pytest.mark.parametrize("scheme", ["gptq 4-bit", "awq", "mlx 4-bit"])
def test_qwen3_in_the_formats_that_people_download(scheme: str, tmp_path: Path) -> None:
    plain = save_quantised(tmp_path, SCHEMES[scheme], "qwen3")
    assert_computes_alike(tmp_path, plain)


def gpt_oss_experts(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """Pack (E, in, out) as the published files have it: (E, out, in / 32, 16)."""
    rows = weight.transpose(1, 2)
    scale = e8m0(rows, 32, 6)
    factor = (scale.float() - 127).exp2().repeat_interleave(32, -1)
    codes = nearest(rows / factor, TABLE)
    value = (torch.tensor(TABLE)[codes] * factor).transpose(1, 2)
    return {f"{name}_blocks": pairs(codes).unflatten(-1, (-1, 16)), f"{name}_scales": scale}, value


def is_expert(name: str, tensor: torch.Tensor) -> bool:
    return "experts" in name and tensor.dim() == 3 and "bias" not in name


def test_gpt_oss_in_mxfp4(tmp_path: Path) -> None:
    scheme = Scheme(gpt_oss_experts, "mxfp4", {"quant_method": "mxfp4", "modules_to_not_convert": ["self_attn"]})
    plain = save_quantised(tmp_path, scheme, "gpt_oss", chosen=is_expert)
    found = assert_computes_alike(tmp_path, plain)
    assert "mxfp4" in str(found.card.quantised)


def in_experts(name: str, tensor: torch.Tensor) -> bool:
    return ".layers." in name and ".experts." in name and tensor.dim() == 2


def split_experts(weights: Tensors) -> Tensors:
    """Name fused experts one by one, as DeepSeek, Kimi and Qwen publish them."""
    found: Tensors = {}
    for name, tensor in weights.items():
        stem = name.rpartition(".")[0]
        if name.endswith("experts.gate_up_proj"):
            for e, both in enumerate(tensor):
                gate, up = both.chunk(2)
                found |= {f"{stem}.{e}.gate_proj.weight": gate, f"{stem}.{e}.up_proj.weight": up}
        elif name.endswith("experts.down_proj"):
            found |= {f"{stem}.{e}.down_proj.weight": down for e, down in enumerate(tensor)}
        else:
            found[name] = tensor
    return found


DEEPSEEK = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "moe_intermediate_size": 64}
SPLIT = DEEPSEEK | {
    "head_dim": 64,
    "kv_lora_rank": 128,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
    "q_lora_rank": 192,
}


def packed_matrix(name: str, tensor: torch.Tensor) -> bool:
    return ".layers." in name and tensor.dim() == 2 and "norm" not in name and not name.endswith("mlp.gate.weight")


def test_deepseek_v3_in_float8_with_blocks_that_the_rows_do_not_fill(tmp_path: Path) -> None:
    """192 rows have two scales: 128 rows and 64, where the rule rows / scales would take 96 twice."""
    plain = save_quantised(
        tmp_path, SCHEMES["fp8"], "deepseek_v3", chosen=packed_matrix, change=split_experts, sizes=SPLIT
    )
    assert plain["model.layers.1.self_attn.kv_a_proj_with_mqa.weight"].shape[0] == 192
    found = assert_computes_alike(tmp_path, plain)
    assert "fp8" in str(found.card.quantised)


def test_576_rows_have_five_scales() -> None:
    from pifi_probe.layers.formats.scaled import blocks_of

    assert blocks_of((576, 7168), (5, 56), (128, 128)) == (128, 128)
    assert blocks_of((192, 7168), (2, 56), None) == (128, 128)


def test_kimi_in_int4_experts_alone(tmp_path: Path) -> None:
    scheme = SCHEMES["compressed-tensors int4"]
    plain = save_quantised(tmp_path, scheme, "deepseek_v3", chosen=in_experts, change=split_experts, sizes=DEEPSEEK)
    found = assert_computes_alike(tmp_path, plain)
    assert found.card.quantised == "compressed-tensors int4"


def stack_for_mlx(weights: Tensors) -> Tensors:
    found: Tensors = {}
    for name, tensor in weights.items():
        stem = name.replace(".experts.", ".switch_mlp.").rpartition(".")[0]
        if name.endswith("experts.gate_up_proj"):
            gate, up = tensor.chunk(2, dim=1)
            found |= {f"{stem}.gate_proj.weight": gate, f"{stem}.up_proj.weight": up}
        elif name.endswith("experts.down_proj"):
            found[f"{stem}.down_proj.weight"] = tensor
        else:
            found[name] = tensor
    return found


def test_stacked_experts_of_mlx_are_named_one_by_one(tmp_path: Path) -> None:
    scheme = Scheme(mlx_affine(4), "mlx 4-bit", {"bits": 4, "group_size": 32}, "quantization")

    def chosen(name: str, tensor: torch.Tensor) -> bool:
        return ".layers." in name and tensor.dim() > 1 and not name.endswith("mlp.gate.weight")

    plain = save_quantised(tmp_path, scheme, "qwen3_moe", chosen=chosen, change=stack_for_mlx, sizes=USUAL | EXPERTS)
    plain = {name: tensor for name, tensor in plain.items() if "switch_mlp" not in name} | {
        f"{name.split('.switch_mlp.')[0]}.experts.{e}.{name.split('.switch_mlp.')[1]}": rows
        for name, tensor in plain.items()
        if "switch_mlp" in name
        for e, rows in enumerate(tensor)
    }
    assert_computes_alike(tmp_path, plain)


def test_gpt_oss_of_mlx_is_fused_again(tmp_path: Path) -> None:
    scheme = Scheme(mlx_affine(4), "mlx 4-bit", {"bits": 4, "group_size": 32}, "quantization")

    def change(weights: Tensors) -> Tensors:
        found: Tensors = {}
        for name, tensor in weights.items():
            if "experts.gate_up_proj" in name:
                kind, stem = ("bias" if "bias" in name else "weight"), name.split("gate_up_proj")[0]
                rows = tensor if kind == "bias" else tensor.transpose(1, 2)
                found |= {f"{stem}gate_proj.{kind}": rows[:, ::2], f"{stem}up_proj.{kind}": rows[:, 1::2]}
            elif "experts.down_proj" in name:
                kind = "bias" if "bias" in name else "weight"
                found[name.split("down_proj")[0] + f"down_proj.{kind}"] = tensor if kind == "bias" else tensor.mT
            else:
                found[name] = tensor
        return found

    def chosen(name: str, tensor: torch.Tensor) -> bool:
        return "experts" in name and tensor.dim() == 3

    changed = save_quantised(tmp_path, scheme, "gpt_oss", chosen=chosen, change=change)
    plain: Tensors = {}
    for name, tensor in changed.items():
        stem = name.split("gate_proj")[0]
        if "experts.gate_proj" in name or "experts.down_proj" in name:
            kind = name.rpartition(".")[2]
            both = tensor
            if "gate_proj" in name:
                both = torch.stack([tensor, changed[name.replace("gate_proj", "up_proj")]], 2).flatten(1, 2)
            fused = f"{stem}gate_up_proj" if "gate_proj" in name else name.rpartition(".")[0]
            plain[fused if kind == "weight" else f"{fused}_bias"] = both.mT if kind == "weight" else both
        elif "experts.up_proj" not in name:
            plain[name] = tensor
    assert_computes_alike(tmp_path, plain)


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("family", ["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"])
def test_what_mlx_changes_in_values_is_changed_back(family: str, packs: bool, tmp_path: Path) -> None:
    more = EXPERTS | {"shared_expert_intermediate_size": 64, "linear_value_head_dim": 16, "linear_key_head_dim": 16}
    model = causal.model_of(
        family, **USUAL | more | {"num_hidden_layers": 4, "layer_types": causal._HYBRID["layer_types"]}
    )
    scheme, stored, plain = SCHEMES["mlx 4-bit"], dict[str, torch.Tensor](), dict[str, torch.Tensor]()
    for name, tensor in model.model.state_dict().items():
        exact = []
        for changed, value in as_mlx_stores(f"model.{name}", tensor).items():
            if (
                packs
                and name.endswith("weight" if "experts." not in name else "proj")
                and tensor.dim() > 1
                and "conv1d" not in name
            ):
                parts, value = scheme.pack(changed, value)
                stored |= parts
            else:
                stored[changed] = value
            exact.append(value)
        unchanged = (
            tensor if "norm" in name or "conv1d" in name else torch.cat(exact, dim=1) if len(exact) > 1 else exact[0]
        )
        plain[f"model.{name}"] = unchanged
    write(
        tmp_path,
        stored,
        model.config.to_dict() | {"dtype": "float32"} | ({scheme.key: scheme.settings} if packs else {}),
    )
    write(tmp_path / "plain", plain, model.config.to_dict() | {"dtype": "float32"})
    states = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    for index in (0, 1):  # one with a convolution, one without
        found, expected = (layer(folder, index) for folder in (tmp_path, tmp_path / "plain"))
        torch.testing.assert_close(found(states), expected(states), rtol=1e-4, atol=1e-5)


def as_mlx_stores(name: str, tensor: torch.Tensor) -> Tensors:
    """Return what `sanitize` of mlx-lm makes of a weight of these families."""
    if name.endswith(("input_layernorm.weight", "post_attention_layernorm.weight", "q_norm.weight", "k_norm.weight")):
        return {name: tensor + 1.0}
    if name.endswith("conv1d.weight"):
        return {name: tensor.movedim(2, 1)}
    if name.endswith("experts.gate_up_proj"):
        gate, up = tensor.chunk(2, dim=1)
        stem = name.removesuffix("experts.gate_up_proj") + "switch_mlp."
        return {f"{stem}gate_proj.weight": gate, f"{stem}up_proj.weight": up}
    return {name.replace("experts.down_proj", "switch_mlp.down_proj.weight"): tensor}


def test_what_mlx_may_have_changed_in_values_is_refused(tmp_path: Path) -> None:
    sizes = USUAL | EXPERTS | {"shared_expert_intermediate_size": 64, "num_hidden_layers": 3}
    save_quantised(tmp_path, SCHEMES["mlx 4-bit"], "qwen3_next", sizes=sizes)
    with pytest.raises(UnsupportedFormatError, match="norms"):
        layer(tmp_path)


@pytest.mark.parametrize("scheme", ["bitsandbytes nf4", "gptq 4-bit"])
def test_maps_that_gpt2_keeps_transposed_are_turned_again(scheme: str, tmp_path: Path) -> None:
    def pack(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        tensors, value = SCHEMES[scheme].pack(name, weight.T.contiguous())
        return tensors, value.T

    def chosen(name: str, tensor: torch.Tensor) -> bool:
        return ".h." in name and tensor.dim() == 2

    sizes = {"n_embd": 64, "n_layer": 2}
    turned = Scheme(pack, scheme, SCHEMES[scheme].settings)
    plain = save_quantised(tmp_path, turned, "gpt2", chosen=chosen, sizes=sizes)
    assert_computes_alike(tmp_path, plain)
