"""Bad checkpoint folders: each gets one line that says what, where and what next."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pifi_probe.errors import (
    CheckpointError,
    CorruptFileError,
    PifiProbeError,
    UnsupportedFamilyError,
    UnsupportedFormatError,
)
from pifi_probe.layers.extract import extract_from
from pifi_probe.layers.open import open_checkpoint
from tests import tiny
from tests.folders import INDEX, WEIGHT, edit_json, refused, rewrite, stored_tensors

EXAMPLES = settings(
    max_examples=80,
    derandomize=True,
    database=None,
    deadline=timedelta(seconds=10),
    suppress_health_check=list(HealthCheck),
)


def test_a_folder_without_configuration_is_refused(llama: Path) -> None:
    os.remove(llama / "config.json")
    refused(llama, "no config.json")
    refused(llama / "model.safetensors", "no config.json")


def test_a_folder_without_weights_is_refused_and_a_gguf_in_it_is_proposed(llama: Path) -> None:
    os.remove(llama / "model.safetensors")
    refused(llama, "no weights")
    (llama / "model.gguf").write_bytes(b"GGUF")
    refused(llama, "model.gguf")


def test_a_file_of_another_type_is_refused(llama: Path) -> None:
    (llama / "model.onnx").write_bytes(b"x")
    refused(llama / "model.onnx", ".onnx", UnsupportedFormatError)


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": NaN', "\x00", "[" * 100_000])
def test_a_malformed_configuration_is_refused(llama: Path, text: str) -> None:
    (llama / "config.json").write_text(text)
    refused(llama, "config.json", CorruptFileError)


@pytest.mark.parametrize("model_type", ["no-such-family", None, 7, ["llama"]])
def test_an_unknown_model_type_is_named(llama: Path, model_type: Any) -> None:
    edit_json(llama / "config.json", model_type=model_type)
    refused(llama, f"{model_type!r}", UnsupportedFamilyError)


def test_a_model_that_brings_its_own_code_is_not_run(llama: Path, tmp_path: Path) -> None:
    (llama / "configuration_own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    edit_json(llama / "config.json", model_type="own", auto_map={"AutoConfig": "configuration_own.Own"})
    refused(llama, "'own'", UnsupportedFamilyError)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("n", [10**9, 1e9, 0, -3, "three", None])
def test_an_absurd_number_of_layers_is_refused(llama: Path, n: Any) -> None:
    edit_json(llama / "config.json", num_hidden_layers=n)
    refused(llama, "config.json", PifiProbeError)


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "fp8", "weight_block_size": [128, 128]},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"load_in_8bit": False, "load_in_4bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq"},
        {"quant_method": "mxfp4"},
        {"quant_method": "unheard-of"},
    ],
)
def test_weights_that_lie_unquantised_are_read_whatever_the_configuration_says(
    llama: Path, settings: dict[str, Any]
) -> None:
    """Settings name modules by patterns, and many are left as they are: what lies there decides."""
    before = open_checkpoint(str(llama)).read_layer(1)
    edit_json(llama / "config.json", quantization_config=settings)
    after = open_checkpoint(str(llama)).read_layer(1)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_part_of_a_quantised_weight_alone_says_what_is_missing_beside_it(llama: Path) -> None:
    rewrite(llama, {WEIGHT.replace("weight", "qweight"): torch.zeros(2, 2, dtype=torch.int32)})
    refused(llama, WEIGHT.replace("weight", "qzeros"), CheckpointError)


def test_weights_in_float8_without_a_scale_are_named(llama: Path) -> None:
    rewrite(llama, {WEIGHT: torch.zeros(48, 32).to(torch.float8_e4m3fn)})
    refused(llama, "F8_E4M3", CheckpointError)


def test_a_listed_shard_that_is_missing_is_named(shards: Path) -> None:
    os.remove(shards / "model-00003-of-00004.safetensors")
    refused(shards, "1 of 4 shards are missing: model-00003-of-00004.safetensors")
    os.remove(shards / INDEX)
    refused(shards, "1 of 4 shards")


def test_unrelated_files_without_an_index_are_not_guessed_together(llama: Path) -> None:
    os.rename(llama / "model.safetensors", llama / "a.safetensors")
    safetensors.torch.save_file({"x": torch.zeros(1)}, llama / "b.safetensors")
    refused(llama, "2 safetensors files and no")


def test_a_truncated_shard_is_named(shards: Path) -> None:
    file = shards / json.loads((shards / INDEX).read_text())["weight_map"][WEIGHT]
    file.write_bytes(file.read_bytes()[:-1])
    refused(shards, "truncated: tensor", CorruptFileError)
    file.write_bytes(b"")
    refused(shards, file.name, CorruptFileError)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "a\\b", "C:x", "..", "", "a\0b"])
def test_an_index_cannot_lead_out_of_its_folder(shards: Path, file: str) -> None:
    edit_json(shards / INDEX, weight_map={WEIGHT: file})
    refused(shards, "not in its folder", CorruptFileError)


@pytest.mark.parametrize("weight_map", [None, [], {}, "x"])
def test_an_index_without_a_map_is_refused(shards: Path, weight_map: Any) -> None:
    edit_json(shards / INDEX, weight_map=weight_map)
    refused(shards, "weight_map", CorruptFileError)


def test_an_index_that_contradicts_a_file_is_refused(shards: Path) -> None:
    weight_map = json.loads((shards / INDEX).read_text())["weight_map"]
    wrong = next(file for file in weight_map.values() if file != weight_map[WEIGHT])
    edit_json(shards / INDEX, weight_map=weight_map | {WEIGHT: wrong})
    refused(shards, "but it is not", CorruptFileError)


def test_a_tensor_in_two_files_is_refused(shards: Path) -> None:
    os.remove(shards / INDEX)
    first, second = sorted(shards.glob("*.safetensors"))[:2]
    safetensors.torch.save_file(safetensors.torch.load_file(first) | safetensors.torch.load_file(second), second)
    refused(shards, "is in two files", CorruptFileError)


def test_a_shard_alone_does_not_hold_the_other_layers(shards: Path) -> None:
    weight_map = json.loads((shards / INDEX).read_text())["weight_map"]
    with pytest.raises(CheckpointError, match="no tensor of layer 0"):
        open_checkpoint(str(shards / weight_map["model.layers.2.mlp.up_proj.weight"])).read_layer(0)


def test_tensors_that_are_no_decoders_are_refused(llama: Path) -> None:
    safetensors.torch.save_file({"conv.weight": torch.zeros(3)}, llama / "model.safetensors")
    refused(llama, "model.layers.0")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("at", [0, 777, -1])
def test_nan_and_infinity_are_found_anywhere_and_the_tensor_is_named(
    llama: Path, bad: float, dtype: torch.dtype, at: int
) -> None:
    weight = torch.randn(48, 32).to(dtype)
    weight.view(-1)[at] = bad
    rewrite(llama, {WEIGHT: weight})
    refused(llama, f"{WEIGHT!r} holds NaN", CorruptFileError)
    assert open_checkpoint(str(llama)).read_layer(0)  # the other layers are fine


@pytest.mark.parametrize("names", [[WEIGHT], None], ids=["one", "all"])
def test_weights_in_whole_numbers_are_refused(llama: Path, names: list[str] | None) -> None:
    """As compressors without marks of their own store them; read as they are they would be garbage."""
    tensors = stored_tensors(llama)
    rewrite(llama, {name: (tensors[name] * 16).to(torch.int8) for name in names or tensors if ".1." in name})
    refused(llama, "I8", CheckpointError)


def test_a_tensor_without_a_place_in_the_layer_is_refused(llama: Path) -> None:
    rewrite(llama, {WEIGHT.replace("weight", "bias"): torch.ones(48)})
    refused(llama, "without a place in it: model.layers.0.mlp.up_proj.bias")


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"hidden_act": "foo"}, "foo"),
        ("llama", {"intermediate_size": -1}, "cannot build"),
        ("llama", {"head_dim": 0}, "cannot build"),
        ("llama", {"num_key_value_heads": 0}, "cannot build"),
        ("llama", {"rope_parameters": {"rope_type": "nope", "rope_theta": 1e4}}, "nope"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps = nan"),
        ("bloom", {"n_head": 7}, "cannot build"),
        ("opt", {"max_position_embeddings": 20_000_000}, "next to the layer"),
        ("gptj", {"n_positions": 10**11}, "next to the layer"),
    ],
)
def test_a_configuration_that_no_layer_can_have_is_refused(
    family: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = tiny.tiny_checkpoint(family, tmp_path)
    edit_json(folder / "config.json", **changes)
    refused(folder, message)


configs = st.dictionaries(
    st.sampled_from(
        ["hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "rope_parameters", "vocab_size",
         "model_type", "num_hidden_layers", "hidden_act", "text_config", "quantization_config", "layer_types",
         "architectures", "dtype", "intermediate_size", "rms_norm_eps", "max_position_embeddings", "attention_bias"]
    ),
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 9), st.integers(), st.floats(), st.text(max_size=5),
        st.lists(st.integers(0, 3), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
        st.sampled_from(["gemma3", "llava", "t5", "bert", "mistral", "gpt2", "gelu"]),
    ),
    max_size=3,
)  # fmt: skip


@EXAMPLES
@given(changes=configs)
def test_a_random_configuration_gives_an_error_of_our_own_or_a_layer(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "random configurations"
    if not folder.exists():
        tiny.tiny_checkpoint("llama", folder)
    (folder / "config.json").write_text(json.dumps(tiny.tiny_config("llama").to_dict() | changes))
    try:
        checkpoint = open_checkpoint(str(folder))
        read, stored = checkpoint.read_layer(0), checkpoint.layer_names(1)
        assert [name.split(".0.", 1)[1] for name in read] == [name.split(".1.", 1)[1] for name in stored]
        assert extract_from(checkpoint, 0, model="random").n_params == sum(tensor.numel() for tensor in read.values())
    except PifiProbeError as error:
        assert "\n" not in str(error)
