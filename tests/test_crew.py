"""Arms with several seeds: where they run, which get more seeds, and what becomes of a worker that dies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any

import pytest

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import RecipeError
from pifi_probe.experiments.crew import ARMS, Crew, arms_named, jobs_of, run_all
from pifi_probe.experiments.plan import load_experiment
from pifi_probe.ladder import control_seeds
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.selection.executors import Local
from pifi_probe.selection.trials import Outcome, Proposal
from tests.runs import RECIPE, TASK, Parts, made_up


def make(file: Path, arm: Any, slm: str, layer: Any, task: Any, also: Any, recipe: Any) -> Any:
    return made_up("matched", control=arm.control, seed=recipe.seed)


CREW = Crew(Path("nowhere"), "slm", None, TASK, RECIPE.replace(seed=5), "matched", make=make)  # type: ignore[arg-type]


def test_every_arm_runs_with_every_seed_from_the_recipes_on() -> None:
    seen: list[Any] = []
    found = run_all(CREW, jobs_of(ARMS, 2), Local(), seen.append)
    assert set(found) == {(arm, seed) for arm in ARMS for seed in range(2)}
    assert found["real", 1].seed == 6 and found["random", 0].model["control"] == "random" and len(seen) == 10


class Dying(Local):
    """The first worker dies."""

    def __init__(self, deaths: int) -> None:
        self.deaths = deaths

    def submit(self, evaluator: Any, proposal: Proposal, stop: Callable[[], bool]) -> Future[Outcome]:
        if self.deaths:
            self.deaths -= 1
            future: Future[Outcome] = Future()
            future.set_exception(BrokenExecutor("killed"))
            return future
        return super().submit(evaluator, proposal, stop)


def test_a_run_whose_worker_dies_is_made_again_but_not_without_end() -> None:
    assert len(run_all(CREW, jobs_of(("vanilla",), 2), Dying(2))) == 2
    with pytest.raises(BrokenExecutor):
        run_all(CREW, jobs_of(("vanilla",), 2), Dying(99))


def test_what_is_in_every_comparison_gets_more_seeds() -> None:
    assert [control_seeds(3, n) for n in (0, 1, 2, 9, 30)] == [3, 3, 4, 9, 16]
    plan = load_experiment("layer-position")
    seeds = plan.seeds_of(plan.scale("small"), "reviews")
    arms = plan.arms_in(plan.scale("small"), "reviews")
    assert {seeds[key] for key, arm in arms.items() if arm.control is None} == {3}
    assert {seeds[key] for key, arm in arms.items() if arm.control == "vanilla"} == {control_seeds(3, 3)} == {5}


def test_arms_are_named_or_refused() -> None:
    assert arms_named("all") == ARMS and arms_named("vanilla, real") == ("vanilla", "real")
    for wrong in ("vanila", "vanilla,nobody", " , "):
        with pytest.raises(RecipeError, match="arm"):
            arms_named(wrong)


def test_arms_are_trained_from_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, layer: FrozenLayer) -> None:
    monkeypatch.setattr("pifi_probe.experiments.train_arms.Crew", functools.partial(Crew, make=make))
    seen: list[Any] = []
    call = functools.partial(pp.train_arms, "slm", layer, TASK, RECIPE, out=tmp_path / "arms", wiring="matched")
    found = call(arms=["real", "vanilla"], n_seeds=2, on_run=seen.append)
    assert [(run.model["control"], run.seed) for run in found] == [(None, 0), ("vanilla", 0), (None, 1), ("vanilla", 1)]
    assert len(seen) == 4 and len(call(n_seeds=1)) == len(ARMS)
    for words, wrong in {
        "unknown arm 'vanila'": {"arms": "vanila"},
        "named twice": {"arms": ["real", "real"]},
        "n_seeds=0": {"n_seeds": 0},
        "n_seeds=True": {"n_seeds": True},
        "n_seeds=1.5": {"n_seeds": 1.5},
    }.items():
        with pytest.raises(RecipeError, match=words):
            call(**wrong)


@pytest.mark.slow
def test_the_command_trains_all_arms_and_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = Parts(tmp_path / "parts")
    rows = [f"{'good' if n % 2 else 'bad'} film number {n},{'pos' if n % 2 else 'neg'}" for n in range(60)]
    (tmp_path / "mine.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    call = ["train", "--task", str(tmp_path / "mine.csv"), "--slm", str(parts.slm), "--layer", f"{parts.llm}[0]"]
    call += ["-o", str(tmp_path / "runs"), "--arms", "vanilla,real", "--seeds", "2", "--epochs", "1"]
    assert main(call) == 0
    assert "Plugging in" in capsys.readouterr().out and (tmp_path / "runs" / "comparison.json").is_file()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("result.json")}
    assert len(before) == 4 and main(call) == 0
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("result.json")}
    assert main([*call, "--control", "linear"]) == 2
