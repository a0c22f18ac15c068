"""Threads that work when Python ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pifi_probe.selection.study import Study
from tests.search_stub import ROOT

INSIDE_A_LIBRARY = """
import sys, threading, torch
from pifi_probe.background import in_background
begun = threading.Event()
def work():
    weights = torch.ones(600, 600)
    for _ in range(200):
        weights = weights @ weights / 600
        begun.set()
    print("done", flush=True)
in_background(work, "one")
begun.wait()
sys.exit({code})
"""

ENDLESS = """
import os, threading
from pifi_probe.background import in_background
over = [threading.Event(), threading.Event()]
def work(mine):
    mine.wait()
    os.write(1, b"left off\\n")  # in one piece: both leave off at the same time
for mine in over:
    in_background(lambda mine=mine: work(mine), "endless", mine.set)
"""

DEAF = """
import threading
from pifi_probe import background
background.WAIT = 0.2
background.in_background(lambda: threading.Event().wait(100), "deaf", lambda: print("asked", flush=True))
"""

FAULTY = """
import threading
from pifi_probe.background import in_background
over = threading.Event()
def faulty():
    raise ValueError("cannot leave off")
in_background(over.wait, "one", faulty)
in_background(lambda: (over.wait(), print("left off", flush=True)), "other", over.set)
"""

SEARCHING = """
import time, pifi_probe as pp
w = pp.widgets.LayerSearch(
    "movie-reviews", layers=[3, 20], study={study!r}, strategy="random", budget="50 trials",
)
w.start()
while w.state == "preparing" or not len(w.results):
    assert w.state in ("preparing", "running"), (w.state, w.engine.error)
    time.sleep(0.05)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", [0, 3])
def test_python_ends_after_a_thread_that_is_inside_a_library(code: int) -> None:
    done = run(INSIDE_A_LIBRARY.format(code=code))
    assert (done.returncode, done.stdout) == (code, "done\n"), done.stderr


def test_threads_without_an_end_are_asked_to_leave_off() -> None:
    done = run(ENDLESS)
    assert (done.returncode, done.stdout) == (0, "left off\n" * 2), done.stderr


def test_a_thread_that_does_not_leave_off_does_not_hold_python_for_ever() -> None:
    done = run(DEAF)
    assert (done.returncode, done.stdout) == (0, "asked\n"), done.stderr


def test_what_cannot_be_asked_does_not_keep_others_from_it() -> None:
    done = run(FAULTY)
    assert (done.returncode, done.stdout) == (0, "left off\n"), done.stderr


@pytest.mark.slow
def test_a_search_that_runs_when_python_ends_is_paused(tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    done = run(SEARCHING.format(study=str(file)))
    assert done.returncode == 0, done.stderr
    study = Study.open(file)
    assert {record.trial.state for record in study.store.records()} <= {"complete", "failed"}
    assert not study.is_over(), "paused, and can go on"
