"""The layer between encoder and decoder: beams, cache, one call for each input, and a decoder for an encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, EncoderDecoderModel

import pifi_probe as pp
from pifi_probe.errors import PlugInError
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin.build import load_encoder
from tests import kinds, slm, tiny

TASK = kinds.task_of("seq2seq")
TEXTS = ["the film was good", "the plot was very very awful and sad"]


@pytest.fixture(scope="module", params=kinds.SEQ2SEQ)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, layer: FrozenLayer):
    folder = kinds.tiny_seq2seq_folder(tmp_path_factory.mktemp(request.param), request.param)
    return pp.plug_in(str(folder), layer, task=TASK)


def batch() -> dict[str, torch.Tensor]:
    return dict(slm.tiny_tokenizer()(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False))


def test_the_layer_runs_once_for_an_input_whatever_the_beams_and_steps(
    model: pp.PiFiForConditionalGeneration, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    hook = model.frozen_layers[0].register_forward_hook(lambda module, args, output: shapes.append(output.shape))
    written = model.generate(**batch(), num_beams=4, max_new_tokens=7, min_new_tokens=7)
    hook.remove()
    assert shapes == [(2, batch()["input_ids"].shape[1], tiny.WIDTH)]
    assert written.shape == (2, 8)


def test_writing_with_and_without_the_cache_is_the_same(model: pp.PiFiForConditionalGeneration) -> None:
    options = {"num_beams": 3, "max_new_tokens": 6}
    with_cache = model.generate(**batch(), use_cache=True, **options)
    assert torch.equal(with_cache, model.generate(**batch(), use_cache=False, **options))


def test_greedy_writing_takes_the_likeliest_token_of_forward(model: pp.PiFiForConditionalGeneration) -> None:
    ids = model.generate(**batch(), num_beams=1, do_sample=False, max_new_tokens=4)
    with torch.no_grad():
        logits = model(**batch(), decoder_input_ids=ids[:, :-1]).logits
    assert torch.equal(logits[:, 0].argmax(-1), ids[:, 1])


def test_the_layer_changes_what_is_written_and_vanilla_writes_as_its_encoder_decoder(
    model: pp.PiFiForConditionalGeneration, layer: FrozenLayer
) -> None:
    vanilla = pp.plug_in(model.seq2seq, task=TASK, control="vanilla")
    data = batch()
    labels = torch.tensor([[5, 6, 3], [7, 3, -100]])
    with torch.no_grad():
        own = vanilla(**data, labels=labels).logits
        plain = model.seq2seq(**data, labels=labels).logits
        plugged = model(**data, labels=labels).logits
    assert torch.allclose(own, plain, atol=1e-5)
    assert not torch.allclose(own, plugged, atol=1e-3)
    assert vanilla(**data, labels=labels).loss.item() == pytest.approx(
        torch.nn.functional.cross_entropy(own.transpose(1, 2), labels).item()
    )


def test_a_matched_layer_starts_as_the_encoder_decoder_alone(
    model: pp.PiFiForConditionalGeneration, layer: FrozenLayer, tmp_path: Path
) -> None:
    slm.tiny_tokenizer().save_pretrained(tmp_path)
    model.seq2seq.save_pretrained(tmp_path)
    plugged = pp.plug_in(str(tmp_path), layer, task=TASK, wiring="matched", target_rms=2.0)
    labels = torch.tensor([[5, 6, 3], [7, 3, -100]])
    with torch.no_grad():
        assert torch.allclose(plugged(**batch(), labels=labels).logits, model.seq2seq(**batch(), labels=labels).logits)


def test_an_encoder_gets_a_decoder_that_starts_with_its_embeddings(layer: FrozenLayer, tmp_path: Path) -> None:
    folder = slm.tiny_slm_folder(tmp_path)
    model = pp.plug_in(str(folder), layer, task=TASK, seed=3)
    again = pp.plug_in(str(folder), layer, task=TASK, seed=3)
    other = pp.plug_in(str(folder), layer, task=TASK, seed=4)
    assert isinstance(model.seq2seq, EncoderDecoderModel)
    decoder = model.seq2seq.decoder
    assert torch.equal(decoder.get_input_embeddings().weight, model.encoder.get_input_embeddings().weight)
    name = "bert.encoder.layer.0.crossattention.self.query.weight"
    weights = [one.seq2seq.decoder.get_parameter(name) for one in (model, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(
        model.encoder.get_input_embeddings().weight, load_encoder(str(folder))[0].get_input_embeddings().weight
    )


def test_a_saved_generator_loads_through_the_auto_class(layer: FrozenLayer, tmp_path: Path) -> None:
    folder = kinds.tiny_seq2seq_folder(tmp_path / "slm", "t5")
    pp.plug_in(str(folder), layer, task=TASK).save_pretrained(tmp_path / "saved")
    assert isinstance(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved"), pp.PiFiForConditionalGeneration)


def test_a_decoder_alone_cannot_be_made_to_read_and_write(layer: FrozenLayer, tmp_path: Path) -> None:
    with pytest.raises(PlugInError, match="decoder alone.*T5"):
        pp.plug_in(str(slm.tiny_slm_folder(tmp_path, "llama")), layer, task=TASK)


@pytest.mark.parametrize("kind", ["qa", "token-classification", "seq2seq"])
def test_a_pooled_vector_is_refused_where_every_token_is_read(kind: str, layer: FrozenLayer, tmp_path: Path) -> None:
    with pytest.raises(PlugInError, match="pooled"):
        pp.plug_in(str(slm.tiny_slm_folder(tmp_path)), layer, task=kinds.task_of(kind), feed="pooled")
