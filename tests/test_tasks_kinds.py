"""Tasks of every kind from files: the kind is inferred, every bad row is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import pifi_probe as pp
from pifi_probe.errors import TaskError
from pifi_probe.tasks import Split, Task, load_task
from pifi_probe.training import Recipe

DATA = Path(__file__).parent / "data"
FILES = {  # in tests/data, written for these tests
    "reviews.csv": ("single", 2),
    "entailment.jsonl": ("pair", 2),
    "choices.jsonl": ("multiple-choice", 0),
    "questions.jsonl": ("qa", 0),
    "entities.jsonl": ("token-classification", 4),
    "phrases_en_de.jsonl": ("seq2seq", 0),
}
OPTIONS: dict[str, dict[str, Any]] = {"phrases_en_de.jsonl": {"language": "en-de"}}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def refused(path: Path, rows: list[dict[str, Any]], **options: Any) -> str:
    with pytest.raises(TaskError) as caught:
        load_task(written(path / "rows.jsonl", rows), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_the_kind_of_a_file_is_seen_from_its_columns(name: str) -> None:
    kind, n_labels = FILES[name]
    task = load_task(DATA / name)
    assert (task.kind, task.n_labels) == (kind, n_labels)
    assert sum(len(split) for split in task.splits.values()) == 32
    keys = [set(split.keys) for split in task.splits.values()]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]


def test_a_rating_is_a_number_only_when_it_is_asked_for() -> None:
    task = load_task(DATA / "reviews.csv", kind="regression", label="stars")
    assert task.kind == "regression" and task.label_names == ()
    assert all(isinstance(label, float) for label in task.splits["train"].labels)
    with pytest.raises(TaskError, match='fraction.*kind="regression"'):
        load_task(DATA / "reviews.csv", label="stars")


def test_a_compressed_file_is_the_same_task(tmp_path: Path) -> None:
    path = tmp_path / "choices.jsonl.gz"
    path.write_bytes(gzip.compress((DATA / "choices.jsonl").read_bytes()))
    packed, plain = load_task(path), load_task(DATA / "choices.jsonl")
    assert (packed.name, packed.fingerprint) == (plain.name, plain.fingerprint)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TaskError, match="cannot be read"):
        load_task(path)


def test_a_passage_stands_before_its_question_and_a_letter_names_the_choice() -> None:
    split = load_task(DATA / "choices.jsonl").splits["train"]
    assert split.items is not None
    text, items, label = split.texts[0], split.items[0], split.labels[0]
    passage, question = text.split("\n")
    assert passage.endswith("today.") and question.startswith("What is it good for?")
    row = next(json.loads(line) for line in (DATA / "choices.jsonl").read_text().splitlines() if passage in line)
    assert items[label] == row["options"]["ABCD".index(row["label"])]


@pytest.mark.parametrize(
    ("choices", "label"),
    [
        (["x", "y", "z"], "B"),
        (["x", "y", "z"], 1),
        (["x", "y", "z"], "1"),
        (["x", "y", "z"], [1]),
        (["x", "y", "z"], "y"),
        ({"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "2"),
    ],
)
def test_a_right_choice_is_a_letter_an_index_its_mark_or_its_text(tmp_path: Path, choices: Any, label: Any) -> None:
    rows = [{"question": f"question {n}?", "choices": choices, "answer": label} for n in range(12)]
    task = load_task(written(tmp_path / "rows.jsonl", rows))
    assert set(task.splits["train"].labels) == {1}


def test_no_context_is_in_two_splits_of_a_question_answering_task(tmp_path: Path) -> None:
    rows = [
        {"context": f"context {n} says {m}", "question": f"what {m}?", "answers": {"text": ["says"], "answer_start": [
            f"context {n} says".index("says")]}}
        for n in range(12)
        for m in ("a", "a", "a")
    ]  # fmt: skip
    splits = load_task(written(tmp_path / "rows.jsonl", rows), test=0.3).splits
    contexts = {name: set(split.pairs or ()) for name, split in splits.items()}
    assert all(len(found) * 3 == len(splits[name]) for name, found in contexts.items())


def test_a_group_is_in_one_split_and_can_be_held_out() -> None:
    task = load_task(DATA / "choices.jsonl", group="passage")
    groups = {name: set(split.groups or ()) for name, split in task.splits.items()}
    assert not groups["train"] & groups["test"]
    held = sorted(groups["train"])[:2]
    fold = task.held_out(*held)
    assert set(fold.splits["test"].groups or ()) == set(held)
    assert not set(held) & {group for name in ("train", "validation") for group in fold.splits[name].groups or ()}
    assert sum(len(split) for split in fold.splits.values()) == 32
    with pytest.raises(TaskError, match="cannot be held out"):
        task.held_out("no such exam")
    with pytest.raises(TaskError, match="group="):
        load_task(DATA / "reviews.csv").held_out("x")


def test_rows_that_repeat_training_texts_are_dropped_on_request_and_counted(tmp_path: Path) -> None:
    lines = (DATA / "entailment.jsonl").read_text().splitlines()
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text("\n".join(lines[:24]))
    test.write_text("\n".join(lines[20:]))
    with pytest.raises(TaskError, match="drop_overlap=True"):
        load_task(train, test=str(test))
    task = load_task(train, test=str(test), drop_overlap=True)
    assert len(task.splits["test"]) == 8 and task.notes == ("4 of 12 test rows dropped: repeated texts",)


class TestBadRows:
    def test_an_answer_outside_of_its_context(self, tmp_path: Path) -> None:
        row = {"context": "the key is here", "question": "where?", "answer": "here", "answer_start": 3}
        found = refused(tmp_path, [row] * 9)
        assert "'here' is not in its context at 3" in found and "line 1" in found

    @pytest.mark.parametrize("start", ["9" * 5000, "\u00b2", True, -1, None])
    def test_a_start_that_is_no_index(self, tmp_path: Path, start: Any) -> None:
        row = {"context": "the key is here", "question": "where?", "answer": "here", "answer_start": start}
        assert "'here' is not in its context" in refused(tmp_path, [row] * 9)

    def test_a_question_without_an_answer(self, tmp_path: Path) -> None:
        row = {"context": "c", "question": "q", "answers": {"text": [], "answer_start": []}}
        assert "no answer" in refused(tmp_path, [row] * 9)

    def test_two_hundred_choices(self, tmp_path: Path) -> None:
        row = {"question": "q", "choices": [str(n) for n in range(200)], "answer": 1}
        assert "2 to 26 choices, this one has 200 choices" in refused(tmp_path, [row] * 9)

    @pytest.mark.parametrize("label", ["E", 7, -1, True, None, "AB"])
    def test_a_right_choice_that_is_none(self, tmp_path: Path, label: Any) -> None:
        row = {"question": "q", "choices": ["a", "b"], "answer": label}
        found = refused(tmp_path, [row] * 9)
        assert "not one of the 2 choices" in found or "missing" in found

    def test_an_empty_target(self, tmp_path: Path) -> None:
        assert "target is empty" in refused(tmp_path, [{"text": "a", "target": " "}] * 9)

    def test_words_and_tags_of_unlike_number(self, tmp_path: Path) -> None:
        assert "3 and 2" in refused(tmp_path, [{"tokens": ["a", "b", "c"], "tags": ["O", "O"]}] * 9)

    @pytest.mark.parametrize("label", ["good", 10**400, True, [1]])
    def test_a_rating_that_is_none(self, tmp_path: Path, label: Any) -> None:
        assert "not a number" in refused(tmp_path, [{"text": "a", "label": label}] * 9, kind="regression")

    def test_a_kind_that_is_none(self, tmp_path: Path) -> None:
        found = refused(tmp_path, [{"text": "a", "label": "b"}] * 9, kind="multiplechoice")
        assert "did you mean 'multiple-choice'" in found

    def test_a_kind_whose_columns_are_not_there(self, tmp_path: Path) -> None:
        assert "there is no column" in refused(tmp_path, [{"text": "a", "label": "b"}] * 9, kind="qa")

    @pytest.mark.parametrize(
        ("kind", "split"),
        [
            ("multiple-choice", Split(("q",), (2,), ("0",), items=(("a", "b"),))),
            ("qa", Split(("q",), (((0, "x"),),), ("0",), pairs=("abc",))),
            ("seq2seq", Split(("q",), ("",), ("0",))),
            ("token-classification", Split(("a b",), ((0,),), ("0",), items=(("a", "b"),))),
            ("regression", Split(("a",), (float("nan"),), ("0",))),
            ("qa", Split(("q",), (((0, "a"),),), ("0",))),
        ],
    )
    def test_a_task_made_by_hand_that_contradicts_itself(self, kind: str, split: Split) -> None:
        names = ("O", "B") if kind == "token-classification" else ()
        with pytest.raises(TaskError):
            Task("made", kind, names, "en", {"train": split})


def test_subsets_of_tasks_without_classes_are_nested() -> None:
    task = load_task(DATA / "phrases_en_de.jsonl")
    small, large = task.subset(train=1), task.subset(train=9)
    assert set(small.splits["train"].ids) < set(large.splits["train"].ids)


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.parametrize("name", [*FILES, "stars"])
def test_minilm_is_trained_on_a_file_of_every_kind(name: str, minilm: Path) -> None:
    if name == "stars":
        task = load_task(DATA / "reviews.csv", kind="regression", label="stars")
    else:
        task = load_task(DATA / name, **OPTIONS.get(name, {}))
    model = pp.plug_in("minilm-l6", "smollm2-135m[-1]", task=task, wiring="matched", target_rms=2.0)
    result = pp.fine_tune(model, task, Recipe(epochs=1, batch_size=8, max_tokens=48, device="cpu"))
    assert result.tests[task.name].metrics["n"] == len(task.splits["test"])
