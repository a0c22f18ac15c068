"""One layer out of every format of quantised weights is the layer of the model that the file stands for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pifi_probe as pp
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.open import open_checkpoint
from tests.quantised import GROUP, SCHEMES, USUAL, Tensors, awq_gemv, fp8, packed_integers, rest, save_quantised


def layer(spec: str | Path, dtype: str = "auto") -> FrozenLayer:
    found = pp.extract(f"{spec}[1]", dtype=dtype)
    assert isinstance(found, FrozenLayer)
    return found


def assert_holds(found: FrozenLayer, weights: Tensors, tolerance: float = 1e-6) -> None:
    """Assert that a layer holds the weights of layer 1 of a model, by their names there."""
    expected = {name.partition(".layers.1.")[2]: tensor for name, tensor in weights.items() if ".layers.1." in name}
    held = {name.partition(".layers.0.")[2]: tensor for name, tensor in found.state_dict().items()}
    assert held.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(held[name], tensor, rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize("name", SCHEMES)
def test_a_layer_is_the_one_that_the_file_stands_for(name: str, tmp_path: Path) -> None:
    weights = save_quantised(tmp_path, SCHEMES[name])
    found = layer(tmp_path)
    assert_holds(found, weights)
    assert SCHEMES[name].label in str(found.card.quantised)
    assert found.card.bits_per_weight is not None
    assert found.card.bits_per_weight < 17


# Other words for the same: a scheme, and what another tool or version writes into the configuration
_ROUND = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False}
_SOME = {"extra_config": {"model.layers.0.mlp.up_proj": {"group_size": 32}}}
OTHER_WORDS: dict[str, tuple[str, dict[str, Any]]] = {
    "AutoRound, zero points as they are": ("gptq 4-bit v2 order", _ROUND | {"packing_format": "auto_round:exllamav2"}),
    "AutoRound of old, zero points as they are": (
        "gptq 2-bit v2 order",
        _ROUND | {"quant_method": "intel/auto-round", "bits": 2, "backend": "auto_round"},
    ),
    "AutoRound, zero points less one": ("gptq 4-bit", _ROUND | {"packing_format": "auto_round:auto_gptq"}),
    "AutoRound without a packing": ("gptq 8-bit", _ROUND | {"bits": 8}),
    "AutoRound, AWQ's packing": ("awq", _ROUND | {"packing_format": "auto_round:auto_awq"}),
    "AutoRound, other groups for some": ("gptq 4-bit", _ROUND | _SOME | {"group_size": 128}),
    "AutoRound, AWQ's packing, other groups": ("awq", _ROUND | _SOME | {"group_size": 64}),
    "GPTQModel, version 2 under its other key": (
        "gptq 4-bit v2 order",
        {"quant_method": "gptq", "bits": 4, "group_size": 32, "format": "gptq_v2"},
    ),
}


@pytest.mark.parametrize("words", OTHER_WORDS)
def test_what_other_tools_state_is_understood(words: str, tmp_path: Path) -> None:
    name, settings = OTHER_WORDS[words]
    weights = save_quantised(tmp_path, replace(SCHEMES[name], settings=settings))
    assert_holds(layer(tmp_path), weights)


def test_one_group_of_all_inputs_in_gemv(tmp_path: Path) -> None:
    settings = dict(SCHEMES["awq gemv"].settings) | {"group_size": -1}
    scheme = replace(SCHEMES["awq gemv"], pack=awq_gemv(-1), settings=settings)
    weights = save_quantised(tmp_path, scheme, sizes=USUAL | {"hidden_size": 256, "intermediate_size": 256})
    assert_holds(layer(tmp_path), weights)


@pytest.mark.parametrize("ending", ["self_attn.kv_scale", "self_attn.k_proj.output_scale", "self_attn.q_scale"])
def test_scales_of_caches_and_activations_are_no_part_of_a_weight(ending: str, tmp_path: Path) -> None:
    scheme = SCHEMES["compressed-tensors float8"]

    def pack(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        tensors, value = scheme.pack(name, weight)
        if name.endswith("self_attn.k_proj.weight"):
            tensors[rest(name).removesuffix("self_attn.k_proj.") + ending] = torch.tensor(0.5)
        return tensors, value

    weights = save_quantised(tmp_path, replace(scheme, pack=pack))
    assert_holds(layer(tmp_path), weights)


@pytest.mark.parametrize("channels", [False, True])
def test_modules_of_two_widths_are_counted_each_by_its_own(channels: bool, tmp_path: Path) -> None:
    """By the groups of scales, or, where all have one scale a row, by the modules that the settings name."""
    size = -1 if channels else GROUP
    four, eight = (packed_integers(bits, symmetric=True, group=size) for bits in (4, 8))

    def pack(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        return (eight if "down_proj" in name else four)(name, weight)

    groups = {
        name: {"targets": targets, "weights": {"num_bits": bits, "type": "int", "group_size": size}}
        for name, targets, bits in (
            ("a", ["re:.*(self_attn|up_proj)", "Linear"], 4),
            ("b", ["re:.*mlp\\.(down_proj|gate)$"], 8),
        )
    }
    settings = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
    weights = save_quantised(tmp_path, replace(SCHEMES["compressed-tensors int4"], pack=pack, settings=settings))
    found = layer(tmp_path)
    assert_holds(found, weights)
    held = sum(tensor.numel() for tensor in found.state_dict().values())
    assert open_checkpoint(str(tmp_path)).contents(1).weights == held
    assert found.card.quantised == "compressed-tensors int4, compressed-tensors int8"


def test_blocks_of_32_columns_are_mxfp8_only_with_powers_of_two(tmp_path: Path) -> None:
    settings = {"quant_method": "fp8", "weight_block_size": [64, 32]}
    weights = save_quantised(tmp_path, replace(SCHEMES["fp8"], pack=fp8("_scale_inv", (64, 32)), settings=settings))
    found = layer(tmp_path)
    assert_holds(found, weights)
    assert found.card.quantised == "fp8 in blocks of 64x32"
