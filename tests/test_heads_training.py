"""Fine-tuning, testing and comparing on tasks of every kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

import pifi_probe as pp
from pifi_probe.errors import CheckpointError, PifiProbeError, PlugInError, TaskError
from pifi_probe.features.rows import scoring_rows
from pifi_probe.kinds import kind_of
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.tasks import Split, Task
from pifi_probe.training import Recipe, RunResult
from tests import kinds, slm

RECIPE = Recipe(learning_rate=1e-3, batch_size=8, epochs=3, max_tokens=32, device="cpu")
MAIN = {
    "single": "accuracy",
    "pair": "accuracy",
    "regression": "squared_error",
    "multiple-choice": "accuracy",
    "qa": "f1",
    "token-classification": "token_accuracy",
    "seq2seq": "chrf",
    "multi-label": "example_f1",
}


def run(bert: Path, layer: FrozenLayer, task: Task, seed: int = 0, **options: Any) -> RunResult:
    model = pp.plug_in(str(bert), layer, task=task, seed=seed, **options)
    return pp.fine_tune(model, task, RECIPE.replace(seed=seed))


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_a_run_of_every_kind_learns_is_tested_and_comes_back_from_json(
    kind: str, bert: Path, layer: FrozenLayer
) -> None:
    task = kinds.task_of(kind, n=48)
    model = pp.plug_in(str(bert), layer, task=task)
    result = pp.fine_tune(model, task, RECIPE.replace(epochs=6))
    test = result.tests[task.name]
    steps = result.curves["loss"]
    assert np.mean(steps[-6:]) < np.mean(steps[:6]), "the last epoch's loss is below the first one's"
    assert test.score_names[0] == MAIN[kind]
    for name in test.score_names:
        scores = test.per_example(name)
        assert scores.shape == (48,) and np.isfinite(scores).all()
        if name in test.metrics and name not in ("nll", "chrf"):
            assert scores.mean() == pytest.approx(test.metrics[name], abs=1e-3)
    assert result.layer_digests["before"] == result.layer_digests["after"]
    assert result.task["kind"] == kind
    again = RunResult.from_json(result.to_json())
    assert again.to_dict() == result.to_dict()
    assert task.name in repr(result) and "<table>" in result._repr_html_()


@pytest.mark.parametrize(
    "kind",
    [
        "qa",
        "seq2seq",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("regression", "multiple-choice", "token-classification")),
        pytest.param("multi-label", marks=pytest.mark.slow),
    ],
)
def test_arms_of_every_kind_are_compared_by_its_own_score_and_larger_differences_are_better(
    kind: str, bert: Path, layer: FrozenLayer
) -> None:
    task = kinds.task_of(kind)
    runs = [run(bert, layer, task, seed, control=control) for control in ("vanilla", None) for seed in (0, 1)]
    found = pp.compare(runs)
    assert found.metric == MAIN[kind]
    vanilla, plugged = found.rows
    sign = -1 if kind == "regression" else 1
    assert plugged.difference == pytest.approx(sign * (plugged.mean - vanilla.mean))
    assert plugged.baseline == vanilla.arm
    with pytest.raises(PifiProbeError, match=MAIN[kind]):
        pp.compare(runs, metric="balanced_accuracy")


def test_smaller_errors_are_better(bert: Path, layer: FrozenLayer) -> None:
    task = kinds.task_of("regression")
    good = run(bert, layer, task)
    test = good.tests[task.name]
    worse = " ".join(f"{value + 1:.5g}" for value in test.per_example("squared_error"))
    bad_test = replace(test, scores={**test.scores, "squared_error": worse})
    bad = replace(
        good, tests={task.name: bad_test}, model={**good.model, "label": "pifi: vanilla", "control": "vanilla"}
    )
    row = next(row for row in pp.compare([good, bad]).rows if row.baseline)
    assert row.difference == pytest.approx(1.0, abs=1e-3) and row.verdict.startswith("better")


def test_an_interrupted_generation_run_resumes_to_the_same_numbers(
    bert: Path, layer: FrozenLayer, tmp_path: Path
) -> None:
    task = kinds.task_of("seq2seq")

    def made() -> Any:
        return pp.plug_in(str(bert), layer, task=task)

    whole = pp.fine_tune(made(), task, RECIPE, out=tmp_path / "whole")
    folder = tmp_path / "broken"

    def stop(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("pulled the plug")

    model = made()
    monkey = pytest.MonkeyPatch()
    from pifi_probe.training.trainer import PiFiTrainer

    steps = iter(range(4))
    step = PiFiTrainer.training_step
    monkey.setattr(
        PiFiTrainer, "training_step", lambda *a, **k: step(*a, **k) if next(steps, None) is not None else stop()
    )
    with pytest.raises(RuntimeError, match="plug"):
        pp.fine_tune(model, task, RECIPE, out=folder)
    monkey.undo()
    again = pp.fine_tune(made(), task, RECIPE, out=folder, resume=True)
    assert again.curves["loss"] == whole.curves["loss"]
    assert again.tests[task.name].scores == whole.tests[task.name].scores


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_transformers_own_trainer_trains_every_head(kind: str, bert: Path, layer: FrozenLayer, tmp_path: Path) -> None:
    task, tokenizer = kinds.task_of(kind), slm.tiny_tokenizer()
    work = kind_of(task)
    model = pp.plug_in(str(bert), layer, task=task)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    rows = work.encode(task.splits["train"], tokenizer, 32)
    Trainer(model, arguments, train_dataset=rows, data_collator=work.collate(tokenizer)).train()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"plugin.L_in.weight", "plugin.L_out.weight"} <= changed
    assert not any(name.startswith("plugin.layers") for name in changed)


def test_a_long_context_is_read_in_windows_and_the_answer_is_found_in_the_last_one() -> None:
    task, tokenizer = kinds.task_of("qa"), slm.tiny_tokenizer()
    context = " ".join(["the film was good"] * 20 + ["the plot was awful"])
    split = Split(texts=("is it",), labels=(((context.index("awful"), "awful"),),), ids=("0",), pairs=(context,))
    windows = kind_of(task).encode(split, tokenizer, 32)
    assert len(windows) > 2
    assert all(label == (0, 0) for label in windows.labels[:-1])
    first, last = windows.labels[-1]
    assert first == last and windows.columns["input_ids"][-1][first] == tokenizer.convert_tokens_to_ids("awful")


def test_tags_stand_at_the_first_token_of_their_word_and_what_is_cut_off_counts_as_wrong() -> None:
    task, tokenizer = kinds.task_of("token-classification"), slm.tiny_tokenizer()
    words = ("the", "film's", "good")
    split = Split(texts=("x",), labels=((0, 1, 1),), ids=("0",), items=(words,))
    row = kind_of(task).encode(split, tokenizer, 32)[0]
    assert row["labels"] == [-100, 0, 1, -100, -100, 1, -100], "film ' s are three tokens of one word"
    cut = kind_of(task).encode(split, tokenizer, 4)[0]
    assert cut["labels"] == [-100, 0, 1, -100]
    assert kind_of(task).metrics(split, [[0, 1]])["token_accuracy"] == pytest.approx(2 / 3)


def test_a_cut_question_keeps_its_end_where_the_question_stands() -> None:
    task, tokenizer = kinds.task_of("multiple-choice"), slm.tiny_tokenizer()
    text = " ".join(["film"] * 30 + ["was", "it", "good"])
    split = Split(texts=(text,), labels=(0,), ids=("0",), items=(("very", "not"),))
    ids = kind_of(task).encode(split, tokenizer, 8)[0]["input_ids"]
    shown = [tokenizer.convert_ids_to_tokens(one) for one in ids]
    assert shown[0] == ["[CLS]", "film", "was", "it", "good", "[SEP]", "very", "[SEP]"]
    assert tokenizer.truncation_side == "right", "the tokenizer is left as it was"


def test_smoothing_is_spread_over_a_rows_own_choices() -> None:
    work = kind_of(kinds.task_of("multiple-choice"))
    none = torch.finfo(torch.float32).min

    class Found:
        logits = torch.tensor([[1.0, 2.0, none], [0.5, 0.0, 3.0]])

    labels = torch.tensor([1, 2])
    expected = [
        torch.nn.functional.cross_entropy(torch.tensor([row]), labels[[i]], label_smoothing=0.2)
        for i, row in enumerate([[1.0, 2.0], [0.5, 0.0, 3.0]])
    ]
    assert work.loss(Found(), {"labels": labels}, 0.2).item() == pytest.approx(torch.stack(expected).mean().item())


@pytest.mark.parametrize(
    ("made_for", "trained_on", "reason"),
    [
        ("single", "seq2seq", "PiFiForConditionalGeneration"),
        ("seq2seq", "single", "PiFiForSequenceClassification"),
        ("single", "multiple-choice", "PiFiForMultipleChoice"),
        ("single", "regression", "other labels"),
        ("single", "multi-label", "other labels"),
        ("multi-label", "single", "other labels"),
        ("qa", "token-classification", "PiFiForTokenClassification"),
    ],
)
def test_a_task_of_another_kind_is_refused_with_the_model_it_needs(
    made_for: str, trained_on: str, reason: str, bert: Path, layer: FrozenLayer
) -> None:
    model = pp.plug_in(str(bert), layer, task=kinds.task_of(made_for))
    with pytest.raises(PlugInError, match=reason):
        pp.fine_tune(model, kinds.task_of(trained_on), RECIPE)


def test_a_shift_test_of_another_kind_is_refused(bert: Path, layer: FrozenLayer) -> None:
    task = kinds.task_of("single")
    with pytest.raises(TaskError, match="regression task cannot test a single task"):
        pp.fine_tune(pp.plug_in(str(bert), layer, task=task), task, RECIPE, also=[kinds.task_of("regression")])


def test_an_encoder_given_as_the_donor_is_called_one(bert: Path) -> None:
    with pytest.raises(CheckpointError, match="this is an encoder.*taken from a decoder"):
        pp.extract(f"{bert}[0]")


@pytest.mark.parametrize(
    "kind", ["regression", "multiple-choice", "qa", "token-classification", "seq2seq", "multi-label"]
)
def test_layers_are_not_scored_on_tasks_without_a_class_a_row(kind: str, bert: Path) -> None:
    with pytest.raises(TaskError, match=f"kind '{kind}'.*fine_tune"):
        scoring_rows(kinds.task_of(kind))


def test_the_model_card_names_its_head(bert: Path, layer: FrozenLayer, tmp_path: Path) -> None:
    pp.plug_in(str(bert), layer, task=kinds.task_of("qa")).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "question-answering" in card and "PiFiForQuestionAnswering.from_pretrained" in card
