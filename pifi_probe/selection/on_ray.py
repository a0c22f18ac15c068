"""Trials as Ray tasks, on this machine or on a cluster."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from typing import Any

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    RayTaskError,
    TaskCancelledError,
    TaskUnschedulableError,
    WorkerCrashedError,
)

from pifi_probe.errors import RunInterrupted
from pifi_probe.permissions import allowing_pickle, pickle_allowed
from pifi_probe.selection.evaluator import Evaluator
from pifi_probe.selection.executors import threads
from pifi_probe.selection.trials import Outcome, Proposal

__all__ = ["Ray"]

_DIED = (WorkerCrashedError, NodeDiedError, ObjectLostError, TaskUnschedulableError)


class Ray:
    """Runs each trial as one Ray task; a lost worker or node costs its running trial only, which is run again.

    Parameters
    ----------
    workers : int
        Trials that run at the same time, on whatever nodes have room for them.
    address : str, optional
        Of a running cluster, such as ``"auto"`` or ``"ray://head:10001"``; None: what ``RAY_ADDRESS`` says, else a
        new one on this machine. A cluster that the program has already connected to is used as it is.
    cpus, gpus : float
        What each trial asks for.

    Notes
    -----
    Every node needs this package and the models; those that a hub id or an embedded name stands for are fetched by
    the nodes themselves. Trials use as many threads as the program that searches.
    """

    def __init__(self, workers: int, address: str | None = None, *, cpus: float = 1.0, gpus: float = 0.0) -> None:
        self.slots = workers
        if not ray.is_initialized():
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        self._task = ray.remote(_work).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)
        self._evaluator: tuple[Evaluator, Any] | None = None
        self._running: dict[Future[Outcome], Any] = {}

    def submit(self, evaluator: Evaluator, proposal: Proposal, stop: Callable[[], bool]) -> Future[Outcome]:
        """Hand the trial to the cluster."""
        if self._evaluator is None or self._evaluator[0] is not evaluator:
            self._evaluator = evaluator, ray.put(evaluator)
        reference = self._task.remote([self._evaluator[1]], proposal, threads(), pickle_allowed())
        future: Future[Outcome] = Future()
        self._running[future] = reference
        reference.future().add_done_callback(lambda done: self._end(future, done))
        return future

    def _end(self, future: Future[Outcome], done: Future[Outcome]) -> None:
        self._running.pop(future, None)
        error = done.exception()
        if error is None:
            future.set_result(done.result())
        else:
            future.set_exception(_own(error))

    def interrupt(self, future: Future[Outcome] | None = None) -> None:
        """Interrupt a running task, or all; a training leaves off after its current step."""
        for one, reference in list(self._running.items()):
            if future is None or one is future:
                ray.cancel(reference)

    def close(self) -> None:
        """Interrupt what still runs; the connection to the cluster stays."""
        self.interrupt()


def _own(error: BaseException) -> BaseException:
    """Return what the search understands: a dead worker, an interrupt, or the trial's own error."""
    if isinstance(error, _DIED):
        return BrokenExecutor(str(error))
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, TaskCancelledError | KeyboardInterrupt):
        return RunInterrupted("told to stop", next="resume the study")
    return cause


_EVALUATORS: dict[str, Evaluator] = {}  # of a worker process, with the models that it has loaded


def _work(holder: list[Any], proposal: Proposal, n_threads: int | None, allow_pickle: bool) -> Outcome:
    """Run a trial in a worker; the evaluator is fetched once a process."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a cluster that was started in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)  # with it, Ray interrupts a task
    name = holder[0].hex()
    if name not in _EVALUATORS:
        _EVALUATORS.clear()
        _EVALUATORS[name] = ray.get(holder[0])
    if n_threads is not None:
        import torch

        torch.set_num_threads(n_threads)
    with allowing_pickle(allow_pickle):
        return _EVALUATORS[name].evaluate(proposal.candidate, proposal.rung, proposal.seed, lambda: False)
