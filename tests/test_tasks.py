"""Tasks: rows in, a checked task out; every bad input is one line that names it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pifi_probe.errors import TaskError
from pifi_probe.kinds.parts.text import normalise
from pifi_probe.tasks import RATED, Split, Task, columns, from_file, load_task, shift_view
from pifi_probe.tasks.rated import rated_task

ROWS = [(f"text number {number}", "good" if number % 3 else "bad") for number in range(60)]
PUBLISHED = {
    "movie-reviews": ((6042, 2014, 2014), "f7ffa866dee4cc6da230255fff939cea7d0551a0774358910cbb486395719af9"),
    "tweets": ((1968, 655, 655), "9adca5515a5e3f8faec52ecd9adc48d4ec9abff4ac8bcabf847923d7df60e619"),
    "product-reviews": ((1781, 594, 594), "2d2213db5fcb1da9e63e9e420ce87fe6427864689d00828203b28c24ef285585"),
    "news-editorials": ((1759, 586, 586), "9a0e346db3b0174f0092ac6de411a364a83acd4cd40a27c0751d20572a3fe801"),
}


def write_csv(path: Path, rows: list[tuple[Any, ...]], header: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def refused(path: Path | str, **options: Any) -> str:
    """Load what cannot be loaded and return the one line that says so."""
    with pytest.raises(TaskError) as caught:
        load_task(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 2000
    assert "next:" in message
    return message


def make_task(texts: list[str], name: str = "made", label_names: tuple[str, ...] = ("bad", "good")) -> Task:
    split = Split(tuple(texts), tuple(i % 2 for i in range(len(texts))), tuple(map(str, range(len(texts)))))
    return Task(name, "single", label_names, "en", {"train": split, "test": split})


class TestNormalisation:
    def test_case_punctuation_and_spacing_do_not_make_a_text_new(self) -> None:
        assert normalise("It 's  GOOD .") == normalise("it\u2019s good!") == "itsgood"

    def test_letters_marks_and_emoji_of_all_scripts_make_a_text_new(self) -> None:
        pairs = [("कि", "का"), ("好", "坏"), ("fine 😀", "fine 😡"), ("año", "ano")]
        assert all(normalise(one) != normalise(other) for one, other in pairs)

    def test_a_text_of_punctuation_only_is_kept(self) -> None:
        assert normalise(" :) ") == ":)" != normalise(":(")

    @given(st.text())
    def test_normalising_twice_changes_nothing_more(self, text: str) -> None:
        assert normalise(normalise(text)) == normalise(text)


class TestFiles:
    def test_the_kind_of_file_does_not_change_the_task(self, tmp_path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        table = [{"text": text, "label": label} for text, label in ROWS]
        write_csv(tmp_path / "t.csv", ROWS)
        write_jsonl(tmp_path / "t.jsonl", table)
        lines = ["text\tlabel", *("\t".join(row) for row in ROWS)]
        (tmp_path / "t.tsv").write_text("\n".join(lines), encoding="utf-8")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "t.parquet")
        tasks = [load_task(tmp_path / f"t.{kind}") for kind in ("csv", "tsv", "jsonl", "parquet")]
        assert len({task.fingerprint for task in tasks}) == 1
        assert tasks[0].label_names == ("bad", "good")
        assert {name: len(split) for name, split in tasks[0].splits.items()} == {
            "train": 42,
            "validation": 6,
            "test": 12,
        }

    def test_quotes_commas_line_ends_and_a_byte_order_mark_survive(self, tmp_path: Path) -> None:
        odd = ['she said "no", twice', "two\nlines", "naïve \u2013 ½ 好", '"', "a, b"]
        path = write_csv(tmp_path / "t.csv", [*ROWS, *((text, "good") for text in odd)])
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        task = load_task(path)
        assert set(odd) <= {text for split in task.splits.values() for text in split.texts}

    def test_a_quote_in_a_tsv_is_a_character(self, tmp_path: Path) -> None:
        path = tmp_path / "t.tsv"
        lines = ["text\tlabel", '"open\tbad', *("\t".join(row) for row in ROWS)]
        path.write_bytes("\r\n".join(lines).encode())
        assert '"open' in {text for split in load_task(path).splits.values() for text in split.texts}

    def test_a_task_of_pairs_keeps_both_texts(self, tmp_path: Path) -> None:
        rows = [(text, f"second {text}", label) for text, label in ROWS]
        path = write_csv(tmp_path / "t.csv", rows, ("one", "two", "label"))
        task = load_task(path, text="one", pair="two", language="de")
        assert (task.kind, task.language) == ("pair", "de")
        for split in task.splits.values():
            assert split.pairs == tuple(f"second {text}" for text in split.texts)

    @pytest.mark.parametrize(
        ("values", "names"),
        [
            ([1, 2, 10], ("1", "2", "10")),
            ([True, False], ("False", "True")),
            ([1.0, 3.0], ("1", "3")),
            (["b", "a", "007"], ("007", "a", "b")),
            (["1.0", "2.0"], ("1", "2")),
            (["0", "10", "9"], ("0", "9", "10")),
            (["1.1", "1.10", "x"], ("1.1", "1.10", "x")),
            (["2", "1" + "0" * 5000], ("1" + "0" * 5000, "2")),
        ],
    )
    def test_label_names_are_kept(self, tmp_path: Path, values: list[Any], names: tuple[str, ...]) -> None:
        rows = [{"text": f"t{n}", "label": values[n % len(values)]} for n in range(30)]
        task = load_task(write_jsonl(tmp_path / "t.jsonl", rows))
        assert task.label_names == names
        numbers = {
            text: label for split in task.splits.values() for text, label in zip(split.texts, split.labels, strict=True)
        }
        first = next(row for row in rows if row["label"] == values[0])
        assert names[numbers[first["text"]]] in (str(values[0]), str(values[0]).removesuffix(".0"))

    def test_equal_texts_go_to_one_split(self, tmp_path: Path) -> None:
        rows = [(f"{mark}Text {n % 20}{mark}", "ab"[n % 2]) for n in range(20) for mark in ("", "!", " ?")]
        task = load_task(write_csv(tmp_path / "t.csv", rows))
        keys = [set(split.keys) for split in task.splits.values()]
        assert sum(map(len, keys)) == len(set.union(*keys)) == 20
        assert sum(len(split) for split in task.splits.values()) == 60

    def test_splits_depend_on_the_seed_and_not_on_the_order_of_rows(self, tmp_path: Path) -> None:
        forward = load_task(write_csv(tmp_path / "a.csv", ROWS))
        backward = load_task(write_csv(tmp_path / "b.csv", ROWS[::-1]))
        other = load_task(tmp_path / "a.csv", seed=1)
        assert set(forward.splits["test"].texts) == set(backward.splits["test"].texts)
        assert set(forward.splits["test"].texts) != set(other.splits["test"].texts)

    def test_a_split_column_is_obeyed_and_the_missing_split_carved_from_train(self, tmp_path: Path) -> None:
        rows = [(*row, "test" if n >= 40 else "train") for n, row in enumerate(ROWS)]
        task = load_task(write_csv(tmp_path / "t.csv", rows, ("text", "label", "part")), split="part")
        assert set(task.splits["test"].texts) == {text for text, _ in ROWS[40:]}
        assert len(task.splits["train"]) + len(task.splits["validation"]) == 40

    def test_one_file_per_split(self, tmp_path: Path) -> None:
        train, test = write_csv(tmp_path / "a.csv", ROWS[:40]), write_csv(tmp_path / "b.csv", ROWS[40:])
        task = load_task(train, test=str(test), validation=0.25)
        assert set(task.splits["test"].texts) == {text for text, _ in ROWS[40:]}
        assert 9 <= len(task.splits["validation"]) <= 11


class TestBadFiles:
    def test_missing_file(self, tmp_path: Path) -> None:
        assert "no such file" in refused(tmp_path / "none.csv")

    def test_a_near_name_is_proposed(self) -> None:
        assert "'movie-reviews'" in refused("movie-review")

    def test_an_embedded_task_takes_no_options(self) -> None:
        assert "fixed" in refused("tweets", test=0.5)

    def test_unknown_kind_of_file(self, tmp_path: Path) -> None:
        (tmp_path / "t.xlsx").write_bytes(b"PK")
        assert ".parquet" in refused(tmp_path / "t.xlsx")

    def test_missing_label_column_lists_columns_and_the_nearest(self, tmp_path: Path) -> None:
        path = write_csv(tmp_path / "t.csv", ROWS, ("text", "labels"))
        message = refused(path)
        assert "text, labels" in message
        assert "did you mean 'labels'?" in message

    @pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
    def test_an_empty_file(self, tmp_path: Path, kind: str) -> None:
        (tmp_path / f"t.{kind}").write_bytes(b"")
        assert f"t.{kind}" in refused(tmp_path / f"t.{kind}")

    def test_a_header_without_rows(self, tmp_path: Path) -> None:
        assert "no rows" in refused(write_csv(tmp_path / "t.csv", []))

    def test_one_class(self, tmp_path: Path) -> None:
        assert "one class only: 'x'" in refused(write_csv(tmp_path / "t.csv", [(t, "x") for t, _ in ROWS]))

    def test_empty_text_names_the_row(self, tmp_path: Path) -> None:
        assert "line 4, column 'text'" in refused(write_csv(tmp_path / "t.csv", [*ROWS[:2], ("  ", "bad"), *ROWS]))

    @pytest.mark.parametrize("value", [None, float("nan"), "", "NaN"])
    def test_missing_label_names_the_row(self, tmp_path: Path, value: Any) -> None:
        rows = [{"text": text, "label": label} for text, label in ROWS]
        rows[4]["label"] = value
        message = refused(write_jsonl(tmp_path / "t.jsonl", rows))
        assert "the label is missing" in message
        assert "line 5" in message

    @pytest.mark.parametrize(("value", "reason"), [(1.5, "fraction"), ("2.5", "fraction"), ([1], "list")])
    def test_a_label_that_is_no_class(self, tmp_path: Path, value: Any, reason: str) -> None:
        rows = [
            {"text": f"t{n}", "label": value if n else type(value)((1,) if reason == "list" else 1.0)} for n in range(9)
        ]
        assert reason in refused(write_jsonl(tmp_path / "t.jsonl", rows))

    def test_a_text_that_is_a_number(self, tmp_path: Path) -> None:
        rows: list[dict[str, Any]] = [{"text": 5, "label": "a"}, {"text": "x", "label": "b"}]
        assert "int, not a string" in refused(write_jsonl(tmp_path / "t.jsonl", rows))

    @pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
    def test_one_line_of_64_mb_is_refused_without_being_held(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / f"t.{kind}"
        write_csv(tmp_path / "t.csv", ROWS)
        if kind == "tsv":
            path.write_text("text\tlabel\n")
        if kind == "jsonl":
            write_jsonl(path, [{"text": "t", "label": "a"}])
        with path.open("ab") as file:
            file.write(b'{"text": "' if kind == "jsonl" else b'"')
            for _ in range(64):
                file.write(b"x" * 1_000_000)
        import tracemalloc

        tracemalloc.start()
        message = refused(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "longer than 8 MB" in message
        assert f"t.{kind}, line " in message
        assert peak < 40_000_000

    @pytest.mark.parametrize("kind", ["csv", "jsonl"])
    def test_a_text_above_the_limit_is_refused(self, tmp_path: Path, kind: str) -> None:
        text = "x" * (columns.MAX_TEXT + 1)
        if kind == "csv":
            message = refused(write_csv(tmp_path / "t.csv", [*ROWS, (text, "good")]))
            assert "line 62" in message
        else:
            message = refused(write_jsonl(tmp_path / "t.jsonl", [{"text": text, "label": "a"}]))
            assert "1,000,001 characters" in message
        assert csv.field_size_limit() == 131072

    def test_a_quote_that_is_never_closed_swallows_nothing(self, tmp_path: Path) -> None:
        path = write_csv(tmp_path / "t.csv", ROWS)
        path.write_text(path.read_text() + '"open,good\nmore,bad\n')
        assert "line 62" in refused(path)

    def test_a_row_with_another_number_of_fields(self, tmp_path: Path) -> None:
        assert "line 62" in refused(write_csv(tmp_path / "t.csv", [*ROWS, ("a", "b", "c")]))

    @pytest.mark.parametrize("last", ["x,", '" ",good', "a,b,c", '"open,good'])
    def test_blank_lines_and_fields_over_several_lines_count_as_lines(self, tmp_path: Path, last: str) -> None:
        (tmp_path / "t.csv").write_text(f'text,label\n\na,good\n"b\n\nb",bad\n\n{last}\n')
        assert "t.csv, line 8" in refused(tmp_path / "t.csv")

    @pytest.mark.parametrize("kind", ["tsv", "jsonl"])
    def test_blank_lines_count_in_every_kind_of_file(self, tmp_path: Path, kind: str) -> None:
        lines = {"tsv": "text\tlabel\n\na\tgood\n\nb\t\n", "jsonl": '{"text": "a", "label": "b"}\n\n\n\n{"text": "a"}'}
        (tmp_path / f"t.{kind}").write_text(lines[kind])
        assert f"t.{kind}, line 5, column 'label'" in refused(tmp_path / f"t.{kind}")

    @pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
    def test_a_column_that_is_there_twice(self, tmp_path: Path, kind: str) -> None:
        import pyarrow
        import pyarrow.parquet

        header, path = ["text", "label", "text"], tmp_path / f"t.{kind}"
        if kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.table([["a"], ["b"], ["c"]], header), path)
        else:
            between = "," if kind == "csv" else "\t"
            path.write_text("".join(between.join(row) + "\n" for row in [header, ["a", "b", "c"]]))
        assert "2 columns 'text'" in refused(path)

    def test_a_column_that_is_not_read_may_be_there_twice(self, tmp_path: Path) -> None:
        rows = [(*row, "", "") for row in ROWS]
        assert load_task(write_csv(tmp_path / "t.csv", rows, ("text", "label", "", ""))).n_labels == 2

    def test_bytes_that_are_not_utf8_name_the_line(self, tmp_path: Path) -> None:
        path = write_csv(tmp_path / "t.csv", ROWS)
        path.write_bytes(path.read_bytes() + b"caf\xe9,good\n")
        message = refused(path)
        assert "byte 4" in message
        assert "line 62" in message

    def test_half_a_surrogate_pair_names_the_row(self, tmp_path: Path) -> None:
        path = write_jsonl(tmp_path / "t.jsonl", [{"text": "\ud800", "label": "a"}])
        assert "line 1" in refused(path)

    def test_half_a_surrogate_pair_is_no_label(self, tmp_path: Path) -> None:
        rows = [{"text": f"t{n}", "label": "a" if n % 2 else "\ud800"} for n in range(30)]
        message = refused(write_jsonl(tmp_path / "t.jsonl", rows))
        assert "the label holds half a character" in message
        assert "line 1, column 'label'" in message

    @pytest.mark.parametrize(
        ("values", "both"),
        [
            (["0", "1", "1.0"], "'1' and '1.0'"),
            (["0", "1", "+01"], "'+01' and '1'"),
            ([True, 1, 0], "'1' and 'True'"),
            ([True, False, "true"], "'True' and 'true'"),
            ([2, "2."], "'2' and '2.'"),
        ],
    )
    def test_one_value_in_two_spellings(self, tmp_path: Path, values: list[Any], both: str) -> None:
        rows = [{"text": f"t{n}", "label": values[n % len(values)]} for n in range(30)]
        message = refused(write_jsonl(tmp_path / "t.jsonl", rows))
        assert f"{both} are two spellings" in message
        assert "column 'label'" in message

    @pytest.mark.parametrize("line", ["{'text': 1}", "[" * 100_000, '{"a": ' + "9" * 5000, "3", '{"text": "a"'])
    def test_malformed_json_names_the_line(self, tmp_path: Path, line: str) -> None:
        path = write_jsonl(tmp_path / "t.jsonl", [{"text": "t", "label": "a"}])
        path.write_text(path.read_text() + "\n" + line)
        assert "line 3" in refused(path)

    def test_damaged_parquet(self, tmp_path: Path) -> None:
        (tmp_path / "t.parquet").write_bytes(b"PAR1" + os.urandom(100) + b"PAR1")
        assert "not valid parquet" in refused(tmp_path / "t.parquet")

    def test_too_few_rows(self, tmp_path: Path) -> None:
        assert "5 rows are too few for 2 classes" in refused(write_csv(tmp_path / "t.csv", ROWS[:5]))

    def test_identifiers_as_labels(self, tmp_path: Path) -> None:
        rows = [(text, str(n)) for n, (text, _) in enumerate(ROWS)]
        assert "60 classes" in refused(write_csv(tmp_path / "t.csv", rows))

    def test_too_many_rows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(from_file, "MAX_ROWS", 50)
        assert "more than 50 rows" in refused(write_csv(tmp_path / "t.csv", ROWS))

    def test_too_large_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(from_file, "MAX_FILE", 50)
        assert "too large" in refused(write_csv(tmp_path / "t.csv", ROWS))

    def test_a_test_split_that_overlaps_train(self, tmp_path: Path) -> None:
        train = write_csv(tmp_path / "a.csv", ROWS[:40])
        test = write_csv(tmp_path / "b.csv", [("TEXT number 7.", "good"), *ROWS[40:]])
        message = refused(train, test=str(test))
        assert "1 texts of the test split are also in the " in message
        assert "TEXT number 7." in message
        assert len(load_task(train, test=str(test), allow_overlap=True).splits["test"]) == 21

    def test_a_test_label_that_train_does_not_have(self, tmp_path: Path) -> None:
        train = write_csv(tmp_path / "a.csv", ROWS[:40])
        test = write_csv(tmp_path / "b.csv", [*ROWS[40:], ("other", "ugly")])
        assert "no training row has: ugly" in refused(train, test=str(test))

    def test_too_few_different_texts(self, tmp_path: Path) -> None:
        rows = [("the same", "a"), ("another", "b")] * 10
        assert "too few different texts" in refused(write_csv(tmp_path / "t.csv", rows))

    @pytest.mark.parametrize("options", [{"test": 1.5}, {"validation": 0}, {"test": 0.6, "validation": 0.5}])
    def test_impossible_shares(self, tmp_path: Path, options: dict[str, float]) -> None:
        with pytest.raises(TaskError, match=r"validation|test"):
            load_task(write_csv(tmp_path / "t.csv", ROWS), **options)  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["text", "label", "pair", "split", "items", "group", "kind", "language"])
    @pytest.mark.parametrize("value", [3, {"a": "b"}])
    def test_an_option_that_is_no_string(self, tmp_path: Path, name: str, value: Any) -> None:
        message = refused(write_csv(tmp_path / "t.csv", ROWS), **{name: value})
        assert f"{name}={value!r} is a {type(value).__name__}" in message
        assert f"option {name}" in message

    def test_a_share_that_is_no_number(self, tmp_path: Path) -> None:
        assert "not a share" in refused(write_csv(tmp_path / "t.csv", ROWS), test=[0.1])

    def test_a_split_column_with_other_words(self, tmp_path: Path) -> None:
        path = write_csv(tmp_path / "t.csv", [(*row, "dev") for row in ROWS], ("text", "label", "part"))
        assert "'dev' is not a split" in refused(path, split="part")

    def test_split_column_and_split_files_exclude_each_other(self, tmp_path: Path) -> None:
        path = write_csv(tmp_path / "t.csv", ROWS)
        assert "exclude each other" in refused(path, split="label", test=str(path))

    @given(st.binary(max_size=400))
    def test_random_bytes_are_a_task_or_one_line(self, data: bytes) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            for kind in ("csv", "tsv", "jsonl"):
                path = Path(folder, f"t.{kind}")
                path.write_bytes(b"text,label\n" + data if kind == "csv" else data)
                refused(path)


class TestTask:
    def test_subsets_are_nested_stratified_and_seeded(self) -> None:
        texts = [f"t{n}" for n in range(1000)]
        split = Split(tuple(texts), tuple(int(n % 10 == 0) for n in range(1000)), tuple(texts))
        task = Task("made", "single", ("many", "few"), "en", {"train": split, "test": split})
        small, large = task.subset(train=100, test=50), task.subset(train=300)
        assert set(small.splits["train"].ids) < set(large.splits["train"].ids)
        assert Counter(small.splits["train"].labels) == {0: 90, 1: 10}
        assert Counter(task.subset(train=2).splits["train"].labels) == {0: 1, 1: 1}
        assert small.splits["test"].ids != task.subset(test=50, seed=1).splits["test"].ids
        assert large.splits["test"] == split

    def test_a_subset_cannot_be_larger_than_the_split(self) -> None:
        task = make_task(["a", "b", "c"])
        for wanted in (4, 1):
            with pytest.raises(TaskError, match=f"{wanted} rows of the train split"):
                task.subset(train=wanted)
        with pytest.raises(TaskError, match="validation"):
            task.subset(validation=2)

    def test_the_fingerprint_is_over_the_data_and_not_over_the_name(self) -> None:
        task = make_task(["a", "b", "c"])
        assert task.fingerprint == make_task(["a", "b", "c"], name="other").fingerprint
        assert task.fingerprint != make_task(["a", "b", "d"]).fingerprint
        assert task.fingerprint != make_task(["a", "b", "c"], label_names=("bad", "fine")).fingerprint

    def test_a_repr_shows_sizes_and_no_texts(self) -> None:
        assert repr(make_task(["secret", "b"])) == "Task('made', single, 2 classes, train=2, test=2, language='en')"

    @pytest.mark.parametrize(
        "change",
        [
            {"kind": "triple"},
            {"label_names": ("one",)},
            {"label_names": ("a", "a")},
            {"splits": {}},
            {"splits": {"dev": Split(("a",), (0,), ("0",))}},
            {"splits": {"train": Split((), (), ())}},
            {"splits": {"train": Split(("a",), (2,), ("0",))}},
            {"splits": {"train": Split(("a",), (0,), ("0",), ("b",))}},
        ],
    )
    def test_a_task_that_contradicts_itself_is_refused(self, change: dict[str, Any]) -> None:
        fields = {
            "kind": "single",
            "label_names": ("a", "b"),
            "splits": {"train": Split(("a",), (0,), ("0",))},
        }
        with pytest.raises(TaskError):
            Task(name="x", language="en", **{**fields, **change})

    def test_a_split_with_columns_of_unlike_length_or_equal_ids_is_refused(self) -> None:
        with pytest.raises(TaskError, match="lengths"):
            Split(("a", "b"), (0,), ("0", "1"))
        with pytest.raises(TaskError, match="twice"):
            Split(("a", "b"), (0, 1), ("0", "0"))


class TestShift:
    def test_training_texts_are_dropped_from_a_shift_test_and_counted(self) -> None:
        train = make_task(["Well done!", "b", "c"], name="train")
        test = make_task(["well done", *(f"t{n}" for n in range(9))], name="shifted")
        view, report = shift_view(test, train)
        assert set(view.splits) == {"test"}
        assert view.splits["test"].texts == tuple(f"t{n}" for n in range(9))
        assert (report.n_before, report.n_dropped, report.example) == (10, 1, "well done")
        assert str(report).startswith("1 of 10 test texts of shifted (10.0%)")
        assert view.notes == (str(report),)

    def test_labels_are_mapped_by_name(self) -> None:
        train, test = make_task(["a", "b"]), make_task(["c", "d"], label_names=("good", "bad"))
        view, _ = shift_view(test, train)
        assert view.label_names == ("bad", "good")
        assert view.splits["test"].labels == (1, 0)

    def test_other_label_names_are_refused(self) -> None:
        with pytest.raises(TaskError, match="label names disagree: 1, 2 not among bad, good"):
            shift_view(make_task(["c"] * 1 + ["d"], label_names=("1", "2")), make_task(["a", "b"]))

    def test_more_than_a_fifth_of_shared_texts_is_refused(self) -> None:
        train = make_task(["a", "b", "c"])
        with pytest.raises(TaskError, match="3 of 10 test texts"):
            shift_view(make_task(["A", "B", "C", *(f"t{n}" for n in range(7))]), train)
        assert shift_view(make_task(["A", "B", *(f"t{n}" for n in range(8))]), train)[1].n_dropped == 2


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    lines = [f"{n}\t{(-1) ** n * (0.5 + n / 100)}\tsentence {n}" for n in range(40)]
    lines += [
        "40\t0.49\tneutral",
        "41\t-2.0\tSENTENCE 1!",
        '42\t3\t"quoted &amp;amp; odd',
        "43\t2.5\t ½ padded ",
    ]
    (tmp_path / RATED["tweets"]).write_bytes("\r\n".join(lines).encode())
    return tmp_path


class TestRated:
    def test_ratings_become_two_classes_without_neutral_and_repeated_sentences(self, ratings: Path) -> None:
        task = rated_task("tweets", ratings)
        rows = {
            text: label for split in task.splits.values() for text, label in zip(split.texts, split.labels, strict=True)
        }
        assert len(rows) == 42
        assert rows["sentence 1"] == 0
        assert rows["sentence 0"] == rows['"quoted & odd'] == rows["½ padded"] == 1
        assert task.notes[0].startswith("1 of 44")
        assert task.notes[1].startswith("1 dropped")

    def test_a_damaged_line_is_named(self, ratings: Path) -> None:
        path = ratings / RATED["tweets"]
        path.write_bytes(path.read_bytes() + b"\r\n44\tnot a number\ttext")
        with pytest.raises(TaskError, match="id, rating and text") as caught:
            rated_task("tweets", ratings)
        assert "line 45" in str(caught.value)

    @pytest.mark.assets
    @pytest.mark.parametrize("name", RATED)
    def test_the_published_splits_do_not_change(self, name: str) -> None:
        task = load_task(name)
        sizes, fingerprint = PUBLISHED[name]
        assert tuple(len(task.splits[part]) for part in ("train", "validation", "test")) == sizes
        assert task.fingerprint == fingerprint

    @pytest.mark.assets
    def test_no_text_is_in_two_splits_and_the_tasks_hardly_share_any(self) -> None:
        train = load_task("movie-reviews")
        keys = [set(split.keys) for split in train.splits.values()]
        assert sum(map(len, keys)) == len(set.union(*keys)) == 10070
        for name in ("tweets", "product-reviews", "news-editorials"):
            assert shift_view(load_task(name), train)[1].n_dropped <= 1


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return tmp_path


class TestDatasetsLibrary:
    def test_a_folder_with_split_files(self, hub_cache: Path) -> None:
        folder = hub_cache / "reviews"
        folder.mkdir()
        write_csv(folder / "train.csv", ROWS[:40], ("review", "stars"))
        write_csv(folder / "test.csv", ROWS[40:], ("review", "stars"))
        task = load_task(folder, text="review", label="stars")
        assert (task.name, task.label_names) == ("reviews", ("bad", "good"))
        assert set(task.splits["test"].texts) == {text for text, _ in ROWS[40:]}
        assert len(task.splits["train"]) + len(task.splits["validation"]) == 40
        assert str(hub_cache) not in task.source
        assert "'review'" in refused(folder, text="reviews", label="stars")

    def test_class_names_come_from_the_features(self, hub_cache: Path) -> None:
        folder = self.parquet_folder(hub_cache, [n % 2 for n in range(40)])
        task = load_task(folder)
        assert task.label_names == ("zebra", "ant")
        assert all(label == int(text[1:]) % 2 for text, label in zip(*columns_of(task, "train"), strict=True))

    def test_rows_without_a_label_are_named(self, hub_cache: Path) -> None:
        folder = self.parquet_folder(hub_cache, [-1 if n == 4 else n % 2 for n in range(40)])
        assert "row 5" in refused(folder)

    def test_an_unknown_split_lists_those_there_are(self, hub_cache: Path) -> None:
        assert "the splits are: train" in refused(self.parquet_folder(hub_cache, [0, 1] * 9), test="dev")

    def test_an_empty_folder(self, hub_cache: Path) -> None:
        (hub_cache / "empty").mkdir()
        assert "empty" in refused(hub_cache / "empty")

    @staticmethod
    def parquet_folder(parent: Path, labels: list[int]) -> Path:
        import datasets

        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["zebra", "ant"])}
        )
        rows = {"text": [f"t{n}" for n in range(len(labels))], "label": labels}
        (parent / "made").mkdir()
        datasets.Dataset.from_dict(rows, features=features).to_parquet(parent / "made" / "train.parquet")
        return parent / "made"


def columns_of(task: Task, part: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return task.splits[part].texts, task.splits[part].labels


@pytest.mark.slow
def test_a_hub_id_is_loaded_by_its_name_and_revision(tmp_path: Path) -> None:
    from tests.hub_server import HubServer

    lines = "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)
    program = """if True:
        from pifi_probe.errors import TaskError
        from pifi_probe.tasks import load_task
        task = load_task("someone/reviews", revision="main")
        print(task, task.source, task.licence)
        for name in ("someone/nothing", "someone/gated"):
            try:
                load_task(name)
            except TaskError as error:
                print(error)
    """
    with HubServer() as server:
        server.add_repo("someone/reviews", {"train.csv": lines.encode()}, kind="datasets")
        server.add_repo("someone/gated", {"train.csv": lines.encode()}, kind="datasets", gated="manual")
        environment = {**server.environment(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    print(done.stdout)
    first, unknown, gated = done.stdout.splitlines() or [done.stderr] * 3
    assert "Task('reviews', single, 2 classes, train=42, validation=6, test=12" in first
    assert "someone/reviews@main" in first
    assert "someone/nothing" in unknown
    assert "someone/gated" in gated
