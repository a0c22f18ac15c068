"""GGUF of DeepSeek and Gemma 4: states of whole models, two layouts of a weight, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

import pifi_probe as pp
from pifi_probe.errors import CheckpointError, CorruptFileError, UnsupportedFamilyError, UnsupportedFormatError
from pifi_probe.layers.gguf_checkpoint import GGUFCheckpoint
from pifi_probe.layers.gguf_deepseek import deepseek2_entries, deepseek2_yarn
from pifi_probe.layers.gguf_gemma import gemma4_entries
from pifi_probe.layers.gguf_io import GGUFHeader
from pifi_probe.layers.gguf_layout import in_asked_parts
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.stream import Batch, stream
from tests.memory_source import MemorySource
from tests.states import whole_states
from tests.test_conformity import padded_batch
from tests.tiny_gguf import tiny_gguf, tiny_gguf_model

KEY = "blk.0.attn_k_b.weight"


@pytest.mark.parametrize("family", ["gemma4_text__routed", "deepseek_v2"])
def test_states_of_all_layers_are_those_of_the_model_the_file_was_made_from(family: str, tmp_path: Path) -> None:
    file = tiny_gguf(family, tmp_path / "x.gguf")
    ids, mask = padded_batch(17, "left", 99)
    expected = whole_states(tiny_gguf_model(family), ids, mask)

    def compare(point: int, batch: int, states: torch.Tensor) -> None:
        kept = mask.bool()
        torch.testing.assert_close(states[kept], expected[point][kept], rtol=1e-5, atol=1e-5)

    stream(open_checkpoint(str(file)), [Batch(ids, mask)], compare, model=family, progress=False)


@pytest.mark.parametrize(
    ("key", "value", "index", "state"),
    [
        ("embedding_length_per_layer_input", 8, 0, "per-layer embeddings"),
        ("attention.shared_kv_layers", 2, 3, "keys and values of a layer before 2"),
    ],
)
def test_a_layer_of_gemma_4_that_needs_another_state_is_refused_by_its_name(
    key: str, value: int, index: int, state: str, tmp_path: Path
) -> None:
    keys: dict[str, Any] = {key: value}
    file = tiny_gguf("gemma4_text", tmp_path / "x.gguf", **keys)
    with pytest.raises(UnsupportedFamilyError, match=state):
        pp.extract(f"{file}[{index}]")


@pytest.mark.parametrize(
    ("family", "keys", "reason"),
    [
        ("gemma4_text", {"rope.scaling.type": "linear"}, "positions are scaled"),
        ("gemma4_text", {"rope.dimension_count_swa": 4}, "a part of a head"),
        ("gemma4_text", {"attention.key_length": 32}, "rope_freqs.weight"),
        ("deepseek_v2", {"attention.temperature_scale": 0.1}, "scaled by their position"),
        ("deepseek_v2__lite", {"expert_weights_norm": True}, "neither DeepSeek V2's nor V3's"),
        ("deepseek_v3", {"expert_gating_func": 4}, "neither DeepSeek V2's nor V3's"),
        ("deepseek_v3", {"expert_group_count": 0}, "expert_group_count"),
    ],
)
def test_what_the_file_leaves_open_or_transformers_does_not_do_is_refused(
    family: str, keys: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedFormatError, match=reason):
        open_checkpoint(str(tiny_gguf(family, tmp_path / "x.gguf", **keys)))


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"attention.sliding_window_pattern": [True] * 4}, "the last one full"),
        ({"attention.sliding_window_pattern": [True, False]}, "its 4 layers are not said"),
        ({"attention.head_count_kv": [2, 1, 3, 1]}, "differ in attention.head_count_kv"),
        ({"feed_forward_length": [48, 48, 48, 64]}, "differ in feed_forward_length"),
        ({"feed_forward_length": [48, 48, 64, 64], "attention.shared_kv_layers": 2}, "differ in feed_forward_length"),
    ],
)
def test_layers_of_gemma_4_that_differ_in_more_than_their_kind_are_refused(keys: dict[str, Any], reason: str) -> None:
    metadata = {
        "block_count": 4, "attention.sliding_window_pattern": [True, False, True, False],
        "attention.head_count_kv": 2, "feed_forward_length": 48,
    }  # fmt: skip
    with pytest.raises(UnsupportedFormatError, match=reason):
        gemma4_entries(GGUFHeader({}, {}, 3, 32), metadata | keys, UnsupportedFormatError)


def test_a_key_that_is_missing_is_named(tmp_path: Path) -> None:
    data = tiny_gguf("gemma4_text", tmp_path / "x.gguf").read_bytes()
    assert data.count(b"sliding_window_pattern") == 1
    with pytest.raises(CheckpointError, match="'attention.sliding_window_pattern' is missing"):
        GGUFCheckpoint(
            MemorySource(data.replace(b"sliding_window_pattern", b"sliding_window_pattern"[:-1] + b"_")), "x"
        )


def test_published_models_are_read_from_files_that_do_not_say_how_experts_are_grouped() -> None:
    sizes = {
        "block_count": 61, "embedding_length": 7168, "expert_count": 256, "attention.head_count": 128,
        "rope.dimension_count": 64, "attention.key_length": 192, "attention.value_length": 128,
        "attention.kv_lora_rank": 512, "attention.q_lora_rank": 1536, "expert_used_count": 8,
        "expert_shared_count": 1, "expert_feed_forward_length": 2048, "leading_dense_block_count": 3,
        "rope.scaling.yarn_log_multiplier": float(np.float32(0.1)),
    }  # fmt: skip
    entries = deepseek2_entries(sizes, has_bias=True, refusal=UnsupportedFormatError)
    expected = {"model_type": "deepseek_v3", "n_group": 8, "topk_group": 4, "qk_nope_head_dim": 128, "v_head_dim": 128}
    assert entries | expected == entries
    assert deepseek2_yarn(sizes, UnsupportedFormatError) == {"mscale": 1.0, "mscale_all_dim": 1.0}
    kimi = sizes | {"expert_count": 384, "rope.scaling.factor": 32.0}
    entries = deepseek2_entries(kimi, has_bias=True, refusal=UnsupportedFormatError)
    assert (entries["n_group"], entries["topk_group"]) == (1, 1)
    assert deepseek2_yarn(kimi, UnsupportedFormatError)["beta_fast"] == 1.0
    with pytest.raises(UnsupportedFormatError, match="yarn_beta_fast"):  # K2 Thinking and K2.5 say the same
        deepseek2_yarn(kimi | {"rope.scaling.factor": 64.0}, UnsupportedFormatError)
    other = sizes | {"expert_count": 128}
    with pytest.raises(UnsupportedFormatError, match="expert_group_count"):
        deepseek2_entries(other, has_bias=True, refusal=UnsupportedFormatError)
    with pytest.raises(UnsupportedFormatError, match="yarn_beta_fast"):
        deepseek2_yarn(other, UnsupportedFormatError)


def test_keys_and_values_are_joined_after_they_are_dequantised(tmp_path: Path) -> None:
    file = tiny_gguf("deepseek_v3", tmp_path / "x.gguf", quantised=True)
    expected = tiny_gguf_model("deepseek_v3").state_dict()
    name = "model.layers.{}.self_attn.kv_b_proj.weight"
    checkpoint = open_checkpoint(str(file))
    assert isinstance(checkpoint, GGUFCheckpoint)
    found = checkpoint.read_layer(1)[name.format(0)].view(4, 16, 32)
    keys, values = expected[name.format(1)].view(4, 16, 32).split([6, 10], dim=1)
    assert torch.equal(found[:, :6], keys)
    coarse = gguf.quants.dequantize(gguf.quants.quantize(values.contiguous().numpy(), Kind.Q8_0), Kind.Q8_0)
    assert not torch.equal(found[:, 6:], values) and np.array_equal(found[:, 6:].numpy(), coarse)


def test_half_of_what_is_joined_is_a_broken_file(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(tiny_gguf("deepseek_v3", tmp_path / "x.gguf")))
    assert isinstance(checkpoint, GGUFCheckpoint)
    checkpoint.tensors = {name: info for name, info in checkpoint.tensors.items() if name != "blk.0.attn_v_b.weight"}
    with pytest.raises(CorruptFileError, match="attn_v_b"):
        checkpoint.read_layer(0)


def test_gates_of_experts_are_joined_or_split_as_the_model_has_them() -> None:
    whole, names = torch.randn(3, 8, 5), [f"blk.0.ffn_{part}_exps" for part in ("gate", "up", "gate_up")]
    parts = dict(zip((f"{name}.weight" for name in names), whole.chunk(2, dim=1), strict=False))
    joined = in_asked_parts(parts, names[2:])
    assert list(joined) == [f"{names[2]}.weight"] and torch.equal(joined[f"{names[2]}.weight"], whole)
    split = in_asked_parts(joined, names[:2])
    assert split.keys() == parts.keys() and all(torch.equal(split[name], parts[name]) for name in parts)


def test_keys_and_values_that_are_there_twice_are_taken_whole() -> None:
    whole = torch.randn(16, 4)
    stored = {KEY: torch.zeros(2, 4, 3), KEY.replace("_k_", "_v_"): torch.zeros(2, 5, 4)}
    asked = KEY.replace("_k_", "_kv_")
    assert in_asked_parts(stored | {asked: whole}, [asked]) == {asked: whole}
