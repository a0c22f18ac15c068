"""Qwen3-Next and Qwen3.5 in GGUF: other spellings of the same file, quantised ones, and files that cannot be right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pifi_probe.errors import CheckpointError, CorruptFileError, PifiProbeError, UnsupportedFormatError
from pifi_probe.layers.extract import extract_from
from pifi_probe.layers.gguf_checkpoint import GGUFCheckpoint
from pifi_probe.layers.gguf_config import gguf_config
from pifi_probe.layers.gguf_io import GGUFHeader, read_header
from pifi_probe.layers.gguf_qwen import restored
from tests.memory_source import MemorySource
from tests.tiny_gguf import tiny_gguf, tiny_gguf_model
from tests.tiny_gguf_qwen import ARCHITECTURES, converted

FAMILIES = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return a file per family, with matrices of 8-bit numbers."""
    folder = tmp_path_factory.mktemp("qwen")
    return {name: tiny_gguf(name, folder / f"{name}.gguf", quantised=True).read_bytes() for name in FAMILIES}


def opened(files: dict[str, bytes], family: str) -> GGUFCheckpoint:
    return GGUFCheckpoint(MemorySource(files[family]), "x.gguf")


def header(files: dict[str, bytes], family: str, **changes: Any) -> GGUFHeader:
    """Return a file's header with changed metadata (None: left out)."""
    found = read_header(MemorySource(files[family]))
    own = {f"{ARCHITECTURES[family][0]}.{key.replace('__', '.')}": value for key, value in changes.items()}
    metadata = {key: value for key, value in (dict(found.metadata) | own).items() if value is not None}
    return replace(found, metadata=metadata)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_quantised_layer_is_dequantised_before_its_heads_are_ordered(family: str, files: dict[str, bytes]) -> None:
    checkpoint, original = opened(files, family), tiny_gguf_model(family)
    assert checkpoint.contents(0).stored_as == "GGUF Q8_0"
    stored = checkpoint.read(checkpoint.layer_names(0))
    for name, tensor in checkpoint.read_layer(0).items():
        # 8-bit numbers, of which the largest in a block of 32 is 127
        torch.testing.assert_close(tensor, original.state_dict()[name], rtol=0, atol=float(tensor.abs().max()) / 250)
        again = converted(name, tensor, original.config, ARCHITECTURES[family][0]) or {}
        for key, expected in again.items():
            torch.testing.assert_close(stored[key], expected, rtol=1e-6, atol=0)


def test_further_layers_and_pictures_are_no_part_of_the_model(files: dict[str, bytes]) -> None:
    checkpoint = opened(files, "qwen3_5_text")
    kinds = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
    assert (checkpoint.config.num_hidden_layers, checkpoint.config.layer_types) == (4, kinds)
    picture = {"v.blk.0.attn_q.weight": checkpoint.tensors["blk.1.attn_q.weight"]}
    checkpoint.tensors = {**checkpoint.tensors, **picture}
    stem = checkpoint.read_stem(torch.arange(3))
    assert {*stem} == {"model.embed_tokens.weight", "model.norm.weight"}
    torch.testing.assert_close(
        stem["model.norm.weight"], tiny_gguf_model("qwen3_5_text").state_dict()["model.norm.weight"]
    )


@pytest.mark.parametrize("index", [0, 1])
def test_a_layer_of_either_kind_can_be_plugged_in(index: int, files: dict[str, bytes]) -> None:
    layer = extract_from(opened(files, "qwen3_5_moe_text"), index, model="x.gguf")
    assert torch.isfinite(layer(torch.ones(2, 3, 32))).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_other_spellings_give_the_same_layer(family: str, files: dict[str, bytes]) -> None:
    checkpoint = opened(files, family)
    stored, entries = checkpoint.read(checkpoint.layer_names(0)), checkpoint._entries
    architecture = ARCHITECTURES[family][0]
    expected = restored(architecture, entries, stored)
    other = dict(stored)
    other["blk.0.ssm_dt"] = other.pop("blk.0.ssm_dt.bias")  # Ollama
    other["blk.0.ssm_conv1d.weight"] = other["blk.0.ssm_conv1d.weight"][:, None]
    if family == "qwen3_next":  # files of before the split
        del other["blk.0.attn_qkv.weight"], other["blk.0.attn_gate.weight"]
        other["blk.0.ssm_in.weight"] = expected["blk.0.ssm_in.weight"]
    if family != "qwen3_5_text":  # experts as --fuse-gate-up-exps writes them
        halves = [other.pop(f"blk.0.ffn_{part}_exps.weight") for part in ("gate", "up")]
        other["blk.0.ffn_gate_up_exps.weight"] = torch.cat(halves, dim=1)
    found = restored(architecture, entries, other)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_heads_for_each_layer_scaled_positions_and_weights_of_experts_reach_the_configuration(
    files: dict[str, bytes],
) -> None:
    scaled = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "attention__head_count_kv": [0, 2, 0, 2]}
    config, _ = gguf_config(header(files, "qwen3_5_text", **scaled), "x.gguf")
    assert config.num_key_value_heads == 2
    rope = {key: config.rope_parameters[key] for key in ("rope_type", "factor", "partial_rotary_factor")}
    assert rope == {"rope_type": "yarn", "factor": 4.0, "partial_rotary_factor": 0.5}
    for weights, expected in (({}, True), ({"expert_weights_norm": False}, False), ({"norm_top_k_prob": False}, False)):
        assert gguf_config(header(files, "qwen3_next", **weights), "x.gguf")[0].norm_topk_prob is expected


BAD: dict[str, tuple[dict[str, Any], type[PifiProbeError], str]] = {
    "no number of key heads": ({"ssm__group_count": None}, CheckpointError, r"'ssm\.group_count' is missing"),
    "no channels": ({"ssm__inner_size": 0}, CheckpointError, r"'ssm\.inner_size'"),
    "no rotary size": ({"rope__dimension_count": None}, CheckpointError, r"'rope\.dimension_count'"),
    "no rotary base": ({"rope__freq_base": None}, CheckpointError, r"'rope\.freq_base' is missing"),
    "no width of experts": ({"expert_feed_forward_length": None}, CheckpointError, "expert_feed_forward_length"),
    "heads that do not divide": ({"ssm__group_count": 3}, CheckpointError, "3 key heads, 8 value heads"),
    "another order": ({"ssm__v_head_reordered": False}, UnsupportedFormatError, "another order"),
    "only further layers": ({"nextn_predict_layers": 4}, CheckpointError, "4 of 4 layers"),
    "absurd number of layers": ({"block_count": 1 << 30}, CheckpointError, "block_count"),
    "heads that differ": ({"attention__head_count_kv": [0, 1, 0, 2]}, UnsupportedFormatError, "num_key_value_heads"),
}


@pytest.mark.parametrize("case", BAD)
def test_metadata_that_leave_the_layer_open_are_refused(case: str, files: dict[str, bytes]) -> None:
    changes, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        gguf_config(header(files, "qwen3_5_moe_text", **changes), "x.gguf")


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("qwen3_next", {"blk.0.attn_qkv.weight": None}, "attn_qkv is missing"),
        ("qwen3_next", {"blk.0.ffn_gate_exps.weight": None}, "ffn_gate_exps is missing"),
        ("qwen3_5_text", {"blk.0.ssm_a": "blk.0.ssm_dt.bias"}, "ssm_a holds numbers that are not negative"),
        ("qwen3_5_text", {"blk.0.ssm_alpha.weight": "blk.1.attn_k.weight"}, "shapes"),
    ],
)
def test_tensors_that_cannot_be_right_are_one_line(
    family: str, change: dict[str, str | None], message: str, files: dict[str, bytes]
) -> None:
    checkpoint = opened(files, family)
    tensors = dict(checkpoint.tensors)
    for name, other in change.items():
        del tensors[name]
        if other:
            tensors[name] = replace(checkpoint.tensors[other], name=name)
    checkpoint.tensors = tensors
    with pytest.raises(CorruptFileError, match=message) as caught:
        checkpoint.read_layer(0)
    assert "\n" not in str(caught.value)
