"""Tests of what survives a killed process, and of processes that share a study."""

from __future__ import annotations

import multiprocessing
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from pifi_probe.selection import events
from pifi_probe.selection import store as stores
from pifi_probe.selection.executors import Processes, make_executor
from pifi_probe.selection.store import LIVE_SESSIONS, MAX_DEATHS, SELECT, Store, describe_worker, is_gone
from pifi_probe.selection.trials import Outcome
from tests.search_stub import FIRST, N_TRIALS, ROOT, SPACE, identities, in_memory, runner, search, start, value

FORKS = "forkserver" in multiprocessing.get_all_start_methods()


def forked(file: Path, log: Path) -> BaseProcess:
    """Start a process that goes on with the study.

    Where processes can be forked, out of one that has imported everything once; it finds the module when pytest was
    started in the repository's root, and each process imports it by itself elsewhere.
    """
    context: Any = multiprocessing.get_context("forkserver" if FORKS else "spawn")
    if FORKS:
        context.set_forkserver_preload(["tests.search_stub"])
    process: BaseProcess = context.Process(target=search, args=(file, str(log)))
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.parametrize("n_kills", [20])
def test_random_kills_lose_at_most_the_running_trial(n_kills: int, tmp_path: Path) -> None:
    """Every evaluation that ended is in the study, but for the one whose commit a kill may have cut off."""
    file, log = tmp_path / "s.db", tmp_path / "log"
    random_ = random.Random(0)
    kills = 0
    log.touch()
    while kills < n_kills:
        before = len(log.read_text().splitlines())
        process = forked(file, log)
        until = time.monotonic() + 30
        while len(log.read_text().splitlines()) == before and process.is_alive() and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(random_.uniform(0, 0.25))  # somewhere in the next trials, or between two commits
        process.kill()
        process.join()
        kills += 1
        evaluated = Counter(log.read_text().splitlines())
        stored = len(identities(Store.open(file)))
        assert len(evaluated) - stored <= 1
        if stored >= N_TRIALS:
            break
        assert sum(evaluated.values()) - len(evaluated) <= kills  # run again: at most the running trial of each kill
    while kills < n_kills:  # the search has ended: kill what has nothing left to lose
        process = forked(file, log)
        time.sleep(random_.uniform(0.2, 1.2))
        process.kill()
        process.join()
        kills += 1
    last = forked(file, log)
    last.join(60)
    assert last.exitcode == 0
    store = Store.open(file)
    found = identities(store)
    assert len(found) == len(set(found)) == N_TRIALS
    assert all(
        r.trial.outcome and r.trial.outcome.value == value(r.trial.candidate, r.trial.seed) for r in store.records()
    )


@pytest.mark.slow  # containers do the same, and more
def test_two_processes_on_one_study_never_evaluate_a_twin(tmp_path: Path) -> None:
    file, logs = tmp_path / "s.db", [tmp_path / "a", tmp_path / "b"]
    processes = [start(file, log) for log in logs]
    assert [process.wait(90) for process in processes] == [0, 0], [p.communicate()[1] for p in processes]
    lines = [line for log in logs for line in log.read_text().splitlines()]
    assert len(lines) == len(set(lines)) == N_TRIALS
    assert all(log.read_text() for log in logs), "one process did everything"


def test_of_two_claims_of_one_run_the_later_one_gives_way() -> None:
    store = in_memory()
    assert store.claim(FIRST, SELECT, "a") is not None
    assert store.claim(FIRST, SELECT, "b") is None
    assert len(store.records()) == 1


def test_a_trial_of_a_dead_process_is_freed_at_once_on_the_same_machine(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s.db")
    store.claim(FIRST, SELECT, "a session that is over")
    assert store.free_the_dead() == 1
    assert store.records() == []


def test_a_trial_of_a_living_process_is_left_alone() -> None:
    store = in_memory()
    LIVE_SESSIONS.add("alive")
    store.claim(FIRST, SELECT, "alive")
    assert store.free_the_dead() == 0
    LIVE_SESSIONS.discard("alive")


def test_another_machine_is_dead_when_its_count_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    store = in_memory()
    store.grace = 0.05
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    claim = store.claim(FIRST, SELECT, "theirs")
    assert claim is not None
    monkeypatch.undo()
    for count in range(1, 4):
        store.beat([claim], count)
        assert store.free_the_dead() == 0
        time.sleep(0.03)
    assert store.free_the_dead() == 0
    time.sleep(0.06)
    assert store.free_the_dead() == 1


def test_a_result_that_comes_after_its_process_was_taken_for_dead_counts() -> None:
    store = in_memory()
    claim = store.claim(FIRST, SELECT, "slow")
    assert claim is not None
    assert store.free_the_dead() == 1
    store.finish(claim, Outcome(0.5, cost=1.0), 1.0)
    assert identities(store) == [FIRST.identity]


def test_a_trial_that_kills_its_process_again_and_again_counts_as_failed() -> None:
    store = in_memory()
    for _ in range(MAX_DEATHS):
        assert store.records() == []
        store.claim(FIRST, SELECT, "over")
        store.free_the_dead()
    (record,) = store.records()
    assert record.trial.state == "failed"
    assert record.trial.outcome is not None and "killed its process" in record.trial.outcome.message


def test_worker_processes_find_what_the_local_executor_finds(tmp_path: Path) -> None:
    found = []
    for executor in (make_executor("local", 1), make_executor("processes", 2)):
        store = in_memory()
        assert runner(store, executor=executor, seeds=1).run() == "finished"
        found.append({r.trial.identity: r.trial.outcome.value for r in store.records() if r.trial.outcome})
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_killed_worker_costs_only_its_own_trial() -> None:
    store, executor = in_memory(), Processes(2)
    killed: list[int] = []

    def kill_once(event: events.Event) -> None:
        if isinstance(event, events.TrialFinished) and not killed:
            pools = [pool for pool in executor._pools if pool is not None]
            killed.extend(pools[-1]._processes)
            os.kill(killed[0], signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)

    assert runner(store, executor=executor, on_event=kill_once, seeds=1).run() == "finished"
    assert killed
    assert len(identities(store)) == len(SPACE.singles())


# Who is who: hosts, containers, numbers of processes that are used again


@pytest.mark.parametrize(
    ("there", "gone"),
    [
        ({}, True),  # of this place, and no process has that number
        ({"place": "the same host name, another boot"}, False),
        ({"place": ""}, False),
        ({"host": "elsewhere"}, False),
        ({"pid": os.getpid(), "started": "before this process"}, True),  # its number is used again
        ({"pid": os.getppid()}, True),  # so is its parent's
        ({"pid": os.getppid(), "started": ""}, False),  # alive, and nothing else is known
    ],
)
def test_only_a_process_of_this_place_is_known_to_be_gone(there: dict[str, object], gone: bool) -> None:
    own = describe_worker("a session")
    nobody = {"pid": 2**22 + 5, "started": "1"}
    assert is_gone({**own, **nobody, **there}) is gone


def test_a_trial_that_an_older_version_wrote_waits_for_its_sign_of_life() -> None:
    assert not is_gone({"host": platform.node(), "pid": 2**22 + 5, "session": "old"})


def test_an_ended_process_that_nobody_has_waited_for_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    own = {**describe_worker("a session"), "pid": process.pid, "started": stores._started(process.pid)}
    assert not is_gone(own)
    assert process.stdin is not None
    process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
    assert is_gone(own)
    process.wait()


def test_two_containers_with_one_host_name_and_one_process_number_share_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Store.open(tmp_path / "s.db"), Store.open(tmp_path / "s.db")
    monkeypatch.setattr(stores, "_place", lambda: "one boot pid:[1]")
    LIVE_SESSIONS.add("first")
    assert first.claim(FIRST, SELECT, "first") is not None
    LIVE_SESSIONS.discard("first")
    monkeypatch.setattr(stores, "_place", lambda: "one boot pid:[2]")
    assert second.free_the_dead() == 0
    monkeypatch.setattr(stores, "_place", lambda: "one boot pid:[1]")
    assert first.free_the_dead() == 1


def in_container(file: Path, log: Path) -> subprocess.Popen[str]:
    """Start a search whose process has a namespace of process numbers of its own, as in a container."""
    own = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    command = [*own, sys.executable, "-m", "tests.search_stub", str(file), str(log)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def has_namespaces() -> bool:
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False
        ).returncode
    )


@pytest.mark.skipif(not has_namespaces(), reason="this machine lets nobody make a namespace")
def test_two_containers_on_one_study_finish_it_together(tmp_path: Path) -> None:
    file, logs = tmp_path / "s.db", [tmp_path / "1.log", tmp_path / "2.log"]
    Store.open(file)
    processes = [in_container(file, log) for log in logs]
    said = [process.communicate(timeout=120) for process in processes]
    assert [out.strip() for out, _ in said] == ["finished", "finished"], said
    lines = [line for log in logs for line in log.read_text().splitlines()]
    assert len(lines) == len(set(lines)) == N_TRIALS
    assert len(identities(Store.open(file))) == N_TRIALS
    assert all(log.read_text() for log in logs), "one process did everything"
