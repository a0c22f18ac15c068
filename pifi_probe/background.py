"""Threads of the widgets: work continues next to the notebook, and stops before Python ends."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable

__all__ = ["in_background"]

logger = logging.getLogger(__name__)

WAIT = 60.0  # seconds that Python waits for all of them at its end: they were asked to stop

_running: dict[threading.Thread, Callable[[], object] | None] = {}
_lock = threading.Lock()


def in_background(
    work: Callable[[], object], name: str, leave_off: Callable[[], object] | None = None
) -> threading.Thread:
    """Start work in a thread, and return the thread.

    A thread that is still inside a library when Python ends is torn out of it, and the whole process aborts.
    So Python's end asks each to stop, and waits for it.

    Parameters
    ----------
    work : callable
    name : str
        Of the thread.
    leave_off : callable, optional
        Asks the work to end soon; None: it is short, and is waited for.
    """

    def run() -> None:
        try:
            work()
        finally:
            with _lock:
                _running.pop(threading.current_thread(), None)

    thread = threading.Thread(target=run, name=name, daemon=True)
    with _lock:
        _running[thread] = leave_off
        atexit.unregister(_end)
        atexit.register(_end)  # the last that registers is the first that is called: libraries are still whole then
    thread.start()
    return thread


def _end() -> None:
    until = time.monotonic() + WAIT
    with _lock:
        running = dict(_running)
    for leave_off in filter(None, running.values()):
        try:
            leave_off()
        except Exception:
            logger.debug("a thread could not be asked to stop", exc_info=True)
    for thread in running:
        thread.join(max(0.0, until - time.monotonic()))
