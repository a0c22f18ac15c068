"""Every head on every family of small language models: gradients, padding, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pifi_probe as pp
from pifi_probe.kinds import KINDS, kind_of
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin import PlugIn
from pifi_probe.plugin.base import PiFiPreTrainedModel
from pifi_probe.plugin.pooling import resolved_pooling
from pifi_probe.plugin.registry import HEADS as MODELS
from tests import kinds, slm

HEADS = ("regression", "multiple-choice", "qa", "token-classification")
FAMILIES = slm.ENCODERS + slm.DECODERS
BIDIRECTIONAL = tuple(family for family in kinds.SEQ2SEQ if family != "encoder-decoder")


def batch_of(kind: str, side: str = "right", n: int = 3) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the inputs and the targets of the first rows of a tiny task."""
    task, tokenizer = kinds.task_of(kind), slm.tiny_tokenizer(side)
    work = kind_of(task)
    rows = work.encode(task.splits["train"].take(range(n)), tokenizer, 40)
    batch = dict(work.collate(tokenizer)([rows[row] for row in range(n)]))
    return {k: v for k, v in batch.items() if k not in work.targets}, {name: batch[name] for name in work.targets}


def predicted(model: PiFiPreTrainedModel, kind: str, side: str) -> Any:
    """Return what a model predicts for a split, through the whole way from text."""
    task, tokenizer = kinds.task_of(kind), slm.tiny_tokenizer(side)
    work = kind_of(task)
    split = task.splits["validation"]
    return work.predict(model, work.encode(split, tokenizer, 40), tokenizer)


def as_text(value: Any) -> str:
    """Return predictions so that equal ones are equal strings."""
    if hasattr(value, "thresholds"):
        value = [*value.logits, value.thresholds]
    if hasattr(value, "texts"):
        return f"{[round(float(x), 3) for x in value.nll]} {value.texts}"
    if isinstance(value, list) and value and isinstance(value[0], str):
        return str(value)
    return str([[round(float(x), 3) for x in row] for row in value])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", HEADS)
def test_left_and_right_padding_give_equal_predictions(
    family: str, kind: str, bert: Path, layer: FrozenLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if family == "mpnet":  # its padding id is 1, whatever the configuration says
        monkeypatch.setattr(slm, "SPECIAL", ["[UNK]", "[PAD]", *slm.SPECIAL[2:]])
    model = pp.plug_in(str(bert), layer, task=kinds.task_of(kind))
    model.encoder = slm.tiny_slm(family)
    model.config.pooling = resolved_pooling("cls", model.encoder.config, None).how
    assert as_text(predicted(model, kind, "left")) == as_text(predicted(model, kind, "right"))


@pytest.mark.parametrize("family", kinds.SEQ2SEQ)
def test_padding_on_either_side_changes_nothing_that_is_written(
    family: str, tmp_path: Path, layer: FrozenLayer
) -> None:
    folder = kinds.tiny_seq2seq_folder(tmp_path, family)
    model = pp.plug_in(str(folder), layer, task=kinds.task_of("seq2seq"))
    assert as_text(predicted(model, "seq2seq", "left")) == as_text(predicted(model, "seq2seq", "right"))


@pytest.mark.parametrize("family", BIDIRECTIONAL)
def test_an_encoder_decoder_gives_its_encoder_to_a_classifier(family: str, tmp_path: Path, layer: FrozenLayer) -> None:
    folder = kinds.tiny_seq2seq_folder(tmp_path / "slm", family)
    model = pp.plug_in(str(folder), layer, task=kinds.task_of("pair"), pooling="mean")
    assert "decoder" not in " ".join(name for name, _ in model.named_parameters())
    logits = [predicted(model, "pair", side) for side in ("left", "right")]
    assert logits[0] == pytest.approx(logits[1], abs=1e-4)
    model.save_pretrained(tmp_path / "saved")
    again = pp.PiFiForSequenceClassification.from_pretrained(tmp_path / "saved", allow_external=True)
    assert (predicted(again, "pair", "right") == logits[1]).all()


def check_gradients(model: PiFiPreTrainedModel, kind: str) -> None:
    model.train()
    inputs, targets = batch_of(kind)
    model(**inputs, **targets).loss.backward()
    assert isinstance(model.plugin, PlugIn)
    parts = [model.plugin.L_in, model.plugin.L_out, model.encoder]
    for part in [*parts, model.head if hasattr(model, "head") else model.seq2seq]:
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.plugin.layers.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", HEADS)
def test_gradients_reach_encoder_projections_and_head_but_not_the_layer(
    family: str, kind: str, tmp_path: Path, layer: FrozenLayer
) -> None:
    check_gradients(pp.plug_in(str(slm.tiny_slm_folder(tmp_path, family)), layer, task=kinds.task_of(kind)), kind)


@pytest.mark.parametrize("family", kinds.SEQ2SEQ)
def test_gradients_reach_encoder_projections_and_decoder_but_not_the_layer(
    family: str, tmp_path: Path, layer: FrozenLayer
) -> None:
    folder = kinds.tiny_seq2seq_folder(tmp_path, family)
    check_gradients(pp.plug_in(str(folder), layer, task=kinds.task_of("seq2seq")), "seq2seq")


@pytest.mark.parametrize("kind", kinds.KINDS)
@pytest.mark.parametrize("save_layer", [True, False])
def test_a_saved_model_predicts_the_same(
    kind: str, save_layer: bool, bert: Path, layer: FrozenLayer, tmp_path: Path
) -> None:
    model = pp.plug_in(str(bert), layer, task=kinds.task_of(kind), wiring="matched", target_rms=2.0, seed=1)
    model.config.save_layer = save_layer
    model.save_pretrained(tmp_path)
    again = MODELS[KINDS[kind].head].from_pretrained(tmp_path, allow_external=not save_layer)
    assert as_text(predicted(again, kind, "right")) == as_text(predicted(model, kind, "right"))


@pytest.mark.parametrize("family", kinds.SEQ2SEQ)
def test_a_saved_encoder_decoder_writes_the_same(family: str, tmp_path: Path, layer: FrozenLayer) -> None:
    folder = kinds.tiny_seq2seq_folder(tmp_path / "slm", family)
    model = pp.plug_in(str(folder), layer, task=kinds.task_of("seq2seq"))
    model.save_pretrained(tmp_path / "saved")
    again = pp.PiFiForConditionalGeneration.from_pretrained(tmp_path / "saved", allow_external=True)
    assert as_text(predicted(again, "seq2seq", "right")) == as_text(predicted(model, "seq2seq", "right"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", kinds.KINDS)
@pytest.mark.parametrize("control", [None, "vanilla", "linear", "random", "shuffled", "unfrozen", "mlp"])
def test_every_control_exists_for_every_head(kind: str, control: str | None, bert: Path, layer: FrozenLayer) -> None:
    model = pp.plug_in(str(bert), layer, task=kinds.task_of(kind), control=control)
    inputs, targets = batch_of(kind)
    assert torch.isfinite(model(**inputs, **targets).loss)
    assert (model.plugin is None) == (control == "vanilla")
    assert len(model.frozen_layers) == (control in (None, "random", "shuffled", "unfrozen"))
    assert model.config.feed == ("sequence" if kind in ("qa", "token-classification", "seq2seq") else "pooled")
