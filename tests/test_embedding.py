"""A plugged encoder as a SentenceTransformer: encode, save, load, train."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

import pifi_probe as pp
from pifi_probe.plugin import tokenizer_for
from tests import kinds
from tests.contract import Shelf, frozen_state

sentence_transformers = pytest.importorskip("sentence_transformers")
TEXTS = ["the film was very good", "awful music", "the cast is happy and not sad"]


@pytest.mark.parametrize("name", ["classes", "classes, sequence", "aligned, back", "folded", "tags"])
def test_an_embedding_is_what_the_head_would_read(name: str, shelf: Shelf) -> None:
    model = shelf.model(name).eval()
    made = pp.sentence_transformer(model, normalise=False)
    found = made.encode(TEXTS, batch_size=2)
    assert found.shape == (3, made.get_embedding_dimension())
    for text, vector in zip(TEXTS, found, strict=True):  # one by one: padding changes nothing
        batch = dict(tokenizer_for(model)(text, return_tensors="pt"))
        with torch.no_grad():
            want = model.pooled_output(**batch) if model.pools else model.token_vectors(**batch)[0].mean(1)
        assert np.allclose(vector, want[0].numpy(), atol=1e-5)
    assert np.allclose(np.linalg.norm(pp.sentence_transformer(model).encode(TEXTS), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("save_layer", [True, False])
def test_a_saved_model_comes_back_without_code_from_its_folder(save_layer: bool, shelf: Shelf, tmp_path: Path) -> None:
    model = shelf.model("classes")
    model.config.save_layer = save_layer
    made = pp.sentence_transformer(model, max_tokens=7)
    made.save(str(tmp_path / "saved"))
    (tmp_path / "saved" / "sentence_module.py").write_text("raise SystemExit('foreign code was run')")
    if save_layer:
        again = pp.sentence_transformer(tmp_path / "saved")
        assert np.allclose(again.encode(TEXTS), made.encode(TEXTS), atol=1e-6)
        assert again.max_seq_length == 7
        types = [one["type"] for one in json.loads((tmp_path / "saved" / "modules.json").read_text())]
        assert types[0] == "pifi_probe.plugin.sentence_module.PluggedEncoder"
    else:  # a donor elsewhere on the disk is opened on the user's word alone
        with pytest.raises(pp.errors.PlugInError, match="donor"):
            pp.sentence_transformer(tmp_path / "saved")


def test_a_plugged_model_that_was_saved_as_such_opens_too(shelf: Shelf, tmp_path: Path) -> None:
    model = shelf.model("classes").eval()
    model.save_pretrained(tmp_path)
    want = pp.sentence_transformer(model).encode(TEXTS)
    assert np.allclose(pp.sentence_transformer(str(tmp_path)).encode(TEXTS), want, atol=1e-6)


def test_their_trainer_and_losses_train_all_but_the_layer(shelf: Shelf, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = shelf.model("classes")
    made = pp.sentence_transformer(model)
    anchors = ["good film", "bad plot", "great cast", "sad music"]
    data = Dataset.from_dict({"anchor": anchors, "positive": ["fine film", "poor plot", "happy cast", "awful music"]})
    frozen, before = frozen_state(model), model.plugin.L_in.weight.detach().clone()
    loss = MultipleNegativesRankingLoss(made)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=12,
        per_device_train_batch_size=4,
        learning_rate=5e-3,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1,
    )
    trainer = SentenceTransformerTrainer(model=made, args=arguments, train_dataset=data, loss=loss)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
    assert not torch.equal(model.plugin.L_in.weight, before)
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in frozen_state(model).items())


def test_the_pairs_of_a_task_train_through_their_own_loss(shelf: Shelf, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import ContrastiveLoss

    split = kinds.task_of("pair").splits["train"]
    rows = Dataset.from_dict({"sentence1": split.texts, "sentence2": split.pairs, "label": split.labels})
    model = shelf.model("classes, sequence")
    made = pp.sentence_transformer(model)
    frozen = frozen_state(model)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=16,
        per_device_train_batch_size=8,
        learning_rate=5e-3,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1,
    )
    trainer = SentenceTransformerTrainer(model=made, args=arguments, train_dataset=rows, loss=ContrastiveLoss(made))
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in frozen_state(model).items())


def test_models_without_a_vector_say_what_to_do(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pp.errors.PlugInError, match='read="back"'):
        pp.sentence_transformer(shelf.model("aligned"))
    with pytest.raises(pp.errors.PlugInError, match="gives no vector"):
        pp.sentence_transformer(shelf.model("writing, T5"))
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(pp.errors.PlugInError, match=r"pifi-probe\[embeddings\]"):
        pp.sentence_transformer(shelf.model("classes"))
