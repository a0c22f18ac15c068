"""GGUF files as checkpoints: the same layer, and the same configuration, as the model they were made from."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pifi_probe.compat import quiet_transformers
from pifi_probe.errors import (
    CheckpointError,
    CorruptFileError,
    LayerIndexError,
    PifiProbeError,
    UnsupportedFormatError,
)
from pifi_probe.layers.extract import extract_from
from pifi_probe.layers.gguf_checkpoint import GGUFCheckpoint
from pifi_probe.layers.open import open_checkpoint
from tests import tiny_gguf
from tests.memory_source import MemorySource
from tests.tiny_gguf import tiny_gguf_model, write_tensors

LLAMA_SIZES = {
    "llama.block_count": 2,
    "llama.embedding_length": 32,
    "llama.attention.head_count": 4,
    "llama.feed_forward_length": 48,
    "llama.context_length": 64,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}

THREE_LAYERS: dict[str, Any] = {"llama.block_count": 3}  # of which two are in the file


def write_llama(path: Path, *, drop: str = "", extra: dict[str, np.ndarray] | None = None, **keys: Any) -> Path:
    """Write a llama of 2 layers of zeros; `drop` leaves a key out, `extra` adds or replaces tensors."""
    shapes: dict[str, tuple[int, ...]] = {
        "attn_q": (32, 32),
        "attn_k": (32, 32),
        "attn_v": (32, 32),
        "attn_output": (32, 32),
    }
    shapes |= {"ffn_gate": (48, 32), "ffn_up": (48, 32), "ffn_down": (32, 48), "attn_norm": (32,), "ffn_norm": (32,)}
    tensors = {
        f"blk.{i}.{name}.weight": np.zeros(shape, np.float32) for i in range(2) for name, shape in shapes.items()
    } | {"token_embd.weight": np.zeros((9, 32), np.float32)}
    sizes = {key: value for key, value in (LLAMA_SIZES | keys).items() if key != drop}
    return write_tensors(path, {name: (array, Kind.F32) for name, array in (tensors | (extra or {})).items()}, **sizes)


@pytest.mark.parametrize("family", tiny_gguf.FAMILIES)
def test_every_layer_equals_that_of_the_model_the_file_was_made_from(family: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(tiny_gguf.tiny_gguf(family, tmp_path / "x.gguf")))
    state = tiny_gguf_model(family).state_dict()
    assert (checkpoint.format, checkpoint.licence) == ("gguf", "apache-2.0")
    for index in range(int(checkpoint.config.num_hidden_layers)):
        layer = checkpoint.read_layer(index)
        expected = {name for name in state if f"layers.{index}." in name or f".h.{index}." in name}
        assert {name.replace(".0.", f".{index}.", 1) for name in layer} == expected
        for name, tensor in layer.items():
            assert tensor.dtype == torch.float32
            # a norm is stored as weight + 1 by some families, which rounds
            torch.testing.assert_close(tensor, state[name.replace(".0.", f".{index}.", 1)], rtol=0, atol=2e-7)


@pytest.mark.parametrize("family", tiny_gguf.FAMILIES)
def test_the_configuration_computes_what_the_original_computes(family: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(tiny_gguf.tiny_gguf(family, tmp_path / "x.gguf")))
    original = tiny_gguf_model(family)
    with quiet_transformers():
        rebuilt = AutoModelForCausalLM.from_config(checkpoint.config).eval()
    rebuilt.load_state_dict(original.state_dict())
    tokens = torch.arange(3, 43)[None]  # longer than the windows
    with torch.no_grad():
        assert torch.equal(rebuilt(tokens).logits, original(tokens).logits)


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_half_of_a_fused_weight_is_not_filled_with_zeros(family: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(tiny_gguf.tiny_gguf(family, tmp_path / "x.gguf")))
    assert isinstance(checkpoint, GGUFCheckpoint)
    checkpoint.tensors = {name: info for name, info in checkpoint.tensors.items() if name != "blk.0.ffn_up_exps.weight"}
    with pytest.raises(CorruptFileError, match=r"blk\.0\.ffn_up_exps is missing"):
        checkpoint.read_layer(0)


def test_the_layer_is_read_alone(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_llama(tmp_path / "x.gguf")))
    before = checkpoint.bytes_read
    checkpoint.read_layer(1)
    assert checkpoint.bytes_read - before == sum(checkpoint.tensors[n].nbytes for n in checkpoint.layer_names(1))
    with pytest.raises(LayerIndexError, match="from 0 to 1"):
        checkpoint.layer_names(2)


@pytest.mark.parametrize(("theta", "factor"), [(500_000.0, 8.0), (500_000.0, 32.0), (10_000.0, 8.0)])
def test_the_scaled_frequencies_of_llama_3_are_recognised(tmp_path: Path, theta: float, factor: float) -> None:
    rope = {
        "rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    keys: dict[str, Any] = {"llama.rope.freq_base": theta, "llama.embedding_length": 512}
    config = tiny_gguf_model("llama").config
    config.hidden_size, config.head_dim, config.rope_parameters = 512, 128, rope
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    plain = theta ** (-torch.arange(0, 128, 2) / 128)
    divisors = (plain / scaled).numpy().astype(np.float32)
    file = write_llama(tmp_path / "x.gguf", extra={"rope_freqs.weight": divisors}, **keys)
    assert open_checkpoint(str(file)).config.rope_parameters == rope


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, ("linear", 4.0)),
        ({"llama.rope.scale_linear": 2.0}, ("linear", 2.0)),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, ("yarn", 4.0)),
        ({"llama.rope.scaling.type": "none"}, ("default", None)),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0}, ("default", None)),
    ],
)
def test_scaled_positions_reach_the_configuration(
    tmp_path: Path, keys: dict[str, Any], expected: tuple[str, float | None]
) -> None:
    rope = open_checkpoint(str(write_llama(tmp_path / "x.gguf", **keys))).config.rope_parameters
    assert (rope["rope_type"], rope.get("factor")) == expected


def zeros(*shape: int, value: float = 0.0) -> np.ndarray:
    return np.full(shape, value, np.float32)


BAD: dict[str, tuple[dict[str, Any], type[PifiProbeError], str]] = {
    "no architecture": ({"general.architecture": "wonder"}, UnsupportedFormatError, "'wonder' is not read"),
    "one part without a name that says so": ({"split.count": 3}, CheckpointError, "one part of 3"),
    "parts in words": ({"split.count": "many"}, CorruptFileError, "one of 'many' parts"),
    "too many parts": ({"split.count": 1 << 30}, CorruptFileError, "one of 1073741824 parts"),
    "no number of layers": ({"drop": "llama.block_count"}, CheckpointError, "block_count"),
    "absurd number of layers": ({"llama.block_count": 1 << 30}, CheckpointError, "block_count"),
    "width in words": ({"llama.embedding_length": "wide"}, CheckpointError, "embedding_length"),
    "no heads": ({"llama.attention.head_count": 0}, CheckpointError, "head_count"),
    "layers that differ": (
        {"llama.attention.head_count_kv": [1, 2]}, UnsupportedFormatError, "num_key_value_heads"
    ),
    "an eps in words": ({"llama.attention.layer_norm_rms_epsilon": "x"}, CheckpointError, "no configuration"),
    "unknown frequencies": ({"extra": {"rope_freqs.weight": zeros(4, value=7)}}, UnsupportedFormatError, "rope_freqs"),
    "long rope": ({"extra": {"rope_factors_long.weight": zeros(4)}}, UnsupportedFormatError, "long and short"),
    "unknown scaling": (
        {"llama.rope.scaling.type": "magic", "llama.rope.scaling.factor": 2.0}, UnsupportedFormatError, "magic"
    ),
    "a tensor without a place": ({"extra": {"blk.1.surprise.weight": zeros(4)}}, UnsupportedFormatError, "surprise"),
    "no key-value heads": ({"llama.attention.head_count_kv": 0}, CheckpointError, "x.gguf"),
    "an eps of NaN": (
        {"llama.attention.layer_norm_rms_epsilon": float("nan")}, CheckpointError, "rms_norm_eps = nan"
    ),
    "NaN": (
        {"extra": {"blk.1.ffn_up.weight": zeros(48, 32, value=float("nan"))}}, CorruptFileError, "blk.1.ffn_up.weight"
    ),
    "a matrix of the wrong shape": (
        {"extra": {"blk.1.attn_q.weight": zeros(30, 32)}}, CorruptFileError, "shapes"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_line_that_says_what_and_where(case: str, tmp_path: Path) -> None:
    changes, kind, message = BAD[case]
    if "general.architecture" in changes:
        writer = gguf.GGUFWriter(tmp_path / "x.gguf", "wonder")
        for step in ("header", "kv_data", "tensors"):
            getattr(writer, f"write_{step}_to_file")()
        writer.close()
    else:
        write_llama(tmp_path / "x.gguf", **changes)
    with pytest.raises(kind) as caught:
        extract_from(open_checkpoint(str(tmp_path / "x.gguf")), 1, model=str(tmp_path / "x.gguf"))
    line = str(caught.value)
    assert message in line and "x.gguf" in line and "next:" in line and "\n" not in line


def test_a_layer_without_tensors_is_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_llama(tmp_path / "x.gguf", **THREE_LAYERS)))
    with pytest.raises(CheckpointError, match="no tensor of layer 2"):
        checkpoint.read_layer(2)


def test_falcon_with_several_key_value_heads_is_refused(tmp_path: Path) -> None:
    file = tiny_gguf.tiny_gguf("falcon", tmp_path / "x.gguf")
    data = file.read_bytes()
    key = b"falcon.attention.head_count_kv" + (4).to_bytes(4, "little")
    assert data.count(key + b"\1") == 1
    with pytest.raises(UnsupportedFormatError, match="Falcon"):
        GGUFCheckpoint(MemorySource(data.replace(key + b"\1", key + b"\2")), "x.gguf")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_llama(tmp_path_factory.mktemp("small") / "x.gguf").read_bytes()


@settings(
    max_examples=300, derandomize=True, database=None, deadline=timedelta(seconds=5),
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(changes=st.lists(st.tuples(st.integers(0, 1600), st.one_of(st.integers(0, 255), st.just(1))), max_size=3))
def test_a_mutated_file_gives_an_error_of_our_own_or_a_layer(small: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(small)
    for at, value in changes:
        data[at] = value
    try:
        checkpoint = GGUFCheckpoint(MemorySource(bytes(data)), "x.gguf")
        stored = sum(tensor.nbytes for tensor in checkpoint.read_layer(1).values())
        assert extract_from(checkpoint, 1, model="x.gguf").nbytes <= stored <= len(data)
    except PifiProbeError as error:
        assert "\n" not in str(error)
