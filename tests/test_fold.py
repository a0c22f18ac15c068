"""Folding gives the same answers with fewer weights, or says why it does not."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

import pifi_probe as pp
from pifi_probe.errors import PlugInError
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.reduce import largest_relative_error, reduce
from pifi_probe.plugin.fold import FoldedPlugIn
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from tests import slm, tiny
from tests.slm import logits

WIDE = {"hidden_size": 128, "intermediate_size": 64, "head_dim": 32}  # 2 d_slm < d_llm: folding pays
GATED = ("llama", "llama_scaled", "mistral", "qwen2", "qwen3", "gemma", "smollm3")


def build(bert: Path, folder: Path, **options: object) -> PiFiForSequenceClassification:
    model = pp.plug_in(str(bert), f"{folder}[1]", task=slm.tiny_task(), **options)
    torch.nn.init.normal_(model.plugin.L_out.weight, std=0.1)
    return model


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("family", GATED)
def test_a_gated_layer_folds_exactly_into_fewer_weights(family: str, bert: Path, tmp_path: Path) -> None:
    folder = tiny.tiny_checkpoint(family, tmp_path / "llm", **WIDE)
    for options in ({}, {"wiring": "matched", "target_rms": 3.0}):
        model = build(bert, folder, **options)
        folded = model.fold()
        assert isinstance(folded.plugin, FoldedPlugIn)
        assert relative(logits(folded), logits(model)) <= 1e-5
        report = folded.fold_report
        assert report is not None and report.relative_error <= 1e-5
        assert report.params_after < report.params_before and report.macs_after < report.macs_before
        assert report.params_after == sum(p.numel() for p in folded.plugin.parameters())


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mixtral", "deepseek_v3", "gpt_oss", "cohere", "opt"])
def test_other_families_keep_the_grouped_form_and_say_why(family: str, bert: Path, tmp_path: Path) -> None:
    model = build(bert, tiny.tiny_checkpoint(family, tmp_path / "llm"))
    folded = model.fold()
    assert folded.fold_report is not None and folded.fold_report.form == "grouped"
    assert family.split("_")[0] in folded.fold_report.reason
    assert relative(logits(folded), logits(model)) <= 1e-5
    with pytest.raises(PlugInError, match="no exact z-form"):
        model.fold("z")


def test_folding_that_would_grow_the_model_is_not_done(bert: Path, tmp_path: Path) -> None:
    model = build(bert, tiny.tiny_checkpoint("llama", tmp_path / "llm"))
    folded = model.fold()
    assert folded.fold_report is not None and folded.fold_report.form == "grouped"
    assert "not smaller" in folded.fold_report.reason
    assert relative(logits(model.fold("z")), logits(model)) <= 1e-5


@pytest.mark.parametrize("form", ["auto", "z", "grouped"])
@pytest.mark.parametrize("part", ["L_in", "L_out"])
def test_weights_that_have_diverged_are_not_called_exact(form: str, part: str, bert: Path, tmp_path: Path) -> None:
    model = build(bert, tiny.tiny_checkpoint("llama", tmp_path / "llm", **WIDE))
    with torch.no_grad():
        getattr(model.plugin, part).weight[0, 0] = torch.nan
    with pytest.raises(PlugInError, match="gives NaN|no exact z-form"):
        model.fold(form)


def test_an_error_that_is_no_number_wins_and_nothing_divides_by_zero() -> None:
    x = torch.ones(2, 3)
    assert math.isnan(largest_relative_error(lambda h: h, lambda h: h * torch.nan, [x, x]))
    assert math.isnan(largest_relative_error(lambda h: h, lambda h: h * h[0, 0], [torch.full((2, 3), torch.nan), x]))
    assert largest_relative_error(torch.zeros_like, torch.zeros_like, [x]) == 0
    assert largest_relative_error(torch.zeros_like, lambda h: h, [x]) == math.inf
    assert largest_relative_error(lambda h: h, lambda h: 1.5 * h, [x, x]) == pytest.approx(0.5)


def test_memory_that_runs_out_is_no_reason_to_keep_a_whole_layer(
    layer: FrozenLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr("pifi_probe.layers.reduce.reduction_error", full)
    with pytest.raises(torch.OutOfMemoryError):
        reduce(layer)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_layer_in_a_short_type_folds_as_if_it_computed_in_float32(dtype: str, bert: Path, tmp_path: Path) -> None:
    folder = tiny.tiny_checkpoint("llama", tmp_path / "llm", **(WIDE | {"hidden_size": 256}))
    model = build(bert, folder)
    short = pp.plug_in(str(bert), pp.extract(f"{folder}[1]", dtype=dtype), task=slm.tiny_task())
    short.load_state_dict(
        {name: w for name, w in model.state_dict().items() if "plugin.layers" not in name}, strict=False
    )
    folded = short.fold()
    report = folded.fold_report
    assert report is not None and report.form == "z" and report.relative_error <= 1e-5 and dtype in report.reason
    assert report.bytes_after < report.bytes_before
    assert relative(logits(folded), logits(short)) <= 0.02
    folded.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")), logits(folded))


@pytest.mark.parametrize("form", ["z", "grouped"])
def test_training_on_leaves_the_folded_model_alone(form: str, bert: Path, tmp_path: Path) -> None:
    model = build(bert, tiny.tiny_checkpoint("llama", tmp_path / "llm", **WIDE)).train()
    folded = model.fold(form)
    assert model.encoder.training and model.head.training and not folded.training
    before = logits(folded)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert torch.equal(logits(folded), before)


@pytest.mark.parametrize("form", ["z", "grouped"])
def test_a_saved_folded_model_stands_alone(form: str, bert: Path, tmp_path: Path) -> None:
    folder = tiny.tiny_checkpoint("qwen2", tmp_path / "llm", **WIDE)
    model = build(bert, folder, save_layer=False)
    folded = model.fold(form)
    folded.save_pretrained(tmp_path / "saved")
    for file in folder.iterdir():
        file.unlink()
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again), logits(folded))


def test_a_whole_sequence_cannot_be_folded_and_the_error_says_why(bert: Path, tmp_path: Path) -> None:
    model = build(bert, tiny.tiny_checkpoint("llama", tmp_path / "llm"), feed="sequence")
    with pytest.raises(PlugInError, match="one token"):
        model.fold()


@pytest.mark.parametrize("control", ["vanilla", "linear"])
def test_a_model_without_a_layer_cannot_be_folded(control: str, bert: Path, tmp_path: Path) -> None:
    folder = tiny.tiny_checkpoint("llama", tmp_path / "llm")
    model = pp.plug_in(str(bert), f"{folder}[1]", task=slm.tiny_task(), control=control)
    with pytest.raises(PlugInError, match="frozen layer"):
        model.fold()
