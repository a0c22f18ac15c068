"""Where trials run: in this process, in worker processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import ast
import logging
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Future, ProcessPoolExecutor
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Protocol

from pifi_probe.errors import RunInterrupted, SearchError
from pifi_probe.importing import import_own
from pifi_probe.permissions import allowing_pickle, pickle_allowed
from pifi_probe.selection.trials import Evaluator, Outcome, Proposal

__all__ = [
    "EXECUTORS",
    "Executor",
    "Local",
    "Processes",
    "Ray",
    "WorkersCannotStart",
    "cannot_start",
    "make_executor",
    "refuse_in_worker",
    "refuse_unguarded",
    "threads",
]

EXECUTORS = ("local", "processes", "ray")


class Executor(Protocol):
    """Runs trials; a future whose worker died raises ``BrokenExecutor``."""

    slots: int

    def submit(self, evaluator: Evaluator, proposal: Proposal, stop: Callable[[], bool]) -> Future[Outcome]:
        """Begin a trial, or run it at once."""

    def interrupt(self, future: Future[Outcome] | None = None) -> None:
        """Tell a running trial, or all of them, to stop after the current step; from any thread."""

    def close(self) -> None:
        """End the workers."""


class Local:
    """One trial after the other, in the thread that runs the search."""

    slots = 1

    def submit(self, evaluator: Evaluator, proposal: Proposal, stop: Callable[[], bool]) -> Future[Outcome]:
        """Run the trial and return its finished future."""
        future: Future[Outcome] = Future()
        try:
            future.set_result(evaluator.evaluate(proposal.candidate, proposal.fidelity, proposal.seed, stop))
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
        Each is a pool of its own, so that a worker that is killed costs only its own trial.

    Raises
    ------
    WorkersCannotStart
        If the program would run again in each worker; see `refuse_unguarded`.

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
        self._flags = [self._context.Event() for _ in range(workers)]  # set: the trial in this place stops
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
        proposal.candidate, proposal.fidelity, proposal.seed, _WORKER["stop"].is_set
    )
    return outcome


# Worker processes run the program's main file once more: find programs that are not written for it, and say so


_GUARDS = {"__name__", "parent_process", "current_process"}
_ADVICE = (
    'put what the program does under  if __name__ == "__main__":  and leave only imports and definitions above, '
    'or use executor="local"'
)


class WorkersCannotStart(SearchError):
    """No worker process has come to its first trial."""


def cannot_start() -> WorkersCannotStart:
    """Return the error for workers that die before they begin."""
    return WorkersCannotStart(
        "the worker processes die while they start; their own message stands above", where="executor", next=_ADVICE
    )


def refuse_in_worker() -> None:
    """Refuse to search where a worker process reads the main file of its program.

    Raises
    ------
    WorkersCannotStart
        If this is such a process.
    """
    # set by multiprocessing itself while a new process imports the main file of the one that started it
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise WorkersCannotStart(
            "this worker process has run the whole program again, up to its search", where=_main_file(), next=_ADVICE
        )


def refuse_unguarded() -> None:
    """Refuse to start worker processes from a line that each of them would run, too.

    Raises
    ------
    WorkersCannotStart
        If the search was called from the top level of a script, outside of ``if __name__ == "__main__":``, or the
        script was read from standard input.
    """
    main, file = sys.modules.get("__main__"), _main_file()
    if file and getattr(main, "__spec__", None) is None and not Path(file).exists():  # "<stdin>"
        raise WorkersCannotStart(
            "the program has no file that worker processes could read",
            where=file,
            next='write it into a file, under  if __name__ == "__main__":  , or use executor="local"',
        )
    line = None if main is None else _top_line(main)
    if line is None or not _is_bare(Path(file), line):
        return
    raise WorkersCannotStart(
        "the search would start worker processes, and each would run this program from its beginning",
        where=f"{file}, line {line}",
        next=_ADVICE,
    )


def _main_file() -> str:
    return str(getattr(sys.modules.get("__main__"), "__file__", None) or "")


def _top_line(main: ModuleType) -> int | None:
    """Return the line of the main file's top level that is being run, in this thread or the main one."""
    own = sys._getframe()
    first = sys._current_frames().get(threading.main_thread().ident or 0)
    for frame in (*_outwards(own), *_outwards(first)):
        code = frame.f_code
        if code.co_name == "<module>" and frame.f_globals is vars(main) and code.co_filename == _main_file():
            return frame.f_lineno
    return None


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_bare(file: Path, line: int) -> bool:
    """Return whether no statement that asks which process this is stands around or before a line of the top level."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False  # an archive, an executable: the workers will show
    for node in tree.body:
        if node.lineno <= line and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            asked = [one.test for one in ast.walk(node) if isinstance(one, ast.If | ast.IfExp | ast.Assert)]
            names = {getattr(one, "id", getattr(one, "attr", None)) for test in asked for one in ast.walk(test)}
            if names & _GUARDS:
                return False
    return True


# On a Ray cluster


def _ray() -> Any:
    """Import Ray, which is an extra of the package and slow to load.

    Raises
    ------
    SearchError
        If it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise SearchError("ray is not installed", where="executor", next="pip install 'pifi-probe[ray]'") from error
    return ray


class Ray:
    """Runs each trial as one Ray task; a lost worker or node costs only its running trial, which is run again.

    Parameters
    ----------
    workers : int
        Trials that run at the same time, on whatever nodes have room for them.
    address : str, optional
        Of a running cluster, such as ``"auto"`` or ``"ray://head:10001"``; None: what ``RAY_ADDRESS`` says, else a
        new one on this machine. A cluster that the program has already connected to is used as it is.
    cpus, gpus : float
        What each trial asks for.

    Raises
    ------
    SearchError
        If Ray is not installed.

    Notes
    -----
    Every node needs this package and the models; a model named by a hub id or an embedded name is fetched by
    the nodes themselves. Trials use as many threads as the program that searches.
    """

    def __init__(self, workers: int, address: str | None = None, *, cpus: float = 1.0, gpus: float = 0.0) -> None:
        ray = _ray()
        self.slots = workers
        if not ray.is_initialized():
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        self._task = ray.remote(_work_on_node).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)
        self._evaluator: tuple[Evaluator, Any] | None = None
        self._running: dict[Future[Outcome], Any] = {}

    def submit(self, evaluator: Evaluator, proposal: Proposal, stop: Callable[[], bool]) -> Future[Outcome]:
        """Hand the trial to the cluster."""
        if self._evaluator is None or self._evaluator[0] is not evaluator:
            self._evaluator = evaluator, _ray().put(evaluator)
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
            future.set_exception(_understood(error))

    def interrupt(self, future: Future[Outcome] | None = None) -> None:
        """Interrupt a running task, or all; a training stops after its current step."""
        for one, reference in list(self._running.items()):
            if future is None or one is future:
                _ray().cancel(reference)

    def close(self) -> None:
        """Interrupt what still runs; the connection to the cluster stays."""
        self.interrupt()


def _understood(error: BaseException) -> BaseException:
    """Return what the search understands: a dead worker, an interrupt, or the trial's own error."""
    from ray import exceptions as of_ray

    died = (of_ray.WorkerCrashedError, of_ray.NodeDiedError, of_ray.ObjectLostError, of_ray.TaskUnschedulableError)
    if isinstance(error, died):
        return BrokenExecutor(str(error))
    cause = error.cause if isinstance(error, of_ray.RayTaskError) else error
    if isinstance(cause, of_ray.TaskCancelledError | KeyboardInterrupt):
        return RunInterrupted("told to stop", next="resume the study")
    return cause


_EVALUATORS: dict[str, Evaluator] = {}  # of a worker process, with the models that it has loaded


def _work_on_node(holder: list[Any], proposal: Proposal, n_threads: int | None, allow_pickle: bool) -> Outcome:
    """Run a trial in a worker; the evaluator is fetched once a process."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a cluster that was started in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)  # with it, Ray interrupts a task
    name = holder[0].hex()
    if name not in _EVALUATORS:
        _EVALUATORS.clear()
        _EVALUATORS[name] = _ray().get(holder[0])
    if n_threads is not None:
        import torch

        torch.set_num_threads(n_threads)
    with allowing_pickle(allow_pickle):
        return _EVALUATORS[name].evaluate(proposal.candidate, proposal.fidelity, proposal.seed, lambda: False)


# By name


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
        return Ray(workers)
    raise SearchError(f"unknown executor {name!r}", where="executor", next=f"use one of {', '.join(EXECUTORS)}")
