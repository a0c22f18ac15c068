"""What a user allows beyond the defaults, for everything that is called inside."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

__all__ = ["ALLOW_PICKLE", "Switch", "allowing_pickle", "pickle_allowed", "pickle_on_request"]

P = ParamSpec("P")
T = TypeVar("T")
ALLOW_PICKLE = "PIFI_PROBE_ALLOW_PICKLE"


def pickle_allowed() -> bool:
    """Return whether ``PIFI_PROBE_ALLOW_PICKLE=1`` is set: legacy ``.bin`` weights may be read everywhere."""
    return os.environ.get(ALLOW_PICKLE) == "1"


class Switch:
    """An environment variable that is ``1`` while anybody is inside, and afterwards what it was before."""

    def __init__(self, name: str) -> None:
        self._name, self._inside = name, 0
        self._before: str | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Set it while inside."""
        with self._lock:
            if not self._inside:
                self._before = os.environ.get(self._name)
                os.environ[self._name] = "1"
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    if self._before is None:
                        os.environ.pop(self._name, None)
                    else:
                        os.environ[self._name] = self._before


_allowing = Switch(ALLOW_PICKLE)


def allowing_pickle(allowed: bool) -> contextlib.AbstractContextManager[None]:
    """Let all that is called inside read legacy ``.bin`` weights, worker processes too, where `allowed`."""
    return _allowing() if allowed else contextlib.nullcontext()


def pickle_on_request(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function, and all that it calls, read legacy ``.bin`` weights where its ``allow_pickle=True``."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        with allowing_pickle(bool(kwargs.get("allow_pickle"))):
            return function(*args, **kwargs)

    return called
