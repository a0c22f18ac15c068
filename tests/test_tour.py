"""The ten-minute demo: three stops, each kept, as many runs as the machine's speed allows, and an answer at the end."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest

from pifi_probe.cli import main
from pifi_probe.cli.demo import opener
from pifi_probe.errors import RunInterrupted
from pifi_probe.experiments import tour
from pifi_probe.experiments.demo import Size
from pifi_probe.experiments.tour import runs_that_fit


@pytest.mark.parametrize(
    ("left", "first", "expected"),
    [(500, 10, (3, 4)), (500, 45, (3, 3)), (500, 60, (2, 3)), (500, 100, (1, 4)), (60, 100, (1, 3)), (0, 1e9, (1, 3))],
)
def test_a_timed_first_run_decides_how_many_follow(left: float, first: float, expected: tuple[int, int]) -> None:
    assert runs_that_fit(left, first) == expected


def test_the_last_line_opens_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    for platform, command in (("darwin", "open"), ("linux", "xdg-open"), ("win32", "start")):
        monkeypatch.setattr("sys.platform", platform)
        assert opener() == command


def test_whoever_stops_it_is_told_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*args: object, **kwargs: object) -> None:
        raise RunInterrupted("interrupted; the run is kept up to step 20", where="elsewhere", next="call fine_tune")

    monkeypatch.setattr(tour, "run_tour", stopped)
    assert main(["demo", "--out", str(tmp_path)]) != 0
    said = capsys.readouterr().err
    assert "run `pifi-probe demo` again" in " ".join(said.split()) and "fine_tune" not in said


@pytest.mark.slow
@pytest.mark.assets
def test_the_three_stops_are_made_once_and_end_in_answers_and_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tour, "SECONDS", 0.0)
    monkeypatch.setattr(tour, "COPIES", {"layers": "18", "n_fit": 24, "n_test": 12, "cache": False})
    chain = {"layers": "14", "n_train": 60, "n_test": 40, "n_align": 60, "max_tokens": 24, "cache": False}
    monkeypatch.setattr(tour, "CHAIN", chain)
    monkeypatch.setattr(tour, "PAPER", Size(1, train=16, validation=8, test=20, seeds=3, epochs=1))
    assert main(["demo", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(word) for word in ("1 of 3", "2 of 3", "3 of 3", "3 runs, 1 seed of 3 arms", "The answer")]
    assert places == sorted(places)
    folder = tmp_path / "demo-default"
    assert shown.rstrip().endswith(f"{opener()} {folder / 'report.html'}")
    report = (folder / "report.html").read_text(encoding="utf-8")
    record = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert len(record["answers"]) == 3 and record["size"]["runs"] == 3
    assert "one seed cannot tell the layer from its twin" in [*record["answers"].values()][2]
    assert all(question in html.unescape(report) for question in record["answers"]) and report.count("<svg") == 2
    assert 0 < record["seconds of"]["first"] < record["seconds"]

    other = chain | {"n_train": 61}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tour, "CHAIN", other)
        assert main(["demo", "--out", str(tmp_path)]) != 0
        assert "a demo of other sizes" in capsys.readouterr().err
    for part in ("positive_control", "probe_chain"):
        monkeypatch.setattr(tour, part, lambda *args, **kwargs: pytest.fail("made again"))
    assert main(["demo", "--out", str(tmp_path), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["answers"] == record["answers"] and again["seconds"] == pytest.approx(record["seconds"])
