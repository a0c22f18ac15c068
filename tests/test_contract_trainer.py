"""Plugged models under ``transformers.Trainer``, from the first step to a resumed run and its predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)

from tests import kinds, slm
from tests.contract import CASES, Shelf, batch_of, close, frozen_state, gradients, same

SMOOTHED = ("classes", "classes, sequence", "pairs, mean", "tags", "gated", "folded", "control vanilla")


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    options = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"} | options
    return TrainingArguments(str(folder), **options)


def rows_of(name: str) -> list[dict[str, torch.Tensor]]:
    batch = batch_of(name)
    return [{key: value[row] for key, value in batch.items()} for row in range(8)]


QUICK = ("classes", "choices", "answers", "tags", "writing, T5", "gated", "aligned", "labels", "folded")


def after_a_step(name: str, shelf: Shelf, folder: Path, size: int) -> dict[str, torch.Tensor]:
    model = shelf.model(name)
    options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size, "max_steps": 1}
    plain = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
    Trainer(model, arguments(folder, **options, **plain), train_dataset=rows_of(name)).train()
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_a_step_over_four_small_batches_is_the_step_over_one_large_one(name: str, shelf: Shelf, tmp_path: Path) -> None:
    start = {key: tensor.clone() for key, tensor in shelf.model(name).state_dict().items()}
    small, large = (after_a_step(name, shelf, tmp_path, size) for size in (2, 8))
    slopes = gradients(shelf.model(name).train(), batch_of(name))
    expected = {key: start[key] - 0.1 * slopes[key] for key in slopes}
    assert close({key: large[key] for key in slopes}, expected, 1e-5)
    assert close(small, large, 1e-5)
    assert max(float(slope.abs().max()) for slope in slopes.values()) > 1e-3
    assert all(torch.equal(large[k], start[k]) for k in start if ".shell." in k and "unfrozen" not in name)


@pytest.mark.parametrize("name", SMOOTHED)
def test_labels_are_smoothed(name: str, shelf: Shelf, tmp_path: Path) -> None:
    model, batch = shelf.model(name), batch_of(name)
    trainer = Trainer(model, arguments(tmp_path, label_smoothing_factor=0.2))
    logits = model(**batch).logits
    flat = logits.flatten(0, -2), batch["labels"].flatten()
    expected = torch.nn.functional.cross_entropy(*flat, label_smoothing=0.2)
    assert torch.allclose(trainer.compute_loss(model, dict(batch)), expected, atol=1e-5)


def texts(n: int = 24) -> list[dict[str, Any]]:
    split = slm.tiny_task(n).splits["train"]
    found = slm.tiny_tokenizer()(list(split.texts))
    return [{**{k: v[row] for k, v in found.items()}, "labels": split.labels[row]} for row in range(n)]


RUNS = [("classes", True), ("classes, sequence", False), ("gated", False), ("control vanilla", True)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "save_layer"), RUNS)
def test_a_run_is_evaluated_resumed_and_ends_with_its_best_model(
    name: str, save_layer: bool, shelf: Shelf, tmp_path: Path
) -> None:
    data, collator = texts(), DataCollatorWithPadding(slm.tiny_tokenizer())
    options: dict[str, Any] = {"num_train_epochs": 3, "eval_strategy": "epoch", "save_strategy": "epoch", "seed": 1}
    options |= {"load_best_model_at_end": True, "learning_rate": 5e-3, "warmup_steps": 1}
    found = []
    for resumed in (False, True):
        model = shelf.model(name)
        model.config.save_layer = save_layer
        before = frozen_state(model)
        trainer = Trainer(
            model,
            arguments(tmp_path, **options),
            train_dataset=data,
            eval_dataset=data[:9],
            data_collator=collator,
            compute_metrics=lambda said: {"accuracy": (said.predictions.argmax(-1) == said.label_ids).mean()},
        )
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3") if resumed else None)
        said = trainer.predict(data)
        assert said.predictions.shape == (24, 2) and 0 <= said.metrics["test_accuracy"] <= 1
        best = min(entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry)
        assert trainer.evaluate()["eval_loss"] == pytest.approx(best, rel=1e-4)
        assert close(before, frozen_state(model), 0)
        assert all(layer.frozen for layer in model.frozen_layers)
        found.append(torch.from_numpy(said.predictions))
    assert torch.allclose(found[0], found[1], atol=1e-4)
    trainer.save_model(str(tmp_path / "ended"))
    again = type(model).from_pretrained(tmp_path / "ended", allow_external=True)
    assert same(again, model, name)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].kind == "seq2seq"])
def test_a_writer_is_trained_with_smoothing_and_written_with(name: str, shelf: Shelf, tmp_path: Path) -> None:
    model, tokenizer = shelf.model(name), slm.tiny_tokenizer()
    split = kinds.task_of("seq2seq").splits["train"].take(range(8))
    found = tokenizer(list(split.texts), text_target=list(split.labels), return_token_type_ids=False)
    rows = [{key: value[row] for key, value in found.items()} for row in range(8)]
    trainer = Seq2SeqTrainer(
        model,
        Seq2SeqTrainingArguments(
            str(tmp_path),
            max_steps=2,
            label_smoothing_factor=0.1,
            gradient_accumulation_steps=2,
            per_device_train_batch_size=2,
            predict_with_generate=True,
            generation_max_length=4,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
    )
    trainer.train()
    said = trainer.predict(rows)
    assert len(said.predictions) == 8 and torch.isfinite(torch.tensor(said.metrics["test_loss"]))


def test_checkpointing_and_short_types_are_the_trainers_to_ask_for(shelf: Shelf, tmp_path: Path) -> None:
    model = shelf.model("classes, sequence")
    options = {"gradient_checkpointing": True, "bf16": True, "max_steps": 2}
    trainer = Trainer(model, arguments(tmp_path, **options), train_dataset=rows_of("classes"))
    assert trainer.train().training_loss > 0
    assert all(layer.frozen for layer in model.frozen_layers)
