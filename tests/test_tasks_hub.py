"""The named tasks: loaded by the real library from a local hub with small files in each data set's own layout."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pifi_probe.errors import TaskError
from pifi_probe.kinds import KINDS
from pifi_probe.tasks import HUB_TASKS, load_task
from pifi_probe.tasks.hub_table import HubTask
from tests.hub_server import HubServer

CLASSES = {  # of the data sets that name their classes themselves, as their cards list them
    "sst2": ["negative", "positive"],
    "imdb": ["neg", "pos"],
    "tweet-sentiment": ["negative", "neutral", "positive"],
    "tweet-offensive": ["non-offensive", "offensive"],
    "cola": ["unacceptable", "acceptable"],
    "ag-news": ["World", "Sports", "Business", "Sci/Tech"],
    "mnli": ["entailment", "neutral", "contradiction"],
    "snli": ["entailment", "neutral", "contradiction"],
    "rte": ["entailment", "not_entailment"],
    "qqp": ["not_duplicate", "duplicate"],
    "go-emotions": ["admiration", "amusement", "anger"],
    "conll2003": ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"],
}
JSONL = ("trec", "subj", "cr")  # published as JSON lines, the others as parquet
SPLITS = {"mmlu": ("auxiliary_train", "dev", "validation", "test"), "mnli": ("train", "validation_matched")}
CHILD = """
import json, sys
from pifi_probe.tasks import HUB_TASKS, load_task
for name in HUB_TASKS:
    task = load_task(name)
    test = task.splits["test"]
    print(json.dumps([name, task.kind, list(task.label_names), task.language, task.source,
        {part: len(split) for part, split in task.splits.items()}, test.texts[0], test.labels[0],
        test.pairs and test.pairs[0], test.items and test.items[0], list(task.notes)]))
"""


def rows_of(name: str, task: HubTask, split: str, n: int = 12) -> dict[str, list[Any]]:
    """Return columns as a data set has them, one text of the test split repeated from training."""
    words = [f"{split} text {number} of {name}" for number in range(n)]
    if split == task.test:
        words[0] = f"{task.train} text 0 of {name}"
    columns: dict[str, list[Any]] = {task.text: words} if task.text else {}
    labels = [number % max(len(CLASSES.get(name, "  ")), 2) for number in range(n)]
    if task.pair:
        columns[task.pair] = [f"{split} second {number}" for number in range(n)]
        if split == task.test:
            columns[task.pair][0] = f"{task.train} second 0"
    if task.group:
        columns[task.group] = ["law"] * n
    if task.kind == "regression":
        return columns | {task.label: [number / 2 for number in range(n)]}
    if task.kind == "qa":
        found = {"text": ["second"], "answer_start": [len(split) + 1]}
        found_0 = {"text": ["second"], "answer_start": [columns[task.pair or ""][0].index("second")]}
        return columns | {task.label: [found_0, *[found] * (n - 1)]}
    if task.kind == "token-classification":
        return {task.items or "": [text.split() for text in words], task.label: [[1, 0, 0, 0, 5]] * n}
    if task.kind == "multi-label":
        return columns | {task.label: [[number % 3, 2][: 1 + (number % 3 == 1)] for number in range(n)]}
    if task.kind == "seq2seq":
        return columns | {task.label: [f"target {number}" for number in range(n)]}
    if task.kind == "multiple-choice":
        four = ["one", "two", "three", "four"]
        by_mark = {"text": four, "label": ["1", "2", "3", "4"]}
        label = {"answerKey": "3", "gold": [2], "label": "2"}.get(task.label, 2)
        items = by_mark if name.startswith("arc") else four
        return columns | {task.items or "": [items] * n, task.label: [label] * n}
    if name == "trec":
        return columns | {task.label: [["DESC", "NUM"][number % 2] for number in labels]}
    if name == "snli":
        labels[3] = -1
    return columns | {task.label: labels}


def files_of(name: str, task: HubTask) -> dict[str, bytes]:
    """Return a data set's files, with a card that names its configuration and files."""
    import datasets

    own = (task.train, task.validation or task.train, task.test or task.train)
    splits = SPLITS.get(name, tuple(dict.fromkeys(own)))
    files, config = {}, task.config or "default"
    for split in splits:
        columns = rows_of(name, task, split)
        if name in JSONL:
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
            files[f"{split}.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
            continue
        table = datasets.Dataset.from_dict(columns)
        if name in CLASSES:
            label = datasets.ClassLabel(names=CLASSES[name])
            tags = task.kind in ("token-classification", "multi-label")
            table = table.cast_column(task.label, datasets.List(label) if tags else label)
        path = Path(f"{config}/{split}/0000.parquet" if task.revision else f"{config}/{split}-00000-of-00001.parquet")

        buffer = io.BytesIO()
        table.to_parquet(buffer)
        files[path.as_posix()] = buffer.getvalue()
    if not task.revision:
        suffix = "{split}.jsonl" if name in JSONL else f"{config}/{{split}}-*.parquet"
        listed = "".join(f"  - split: {s}\n    path: {suffix.format(split=s)}\n" for s in splits)
        files["README.md"] = f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{listed}---\n".encode()
    return files


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Any]]]:
    """What every named task is when a process loads it from the local hub."""
    with HubServer() as server:
        repos: dict[tuple[str, str | None], dict[str, bytes]] = {}
        for name, task in HUB_TASKS.items():
            files = repos.setdefault((task.repo, task.revision), {})
            for path, data in files_of(name, task).items():
                both = path == "README.md" and path in files
                files[path] = files[path][:-4] + data.removeprefix(b"---\nconfigs:\n") if both else data
        for (repo, revision), files in repos.items():
            made = server.add_repo(repo, {} if revision else files, kind="datasets")
            if revision:
                made.commit(files, branch=revision)
        cache = tmp_path_factory.mktemp("cache")
        environment = server.environment(cache) | {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        child = subprocess.run(
            [sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, timeout=300
        )
    assert child.returncode == 0, child.stderr[-3000:]
    yield {row[0]: row[1:] for row in map(json.loads, child.stdout.splitlines())}


@pytest.mark.parametrize("name", HUB_TASKS)
def test_a_named_task_is_what_its_row_says(name: str, loaded: dict[str, list[Any]]) -> None:
    row = HUB_TASKS[name]
    kind, names, language, source, sizes, text, label, pair, items, notes = loaded[name]
    assert (kind, language) == (row.kind, row.language)
    assert source.startswith(row.repo) and min(sizes.values()) > 0
    if name in CLASSES:
        assert names == CLASSES[name]
    elif row.classes:
        assert names == list(row.classes)
    if row.kind == "multiple-choice":
        assert (items, label) == (["one", "two", "three", "four"], 2)
    if row.kind == "qa":
        start, answer = label[0]
        assert pair[start : start + len(answer)] == answer == "second"
    if row.kind == "token-classification":
        assert label == [1, 0, 0, 0, 5] and text == " ".join(items)
    if row.kind == "multi-label":
        assert label == [1, 2], "the second row is the first whose text is not in training"
    if row.test:
        assert f"{row.test} text 1" in text, "the first row of the test split was a training text"
        assert any("test rows dropped" in note for note in notes)


def test_rows_on_which_annotators_did_not_agree_are_left_out(loaded: dict[str, list[Any]]) -> None:
    sizes = loaded["snli"][4]
    assert sizes["train"] == 11 and sizes["test"] == 10, "12 rows, one without a label, one repeated"


def test_every_row_names_a_kind_and_a_repository_of_its_own() -> None:
    places = [(row.repo, row.config, row.text, row.pair) for row in HUB_TASKS.values()]
    assert len(places) == len(set(places))
    for row in HUB_TASKS.values():
        assert row.kind in KINDS and row.repo.count("/") == 1
        assert KINDS[row.kind].items == (row.items is not None)


def test_a_named_task_takes_no_columns() -> None:
    with pytest.raises(TaskError, match="stanfordnlp/sst2"):
        load_task("sst2", text="review")


def test_a_misspelt_name_is_met_with_the_nearest() -> None:
    with pytest.raises(TaskError, match="did you mean 'arc-challenge'"):
        load_task("arc-chalenge")
