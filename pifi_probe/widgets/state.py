"""`SearchState`: what is known of a search, safe to write from one thread and to read from another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from pifi_probe.widgets.rows import Row

__all__ = ["BUSY", "Change", "SearchState"]

BUSY = ("preparing", "running", "pausing", "stopping")


class Change(dict[str, Any]):
    """What is new since a version: ``version``, ``rows``, ``facts`` and ``summary`` (None: as before).

    ``fresh`` says that rows were taken back: `rows` are then all there are.
    """


class SearchState:
    """Trials by number, facts about the search, and what was concluded; each change has a version.

    Parameters
    ----------
    clock : callable
        Seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._version = 0
        self._rows: dict[int, tuple[int, Row]] = {}
        self._facts: Row = {"state": "idle", "message": "", "elapsed": 0.0}
        self._facts_version = self._summary_version = self._fresh_version = 0
        self._summary: Row = {}
        self._since: float | None = None  # when the search was started

    def put(self, rows: Iterable[Row]) -> None:
        """Take note of trials; one that is known and equal changes nothing."""
        with self._changed:
            new = [row for row in rows if self._rows.get(row["n"], (0, None))[1] != row]
            if new:
                self._step()
                self._rows.update({row["n"]: (self._version, row) for row in new})

    def replace(self, rows: Iterable[Row]) -> None:
        """Take note of all trials that there are; others were given back."""
        found = {row["n"]: row for row in rows}
        with self._changed:
            gone = self._rows.keys() - found.keys()
            if gone:
                self._step()
                self._fresh_version = self._version
            for number in gone:
                del self._rows[number]
            self.put(found.values())

    def tell(self, **facts: Any) -> None:
        """Take note of facts, such as ``state="running"``; the search's time is counted while the state is busy."""
        with self._changed:
            if "state" in facts:
                self._count(facts["state"] in BUSY)
            changed = {name: value for name, value in facts.items() if self._facts.get(name) != value}
            if changed:
                self._step()
                self._facts |= changed
                self._facts_version = self._version

    def conclude(self, summary: Row) -> None:
        """Take note of what was concluded."""
        with self._changed:
            if summary != self._summary:
                self._step()
                self._summary, self._summary_version = summary, self._version

    def forget(self) -> None:
        """Forget trials and conclusions: another study is shown."""
        with self._changed:
            self._step()
            self._rows, self._summary = {}, {}
            self._summary_version = self._fresh_version = self._version

    def _step(self) -> None:
        self._version += 1
        self._changed.notify_all()

    def _count(self, busy: bool) -> None:
        if busy and self._since is None:
            self._since = self._clock()
        elif not busy and self._since is not None:
            self._facts["elapsed"] += self._clock() - self._since
            self._since = None

    @property
    def word(self) -> str:
        """One word for the state."""
        with self._changed:
            return str(self._facts["state"])

    @property
    def message(self) -> str:
        """Why the search failed, or what to know; one line."""
        with self._changed:
            return str(self._facts["message"])

    @property
    def elapsed(self) -> float:
        """Seconds that the search has taken in this session."""
        with self._changed:
            running = 0.0 if self._since is None else self._clock() - self._since
            return float(self._facts["elapsed"]) + running

    def rows(self) -> list[Row]:
        """Return all trials by number."""
        with self._changed:
            return [self._rows[number][1] for number in sorted(self._rows)]

    def changes(self, since: int = -1) -> Change:
        """Return what is new since a version; -1: everything."""
        with self._changed:
            fresh = self._fresh_version > since
            rows = [row for version, row in self._rows.values() if fresh or version > since]
            facts = dict(self._facts) if self._facts_version > since else None
            summary = self._summary if self._summary_version > since else None
            return Change(
                version=self._version,
                rows=sorted(rows, key=lambda row: row["n"]),
                facts=facts,
                summary=summary,
                fresh=fresh,
            )

    def wait(self, since: int, timeout: float) -> bool:
        """Wait for a change after a version; return whether there was one."""
        with self._changed:
            return self._changed.wait_for(lambda: self._version > since, timeout)

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs; return whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self._facts["state"] not in BUSY, timeout)
