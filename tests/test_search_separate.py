"""What would tell the two best candidates apart, and the seeds that are run for it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

import pifi_probe as pp
from pifi_probe.errors import SearchError
from pifi_probe.selection import separate as apart
from pifi_probe.selection.budget import Spent
from pifi_probe.selection.conclude import conclude
from pifi_probe.selection.separate import separation
from pifi_probe.selection.store import Record
from pifi_probe.selection.trials import Outcome, Trial
from tests.search_stub import SPACE, Sweep
from tests.test_search import Valley, search, stub  # noqa: F401

LAYERS = SPACE.singles()


def records(values: dict[int, list[float]], seconds: float = 30.0) -> list[Record]:
    trials = [
        Trial(LAYERS[layer], "full", seed, "complete", Outcome(value, 0.8, 1.0, seconds), 10 * layer + seed)
        for layer, own in values.items()
        for seed, value in enumerate(own)
    ]
    return [Record(trial, "select", "session", 0.0) for trial in trials]


def separated(values: dict[int, list[float]]) -> apart.Separation | None:
    own = records(values)
    strategy = Sweep()
    for record in own:
        strategy.observe(record.trial)
    return separation(own, conclude(strategy, own, SPACE, Spent()))


def test_the_seeds_that_are_needed_follow_from_difference_and_noise() -> None:
    found = separated({3: [0.50, 0.54], 6: [0.51, 0.55], 9: [0.61, 0.67]})
    assert found is not None and {found.best, found.next} == {LAYERS[3], LAYERS[6]}
    assert abs(found.difference) == pytest.approx(0.01)
    assert found.noise == pytest.approx(math.sqrt(0.0002 / 3), rel=1e-6)  # residuals of an additive model, 2 df left
    needed = math.ceil(2 * (1.1 * 1.96 * found.noise / math.sqrt(2) * math.sqrt(2)) ** 2 / 0.01**2)
    assert abs(found.seeds - (needed - 2)) <= 1
    assert len(found.runs) == 2 * found.seeds and min(run.seed for run in found.runs) == 2
    assert found.seconds == pytest.approx(30.0 * len(found.runs))
    assert f"{found.seeds} more seed" in str(found) and f"{len(found.runs)} runs" in found.offer


def test_what_is_told_apart_already_or_never_asks_for_no_runs() -> None:
    clear = separated({3: [0.30, 0.341], 6: [0.51, 0.55], 9: [0.61, 0.65]})
    assert clear is not None and not clear.seeds and not clear.runs and not clear.offer and "already" in str(clear)
    equal = separated({3: [0.50, 0.54], 6: [0.54, 0.50], 9: [0.71, 0.65]})
    assert equal is not None and not equal.runs and not equal.offer and "take either" in str(equal)


def test_without_a_repeated_run_three_seeds_of_each_are_asked_for() -> None:
    found = separated({3: [0.50], 6: [0.51]})
    assert found is not None and found.seeds == 2 and math.isnan(found.noise) and "no run was repeated" in str(found)
    assert [(run.candidate, run.seed) for run in found.runs] == [
        (one, seed) for seed in (1, 2) for one in (found.best, found.next)
    ]


def test_of_one_candidate_nothing_is_asked() -> None:
    assert separated({3: [0.50, 0.51]}) is None


def test_the_seeds_are_added_to_a_study_that_is_over_and_it_stays_over(stub: Valley, tmp_path: Path) -> None:  # noqa: F811
    study = search(tmp_path / "s.db", budget="4 trials", n_seeds=1)
    asked = study.separation
    assert asked is not None and asked.runs and study.is_over()
    before = {trial.identity for trial in study.trials}
    study.separate()
    after = {trial.identity: trial for trial in study.trials}
    assert {run.identity for run in asked.runs} <= after.keys() and before <= after.keys()
    assert all(after[run.identity].why == run.why for run in asked.runs)
    assert study.is_over() and str(study.budget) == "4 trials"
    result = study.result
    assert result is not None and result.effects, "the choice is confirmed, whichever it is now"
    reopened = pp.Study.open(tmp_path / "s.db")
    with pytest.raises(SearchError, match="without its task|decide nothing"):
        reopened.separate()


def test_where_seeds_decide_nothing_it_is_said(stub: Valley, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    study = search(budget="2 trials", n_seeds=1, confirm=False)
    monkeypatch.setattr(
        "pifi_probe.selection.study.separation", lambda *args: replace(separation(*args), runs=(), seeds=0)
    )
    with pytest.raises(SearchError, match="more seeds decide nothing here"):
        study.separate()
