"""The widget's engine and state, without Jupyter: a fake clock, and trials that take a few milliseconds."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import pifi_probe as pp
from pifi_probe.errors import LayerIndexError, SearchError, TaskError
from pifi_probe.selection.conclude import LayerPosterior
from pifi_probe.selection.space import Candidate
from pifi_probe.selection.store import Record
from pifi_probe.selection.trials import Outcome, Trial
from pifi_probe.widgets import request as requests
from pifi_probe.widgets.engine import Engine
from pifi_probe.widgets.publisher import Publisher
from pifi_probe.widgets.request import Request, keep_upload, with_task
from pifi_probe.widgets.rows import agreement, best_set, headrooms, row_of, summary_of
from pifi_probe.widgets.state import SearchState
from tests import slm
from tests.search_stub import SPACE
from tests.test_search import TASK
from tests.widget_stub import Clock, install, search, until

pytestmark = pytest.mark.filterwarnings("error:The optimal value found")  # a worker never prints


def row(number: int, **more: Any) -> dict[str, Any]:
    trial = Trial(
        Candidate((f"llm[{number % 10}]",)), "full", 0, "complete", Outcome(0.5 + number / 100), number, "next"
    )
    return row_of(trial, "select") | more


def work(study: Path | None = None, **options: Any) -> Any:
    return lambda on_event: search(study, on_event, **options)


# State


def test_only_what_changed_since_a_version_is_told_again() -> None:
    state = SearchState()
    state.put([row(0), row(1)])
    first = state.changes()
    assert [one["n"] for one in first["rows"]] == [0, 1] and first["facts"]["state"] == "idle"
    state.put([row(1), row(2)])
    second = state.changes(first["version"])
    assert [one["n"] for one in second["rows"]] == [2] and second["facts"] is None and second["summary"] is None
    assert not state.changes(second["version"])["rows"]


def test_time_is_counted_while_the_search_runs_only() -> None:
    clock = Clock()
    state = SearchState(clock)
    clock.now += 10
    state.tell(state="running")
    clock.now += 5
    assert state.elapsed == 5
    state.tell(state="paused")
    clock.now += 100
    state.tell(state="running")
    clock.now += 2
    assert state.elapsed == 7


def test_a_forgotten_study_is_told_as_such_once() -> None:
    state = SearchState()
    state.put([row(0)])
    version = state.changes()["version"]
    state.forget()
    state.put([row(5)])
    change = state.changes(version)
    assert change["fresh"] and [one["n"] for one in change["rows"]] == [5]
    assert not state.changes(change["version"])["fresh"]


def test_a_trial_that_was_given_back_is_no_longer_there() -> None:
    state = SearchState()
    state.put([row(0), row(1, state="running")])
    version = state.changes()["version"]
    state.replace([row(0)])
    change = state.changes(version)
    assert change["fresh"] and change["rows"] == [row(0)] == state.rows()
    state.replace([row(0)])
    assert state.changes(change["version"])["version"] == change["version"], "nothing has changed"


def test_many_threads_lose_no_row() -> None:
    state = SearchState()

    def put(first: int) -> None:
        for n in range(first, first + 100):
            state.put([row(n)])

    threads = [threading.Thread(target=put, args=(100 * k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one["n"] for one in state.rows()] == list(range(800))


def test_at_most_ten_updates_a_second_and_never_without_the_last_value() -> None:
    state, seen = SearchState(), []

    def publish() -> int:
        seen.append(state.changes())
        return int(seen[-1]["version"])

    publisher = Publisher(state, publish)
    publisher.open()
    publisher.open()
    began = time.monotonic()
    for n in range(1000):
        state.put([row(n)])
        time.sleep(0.0005)
    until(lambda: bool(seen) and len(seen[-1]["rows"]) == 1000)
    took = time.monotonic() - began
    publisher.close()
    assert 2 <= len(seen) <= took / 0.1 + 2


def test_the_view_is_told_again_after_an_update_that_failed() -> None:
    state, seen = SearchState(), []

    def publish() -> int:
        seen.append(1)
        if len(seen) == 1:
            raise ValueError("the connection was lost")
        return 10**6

    publisher = Publisher(state, publish, interval=0.01, idle=0.02)
    publisher.open()
    until(lambda: len(seen) > 2)
    publisher.close()


# Rows


def test_a_row_holds_plain_values() -> None:
    outcome = Outcome(0.5, 0.8, 1.0, 2.0, {"recipe": {"lr": 5e-5}, "epochs": [{"nll": 0.7}, {"nll": float("nan")}]})
    found = row_of(Trial(Candidate(("llm[3]",)), "full", 1, "complete", outcome, 7, "because"), "select")
    assert found == json.loads(json.dumps(found, allow_nan=False))
    assert (found["x"], found["model"], found["kind"], found["why"]) == (3.0, "llm", "single", "because")
    assert found["facts"] == {"recipe": {"lr": "5e-05"}, "curve": [0.7, None]}


def test_controls_combinations_and_mixtures_have_their_places() -> None:
    def place(candidate: Candidate) -> tuple[Any, str, bool]:
        found = row_of(Trial(candidate, "full", 0, "running", None, 0), "select")
        return found["x"], found["kind"], found["control"]

    assert place(Candidate((), control="vanilla")) == (None, "vanilla", True)
    assert place(Candidate(("llm[2]",), control="shuffled")) == (2.0, "shuffled", True)
    assert place(Candidate(("llm[2]", "llm[5]"), "mix")) == (3.5, "mix", False)
    assert place(Candidate(("llm[2]", "llm[5]"), "one-shot")) == (None, "one-shot", False)


def test_a_chain_has_an_entry_and_a_length_and_the_headroom_that_it_was_ranked_by() -> None:
    def chain(candidate: Candidate) -> tuple[Any, Any]:
        found = row_of(Trial(candidate, "estimator", 0, "running", None, 0), "select")
        return found["entry"], found["length"]

    serial = Candidate(("llm[2]", "llm[3]", "llm[4]"), "serial")
    assert chain(serial) == (2, 3) and chain(Candidate(("llm[7]",))) == (7, 1)
    assert (
        chain(Candidate(("llm[2]", "llm[5]"), "mix")) == (None, 2)
        and chain(Candidate((), control="vanilla"))[0] is None
    )
    ranked = Trial(serial, "estimator", 0, "complete", Outcome(-3.0, result={"headroom": [0.0, 1.5, 4.0]}), 0)
    records = [Record(ranked, "select", "session", 0.0)]
    assert headrooms(records) == {"llm": [0.0, 1.5, 4.0]}
    assert summary_of(None, SPACE, headroom=headrooms(records))["headroom"] == {"llm": [0.0, 1.5, 4.0]}


def test_the_set_of_the_best_is_the_smallest_that_is_sure() -> None:
    posteriors = [
        LayerPosterior(name, 0.0, 0.5, 0.1, p) for name, p in (("a", 0.02), ("b", 0.6), ("c", 0.36), ("d", 0.02))
    ]
    assert best_set(posteriors) == {"b", "c"}
    assert best_set(posteriors, chosen="a") == {"a", "b", "c"}, "what was chosen is shaded, too"


def test_agreement_compares_neighbouring_fidelities() -> None:
    rows = [
        row(n, n=10 * k + n, fidelity=fidelity, value=sign * n)
        for k, (fidelity, sign) in enumerate((("frozen", 1.0), ("short", 1.0), ("full", -1.0)))
        for n in range(5)
    ]
    rows.append(row(9, control=True, fidelity="full"))
    assert agreement(rows) == [
        {"lower": "frozen", "upper": "short", "kendall": pytest.approx(1.0), "n": 5},
        {"lower": "short", "upper": "full", "kendall": pytest.approx(-1.0), "n": 5},
    ]
    assert agreement(rows[:5]) == []


# Engine


def test_a_search_runs_in_a_thread_and_ends_with_its_choice(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, 0.01)
    engine = Engine()
    engine.start(work())
    assert engine.busy, "start waited for the end"
    with pytest.raises(SearchError, match="running already"):
        engine.start(work())
    with pytest.raises(SearchError, match="running already"):
        engine.run(work())
    assert engine.wait(30) and engine.state.word == "finished"
    assert engine.study is not None and engine.study.best == Candidate(("llm[6]",))
    engine.conclude()
    change = engine.state.changes()
    assert change["summary"]["chosen"] == "llm[6]" and "chosen: llm[6]" in change["summary"]["verdict"]
    assert change["facts"]["share"] == 0.75 and change["facts"]["trials"] == 30
    assert len(change["rows"]) == len(engine.study.trials)
    assert capfd.readouterr() == ("", ""), "the worker printed"


def test_pause_is_seen_within_the_trial_and_resume_finds_what_an_unbroken_search_finds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, 0.02, enough=6)
    engine = Engine()
    engine.start(work(tmp_path / "s.db", budget="15 trials", confirm=False))
    until(lambda: sum(one["state"] == "complete" for one in engine.state.rows()) >= 5)
    engine.pause()
    assert engine.wait(30) and engine.state.word == "paused"
    kept = engine.state.rows()
    assert 5 <= len(kept) < 15 and {one["state"] for one in kept} == {"complete"}, "the running trial was given back"

    install(monkeypatch, 0.0)
    engine.run(work(tmp_path / "s.db", budget="15 trials", confirm=False))
    whole = search(budget="15 trials", confirm=False)
    assert engine.state.word == "finished" and engine.study is not None
    assert sorted(trial.identity for trial in engine.study.trials) == sorted(trial.identity for trial in whole.trials)
    assert engine.study.best == whole.best


def test_stop_is_for_good_until_there_is_a_new_budget(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, 0.02, enough=6)
    engine = Engine()
    engine.start(work(tmp_path / "s.db", budget="12 trials", confirm=False))
    until(lambda: sum(one["state"] == "complete" for one in engine.state.rows()) >= 2)
    engine.stop()
    assert engine.wait(30) and engine.state.word == "stopped"
    before = len(engine.state.rows())
    engine.run(work(tmp_path / "s.db", budget="12 trials", confirm=False))
    assert len(engine.state.rows()) == before
    install(monkeypatch, 0.0)
    engine.run(work(tmp_path / "s.db", budget="13 trials", confirm=False))
    assert len(engine.state.rows()) > before


def test_what_is_asked_while_the_search_is_prepared_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, 0.01)
    engine, gate = Engine(), threading.Event()

    def slow(on_event: Any) -> object:
        gate.wait(10)
        return search(tmp_path / "s.db", on_event)

    engine.start(slow)
    engine.pause()
    assert engine.state.word == "pausing"
    gate.set()
    assert engine.wait(10) and engine.state.word == "paused"
    assert not [one for one in engine.state.rows() if one["state"] == "complete"]


def test_a_layer_that_fails_is_a_row_with_its_message_and_the_search_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, broken=("llm[3]",))
    engine = Engine()
    engine.run(work())
    failed = [one for one in engine.state.rows() if one["state"] == "failed"]
    assert failed and {one["label"] for one in failed} == {"llm[3]"}
    assert "a tensor is missing" in failed[0]["message"]
    assert engine.state.word == "finished" and len(engine.state.rows()) > 20


def test_another_search_in_memory_does_not_keep_the_trials_of_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    engine = Engine()
    engine.run(work())
    first = len(engine.state.rows())
    engine.run(work(n_seeds=1, confirm=False))
    assert 0 < len(engine.state.rows()) < first


@pytest.mark.parametrize(
    ("error", "word", "message"),
    [
        (SearchError("no", where="there"), "failed", "no | where: there"),
        (RuntimeError("boom"), "failed", "RuntimeError: boom"),
        (KeyboardInterrupt(), "paused", "interrupted; resume continues"),
    ],
)
def test_what_ends_a_search_is_shown_and_raised(
    error: BaseException, word: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def break_off(on_event: Any) -> object:
        raise error

    engine = Engine()
    with pytest.raises(type(error)):
        engine.run(break_off)
    assert (engine.state.word, engine.state.message) == (word, message)
    engine.start(lambda on_event: None)
    assert engine.wait(5) and (engine.state.word, engine.state.message, engine.error) == ("finished", "", None)
    assert capfd.readouterr() == ("", "")


def test_a_budget_below_one_trial_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    engine = Engine()
    with pytest.raises(SearchError, match="smaller than the first trial"):
        engine.run(work(budget="0.001"))
    assert engine.state.word == "failed" and "raise budget=" in engine.state.message


def test_a_second_viewer_sees_what_another_process_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, 0.1, enough=4)
    first = Engine()
    first.start(work(tmp_path / "s.db"))
    until(lambda: len(first.state.rows()) >= 4)
    second = Engine(pp.Study.open(tmp_path / "s.db"))
    assert len(second.state.rows()) >= 3

    def seen_elsewhere() -> bool:
        second.look()
        return second.state.word == "elsewhere"

    until(seen_elsewhere)
    first.pause()
    assert first.wait(5)
    second.look()
    assert second.state.word == "paused"
    assert {one["n"] for one in second.state.rows() if one["state"] == "complete"} == {
        one["n"] for one in first.state.rows() if one["state"] == "complete"
    }


def test_a_study_goes_on_with_the_texts_it_was_made_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    search(tmp_path / "s.db", strategy="fast", budget="3 trials", confirm=False)
    study = pp.Study.open(tmp_path / "s.db")
    whole = slm.tiny_task(60)
    monkeypatch.setattr("pifi_probe.tasks.load_task", lambda name_or_path: whole)
    with pytest.raises(SearchError, match="other settings"):
        with_task(study)
    found = with_task(study, TASK)
    assert found.task == TASK and found.evaluator is not None and len(found.trials) == 3


def test_two_starts_at_once_start_one_search() -> None:
    engine, gate, outcomes = Engine(), threading.Event(), []

    def start() -> None:
        try:
            engine.start(lambda on_event: gate.wait(10))
            outcomes.append("started")
        except SearchError:
            outcomes.append("refused")

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gate.set()
    assert engine.wait(5) and sorted(outcomes) == ["refused"] * 7 + ["started"]


def test_the_engine_needs_nothing_of_jupyter() -> None:
    code = (
        "import sys; import pifi_probe.widgets.engine, pifi_probe.widgets.request, pifi_probe.widgets.publisher\n"
        "print([name for name in ('IPython', 'ipywidgets', 'anywidget', 'ipykernel') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What the form asks for


def test_what_names_no_layers_is_refused_before_anything_slow() -> None:
    with pytest.raises(LayerIndexError, match="cannot read layers"):
        Request(TASK, "slm", ["llm"], None, {"layers": "1,,2"}).check()
    Request(TASK, "slm", ["llm"], None, {"layers": "8-10, -1"}).check()


def test_an_upload_is_kept_once_under_a_safe_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path))
    path = keep_upload("../../we <b>ird.csv", b"text,label\n")
    assert path.parent.parent == tmp_path / "uploads" and path.name == "we_b_ird.csv"
    assert path.read_bytes() == b"text,label\n"
    assert keep_upload("../../we <b>ird.csv", b"text,label\n") == path
    assert keep_upload("we.csv", b"other") != path


def test_an_upload_that_is_no_table_or_huge_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path))
    with pytest.raises(TaskError, match="not a table"):
        keep_upload("photo.png", b"")
    monkeypatch.setattr(requests, "MOST_BYTES", 4)
    with pytest.raises(TaskError, match="at most"):
        keep_upload("t.csv", b"12345")
    assert not (tmp_path / "uploads").exists()


def test_an_upload_with_wrong_columns_is_named_before_the_search(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path))
    engine = Engine()
    for content in (b"a,b\n1,2\n", b"\xff\xfe\x00nothing", b""):
        path = keep_upload("t.csv", content)
        with pytest.raises(TaskError):
            engine.run(Request(str(path), "slm", ["llm"], None).search)
        assert engine.state.word == "failed" and "next:" in engine.state.message


@pytest.mark.parametrize(
    "options",
    [{"task": ""}, {"slm": ""}, {"llm": []}, {"options": {"budget": "much"}}, {"options": {"strategy": "magic"}}],
)
def test_a_request_that_cannot_be_met_is_refused_before_anything_slow(options: dict[str, Any]) -> None:
    values: dict[str, Any] = {"task": "movie-reviews", "slm": "minilm-l6", "llm": ["smollm2-135m"]} | options
    with pytest.raises((SearchError, TaskError)):
        Request(**values).check()


def test_the_estimate_is_made_without_a_trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    found = Request(TASK, "slm", ["llm"], "s.db", {"budget": "3"}).estimate()
    assert found.select_cost == 3 and "a full run takes about" in str(found)
    assert not list(tmp_path.iterdir())


def test_a_locked_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sqlite3

    install(monkeypatch)
    search(tmp_path / "s.db", budget="2 trials", confirm=False)
    monkeypatch.setattr(requests, "LOCK_SECONDS", 0.1)
    asked = Request(TASK, "slm", ["llm"], tmp_path / "s.db")
    study = asked.stored()
    assert study is not None
    lock = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    for locked in (asked.stored, partial(Engine, study)):
        with pytest.raises(SearchError, match="locked"):
            locked()
    lock.close()
    assert asked.stored() is not None


@pytest.mark.slow
def test_form_and_search_may_import_at_the_same_moment() -> None:
    code = (
        "import threading\nfrom pifi_probe.widgets.request import describe_model, import_libraries\n"
        "failed = []\nthreading.excepthook = lambda args: failed.append(args.exc_value)\n"
        "other = threading.Thread(target=describe_model, args=('llama-3-8b', '384'))\nother.start()\n"
        "import_libraries()\nother.join()\nprint(failed)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_stop_is_for_good_whatever_comes_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    engine = Engine()

    def work(on_event: Any) -> object:
        engine.stop()  # there is no study yet to hand it to
        engine.pause()
        return search(on_event=on_event)

    engine.run(work)
    assert engine.state.word == "stopped"


def test_a_paused_search_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    engine = Engine()

    def work(on_event: Any) -> object:
        engine.pause()
        return search(on_event=on_event)

    engine.run(work)
    assert engine.state.word == "paused" and engine.study is not None
    engine.stop()
    assert engine.state.word == "stopped" and engine.study.is_over()


def test_a_word_that_comes_with_the_end_leaves_nothing_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    tell = engine.state.tell

    def slowly(**facts: Any) -> None:
        if facts.get("state") == "pausing":
            time.sleep(0.05)  # the work ends meanwhile
        tell(**facts)

    monkeypatch.setattr(engine.state, "tell", slowly)
    engine.start(lambda on_event: time.sleep(0.02))
    engine.pause()
    assert engine.wait(5) and engine.state.word == "paused"
