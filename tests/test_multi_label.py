"""Rows with any number of labels: read from every door, thresholds from validation, scores as scikit-learn's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from sklearn import metrics as reference

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import PifiProbeError, PlugInError, RecipeError, TaskError
from pifi_probe.kinds import kind_of
from pifi_probe.kinds.multi_label import Flags
from pifi_probe.kinds.parts.label_metrics import best_thresholds, label_metrics, label_scores
from pifi_probe.tasks import Split, Task, load_task
from pifi_probe.training import Recipe
from pifi_probe.training.ensemble import ensemble
from tests import kinds, slm, tiny

NAMES = ("angry", "calm", "sad")
ROWS = [
    (f"text number {n} of them", [name for k, name in enumerate(NAMES) if (n + k) % (k + 2) == 0]) for n in range(36)
]


def of_rows(task: Task) -> dict[str, list[str]]:
    """Return the names of the labels by text."""
    rows = (
        (text, label) for split in task.splits.values() for text, label in zip(split.texts, split.labels, strict=True)
    )
    return {text: [task.label_names[one] for one in label] for text, label in rows}


def written(folder: Path, door: str) -> tuple[Path, dict[str, Any]]:
    """Write `ROWS` into a file of one kind, and return what `load_task` is told."""
    frame = pd.DataFrame(ROWS, columns=["text", "labels"])
    path = folder / door.split()[-1]
    if door.startswith("columns"):
        flags = {name: [int(name in labels) for _, labels in ROWS] for name in NAMES}
        frame = frame[["text"]].assign(**flags)
    if path.suffix == ".csv":
        mark = {"bars": "|", "commas": ", "}.get(door.split()[0])
        if mark:
            frame["labels"] = [mark.join(labels) or "[]" for labels in frame["labels"]]
        frame.to_csv(path, index=False)  # lists as Python writes them
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    return path, {"label": list(NAMES)} if door.startswith("columns") else {"kind": "multi-label"}


DOORS = ("lists rows.jsonl", "lists rows.parquet", "lists rows.csv", "bars rows.csv", "commas rows.csv")


@pytest.mark.parametrize("door", [*DOORS, "columns rows.csv", "columns rows.jsonl", "columns rows.parquet"])
def test_every_door_gives_the_same_task(door: str, tmp_path: Path) -> None:
    path, options = written(tmp_path, door)
    task = load_task(path, **options)
    assert (task.kind, task.label_names) == ("multi-label", NAMES)
    assert of_rows(task) == {text: sorted(labels) for text, labels in ROWS}
    assert [] in of_rows(task).values(), "a row may have no label"
    path, options = written(tmp_path, DOORS[0])
    assert task.fingerprint == load_task(path, **options).fingerprint


def test_names_on_a_command_line_are_columns_unless_a_column_has_that_name(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "columns rows.csv")
    assert load_task(path, label="sad,angry").label_names == ("sad", "angry")
    frame = pd.read_csv(path).rename(columns={"sad": "sad,angry"})
    frame.to_csv(path, index=False)
    assert load_task(path, label="sad,angry").kind == "single"


def test_a_rare_label_is_in_every_split(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "labels": ["common"] + ["rare"] * (n % 40 == 0)} for n in range(160)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed in range(5):
        task = load_task(path, kind="multi-label", seed=seed)
        rare = task.label_names.index("rare")
        assert all(any(rare in label for label in split.labels) for split in task.splits.values())
    few = task.subset(train=20)
    assert any(rare in label for label in few.splits["train"].labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "labels are missing.*line 2, column 'labels'.*write \\[\\]"),
        ([None], "labels are missing"),
        (3, "the labels are a int, not a list"),
        (["sad", {"a": 1}], "the label is a dict"),
        (["sad", 0.5], "fraction"),
        ("[sad", "not a list of labels"),
        ("[" * 9000, "not a list of labels"),
    ],
)
def test_a_bad_row_is_named(labels: Any, message: str, tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "labels": ["sad", "angry"][: 1 + n % 2]} for n in range(20)]
    rows[1]["labels"] = labels
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(TaskError, match=message):
        load_task(path, kind="multi-label")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": ["angry", "nothing"]}, "no column 'nothing'"),
        ({"label": ["angry", "text"]}, "neither yes nor no.*line 2, column 'text'.*write 1"),
        ({"label": ["angry", "sad"], "kind": "single"}, "a single task has one column of labels; 2 were named"),
        ({"label": ["angry", "angry"]}, "does not name several columns"),
        ({"label": []}, "does not name several columns"),
        ({"label": ["angry"]}, "does not name several columns"),
    ],
)
def test_columns_that_are_no_labels_are_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path, _ = written(tmp_path, "columns rows.csv")
    with pytest.raises(TaskError, match=message):
        load_task(path, **options)


def test_rows_that_nobody_has_labelled_can_be_left_out_and_those_without_a_label_stay(tmp_path: Path) -> None:
    path, _ = written(tmp_path, "columns rows.csv")
    frame = pd.read_csv(path)
    frame.loc[[1, 5], list(NAMES)] = -1
    frame.to_csv(path, index=False)
    with pytest.raises(TaskError, match="'-1' is neither yes nor no"):
        load_task(path, label=list(NAMES))
    task = load_task(path, label=list(NAMES), drop_unlabelled=True)
    assert len(of_rows(task)) == 34 and "2 of 36 train rows left out" in task.notes[0]
    path, options = written(tmp_path, DOORS[0])
    assert len(of_rows(load_task(path, drop_unlabelled=True, **options))) == 36


@pytest.mark.parametrize("value", ["-1", ""])
def test_a_row_of_which_one_label_is_unknown_is_left_out_as_the_message_says(value: str, tmp_path: Path) -> None:
    path, _ = written(tmp_path, "columns rows.csv")
    frame = pd.read_csv(path, dtype=str)
    frame.loc[3, "calm"] = value
    frame.to_csv(path, index=False)
    with pytest.raises(TaskError, match="drop_unlabelled=True leaves out rows"):
        load_task(path, label=list(NAMES))
    task = load_task(path, label=list(NAMES), drop_unlabelled=True)
    assert len(of_rows(task)) == 35 and "1 of 36 train rows left out" in task.notes[0]


@pytest.mark.parametrize(
    "write",
    [
        lambda labels: str(np.array(labels)),  # as pandas writes a column of arrays
        lambda labels: "\n".join(str(np.array(labels)).split(" ")),  # a long one goes over lines
        lambda labels: str(tuple(labels)),
        lambda labels: str(set(labels)) if labels else "[]",
    ],
)
def test_lists_are_read_as_numpy_and_python_write_them(write: Any, tmp_path: Path) -> None:
    frame = pd.DataFrame([(text, write(labels)) for text, labels in ROWS], columns=["text", "labels"])
    frame.to_csv(tmp_path / "rows.csv", index=False)
    task = load_task(tmp_path / "rows.csv", kind="multi-label")
    assert task.label_names == NAMES
    assert of_rows(task) == {text: sorted(labels) for text, labels in ROWS}


def test_a_name_in_brackets_is_a_name(tmp_path: Path) -> None:
    frame = pd.DataFrame([(text, "(other)|sad" if n % 2 else "(other)") for n, (text, _) in enumerate(ROWS)])
    frame.set_axis(["text", "labels"], axis=1).to_csv(tmp_path / "rows.csv", index=False)
    assert load_task(tmp_path / "rows.csv", kind="multi-label").label_names == ("(other)", "sad")


def test_labels_that_no_task_has_are_refused() -> None:
    for labels, message in [((0, 0), "twice"), ((3,), "outside of 0 to 2"), (("a",), "whole number"), (1, "a int")]:
        split = Split(texts=("a",), labels=(labels,), ids=("0",))
        with pytest.raises(TaskError, match=message):
            Task("labels", "multi-label", NAMES, "en", {"train": split})


def test_one_class_a_row_is_told_of_this_kind(tmp_path: Path) -> None:
    path, _ = written(tmp_path, DOORS[0])
    with pytest.raises(TaskError, match='the label is a list.*kind="multi-label"'):
        load_task(path, label="labels")


def drawn(n: int, k: int, seed: int, ties: bool) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(n, k)) * 3
    return (draw.random((n, k)) < expit(logits - 1)).astype(float), logits.round() if ties else logits


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_gives_a_better_f1_than_the_one_that_is_chosen(seed: int, ties: bool) -> None:
    truth, logits = drawn(30, 4, seed, ties)
    truth[:, 3] = 0
    chosen = best_thresholds(truth, logits)
    assert chosen[3] == 0.5 and ((chosen >= 0) & (chosen <= 1)).all()
    for label in range(3):
        own, probabilities = truth[:, label], expit(logits[:, label])
        best = max(reference.f1_score(own, probabilities >= t, zero_division=0) for t in [*probabilities, 0.0, 1.0])
        assert reference.f1_score(own, probabilities >= chosen[label], zero_division=0) == pytest.approx(best)


def test_of_equally_good_thresholds_the_one_nearest_to_a_half_is_chosen() -> None:
    truth, logits = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([[-4.0], [-3.0], [2.0], [5.0]])
    assert best_thresholds(truth, logits).tolist() == [0.5]
    assert best_thresholds(truth, logits + 9.0)[0] == pytest.approx((expit(6) + expit(11)) / 2)


def test_metrics_are_those_of_scikit_learn() -> None:
    truth, logits = drawn(40, 5, 1, False)
    truth[0], logits[0] = 0, -9  # no label, and none is called
    thresholds = np.array([0.3, 0.5, 0.6, 0.2, 0.5])
    found, rows, called = label_metrics(truth, logits, thresholds), label_scores(truth, logits, thresholds), None
    called = expit(logits) >= thresholds
    for name, how in {"micro_f1": "micro", "macro_f1": "macro", "example_f1": "samples"}.items():
        assert found[name] == pytest.approx(reference.f1_score(truth, called, average=how, zero_division=1.0))
    assert found["exact_match"] == reference.accuracy_score(truth, called)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(logits), torch.tensor(truth))
    assert found["nll"] == pytest.approx(float(expected))
    assert all(rows[name].mean() == pytest.approx(found[name]) for name in rows) and rows["example_f1"][0] == 1
    with pytest.raises(PifiProbeError, match="1 of 40 predictions are NaN"):
        label_metrics(truth, np.where(np.arange(40)[:, None] == 3, np.nan, logits), thresholds)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("parts")
    return str(slm.tiny_slm_folder(folder / "slm")), f"{tiny.tiny_checkpoint('llama', folder / 'llm')}[1]"


RECIPE = Recipe(learning_rate=1e-3, batch_size=8, epochs=2, max_tokens=32, device="cpu")


def test_thresholds_come_from_validation_are_kept_with_the_model_and_read_its_tests(
    parts: tuple[str, str], tmp_path: Path
) -> None:
    task = kinds.task_of("multi-label")
    model = pp.plug_in(*parts, task=task)
    assert model.config.problem_type == "multi_label_classification" and model.config.thresholds is None
    result = pp.fine_tune(model, task, RECIPE, out=tmp_path / "run", save_model=True)
    work, tokenizer = kind_of(task), slm.tiny_tokenizer()
    held = task.splits["validation"]
    logits = work.predict(model, work.encode(held, tokenizer, 32), tokenizer).logits
    chosen = best_thresholds(work._truth(held), logits)  # type: ignore[attr-defined]
    assert model.config.thresholds == pytest.approx(chosen.tolist())
    assert result.metrics["validation"]["thresholds"] == model.config.thresholds
    again = pp.PiFiForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert again.config.thresholds == model.config.thresholds and again.config.id2label == {
        0: "bad",
        1: "good",
        2: "film",
    }
    split = task.splits["test"]
    rows = work.encode(split, tokenizer, 32)
    found = work.predict(again, rows, tokenizer)
    expected = work.predict(model, rows, tokenizer).logits
    assert np.allclose(found.logits, expected, atol=1e-5)
    assert work.metrics(split, found)["micro_f1"] == result.tests[task.name].metrics["micro_f1"]
    assert result.tests[task.name].metrics["thresholds"] == model.config.thresholds
    untrained = pp.plug_in(*parts, task=task)
    assert pp.fine_tune(untrained, task, RECIPE, out=tmp_path / "run", resume=True).label == result.label
    assert untrained.config.thresholds == model.config.thresholds
    assert model.fold().config.thresholds == model.config.thresholds
    other = pp.PiFiForSequenceClassification.from_pretrained(
        tmp_path / "run" / "model", num_labels=2, ignore_mismatched_sizes=True
    )
    assert work.predict(other, rows, tokenizer).thresholds.tolist() == [0.5, 0.5]


def test_thresholds_of_a_test_are_never_chosen_on_it() -> None:
    task = kinds.task_of("multi-label")
    work, split = kind_of(task), task.splits["test"]
    logits = np.random.default_rng(0).normal(size=(len(split), 3)).astype(np.float32)
    given = Flags(logits, np.array([0.1, 0.2, 0.3]))
    assert work.metrics(split, given)["thresholds"] == [0.1, 0.2, 0.3]
    assert work.metrics(split, Flags(logits, None))["macro_f1"] >= work.metrics(split, given)["macro_f1"]


def test_smoothing_moves_both_ends_by_half() -> None:
    work = kind_of(kinds.task_of("multi-label"))
    logits, truth = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[1.0, 0.0, 1.0]])

    class Out:
        pass

    Out.logits = logits  # type: ignore[attr-defined]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor([[0.9, 0.1, 0.9]]))
    assert float(work.loss(Out(), {"labels": truth}, 0.2)) == pytest.approx(float(expected))


@pytest.mark.parametrize("thresholds", [[0.5, 0.5, 1.5], ["a", 0.5, 0.5], "0.5", [0.5, float("nan"), 0.1]])
def test_thresholds_that_no_model_has_are_refused(thresholds: Any, parts: tuple[str, str]) -> None:
    values = pp.plug_in(*parts, task=kinds.task_of("multi-label")).config.to_dict()
    with pytest.raises(PlugInError, match="thresholds.*is not possible"):
        pp.plugin.PiFiConfig.from_dict(values | {"thresholds": thresholds})


def test_what_needs_a_class_a_row_says_so(parts: tuple[str, str]) -> None:
    task = kinds.task_of("multi-label")
    models = [pp.plug_in(*parts, task=task, seed=seed) for seed in (0, 1)]
    runs = [pp.fine_tune(model, task, RECIPE.replace(seed=seed)) for seed, model in enumerate(models)]
    with pytest.raises(RecipeError, match="one class a row, which a multi-label task does not have"):
        ensemble(models, runs, task)
    with pytest.raises(RecipeError, match="multi-label task has no class weights"):
        pp.fine_tune(models[0], task, RECIPE.replace(class_weights="balanced"))


@pytest.mark.slow
def test_the_command_line_trains_and_compares(
    parts: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = written(tmp_path, "columns rows.csv")
    path.write_text(path.read_text().replace("of them", "the film was good").replace("text number", "it"))
    told = ["train", "--task", str(path), "--label", ",".join(NAMES), "--slm", parts[0], "--layer", parts[1]]
    for control in ("vanilla", ""):
        assert main([*told, "--epochs", "1", "-o", str(tmp_path / (control or "last")), "--control", control]) == 0
    assert "micro_f1" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "vanilla"), str(tmp_path / "last"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metric"] == "example_f1"
