"""Tests of the search's engine: budgets, pauses, failures, and everything that can go wrong with a disk."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from pifi_probe.errors import CorruptFileError, ModelNotFoundError, SaveError, SearchError
from pifi_probe.selection import events
from pifi_probe.selection.budget import Budget, Spent
from pifi_probe.selection.database import Address
from pifi_probe.selection.executors import make_executor
from pifi_probe.selection.space import Candidate
from pifi_probe.selection.store import CONFIRM, SELECT, Store
from pifi_probe.selection.trials import Outcome, Proposal
from tests.search_stub import N_TRIALS, SPACE, StubEvaluator, identities, in_memory, runner, start

QUICK = StubEvaluator(seconds=0.0)


# Pause, stop, cancel


def when(kind: type[events.Event], call: Callable[[], object], after: int = 1) -> Callable[[events.Event], None]:
    """Return an `on_event` that calls from another thread at the `after`-th event of a kind."""
    seen: list[events.Event] = []

    def on_event(event: events.Event) -> None:
        seen.extend([event] if isinstance(event, kind) else [])
        if len(seen) == after and isinstance(event, kind):
            threading.Timer(0.02, call).start()

    return on_event


@pytest.mark.parametrize("how", ["pause", "stop"])
@pytest.mark.parametrize("executor", ["local", "processes"])
def test_another_thread_stops_the_search_within_one_step(how: str, executor: str) -> None:
    store = in_memory()
    engine = runner(store, evaluator=StubEvaluator(seconds=120.0), executor=make_executor(executor, 1))
    asked: list[float] = []

    def ask() -> None:
        time.sleep(0.5 if executor == "processes" else 0.0)
        asked.append(time.monotonic())
        getattr(engine, how)()

    engine._tell = when(events.TrialStarted, ask)
    assert engine.run() == ("paused" if how == "pause" else "stopped")
    assert time.monotonic() - asked[0] < 60.0, "it waited for the trial, which takes 120 seconds"
    assert store.records() == []


def test_cancelling_a_trial_counts_it_as_failed_and_goes_on() -> None:
    store = in_memory()
    engine = runner(store, seeds=1)
    engine._tell = when(events.TrialStarted, engine.cancel, after=3)
    assert engine.run() == "finished"
    failed = [record.trial for record in store.records() if record.trial.state == "failed"]
    assert [trial.outcome.message for trial in failed if trial.outcome] == ["cancelled"]
    assert len(identities(store)) == len(SPACE.singles()) - 1


@pytest.mark.parametrize("named", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_of_several_running_trials_only_one_is_cancelled(named: bool) -> None:
    store, evaluator = in_memory(), StubEvaluator(seconds=2.0)
    engine = runner(store, "4 trials", evaluator, executor=make_executor("processes", 2), seeds=1)
    numbers: list[int] = []

    def cancel(event: events.Event) -> None:
        if isinstance(event, events.TrialStarted):
            numbers.append(event.number)
            if len(numbers) == 2:
                engine.cancel(numbers[1] if named else None)

    engine._tell = cancel
    assert engine.run() == "finished"
    failed = {r.trial.number: r.trial.outcome for r in store.records() if r.trial.state == "failed"}
    assert {number: outcome.message for number, outcome in failed.items() if outcome} == {
        numbers[1 if named else 0]: "cancelled"
    }
    assert len(identities(store)) == 3


def test_a_trial_that_does_not_run_here_cannot_be_cancelled() -> None:
    engine = runner(in_memory(), "2 trials", QUICK)
    engine.cancel()  # nothing runs: nothing to do
    with pytest.raises(SearchError, match="trial 7 does not run here.*these run here: none"):
        engine.cancel(7)
    assert engine.run() == "finished"


@pytest.mark.parametrize("executor", ["local", "processes"])
def test_a_pause_just_before_a_trial_begins_is_not_lost(executor: str) -> None:
    store = in_memory()
    engine = runner(store, evaluator=StubEvaluator(seconds=60.0), executor=make_executor(executor, 1))
    claim = store.claim

    def claim_and_pause(*args: Any) -> Any:
        found = claim(*args)
        engine.pause()
        return found

    store.claim = claim_and_pause  # type: ignore[method-assign]
    began = time.monotonic()
    assert engine.run() == "paused"
    assert time.monotonic() - began < 40, "it waited for the trial, which takes a minute"


def test_a_stop_is_not_turned_into_a_pause() -> None:
    engine = runner(in_memory(), evaluator=QUICK)
    engine.stop()
    engine.pause()
    assert engine.run() == "stopped"


def test_ctrl_c_once_pauses_and_keeps_every_finished_trial(tmp_path: Path) -> None:
    file, log = tmp_path / "s.db", tmp_path / "log"
    process = start(file, log)
    while not log.exists() or len(log.read_text().splitlines()) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out.strip()) == (0, "paused"), error
    store = Store.open(file)
    assert len(identities(store)) >= 3
    assert identities(store, "running") == []


def test_a_paused_search_goes_on_where_it_was() -> None:
    store = in_memory()
    first = runner(store, evaluator=QUICK)
    first._tell = lambda event: first.pause() if isinstance(event, events.TrialFinished) else None
    assert first.run() == "paused"
    n = len(identities(store))
    assert n < N_TRIALS
    assert runner(store, evaluator=QUICK).run() == "finished"
    assert len(identities(store)) == N_TRIALS


# Budgets


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12", (12, "C")), ("0.5 C", (0.5, "C")), ("20 trials", (20, "trials")), ("45m", (2700, "seconds"))]
    + [("2h", (7200, "seconds")), ("90 s", (90, "seconds")), (3, (3, "C"))],
)
def test_a_budget_is_read(text: str | float, expected: tuple[float, str]) -> None:
    budget = Budget.parse(text)
    assert (budget.amount, budget.unit) == expected
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize("text", ["", "much", "-3", "0", "2.5 trials", "3 weeks", "nan", "inf", "12m30"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(SearchError, match="is not a budget"):
        Budget.parse(text)


@pytest.mark.parametrize(("budget", "n"), [("4", 4), ("4.9", 4), ("7 trials", 7)])
def test_a_budget_is_never_exceeded(budget: str, n: int) -> None:
    store = in_memory()
    assert runner(store, budget, QUICK).run() == "finished"
    assert len(identities(store)) == n
    assert runner(store, budget, QUICK).run() == "finished"
    assert len(identities(store)) == n


def test_workers_do_not_exceed_a_budget_together() -> None:
    store = in_memory()
    runner(store, "5 trials", executor=make_executor("processes", 2)).run()
    assert len(identities(store)) == 5


def test_a_budget_smaller_than_one_trial_is_said_before_anything_runs() -> None:
    store = in_memory()
    with pytest.raises(SearchError, match=r"budget of 0.5 C is smaller than the first trial \(1 C"):
        runner(store, "0.5", QUICK).run()
    with pytest.raises(SearchError, match="smaller than the first trial.*about 60 s"):
        runner(store, "30s", QUICK, full_seconds=60.0).run()
    assert store.records() == []


def test_a_budget_of_time_ends_although_the_clock_runs_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    store = in_memory()
    now = iter(range(10**9, 0, -1))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    assert runner(store, "1s", StubEvaluator(seconds=0.1)).run() == "finished"
    spent = store.spent()
    assert 0.5 < spent.seconds < 2.0
    assert 4 <= spent.trials <= 10


def test_time_is_added_up_over_sessions_and_not_over_trials() -> None:
    store = in_memory()
    for session, elapsed in (("a", 5.0), ("a", 9.0), ("b", 2.0)):
        proposal = Proposal(SPACE.singles()[int(elapsed)], "full", 0)
        claim = store.claim(proposal, SELECT, session)
        assert claim is not None
        store.finish(claim, Outcome(0.5, cost=1.0), elapsed)
    assert store.spent() == Spent(3.0, 3, 11.0)


# Failures


def test_a_layer_that_fails_is_in_the_table_and_the_others_go_on() -> None:
    store, seen = in_memory(), []
    evaluator = StubEvaluator(seconds=0.0, broken=("llm[3]",))
    assert runner(store, evaluator=evaluator, on_event=seen.append, seeds=2).run() == "finished"
    failed = [record.trial for record in store.records() if record.trial.state == "failed"]
    assert [(trial.candidate.spec, trial.seed) for trial in failed] == [("llm[3]", 0)]
    assert failed[0].outcome is not None and "a tensor is missing" in failed[0].outcome.message
    assert len(identities(store)) == 2 * (len(SPACE.singles()) - 1)
    assert [event.message for event in seen if isinstance(event, events.Failed)] == [failed[0].outcome.message]


class Odd(StubEvaluator):
    """Raises or returns what its class attribute says."""

    what: Any = None

    def evaluate(self, candidate: Candidate, fidelity: str, seed: int, stop: Callable[[], bool]) -> Outcome:
        if isinstance(self.what, Exception):
            raise self.what
        return Outcome(self.what)


@pytest.mark.parametrize("what", [RuntimeError("out of memory"), MemoryError(), math.nan, math.inf])
def test_no_failure_of_a_trial_ends_the_search(what: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Odd, "what", what)
    store = in_memory()
    assert runner(store, evaluator=Odd(), seeds=1).run() == "finished"
    messages = [record.trial.outcome.message for record in store.records() if record.trial.outcome]
    assert len(messages) == len(SPACE.singles()) and all(messages)


def test_a_worker_without_the_model_leaves_and_touches_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Odd, "what", ModelNotFoundError("the model is not on this machine", where="llm"))
    store = in_memory()
    with pytest.raises(ModelNotFoundError, match="not on this machine"):
        runner(store, evaluator=Odd()).run()
    assert store.records() == []


def test_a_full_disk_ends_the_search_and_keeps_every_finished_trial(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s.db")
    runner(store, "3 trials", QUICK).run()
    engine = store.storage._backend.engine  # type: ignore[attr-defined]

    @sqlalchemy.event.listens_for(engine, "begin")
    def fill(connection: Any) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    big = StubEvaluator(seconds=0.0, log="")
    with pytest.raises(SaveError, match="database or disk is full.*every finished trial is kept"):
        runner(store, evaluator=Bulky(**vars(big))).run()
    again = Store.open(tmp_path / "s.db")
    assert len(identities(again)) == 3
    assert runner(again, evaluator=QUICK).run() == "finished"
    assert len(identities(again)) == N_TRIALS


class Bulky(StubEvaluator):
    """Gives results that need new pages of the database."""

    def evaluate(self, candidate: Candidate, fidelity: str, seed: int, stop: Callable[[], bool]) -> Outcome:
        return Outcome(0.5, cost=1.0, result={"curve": [0.123456789] * 20_000})


# Files that are no studies


def test_a_locked_study_says_so(tmp_path: Path) -> None:
    import sqlite3

    file = tmp_path / "s.db"
    Store.open(file)
    other = sqlite3.connect(file)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(SearchError, match="locked by another program"):
        Store(Address.parse(file), lock_seconds=0.05)
    other.close()


@pytest.mark.parametrize("content", [b"not a database, but long enough to be read as one" * 40, "truncated"])
def test_a_corrupt_study_says_so(tmp_path: Path, content: bytes | str) -> None:
    file = tmp_path / "s.db"
    if content == "truncated":
        store = Store.open(file)
        runner(store, "3 trials", QUICK).run()
        del store
        content = file.read_bytes()[: file.stat().st_size // 3]
    file.write_bytes(bytes(content))
    with pytest.raises(CorruptFileError, match=r"not a study, or it is damaged.*s\.db") as caught:
        Store.open(file).records()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("study", "error", "says"),
    [
        ("missing.db", SearchError, "there is no study"),
        ("nonsense://x", SearchError, "not the address|not installed"),
        ("postgresql://user:secret@localhost:1/db", SearchError, "driver|database failed"),
    ],
)
def test_what_cannot_be_opened_says_so_without_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: str, error: type[Exception], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says) as caught:
        Store.open(study, create=False)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "missing.db").exists()


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="cannot be written"):
        Store.open(tmp_path / "file" / "s.db")


def test_one_database_holds_several_studies(tmp_path: Path) -> None:
    first, second = (Store.open(f"{tmp_path / 's.db'}#{name}") for name in ("first", "second"))
    runner(first, "2 trials", QUICK).run()
    assert (len(first.records()), len(second.records())) == (2, 0)
    with pytest.raises(SearchError, match="it holds first, second"):
        Store.open(tmp_path / "s.db", create=False)


# Confirmation


def test_the_choice_and_its_controls_run_again_on_fresh_seeds_beside_the_budget() -> None:
    store = in_memory()
    runner(store, "30", QUICK, confirm=2).run()
    confirmed = [record.trial for record in store.records() if record.phase == CONFIRM]
    seeds = {(trial.candidate.control, trial.seed) for trial in confirmed}
    controls = ("vanilla", "linear", "random", "shuffled")  # in every comparison, so they run more seeds than layers do
    assert seeds == {(None, 1000), (None, 1001)} | set(product(controls, (1000, 1001, 1002)))
    assert len(confirmed) == 2 * 2 + 4 * 3
    assert store.spent().cost == N_TRIALS


def test_events_tell_the_whole_story_in_order() -> None:
    seen: list[str] = []
    runner(in_memory(), "2", QUICK, confirm=1, on_event=lambda event: seen.append(type(event).__name__)).run()
    pair = ["TrialStarted", "TrialFinished"]
    assert seen == ["Phase", *pair, *pair, "Phase", *(6 * pair), "Finished"]


def test_the_time_left_follows_the_trials_and_not_a_wrong_first_guess() -> None:
    seen: list[events.Event] = []
    engine = runner(in_memory(), "4", StubEvaluator(seconds=0.01), confirm=1, on_event=seen.append)
    engine.full_seconds = 1e-9  # what a few timed steps said
    engine.run()
    first = next(event for event in seen if isinstance(event, events.TrialFinished))
    assert first.remaining == pytest.approx(0.01 * (3 + first.to_confirm - first.confirmed))
