"""Searches for the widget's tests: trials that take a few milliseconds, and a clock that is set by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pifi_probe as pp
from pifi_probe.selection.events import OnEvent
from pifi_probe.selection.space import Candidate
from pifi_probe.selection.trials import Outcome
from tests.search_stub import SPACE, STEP
from tests.test_search import TASK, Valley


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Held(Valley):
    """Ends `enough` trials; a further one goes on until it is told to stop, so that a slow machine finds it running."""

    def __init__(self, enough: int, **options: Any) -> None:
        super().__init__(**options)
        self._left = iter(range(enough))

    def evaluate(self, candidate: Candidate, fidelity: str, seed: int, stop: Callable[[], bool]) -> Outcome:
        while next(self._left, None) is None and not stop():
            time.sleep(STEP)
        return super().evaluate(candidate, fidelity, seed, stop)


def install(
    monkeypatch: pytest.MonkeyPatch,
    seconds: float = 0.0,
    broken: tuple[str, ...] = (),
    enough: int | None = None,
) -> None:
    """Let every search of this process take its trials from a stub; only `enough` of them end, if that is given."""
    options = {"seconds": seconds, "broken": broken}
    evaluator = Valley(**options) if enough is None else Held(enough, **options)
    for home in ("search", "study"):
        monkeypatch.setattr(f"pifi_probe.selection.{home}.make_evaluator", lambda *args: evaluator)
    monkeypatch.setattr("pifi_probe.selection.search.make_space", lambda *args: SPACE)


def search(study: Path | str | None = None, on_event: OnEvent | None = None, **options: Any) -> pp.Study:
    values = {"strategy": "fast", "budget": "40 trials"} | options
    return pp.search("slm", "llm", TASK, study=study, on_event=on_event, **values)


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
