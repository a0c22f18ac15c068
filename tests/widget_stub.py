"""Searches for the widget's tests: trials that take a few milliseconds, and a clock that is set by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pifi_probe as pp
from pifi_probe.selection.events import OnEvent
from tests.search_stub import SPACE
from tests.test_search import TASK, Valley


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def install(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0, broken: tuple[str, ...] = ()) -> None:
    """Let every search of this process take its trials from a stub."""
    evaluator = Valley(seconds=seconds, broken=broken)
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
