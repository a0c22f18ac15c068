"""Headroom says what the donor adds, where it learns it, and nothing where it adds nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import CorruptFileError, TaskError
from pifi_probe.features.headroom_table import build_headroom, choose_span, span_scores
from tests import slm, tiny

N, DEPTHS = 400, 9


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIFI_PROBE_FEATURES", str(tmp_path / "features"))
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "cache"))


def planted(rises: bool) -> pp.Headroom:
    """The encoder is right in 70 % of the texts; with the donor from depth 5 on in 80 %, or never more often."""
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=N)

    def said(right: float) -> NDArray[np.float64]:
        wrong = np.random.default_rng(1).random(N) >= right  # the same texts are easy everywhere
        odds = np.where(wrong, -1.0, 1.0) * np.where(y == 1, 1.0, -1.0) * (0.5 + right)
        return np.stack([-np.logaddexp(0, odds), -np.logaddexp(0, -odds)], axis=1)

    both = np.stack([said(0.8 if rises and depth >= 5 else 0.7) for depth in range(DEPTHS)])
    return build_headroom(said(0.7), both, both, y, [0.6] * (DEPTHS - 1), {"llm": "A", "slm": "B", "task": "C"}, {})


def test_what_the_donor_adds_is_the_paired_difference_at_its_best_depth():
    found = planted(True)
    assert found.gain == pytest.approx(100 * (np.mean(found.both[5:]) - found.encoder), abs=0.01)
    assert found.low < found.gain < found.high and found.something and found.depth == 5
    assert found.learned[1] == 4 and "the donor adds" in str(found) and "learns them in layer 4" in found.answer


def test_where_nothing_is_added_the_answer_says_so():
    found = planted(False)
    assert found.gain == 0 and not found.something
    assert found.answer.startswith("Nothing to gain can be seen from A to B on C: +0.0 points")


def test_a_span_begins_before_the_rise_and_ends_after_it():
    added = [0, 0, 0, 0, 0, 4, 8, 8, 8, 8]
    first, last = choose_span(added, [0.5] * 9)
    assert first <= 3 and last in (5, 6, 7)
    early = choose_span(added, [0.01, 0.02, 0.05, 0.6, 0.6, 0.6, 0.5, 0.5, 0.5])
    assert early[0] >= 3  # no chain enters where the interface does not fit
    assert choose_span([0, -1, -2, -3], [0.5] * 3)[0] in range(3)  # where nothing rises, a chain all the same
    scores = span_scores(added, [0.5] * 9, max_layers=2)
    assert set(scores["layers"]) == {1, 2} and scores["score"].is_monotonic_decreasing


def test_it_comes_back_from_its_file_as_it_was(tmp_path: Path):
    found = planted(True)
    found.to_json(tmp_path / "h.json")
    assert pp.Headroom.from_json(tmp_path / "h.json") == found == pp.Headroom.from_json(found.to_json())
    with pytest.raises(CorruptFileError, match="not a headroom"):
        pp.Headroom.from_json("{}")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tiny.tiny_checkpoint("llama", tmp_path_factory.mktemp("llm"))
    slm.tiny_tokenizer().save_pretrained(folder)
    return str(slm.tiny_slm_folder(tmp_path_factory.mktemp("slm"))), str(folder)


def test_every_depth_of_a_donor_is_measured_once_and_kept(
    models: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pp.headroom(*models, slm.tiny_task(60), progress=False)
    assert len(found.donor) == len(found.both) == tiny.N_LAYERS + 1 and len(found.r2) == tiny.N_LAYERS
    assert 0 <= found.span[0] <= found.span[1] < tiny.N_LAYERS and found.info["n"] == 60
    monkeypatch.setattr("pifi_probe.features.headroom.llm_features", None)
    assert pp.headroom(*models, slm.tiny_task(60), progress=False) == found


def test_what_is_kept_has_the_names_of_today_and_knows_what_it_hangs_on(
    models: tuple[str, str], tmp_path: Path
) -> None:
    task = slm.tiny_task(24)
    found = pp.headroom(*models, task, progress=False)
    moved = tmp_path / "moved"
    shutil.copytree(models[1], moved)
    again = pp.headroom(models[0], str(moved), replace(task, name="other"), progress=False)
    assert again.both == found.both and again.chain.startswith(str(moved)) and again.info["task"] == "other"
    for max_tokens in (64, 70):  # the encoder has 64 positions, the donor reads twice as many tokens
        assert pp.headroom(*models, task, max_tokens=max_tokens, progress=False).info["max_tokens"] == max_tokens
    file = moved / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"good"', '"gooood"'), encoding="utf-8")
    assert pp.headroom(models[0], str(moved), task, progress=False).r2 != found.r2


def test_the_test_split_is_refused(models: tuple[str, str]):
    with pytest.raises(TaskError, match="test split cannot be used"):
        pp.headroom(*models, slm.tiny_task(60), split="test", progress=False)


def test_the_command_prints_the_answer(models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = slm.tiny_task(60).splits["train"]
    file = tmp_path / "words.csv"
    lines = [f"{text},{('bad', 'good')[label]}" for text, label in zip(rows.texts, rows.labels, strict=True)]
    file.write_text("text,label\n" + "\n".join(lines), encoding="utf-8")
    args = ["headroom", "--task", str(file), "--slm", models[0], "--llm", models[1], "-o", str(tmp_path / "h.json")]
    assert main(args) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert {"interface", "R²"} <= set(shown.split()), "headings wrap, and are not cut"
    assert pp.Headroom.from_json(tmp_path / "h.json").answer[:20] in shown
