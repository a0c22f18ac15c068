"""The same rows are the same task, through whatever door they come: a file, a folder, a hub id, an object."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pifi_probe.errors import TaskError
from pifi_probe.tasks import Split, Task, load_task
from tests.hub_server import HubServer

WORDS = ("null", "None", "NA", "nan", "N/A", "01", "1.0", "true", "2024-01-02", "-", "#N/A", "1e5", " x")
ROWS = [(f"{WORDS[n % len(WORDS)]} {n}" if n >= len(WORDS) else WORDS[n], ("null", "None")[n % 2]) for n in range(60)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def written(kind: str, rows: list[tuple[Any, Any]] = ROWS) -> bytes:
    if kind == ".jsonl":
        return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows).encode()
    mark = {".csv": ",", ".tsv": "\t"}[kind]
    return "\n".join(["\ufefftext" + mark + "label", *(f"{text}{mark}{label}" for text, label in rows)]).encode()


def parquet(rows: list[tuple[Any, Any]], names: list[str] | None, listed: bool = False) -> bytes:
    import datasets

    label: Any = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = {"text": datasets.Value("string"), "label": label}
    columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    if listed:
        features = {"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(label)}
        columns = {"tokens": [text.split() for text, _ in rows], "ner_tags": [[n] * len(t.split()) for t, n in rows]}
    buffer = io.BytesIO()
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(buffer)
    return buffer.getvalue()


def doors(tmp_path: Path, kind: str, data: bytes, **options: Any) -> list[Task]:
    """The task by its file and by a folder of it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f"train{kind}").write_bytes(data)
    return [load_task(folder / f"train{kind}", **options), load_task(folder, **options)]


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl"])
def test_texts_and_labels_are_what_is_written(tmp_path: Path, kind: str) -> None:
    file, folder = doors(tmp_path, kind, written(kind))
    assert file.fingerprint == folder.fingerprint
    assert file.label_names == ("None", "null")
    texts = {text for split in file.splits.values() for text in split.texts}
    assert {"null", "None", "NA", "01", "1.0", "2024-01-02"} <= texts


def test_a_hub_id_gives_what_a_folder_gives(tmp_path: Path) -> None:
    program = "import json, sys\nfrom pifi_probe.tasks import load_task\n"
    program += "print(json.dumps([load_task(name).fingerprint for name in sys.argv[1:]]))"
    names = []
    with HubServer() as server:
        for kind in (".csv", ".tsv", ".jsonl", ".parquet"):
            data = written(kind) if kind != ".parquet" else parquet([(f"t {n}", n % 2) for n in range(40)], ["b", "a"])
            folder = tmp_path / kind[1:]
            folder.mkdir()
            (folder / f"train{kind}").write_bytes(data)
            server.add_repo(f"org/{kind[1:]}", folder, kind="datasets")
            names += [f"org/{kind[1:]}", str(folder), str(folder / f"train{kind}")]
        environment = {**server.environment(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", program, *names], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert [len(set(found[n : n + 3])) for n in range(0, 12, 3)] == [1] * 4
    assert len(set(found)) > 1


def test_names_of_classes_in_a_parquet_file_are_read(tmp_path: Path) -> None:
    rows = [(f"text {n}", n % 2) for n in range(40)]
    file, folder = doors(tmp_path, ".parquet", parquet(rows, ["zebra", "ant"]))
    assert file.label_names == folder.label_names == ("zebra", "ant")
    assert file.fingerprint == folder.fingerprint


def test_names_of_tags_in_a_parquet_file_are_read(tmp_path: Path) -> None:
    rows = [(f"text {n}", n % 2) for n in range(40)]
    file, folder = doors(tmp_path, ".parquet", parquet(rows, ["O", "B-X"], listed=True))
    assert file.label_names == ("O", "B-X") and file.fingerprint == folder.fingerprint


def test_several_files_of_a_split_are_one(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, sizes in ((whole, [(0, 60)]), (parts, [(0, 20), (20, 60)])):
        folder.mkdir()
        for n, (start, stop) in enumerate(sizes):
            (folder / f"train-{n:05}-of-{len(sizes):05}.csv").write_bytes(written(".csv", ROWS[start:stop]))
    assert load_task(whole).fingerprint == load_task(parts).fingerprint


def hidden(tmp_path: Path, labels: list[Any], names: list[str] | None, kind: str = ".parquet") -> Path:
    """A folder whose test split has hidden labels."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    train = [(f"text {n}", n % 2) for n in range(60)]
    test = [(f"other {n}", label) for n, label in enumerate(labels)]
    for part, rows in (("train", train), ("test", test)):
        data = parquet(rows, names) if kind == ".parquet" else written(kind, rows)
        (folder / f"{part}{kind}").write_bytes(data)
    return folder


@pytest.mark.parametrize("names", [["no", "yes"], None])
@pytest.mark.parametrize("kind", [".parquet", ".csv", ".jsonl"])
def test_hidden_test_labels_are_refused_with_a_way_out_that_works(
    tmp_path: Path, kind: str, names: list[str] | None
) -> None:
    folder = hidden(tmp_path, [-1] * 12, names, kind)
    for source, options in ((folder, {}), (folder / f"train{kind}", {"test": str(folder / f"test{kind}")})):
        with pytest.raises(TaskError) as caught:
            load_task(source, **options)
        assert "drop_unlabelled=True" in caught.value.next
        task = load_task(source, **options, drop_unlabelled=True)
        assert {len(task.splits[part]) > 2 for part in ("train", "validation", "test")} == {True}
        assert all(text.startswith("text") for text in task.splits["test"].texts)
        assert "12 of 12 test rows left out" in task.notes[0]


def test_single_hidden_rows_are_left_out_and_others_keep_their_numbers(tmp_path: Path) -> None:
    folder = hidden(tmp_path, [0, -1, 1, 1, -1, 0], ["no", "yes"])
    task = load_task(folder, drop_unlabelled=True)
    assert task.splits["test"].ids == ("test:1", "test:3", "test:4", "test:6")
    assert "2 of 6 test rows left out" in task.notes[0]


def test_minus_one_is_a_class_where_it_is_trained_on(tmp_path: Path) -> None:
    rows = [(f"text {n}", n % 3 - 1) for n in range(60)]
    file, folder = doors(tmp_path, ".csv", written(".csv", rows))
    assert file.label_names == folder.label_names == ("-1", "0", "1")


def test_ratings_of_minus_one_stay_unless_all_have_it(tmp_path: Path) -> None:
    folder = tmp_path / "rated"
    folder.mkdir()
    (folder / "train.csv").write_bytes(written(".csv", [(f"text {n}", n % 5 - 2) for n in range(60)]))
    (folder / "test.csv").write_bytes(written(".csv", [(f"other {n}", -1) for n in range(10)]))
    task = load_task(folder, kind="regression", drop_unlabelled=True)
    assert sum(len(split) for split in task.splits.values()) == 60
    assert -1.0 in {label for split in task.splits.values() for label in split.labels}


def test_missing_labels_have_the_same_way_out(tmp_path: Path) -> None:
    rows = [(f"text {n}", "" if n % 6 == 5 else n % 2) for n in range(60)]
    (tmp_path / "t.csv").write_bytes(written(".csv", rows))
    with pytest.raises(TaskError) as caught:
        load_task(tmp_path / "t.csv")
    assert "line 7" in caught.value.where and "drop_unlabelled=True" in caught.value.next
    task = load_task(tmp_path / "t.csv", drop_unlabelled=True)
    assert sum(len(split) for split in task.splits.values()) == 50


class TestObjects:
    """A task that is made by hand has the labels that a file would give it, or is refused."""

    @staticmethod
    def task(labels: Any, kind: str = "single") -> Task:
        n = len(labels)
        split = Split(tuple(f"text {row}" for row in range(n)), tuple(labels), tuple(map(str, range(n))))
        return Task("t", kind, ("a", "b") if kind == "single" else (), "en", {"train": split})

    @pytest.mark.parametrize("labels", [np.array([0, 1, 1]), [False, True, True], np.array([False, True, True])])
    def test_whole_numbers_of_other_types(self, labels: Any) -> None:
        task = self.task(labels)
        assert task.fingerprint == self.task([0, 1, 1]).fingerprint
        assert {type(label) for label in task.splits["train"].labels} == {int}

    @pytest.mark.parametrize(
        "labels", [[0.0, 1.0, 1.0], ["a", "b", "b"], [None, 0, 1], np.array([0.5, 1, 0]), [0, "1", 1]]
    )
    def test_what_is_no_class_is_refused(self, labels: Any) -> None:
        with pytest.raises(TaskError) as caught:
            self.task(labels)
        assert "not a whole number" in caught.value.what

    def test_ratings(self) -> None:
        assert self.task(np.array([0.5, 1.0], dtype=np.float32), "regression").splits["train"].labels == (0.5, 1.0)
        with pytest.raises(TaskError):
            self.task(["good", "bad"], "regression")
