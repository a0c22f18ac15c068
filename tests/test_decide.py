"""A question about a layer is decided with as many seeds as it needs, and looks at the data are paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pifi_probe as pp
from pifi_probe.errors import RecipeError, SearchError, TaskError
from pifi_probe.experiments import decide as module
from pifi_probe.training import Comparison, RunResult
from tests.runs import RECIPE, TASK, Parts, made_up


def invented(monkeypatch: pytest.MonkeyPatch, accuracies: dict[str | None, float]) -> list[tuple[str | None, int]]:
    """Let every run be made up; return the list of what was run."""
    made: list[tuple[str | None, int]] = []

    def run(file: Path, arm: Any, slm: str, layer: Any, task: Any, also: Any, recipe: Any) -> RunResult:
        made.append((arm.control, recipe.seed))
        return made_up("matched", control=arm.control, seed=recipe.seed, accuracy=accuracies[arm.control], n=2000)

    monkeypatch.setattr(module, "stored_run", run)
    return made


CLEAR: dict[str | None, float] = {"vanilla": 0.6, "linear": 0.6, "random": 0.6, "shuffled": 0.6, None: 0.9}
CLOSE = CLEAR | {None: 0.604}


def test_a_clear_answer_needs_two_seeds_of_every_arm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = invented(monkeypatch, CLEAR)
    found = pp.decide("slm", object(), TASK, out=tmp_path)  # type: ignore[arg-type]
    assert (found.verdict, found.stopped, len(made)) == ("better", "decided", 10)
    assert str(found).startswith("knowledge: better, +30.0 [")
    kept = json.loads((tmp_path / "decision.json").read_text(encoding="utf-8"))
    assert kept["verdict"] == "better" and kept["provenance"]["versions"]["torch"]


def test_more_seeds_go_to_the_arms_of_the_question_and_every_look_is_paid_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = invented(monkeypatch, CLOSE)
    found = pp.decide("slm", object(), TASK, out=tmp_path, budget="25")  # type: ignore[arg-type]
    assert (found.verdict, found.stopped) == ("undecided", "budget")
    assert len(made) <= 25 and {control for control, seed in made if seed > 1} == {None, "random", "shuffled"}
    assert f"one of {100 * found.looks[-1]['level']:.1f} %, since looks are paid for" in str(found).splitlines()[1]
    errors = [1 - look["level"] for look in found.looks]
    done = [10, 13, 16, 22]  # of 25 runs: what is spent goes with the budget, and the last look spends the rest
    assert [look["seeds"] for look in found.looks] == [2, 3, 4, 6]
    assert np.cumsum(errors) == pytest.approx([0.04 * n / 25 for n in done[:-1]] + [0.04])
    assert "stopped by the budget" in str(found)


@pytest.mark.parametrize("accuracies", [CLEAR, CLOSE])
def test_the_answer_fits_a_terminal_and_says_what_would_decide_the_rest(
    accuracies: dict[str | None, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    invented(monkeypatch, accuracies)
    found = pp.decide("slm", object(), TASK, out=tmp_path, budget="25")  # type: ignore[arg-type]
    lines, said = found.panel().splitlines(), " ".join(found.panel().split())
    assert 1 <= len(lines) <= 8 and all(len(line) <= 80 for line in lines)
    assert said.startswith(str(found).splitlines()[0]) and "Plugging in" in said
    assert f"one of {100 * found.looks[-1]['level']:.1f} %, those below are of 95 %" in said
    undecided = "Stopped by the budget. To decide matched, knowledge: " in said
    assert undecided is (found.verdict == "undecided") is (accuracies is CLOSE)


def test_a_call_that_goes_on_keeps_earlier_looks_and_pays_out_of_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = invented(monkeypatch, CLOSE)
    first = pp.decide("slm", object(), TASK, out=tmp_path, budget="16")  # type: ignore[arg-type]
    again = pp.decide("slm", object(), TASK, out=tmp_path, budget="16")  # type: ignore[arg-type]
    assert again.looks == first.looks and again.stopped == "budget"
    more = pp.decide("slm", object(), TASK, out=tmp_path, budget="40")  # type: ignore[arg-type]
    assert more.looks[: len(first.looks)] == first.looks and len(more.looks) > len(first.looks)
    spent = [sum(1 - look["level"] for look in found.looks) for found in (first, more)]
    assert spent == pytest.approx([0.04, 0.048]) and len(made) > 16
    other = pp.decide("slm", object(), TASK, out=tmp_path, budget="16", question="block")  # type: ignore[arg-type]
    assert other.looks[0]["level"] < 1 - 0.01  # a question of its own


def test_spent_error_that_cannot_be_read_is_not_spent_again_in_silence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = invented(monkeypatch, CLOSE)
    for text in ("[]", "{", '{"block, margin 1": {"2": "x"}}', '{"block, margin 1": {"x": 0.99}}', '{"a": {"2": 0.2}}'):
        (tmp_path / "looks.json").write_text(text, encoding="utf-8")
        with pytest.raises(RecipeError, match="looks.json.*remove this file"):
            pp.decide("slm", object(), TASK, out=tmp_path, budget="12")  # type: ignore[arg-type]
    assert made == []  # before anything is trained
    (tmp_path / "looks.json").unlink()
    assert pp.decide("slm", object(), TASK, out=tmp_path, budget="12").looks  # type: ignore[arg-type]


def test_a_wide_margin_makes_a_small_difference_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    invented(monkeypatch, CLOSE)
    found = pp.decide("slm", object(), TASK, out=tmp_path, margin=10.0)  # type: ignore[arg-type]
    assert (found.verdict, found.stopped) == ("equivalent", "decided")


@pytest.mark.parametrize("margin", [None, "1", True, float("nan"), 0, -1.0, 100])
def test_a_margin_that_is_none_is_refused_before_anything_is_made(margin: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"margin=.* is not between 0 and 100.*1\.0 is one point"):
        pp.decide("slm", object(), TASK, out=tmp_path / "new", margin=margin)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_a_recipe_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"a str is no recipe.*pifi_probe\.Recipe"):
        pp.decide("slm", object(), TASK, out=tmp_path / "new", recipe="x")  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_with_fewer_labels_it_is_decided_too_and_the_budget_is_shared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = invented(monkeypatch, CLOSE)
    n = len(TASK.splits["train"])
    found = pp.decide("slm", object(), TASK, out=tmp_path, budget="36", fractions=[0.5, 8])  # type: ignore[arg-type]
    assert sorted(found.fewer) == [8, n // 2] and len(made) <= 36
    assert all((tmp_path / f"labels-{size}" / "decision.json").is_file() for size in found.fewer)
    assert "8 labelled texts: knowledge: undecided" in str(found)
    assert set(found.to_dict()["fewer"]) == {"8", str(n // 2)}
    with pytest.raises(TaskError, match=f"{n + 1} labelled texts"):
        pp.decide("slm", object(), TASK, out=tmp_path, fractions=[n + 1])  # type: ignore[arg-type]


def test_where_no_effect_is_found_it_says_whether_the_weights_could_have_been_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Comparison, "sight", lambda self: ["layer 3 does nothing that its twins do not"])
    invented(monkeypatch, CLOSE)
    found = pp.decide("slm", object(), TASK, out=tmp_path / "close", budget="12")  # type: ignore[arg-type]
    assert "layer 3 does nothing" in str(found) and found.to_dict()["sight"] == found.sight != []
    invented(monkeypatch, CLEAR)
    assert pp.decide("slm", object(), TASK, out=tmp_path / "clear").sight == []  # type: ignore[arg-type]


@pytest.mark.parametrize("question", module.QUESTIONS)
def test_every_question_is_an_effect_of_the_ladder(
    question: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    invented(monkeypatch, CLEAR)
    found = pp.decide("slm", object(), TASK, out=tmp_path, question=question, budget="12")  # type: ignore[arg-type]
    assert found.effect.name == question


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"question": "why"}, RecipeError, "unknown question"),
        ({"margin": 0.0}, RecipeError, "margin"),
        ({"margin": float("nan")}, RecipeError, "margin"),
        ({"margin": 100.0}, RecipeError, "1.0 is one point"),
        ({"budget": "soon"}, SearchError, "not a budget"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: Any, error: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=says):
        pp.decide("slm", "llm[0]", TASK, out=tmp_path, **options)


@pytest.mark.slow
def test_real_runs_are_kept_and_not_made_again(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts")
    seen: list[RunResult] = []
    options: dict[str, Any] = {"recipe": RECIPE.replace(epochs=1), "out": tmp_path / "runs", "wiring": "pifi"}
    first = pp.decide(str(parts.slm), parts.layer, TASK, budget="11", on_run=seen.append, **options)
    assert len(seen) == 10 and first.stopped in ("budget", "decided")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("result.json")}
    again = pp.decide(str(parts.slm), parts.layer, TASK, budget="11", **options)
    assert again.effect == first.effect
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").rglob("result.json")}


def test_a_budget_that_pays_for_no_look_is_refused_after_the_first_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = invented(monkeypatch, CLEAR)
    with pytest.raises(RecipeError, match="the budget of 9 C is smaller than two seeds of every arm"):
        pp.decide("slm", object(), TASK, out=tmp_path, budget="9")  # type: ignore[arg-type]
    assert len(made) == 1
