"""A plugged model comes back as it was saved, whatever type its layer computes in and however it is stored."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import pifi_probe as pp
from pifi_probe.errors import ModelNotFoundError
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from tests import slm, tiny
from tests.slm import logits

GROUPED = ("llama", "mistral", "gemma2", "phi")  # several heads read one key-value head
OTHERS = ("gpt2", "opt", "gpt_neox", "gpt_oss", "deepseek_v3")


def plugged(bert: Path, spec: str, **options: object) -> PiFiForSequenceClassification:
    model = pp.plug_in(str(bert), spec, task=slm.tiny_task(), **options)
    torch.nn.init.normal_(model.plugin.L_out.weight, std=0.1)
    return model


def loaded(folder: Path, **options: object) -> PiFiForSequenceClassification:
    model = PiFiForSequenceClassification.from_pretrained(folder, **options)
    assert isinstance(model, PiFiForSequenceClassification)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["pooled", "sequence"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", GROUPED + OTHERS)
def test_a_layer_in_a_short_type_comes_back_in_it(
    family: str, dtype: str, feed: str, bert: Path, tmp_path: Path
) -> None:
    donor = f"{tiny.tiny_checkpoint(family, tmp_path / 'llm')}[1]"
    for save_layer in (True, False):
        layer = pp.extract(donor, dtype=dtype)
        model = plugged(bert, layer, feed=feed, save_layer=save_layer)
        again = loaded(model.save_pretrained(tmp_path / "saved") or tmp_path / "saved", allow_external=True)
        for one, other in zip(model.frozen_layers, again.frozen_layers, strict=True):
            assert other.digest() == one.digest() == one.card.sha256
            assert [p.dtype for p in other.parameters()] == [p.dtype for p in one.parameters()]
        assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("family", GROUPED)
def test_a_reduced_layer_in_a_short_type_comes_back_equal(family: str, tmp_path: Path) -> None:
    layer = pp.reduce(pp.extract(f"{tiny.tiny_checkpoint(family, tmp_path / 'llm')}[1]", dtype="bfloat16"))
    again = FrozenLayer.load(layer.save(tmp_path / "saved"))
    x = torch.randn(2, 1, layer.hidden_size)
    assert again.card.reduced and torch.equal(again(x), layer(x))


def test_a_type_asked_for_at_loading_is_that_of_the_rest(bert: Path, tmp_path: Path) -> None:
    model = plugged(bert, f"{tiny.tiny_checkpoint('llama', tmp_path / 'llm')}[1]")
    model.save_pretrained(tmp_path / "saved")
    again = loaded(tmp_path / "saved", dtype=torch.bfloat16)
    assert again.plugin.L_in.weight.dtype == next(again.encoder.parameters()).dtype == torch.bfloat16
    assert again.frozen_layers[0].dtype == torch.float32
    torch.testing.assert_close(logits(again).float(), logits(model), atol=0.05, rtol=0.05)


def test_a_trained_layer_is_saved_even_where_frozen_ones_are_not(bert: Path, tmp_path: Path) -> None:
    donor = f"{tiny.tiny_checkpoint('llama', tmp_path / 'llm')}[1]"
    model = plugged(bert, donor, control="unfrozen", save_layer=False)
    with torch.no_grad():
        for parameter in model.frozen_layers[0].parameters():
            parameter.add_(0.1)
    model.save_pretrained(tmp_path / "saved")
    again = loaded(tmp_path / "saved")
    assert torch.equal(logits(again), logits(model)) and not again.frozen_layers[0].frozen


def test_a_reference_to_a_donor_on_this_machine_holds_in_every_folder(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    donor = tiny.tiny_checkpoint("llama", tmp_path / "here" / "llm")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    model = plugged(bert, "llm[1]", save_layer=False)
    model.save_pretrained(tmp_path / "saved")
    monkeypatch.chdir(tmp_path / "there")
    assert torch.equal(logits(loaded(tmp_path / "saved", allow_external=True)), logits(model))
    os.rename(donor, tmp_path / "moved")
    with pytest.raises(ModelNotFoundError, match="there is no model"):
        loaded(tmp_path / "saved", allow_external=True)
