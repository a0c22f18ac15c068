"""A budget in time is for the whole search: what the confirmation needs is kept back, and less is confirmed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pifi_probe as pp
from pifi_probe.errors import SearchError
from pifi_probe.ladder import control_seeds
from pifi_probe.selection import events, runner
from pifi_probe.selection.budget import Budget, Measure, Spent
from pifi_probe.selection.space import Candidate
from pifi_probe.selection.store import CONFIRM
from pifi_probe.selection.trials import Outcome, Proposal, Trial
from tests.search_stub import SPACE, in_memory
from tests.test_search import TASK, Valley

MINUTE = 60.0
N_TRAIN = len(TASK.splits["train"])


class Clock:
    """Seconds that pass while runs are made."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Minutes(Valley):
    """A full run takes a minute of a clock that is set by hand."""

    def measure(self) -> Measure:
        return Measure(MINUTE, 1 << 20)

    def evaluate(self, candidate: Candidate, fidelity: str, seed: int, stop: Callable[[], bool]) -> Outcome:
        seconds = MINUTE * self.cost(candidate, fidelity)
        CLOCK.now += seconds
        return replace(super().evaluate(candidate, fidelity, seed, stop), seconds=seconds)


CLOCK = Clock()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    CLOCK.now = 0.0
    evaluator = Minutes(seconds=0.0)
    for home in ("search", "study"):
        monkeypatch.setattr(f"pifi_probe.selection.{home}.make_evaluator", lambda *args: evaluator)
    monkeypatch.setattr("pifi_probe.selection.search.make_space", lambda *args: SPACE)
    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=CLOCK))
    return CLOCK


def search(budget: str, strategy: str = "exhaustive", **options: Any) -> pp.Study:
    return pp.search("slm", "llm", TASK, study=None, strategy=strategy, budget=budget, **options)


def confirmed(study: pp.Study) -> dict[str | None, int]:
    """Return the seeds of each control in the confirmation."""
    found: dict[str | None, int] = {}
    for record in study.store.records():
        if record.phase == CONFIRM and record.trial.candidate.layers != ("llm[9]",):
            found[record.trial.candidate.control] = found.get(record.trial.candidate.control, 0) + 1
    return found


@pytest.mark.parametrize(
    ("budget", "layer", "controls"),
    [("30m", 2, 2), ("70m", 3, control_seeds(3, 2))],
)
def test_a_time_is_for_choosing_and_confirming(clock: Clock, budget: str, layer: int, controls: int) -> None:
    study = search(budget)
    assert clock.now <= Budget.parse(budget).amount
    seeds = confirmed(study)
    assert seeds[None] == layer and seeds["vanilla"] == seeds["random"] == controls
    assert study.result is not None and study.result.confirm_fidelity == "full"


def test_a_time_without_room_for_full_runs_ends_with_a_frozen_encoder(clock: Clock) -> None:
    told: list[events.Event] = []
    study = search("10m", "auto", on_event=told.append)
    assert clock.now <= 10 * MINUTE
    assert study.result is not None and study.result.confirm_fidelity == "frozen" and study.result.effects
    (estimated,) = [one.estimate for one in told if isinstance(one, events.Estimated)]
    said = str(estimated)
    assert "both within the budget, with a frozen encoder" in said
    assert said.startswith("a full run takes about 60 s (1 C); choosing takes at most ")
    assert max(map(len, said.split("; "))) < 80  # the lines of a terminal


def test_a_time_that_pays_for_no_confirmation_is_refused_with_what_it_takes(clock: Clock) -> None:
    with pytest.raises(SearchError, match="smaller than the first trial and its confirmation .*13 min"):
        search("10m")


def test_runs_are_for_choosing_and_the_confirmation_comes_on_top(clock: Clock) -> None:
    told: list[events.Event] = []
    study = search("5", on_event=told.append)
    assert study.spent.cost == 5 and confirmed(study)[None] == 3
    (estimated,) = [one.estimate for one in told if isinstance(one, events.Estimated)]
    assert "on top of the budget" in str(estimated)


def test_one_line_says_how_far_both_parts_are_and_what_time_is_left(clock: Clock) -> None:
    told: list[events.Event] = []
    search("5", on_event=told.append)
    lines = [one.progress(Budget.parse("5")) for one in told if isinstance(one, events.TrialFinished)]
    assert lines[0] == "choose 1.00 of 5 C, confirm 0 of 22 runs, about 26 min left"
    assert lines[-1] == "choose 5.00 of 5 C, confirm 22 of 22 runs, about 1 s left"


def test_the_default_is_twenty_minutes_and_a_first_pass(clock: Clock, tmp_path: Path) -> None:
    study = pp.search("slm", "llm", TASK, study=tmp_path / "s.db", strategy="fast", max_texts=10)
    assert str(study.budget) == "20m"
    assert study.settings.task["sizes"]["train"] == 10
    assert study.result is not None and f"a first pass on 10 of {N_TRAIN} train" in study.result.verdict
    again = pp.Study.open(tmp_path / "s.db", task=TASK)
    assert again.task is not None and again.task.fingerprint == study.settings.task["fingerprint"]
    with pytest.raises(SearchError, match="max_texts=0"):
        pp.search("slm", "llm", TASK, study=None, max_texts=0)


def test_a_spent_time_counts_the_confirmation(clock: Clock) -> None:
    store = in_memory()
    for phase, seed in (("select", 0), (CONFIRM, 1000)):
        claim = store.claim(Proposal(SPACE.singles()[0], "full", seed), phase, phase)
        assert claim is not None
        store.finish(claim, Outcome(0.5, cost=1.0), 60.0)
    assert store.spent() == Spent(1.0, 1, 60.0) and store.spent(confirmed=True) == Spent(2.0, 2, 120.0)
    assert isinstance(store.records()[0].trial, Trial)
