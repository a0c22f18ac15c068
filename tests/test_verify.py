"""Verification finds layers equal to transformers' own, and a layer that is not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import CheckpointError, LayerIndexError, UnsupportedFormatError
from pifi_probe.experiments import verify as module
from tests import slm, tiny
from tests.quantised import SCHEMES, save_quantised, write
from tests.tiny import tiny_config


def quantised(folder: Path, name: str) -> tuple[str, str]:
    """A tiny model in a format, and the weights that it stands for as a plain checkpoint."""
    weights = save_quantised(folder / "q", SCHEMES[name])
    config = tiny_config(
        "llama", **{"hidden_size": 64, "intermediate_size": 64, "head_dim": 16, "num_hidden_layers": 2}
    )
    write(folder / "plain", weights, config.to_dict())
    for each in ("q", "plain"):
        slm.tiny_tokenizer().save_pretrained(folder / each)
    return str(folder / "q"), str(folder / "plain")


def test_layers_equal_those_of_the_model(llm: str) -> None:
    found = pp.verify(llm)
    assert found.layers == tuple(range(tiny.N_LAYERS)) and len(found.errors) == tiny.N_LAYERS
    assert found.error < 1e-5 and found.family == "llama" and found.format == "safetensors F32"
    assert found.revision.startswith("sha256:") and found.reference == "transformers" and found.n_tokens > 50


def test_a_layer_that_differs_is_found(llm: str, tmp_path: Path) -> None:
    other = tiny.tiny_checkpoint("llama", tmp_path)
    slm.tiny_tokenizer().save_pretrained(other)
    tensors = safetensors.torch.load_file(other / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] *= 1.5
    safetensors.torch.save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    errors = pp.verify(llm, reference=str(other)).errors
    assert errors[1] > 1e-3 and max(errors[0], errors[2]) < 1e-5


def test_what_transformers_cannot_dequantise_needs_a_reference(tmp_path: Path) -> None:
    model, plain = quantised(tmp_path, "gptq 4-bit")
    with pytest.raises(UnsupportedFormatError, match=r"does not dequantise this model on a CPU: gptq 4-bit.*give ref"):
        pp.verify(model)
    found = pp.verify(model, -1, reference=plain)
    assert found.error < 1e-5 and found.layers == (1,) and found.format == "gptq 4-bit"
    assert found.reference == f"transformers, {plain}"


def test_layers_that_share_some_types_name_each_once() -> None:
    assert module._together({"GGUF Q5_0, Q4_K", "GGUF Q5_0, Q6_K, Q4_K"}) == "GGUF Q5_0, Q4_K, Q6_K"


def test_fp8_is_compared_with_what_transformers_dequantises(tmp_path: Path) -> None:
    model, _ = quantised(tmp_path, "fp8")
    assert pp.verify(model).error < 1e-5


def test_the_command_prints_a_line_of_the_table(llm: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", llm, "--layers", "0,-1"]) == 0
    line = capsys.readouterr().out.strip()
    assert line.count("|") == module.HEADING.count("|") and f"| 0, {tiny.N_LAYERS - 1} |" in line
    assert main(["verify", llm, "--layers", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["error"] < 1e-5


def test_what_cannot_be_compared_is_one_line(llm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LayerIndexError, match="there is no layer 99"):
        pp.verify(llm, 99)
    model, _ = quantised(tmp_path, "awq")
    with pytest.raises(CheckpointError, match="the reference is another model: its num_hidden_layers is 3"):
        pp.verify(model, reference=llm)
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(CheckpointError, match="the whole model in float32, .* and 1 kB are free"):
        pp.verify(llm)


@pytest.mark.slow
def test_the_embedded_model_is_verified() -> None:
    found = pp.verify("smollm2-135m", "0,-1")
    assert found.error < 1e-5 and found.layers == (0, 29) and "gguf" in found.format.lower()
