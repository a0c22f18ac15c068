"""`Publisher`: tells a view of changes, at most ten times a second, and never forgets the last one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from pifi_probe.background import in_background
from pifi_probe.widgets.state import SearchState

__all__ = ["Publisher"]

logger = logging.getLogger(__name__)

INTERVAL = 0.1  # seconds between two updates, at least
IDLE = 1.0  # seconds after which the view is told the time again, and the study file is looked at


class Publisher:
    """Calls `publish` from a thread of its own after changes of a state, and every second anyway.

    Parameters
    ----------
    state : SearchState
    publish : callable
        Sends what is new, and returns the version that it sent.
    interval, idle : float
        Seconds.
    """

    def __init__(
        self, state: SearchState, publish: Callable[[], int], interval: float = INTERVAL, idle: float = IDLE
    ) -> None:
        self._state, self._publish, self._interval, self._idle = state, publish, interval, idle
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Start, unless it runs."""
        if self._thread is None:
            # not before it runs: another thread may close, and join what is here
            self._thread = in_background(self._loop, "layer-search-view", self._closed.set)

    def close(self) -> None:
        """Stop; the view is told nothing more."""
        self._closed.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    def _loop(self) -> None:
        version = -1
        while not self._closed.is_set():
            try:
                version = self._publish()
            except Exception:
                logger.debug("the view could not be updated", exc_info=True)
            self._closed.wait(self._interval)
            self._state.wait(version, self._idle)
