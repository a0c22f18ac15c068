"""``pifi-probe probe``: tables for people, JSON for machines, files where they are asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import pifi_probe as pp
from pifi_probe.cli import main
from tests import slm, tiny

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def command(llm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("PIFI_PROBE_FEATURES", str(tmp_path / "features"))
    rows = [
        f"the {slm.WORDS[8 + n % 4]} was {slm.WORDS[n % 8]} {n},{'good' if n % 8 < 4 else 'bad'}" for n in range(90)
    ]
    file = tmp_path / "words.csv"
    file.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return ["probe", llm, "--task", str(file), "-n", "40", "--estimators", "ridge_accuracy,logme"]


def test_it_prints_the_best_depths(command: list[str], capsys: Captured) -> None:
    assert main(command) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "own-state scores" in shown and "LogME" in shown
    assert {"best", "depth", "among"} <= set(shown.split()), "headings wrap, and are not cut"


def test_json_is_the_whole_table(command: list[str], capsys: Captured) -> None:
    assert main([*command, "--json"]) == 0
    table = pp.ProbeTable.from_json(capsys.readouterr().out)
    assert table.estimators == ["ridge_accuracy", "logme"]
    assert table.frame["depth"].max() == tiny.N_LAYERS


def test_files_are_written_where_they_are_asked_for(command: list[str], tmp_path: Path, capsys: Captured) -> None:
    files = {option: tmp_path / f"out/table.{option}" for option in ("out", "csv", "html")}
    assert main([*command, *(part for option, file in files.items() for part in (f"--{option}", str(file)))]) == 0
    table = pp.ProbeTable.from_json(files["out"])
    assert len(pd.read_csv(files["csv"])) == len(table.frame) == 2 * (tiny.N_LAYERS + 1)
    assert files["html"].read_text(encoding="utf-8").count("<svg ") == 2


def test_with_a_small_model_it_scores_plug_ins(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    asked: dict[str, Any] = {}
    own_states = pp.probe

    def plugged(slm: str, llm: str, task: pp.Task, settings: pp.PluginProbeSettings, **options: Any) -> pp.ProbeTable:
        asked.update(options, slm=slm, settings=settings)
        return own_states(llm, task, **options)

    monkeypatch.setitem(vars(pp), "probe_plugin", plugged)
    assert main([*command, "--slm", "minilm-l6", "--seed", "3"]) == 0
    chosen = {"estimators": "ridge_accuracy,logme", "n": 40, "seed": 3}
    assert asked == {"slm": "minilm-l6", "settings": pp.PluginProbeSettings(), **chosen}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--split", "test"], "no longer be held out"),
        (["--estimators", "nosuch"], "nosuch"),
        (["-n", "4000"], "4000 rows"),
        (["--label", "stars"], "stars"),
        (["--html", "{tmp}/words.csv/report.html"], "could not write"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(
    command: list[str], extra: list[str], message: str, tmp_path: Path, capsys: Captured
) -> None:
    assert main([*command, *(part.replace("{tmp}", str(tmp_path)) for part in extra)]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ") and message in lines[0] and "| next: " in lines[0]
    assert not captured.out.strip()


def test_help_has_an_example(capsys: Captured) -> None:
    assert main(["probe", "--help"]) == 0
    assert "Example: pifi-probe probe" in " ".join(capsys.readouterr().out.split())


def test_json_goes_alone_to_standard_output(command: list[str], capsys: Captured) -> None:
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    json.loads(captured.out)
    assert not captured.err.strip()
