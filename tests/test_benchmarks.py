"""The benchmarks run, and their recorded numbers are those in benchmarks/README.md. Nothing is timed here."""

from __future__ import annotations

import gzip
import importlib
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pifi_probe.scoring import estimators
from pifi_probe.scoring.projections import left_out_r2
from pifi_probe.tasks import load_task
from tests import slm, tiny

ROOT = Path(__file__).parent.parent
FOTHERS = ROOT / "benchmarks"
SCRIPTS = (
    *("extract", "train_step", "fold", "stream_memory", "probe_sweep", "estimators", "selection", "efficiency"),
    *("intervals", "control", "layerbench", "onnx_export", "formats"),
)
DECIDED = ("decide_csv", "decide_csv_chain", "decide_csv_tweets")  # a script that has no short run; what is shown
RECORDED = [path.stem for path in sorted((FOTHERS / "results").glob("*.json")) if path.stem.startswith(SCRIPTS)]
RECORDED += DECIDED
OTHERS = ("chains", "alignment_cost", "density")  # take the recorded studies, or minutes in their shortest run


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks' folder as its scripts see it."""
    monkeypatch.syspath_prepend(str(FOTHERS))

    def module(name: str) -> ModuleType:
        return importlib.import_module(name)

    return module


def recorded(name: str) -> dict[str, Any]:
    return dict(json.loads((FOTHERS / "results" / f"{name}.json").read_text(encoding="utf-8")))


def script_of(name: str) -> str:
    return next(script for script in (*SCRIPTS, *OTHERS, DECIDED[0]) if name.startswith(script))


def test_every_benchmark_has_a_recorded_result() -> None:
    assert set(SCRIPTS) <= set(RECORDED)
    assert all((FOTHERS / f"{script}.py").is_file() for script in SCRIPTS)


@pytest.mark.parametrize("name", [*RECORDED, *OTHERS])
def test_the_readme_shows_the_recorded_numbers(name: str, load: Any) -> None:
    common = load("_common")
    text = (FOTHERS / "README.md").read_text(encoding="utf-8")
    assert common.filled(text, name, common.markdown(recorded(name))) == text


@pytest.mark.parametrize("name", [*RECORDED, *OTHERS])
def test_targets_and_rows_follow_from_the_single_measurements(name: str, load: Any) -> None:
    result = recorded(name)
    script = load(script_of(name))
    again = json.loads(json.dumps(script.tables(result["measurements"], result["settings"])))
    assert again == {"targets": result["targets"], "rows": result["rows"]}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_result_says_how_it_was_made(name: str) -> None:
    result = recorded(name)
    assert result["command"].split()[0].startswith(script_of(name))
    assert "--quick" not in result["command"]
    assert {"torch", "transformers", "pifi_probe", "python"} <= set(result["versions"])
    assert {"cpu", "cores", "threads", "memory_bytes"} <= set(result["machine"])
    assert isinstance(result["seed"], int) and result["load_average"] >= 0
    assert result["date"] and result["git"]["commit"]
    assert "/tmp/" not in json.dumps(result) and str(Path.home()) not in json.dumps(result)


def test_a_checkpoint_is_written_that_transformers_can_load(load: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    checkpoint = load("_checkpoint")
    config = checkpoint.llama_tiny(2)
    folder = checkpoint.write_checkpoint(tmp_path / "a", config, seed=0, max_shard=300_000)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    stored: Mapping[str, torch.Tensor] = {k: v for shard in shards for k, v in load_file(shard).items()}
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert stored.keys() == loaded.keys()
    assert all(torch.equal(stored[name], loaded[name]) for name in stored)
    assert sum(tensor.nbytes for tensor in stored.values()) == checkpoint.size_of(config)
    again = checkpoint.write_checkpoint(tmp_path / "b", config, seed=0, max_shard=300_000)
    assert [shard.read_bytes() for shard in shards] == [(again / shard.name).read_bytes() for shard in shards]


def test_every_arm_has_its_turn_in_every_round(load: Any) -> None:
    calls: list[str] = []
    arms = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = load("_common").interleave(arms, 5, seed=0, warmup=1)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 5, "b": 5, "c": 5}
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert len(rounds) == 6 and all(sorted(turn) == ["a", "b", "c"] for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 1


def test_the_paper_s_wiring_computes_what_pifi_computes(load: Any, tmp_path: Path) -> None:
    models = load("_models")
    models.write_donor(models.TINY, tmp_path, 0)
    layer = models.donor(models.TINY, tmp_path)
    ours, paper = models.plugged(models.TINY, layer, 0), models.paper_wiring(models.TINY, layer, 0).eval()
    assert ours.plugin.layers[0].card.reduced and hasattr(paper.plugin.layer.self_attn, "q_proj")
    for name in ("L_in", "L_out"):
        getattr(paper.plugin, name).load_state_dict(getattr(ours.plugin, name).state_dict())
    batch = models.batch_of(models.TINY, 4, 0)
    with torch.no_grad():
        torch.testing.assert_close(ours(**batch).logits, paper(**batch).logits)


@pytest.mark.parametrize("name", DECIDED)
def test_a_question_about_a_csv_file_is_answered_in_a_quarter_of_an_hour(name: str) -> None:
    found = recorded(name)["measurements"]
    assert found["seconds"] <= 15 * 60
    assert (found["verdict"] == "undecided") == (name == "decide_csv_tweets")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_quick_run_gives_a_whole_result_and_touches_no_recorded_one(script: str, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in [*FOTHERS.glob("results/*.json"), FOTHERS / "README.md"]}
    out = tmp_path / "result.json"
    command = [sys.executable, str(FOTHERS / f"{script}.py"), "--quick", "--seed", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["seed"] == 1 and result["targets"] and result["rows"] and result["measurements"]
    assert "failed" not in out.read_text(encoding="utf-8")
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.slow
def test_a_contestant_that_needs_more_memory_than_the_limit_fails_alone(load: Any, tmp_path: Path) -> None:
    checkpoint, common, extract = load("_checkpoint"), load("_common"), load("extract")
    folder = checkpoint.write_checkpoint(tmp_path / "model", checkpoint.llama_tiny(1), seed=0)
    task = {"arm": extract.LOAD_32, "state": "warm", "folder": str(folder), "limit": 1 << 20}
    assert set(common.in_child(extract.__file__, task)) == {"failed"}
    found = common.in_child(extract.__file__, task | {"limit": -1, "leave": 1 << 60})
    assert found["stopped"] and found["seconds"] < 60 and "layer_bytes" not in found


def test_tables_are_gathered_into_the_package_before_they_are_replayed(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gathering = load("layerbench")
    replayed: list[Any] = []
    monkeypatch.setattr(gathering, "PACKAGED", tmp_path / "layerbench.json")
    monkeypatch.setattr(gathering, "gathered", lambda: {"tables": []})
    monkeypatch.setattr(gathering.layerbench, "tables", lambda: [])
    row = {"strategy": "auto", "in_noise": 0.25}
    monkeypatch.setattr(gathering.layerbench, "leaderboard", lambda **_: pd.DataFrame([row]))
    monkeypatch.setattr(gathering, "record", lambda *arguments: replayed.append(arguments[-1]["rows"]))
    monkeypatch.setattr(sys, "argv", ["layerbench.py"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the options' own, for requests to stop
    gathering.main()
    assert json.loads(gathering.PACKAGED.read_text(encoding="utf-8")) == {"tables": []} and replayed == [[row]]


def test_arms_that_failed_leave_the_tables_of_the_others(load: Any) -> None:
    extract = load("extract")
    run = {"seconds": 2.0, "bytes_asked": 110, "bytes_from_disk": 0, "peak_bytes": 120, "layer_bytes": 100}
    failed = {"failed": "needs 32 GB of memory"}
    settings = {"layer_bytes": 100, "layers": 32}
    tables = extract.tables({"cold": {extract.OURS: failed, extract.LOAD: [run], extract.PAPER_32: failed}}, settings)
    assert tables["targets"] == [] and [row["time / ours"] for row in tables["rows"]] == [None] * 3
    whole = extract.tables({"cold": {extract.OURS_32: [run], extract.PAPER_32: [run | {"seconds": 50.0}]}}, settings)
    assert whole["targets"][-1]["measured"] == 25 and whole["targets"][-1]["to reach"] == "at least 20 x"


@pytest.mark.parametrize(("seconds", "holds"), [(50.0, True), (30.0, None)])
def test_an_arm_that_was_stopped_can_reach_a_bound_and_cannot_miss_it(load: Any, seconds: float, holds: Any) -> None:
    extract = load("extract")
    run = {"seconds": 2.0, "bytes_asked": 110, "bytes_from_disk": 0, "peak_bytes": 120, "layer_bytes": 100}
    stopped = run | {"seconds": seconds, "stopped": True}
    runs = {"cold": {extract.OURS_32: [run], extract.PAPER_32: [stopped]}}
    tables = extract.tables(runs, {"layer_bytes": 100, "layers": 32})
    assert tables["targets"][-1]["holds"] is holds and "stopped when memory was full" in tables["targets"][-1]["what"]
    assert "stopped when memory was full" in tables["rows"][-1]["contestant"]


def test_a_loop_that_was_stopped_is_called_so(load: Any) -> None:
    sweep = load("probe_sweep")
    ours = {"seconds": 10.0, "peak_bytes": 1, "parts": {"features": 8.0, "scores": 2.0}}
    loop = ours | {"seconds": 60.0, "points": [3, 31]}
    tables = sweep.tables({sweep.LOGISTIC: [ours], sweep.LOOP: [loop], sweep.LOOP_1: {"skipped": "it failed"}}, {})
    assert [line["measured"] for line in tables["targets"]] == [6]
    assert "stopped after 3 of 31" in tables["targets"][0]["what"] and "3 of 31" in tables["rows"][1]["remark"]
    only = sweep.tables({sweep.LOGISTIC: {"skipped": "it failed"}, sweep.LOOP: [loop]}, {})
    assert only["targets"] == [] and load("_common")._table(only["rows"]).startswith("| contestant")


def test_chains_are_judged_by_what_the_estimator_span_says_of_their_ends(load: Any) -> None:
    chains = load("chains")
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(90) % 2)
    h = rng.normal(size=(90, 8))
    states = [h @ rng.normal(size=(8, 10)) + rng.normal(size=(90, 10)) + depth * y[:, None] / 3 for depth in range(4)]
    values = {
        chains.ADDED: [estimators.usable_information(one, y, other=h) for one in states],
        "r2": [left_out_r2(h, one) for one in states],
        "ridge_accuracy": [estimators.ridge_accuracy(one, y) for one in states],
    }
    found = chains.guesses(values, 1, 2)
    assert found["span"] == pytest.approx(estimators.span(states[3], y, other=h, entry=states[1]), rel=1e-9)
    assert found["span"] > 0.02 and set(found) == {"span", chains.ADDED, "ridge_accuracy"}
    rise = estimators.ridge_accuracy(states[3], y) - estimators.ridge_accuracy(states[1], y)
    assert found["ridge_accuracy"] == pytest.approx(rise) and rise > 0


def test_pairs_of_question_and_sentence_share_no_paragraph_and_hold_the_answer(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligned, rows = load("aligned"), []
    for paragraph in range(9):
        context = (
            f'In {paragraph} it rained, e.g. "a lot". They met Ann{paragraph} there! They left. {paragraph}.5 m fell.'
        )
        for answer in (f"Ann{paragraph}", f"{paragraph}.5"):
            at = context.index(answer)
            rows.append({"id": f"{len(rows)}", "context": context, "question": f"{len(rows)}?", "answer": answer})
            rows[-1]["answer_start"] = at
    file = tmp_path / "pairs.jsonl.gz"
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.write("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(aligned, "N_QUESTIONS", 12)
    answers = {row["question"]: row["answer"] for row in rows}
    tested: list[str] = []
    for fold in (None, *range(aligned.FOLDS)):
        task = aligned.question_sentence(file, fold)
        sides = [{text[:-1] for text in task.splits[part].texts} for part in ("train", "test")]
        assert not {int(one) // 2 for one in sides[0]} & {int(one) // 2 for one in sides[1]}
        for split in task.splits.values():
            for question, sentence, label in zip(split.texts, split.pairs, split.labels, strict=True):
                assert (answers[question] in sentence) == bool(label), (question, sentence)
        tested += task.splits["test"].ids if fold is not None else []
        assert fold is not None or len(sides[0]) == 12
    assert len(tested) == len(set(tested)) == 2 * len(rows)


def test_the_recorded_chains_were_judged_by_every_estimator(load: Any) -> None:
    rows = recorded("chains")["rows"]
    labelled = {one for one in estimators.names() if estimators.get(one).family == "supervised"}
    for task in load("chains").TASKS:
        judged = {row["chosen by"].removeprefix("estimator ") for row in rows if row["task"] == task}
        assert labelled | {"span", "usable_information"} <= judged


def test_folds_are_made_of_single_texts(load: Any) -> None:
    aligned = load("aligned")
    pairs = load_task("translation-match")
    with pytest.raises(ValueError, match="translation-match: folds are made of single texts"):
        aligned.fold_of(pairs, 0)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (["--folds"], {"question-sentence", "movie-reviews"}),
        (["--folds", "--few"], {"movie-reviews"}),
        (["--folds", "--trained"], {"movie-reviews"}),
        (["--folds", "--through"], {"movie-reviews"}),
        ([], {"question-sentence", "movie-reviews", "evidence"}),
    ],
)
def test_pairs_are_folded_only_where_their_own_folds_are_used(
    given: list[str], asked: set[str], load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    aligned, tried = load("aligned"), []
    monkeypatch.setattr(aligned, "load", lambda name, _: tried.append(name))
    monkeypatch.setattr("sys.argv", ["aligned.py", *given, "--out", str(tmp_path)])
    aligned.main()
    assert {"question-sentence", "movie-reviews", "evidence"} & set(tried) == asked


def test_a_task_of_chains_is_estimated_once_at_every_depth(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chains, task = load("chains"), slm.tiny_task()
    donor = tiny.tiny_checkpoint("llama", tmp_path / "llm")
    slm.tiny_tokenizer().save_pretrained(donor)
    monkeypatch.setattr(chains, "SLM", str(slm.tiny_slm_folder(tmp_path / "slm")))
    monkeypatch.setattr(chains, "LLM", str(donor))
    monkeypatch.setattr(chains.pp, "load_task", lambda _: task)
    file, sizes = tmp_path / "words.json", {"n_train": 30, "max_tokens": 16}
    file.write_text(json.dumps({"cells": {"0-0": 1}}), encoding="utf-8")
    chains.estimate("words", sizes, 0, file, [0, 2])
    found = json.loads(file.read_text(encoding="utf-8"))
    few = task.subset(train=30, seed=0)
    assert found["cells"] == {"0-0": 1} and found["estimators"]["provenance"]["task"] == few.fingerprint
    values = found["estimators"]["values"]
    assert {len(own) for own in values.values()} == {2} and {"r2", chains.ADDED, "logme"} < set(values)
    rows = few.splits["train"]
    h = chains.Texts(chains.Encoder(chains.SLM, 16, "cpu", True), rows).pooled()
    states = chains.llm_features(str(donor), rows, kind="single", pooling="mean+last", max_tokens=32, progress=False)
    for at, depth in enumerate((0, 2)):
        own = np.asarray(states[depth])
        assert values["r2"][at] == pytest.approx(left_out_r2(h, own), abs=1e-4)
        assert values["logistic_nll"][at] == pytest.approx(-estimators.logistic_nll(own, rows.labels), rel=1e-3)
        assert values[chains.ADDED][at] == pytest.approx(
            estimators.usable_information(own, rows.labels, other=h), rel=1e-3, abs=1e-4
        )
    monkeypatch.setattr(chains, "llm_features", lambda *_, **__: pytest.fail("it was recorded"))
    chains.estimate("words", sizes, 0, file, [0, 2])
