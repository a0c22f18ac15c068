"""The demo: every arm with every seed on the embedded models, stored run by run, and a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pifi_probe.errors import RecipeError
from pifi_probe.experiments import demo, runner
from pifi_probe.experiments.demo import DemoArm, Size, run_demo
from pifi_probe.experiments.plan import Arm
from pifi_probe.training import RunResult

pytestmark = pytest.mark.assets

ARMS = (
    DemoArm(Arm(control="vanilla"), 29),
    DemoArm(Arm(control="vanilla", tuned=True), 29),
    DemoArm(Arm(control="random"), 29),
    DemoArm(Arm(), 0),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished demo of four arms and one seed on very few texts."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        seen: list[tuple[int, int, str]] = []
        run_demo(folder, size="tiny", on_run=lambda done, total, run: seen.append((done, total, run.label)))
    assert [(done, total) for done, total, _ in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len({label for _, _, label in seen}) == 4
    return folder


def small(patch: pytest.MonkeyPatch, epochs: int = 1) -> None:
    patch.setattr(demo, "SIZES", {"tiny": Size(0, 8, 8, 12, seeds=1, epochs=epochs)})
    patch.setattr(demo, "ARMS", ARMS)


def test_the_demo_writes_runs_a_comparison_and_a_report(finished: Path) -> None:
    record = json.loads((finished / "comparison.json").read_text(encoding="utf-8"))
    assert record["size"]["train"] == 8 and record["provenance"]["versions"]["torch"]
    rows = record["comparisons"]["vanilla"]["rows"]
    assert {row["test"] for row in rows} == {"movie-reviews", "tweets", "product-reviews"}
    assert all(row["difference"] is not None for row in rows if row["arm"] != "pifi: vanilla")
    report = (finished / "report.html").read_text(encoding="utf-8")
    assert "Against the encoder alone" in report and "nothing about seed noise" in report


def test_a_tuned_vanilla_says_which_rate_it_chose(finished: Path) -> None:
    run = RunResult.from_json(finished / "runs" / "pifi-vanilla-tuned-seed0" / "result.json")
    assert run.tuned["learning_rate"] in (2e-5, 5e-5, 1e-4) and "best learning_rate" in run.label


def test_a_finished_demo_trains_nothing_again(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    for name in ("fine_tune", "vanilla_best_lr", "plug_in"):
        monkeypatch.setattr(runner, name, lambda *args, **kwargs: pytest.fail("trained again"))
    assert len(run_demo(finished, size="tiny").results) == len(ARMS)


def test_a_folder_of_another_recipe_is_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, epochs=2)
    with pytest.raises(RecipeError, match="another recipe"):
        run_demo(finished, size="tiny")


def test_an_unknown_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown size"):
        run_demo(tmp_path, size="huge")
