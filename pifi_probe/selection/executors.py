"""Where trials run: in this process, or in worker processes of this machine."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future, ProcessPoolExecutor
from contextlib import suppress
from typing import Any, Protocol

from pifi_probe.errors import SearchError
from pifi_probe.importing import import_own
from pifi_probe.selection.evaluator import Evaluator
from pifi_probe.selection.spawning import WorkersCannotStart, cannot_start, refuse_in_worker, refuse_unguarded
from pifi_probe.selection.trials import Outcome, Proposal

__all__ = ["EXECUTORS", "Executor", "Local", "Processes", "WorkersCannotStart", "make_executor", "threads"]


class Executor(Protocol):
    """Runs trials; a future whose worker died raises ``BrokenExecutor``."""

    slots: int

    def submit(self, evaluator: Evaluator, proposal: Proposal, stop: Callable[[], bool]) -> Future[Outcome]:
        """Begin a trial, or run it at once."""

    def interrupt(self, future: Future[Outcome] | None = None) -> None:
        """Tell a running trial, or all of them, to leave off after the current step; from any thread."""

    def close(self) -> None:
        """End the workers."""


class Local:
    """One trial after the other, in the thread that runs the search."""

    slots = 1

    def submit(self, evaluator: Evaluator, proposal: Proposal, stop: Callable[[], bool]) -> Future[Outcome]:
        """Run the trial and return its finished future."""
        future: Future[Outcome] = Future()
        try:
            future.set_result(evaluator.evaluate(proposal.candidate, proposal.rung, proposal.seed, stop))
        except (Exception, KeyboardInterrupt) as error:
            future.set_exception(error)
        return future

    def interrupt(self, future: Future[Outcome] | None = None) -> None:
        """Do nothing: the trial asks `stop` itself."""

    def close(self) -> None:
        """Do nothing."""


class Processes:
    """Worker processes that are started afresh (no fork), each with its own copy of the evaluator.

    Parameters
    ----------
    workers : int
        Each is a pool of its own, so that one that is killed costs only its own trial.

    Raises
    ------
    WorkersCannotStart
        If the program would run again in each worker; see `pifi_probe.selection.spawning`.

    Notes
    -----
    Workers use as many threads as this process does, so that their numbers are those of the local executor; set
    ``OMP_NUM_THREADS`` to the number of cores divided by the number of workers. A script that uses it needs
    ``if __name__ == "__main__":``, as always where Python starts processes.
    """

    def __init__(self, workers: int) -> None:
        refuse_in_worker()
        refuse_unguarded()
        self.slots = workers
        self._context = multiprocessing.get_context("spawn")
        self._flags = [self._context.Event() for _ in range(workers)]  # set: the trial in this place leaves off
        self._alive = self._context.Event()  # a worker has started
        self._pools: list[ProcessPoolExecutor | None] = [None] * workers
        self._busy: dict[int, Future[Outcome]] = {}

    def submit(self, evaluator: Evaluator, proposal: Proposal, stop: Callable[[], bool]) -> Future[Outcome]:
        """Begin the trial in an idle worker."""
        place = next(i for i in range(self.slots) if i not in self._busy or self._busy[i].done())
        self._flags[place].clear()
        try:
            running = self._pool(place, evaluator).submit(_work, proposal)
        except BrokenExecutor:  # it was killed while idle
            self._drop(place)
            running = self._pool(place, evaluator).submit(_work, proposal)
        future: Future[Outcome] = Future()
        self._busy[place] = future
        running.add_done_callback(lambda done: self._end(place, future, done))
        return future

    def _end(self, place: int, future: Future[Outcome], done: Future[Outcome]) -> None:
        """Hand on what a worker found, and drop the pool of one that died."""
        error = CancelledError() if done.cancelled() else done.exception()
        if isinstance(error, BrokenExecutor):
            self._drop(place)
            if not self._alive.is_set():
                error = cannot_start()
        if error is None:
            future.set_result(done.result())
        else:
            future.set_exception(error)

    def interrupt(self, future: Future[Outcome] | None = None) -> None:
        """Set the flags that workers look at after every step."""
        for place, flag in enumerate(self._flags):
            if future is None or self._busy.get(place) is future:
                flag.set()

    def close(self) -> None:
        """Let workers end; a trial that still runs is left alone with its flag set."""
        self.interrupt()
        for pool in self._pools:
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
        self._pools = [None] * self.slots

    def _pool(self, place: int, evaluator: Evaluator) -> ProcessPoolExecutor:
        pool = self._pools[place]
        if pool is None:
            pool = ProcessPoolExecutor(
                1,
                mp_context=self._context,
                initializer=_start,
                initargs=(evaluator, self._flags[place], self._alive, threads()),
            )
            self._pools[place] = pool
        return pool

    def _drop(self, place: int) -> None:
        pool, self._pools[place] = self._pools[place], None
        if pool is not None:
            pool.shutdown(wait=False)


def threads() -> int | None:
    """Return torch's number of threads, without importing torch for the question."""
    import sys

    return int(sys.modules["torch"].get_num_threads()) if "torch" in sys.modules else None


_WORKER: dict[str, Any] = {}  # of a worker process: its evaluator and its flag


def _start(evaluator: Evaluator, stop: Any, alive: Any, threads: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches all processes; the parent decides
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    import_own()
    _WORKER.update(evaluator=evaluator, stop=stop)
    alive.set()


def _work(proposal: Proposal) -> Outcome:
    outcome: Outcome = _WORKER["evaluator"].evaluate(
        proposal.candidate, proposal.rung, proposal.seed, _WORKER["stop"].is_set
    )
    return outcome


EXECUTORS = ("local", "processes", "ray")


def make_executor(name: str | Executor, workers: int) -> Executor:
    """Return the executor of a name, or the one that is given.

    Raises
    ------
    SearchError
        If there is none, or `workers` is below 1.
    """
    if not isinstance(name, str):
        return name
    if workers < 1:
        raise SearchError(f"{workers} workers cannot work", where="workers", next="give at least 1")
    if name == "local":
        return Local()
    if name == "processes":
        return Processes(workers)
    if name == "ray":
        with suppress(ImportError):
            from pifi_probe.selection.on_ray import Ray

            return Ray(workers)
        raise SearchError("ray is not installed", where="executor", next="pip install 'pifi-probe[ray]'")
    raise SearchError(f"unknown executor {name!r}", where="executor", next=f"use one of {', '.join(EXECUTORS)}")
