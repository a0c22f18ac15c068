"""Arms of one layer with further seeds, on the executors of the search; what is stored is not run again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from pifi_probe.errors import RecipeError, RunInterrupted
from pifi_probe.experiments.plan import Arm
from pifi_probe.experiments.runner import stored_run
from pifi_probe.layers.extract import extract
from pifi_probe.layers.frozen import FrozenLayers
from pifi_probe.plugin.build import named_chain
from pifi_probe.selection.budget import Measure
from pifi_probe.selection.executors import Executor, make_executor
from pifi_probe.selection.space import Candidate
from pifi_probe.selection.trials import Outcome, Proposal
from pifi_probe.tasks import Task
from pifi_probe.training import Recipe, RunResult
from pifi_probe.vocabulary import BARE, BASIC_CONTROLS

__all__ = ["ARMS", "Crew", "Job", "arms_named", "jobs_of", "layers_named", "opened", "run_all"]

ARMS = (*BASIC_CONTROLS, "real")
MOST_DEATHS = 3  # of workers, until it is not an accident
Job = tuple[str, int]  # arm and seed


@dataclass(frozen=True)
class Crew:
    """Runs arms of one layer; travels to workers.

    Parameters
    ----------
    root : Path
        Each run lies in ``ARM-seedN/result.json`` below it.
    slm : str
    layer : FrozenLayer, FrozenChain or FrozenParallel
    task : Task
    recipe : Recipe
        Its seed is the first.
    wiring : str
    combine : str, optional
    also : tuple of Task
    tags : tuple of str
        That every run gets, made now or before.
    make : callable
        `stored_run`.
    """

    root: Path
    slm: str
    layer: FrozenLayers
    task: Task
    recipe: Recipe
    wiring: str
    combine: str | None = None
    also: tuple[Task, ...] = ()
    tags: tuple[str, ...] = ()
    make: Callable[..., RunResult] = stored_run

    def file(self, arm: str, seed: int) -> Path:
        """Return where a run lies, or will."""
        return self.root / f"{arm}-seed{seed}" / "result.json"

    def run(self, arm: str, seed: int) -> RunResult:
        """Return one run, made now or before."""
        file = self.file(arm, seed)
        control = None if arm == "real" else arm
        own = Arm(wiring=self.wiring, control=control, combine=self.combine)
        recipe = self.recipe.replace(seed=self.recipe.seed + seed)
        run = self.make(file, own, self.slm, self.layer, self.task, list(self.also), recipe)
        if set(self.tags) <= set(run.tags):
            return run
        run = run.tagged(*self.tags)
        run.to_json(file)
        return run

    # What an executor calls

    def check(self) -> Mapping[str, str]:
        """Return no digests: the layer is here, and every run has a key of its own."""
        return {}

    def evaluate(self, candidate: Candidate, fidelity: str, seed: int, stop: Callable[[], bool]) -> Outcome:
        """Run one arm."""
        if stop():
            raise RunInterrupted("told to stop", next="run the same again: finished runs are kept")
        return Outcome(0.0, result={"run": self.run(candidate.control or "real", seed)})

    def cost(self, candidate: Candidate, fidelity: str) -> float:
        """Return one: every run is a full one."""
        return 1.0

    def measure(self) -> Measure:
        """Return nothing known."""
        return Measure(float("nan"), 0)


def arms_named(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return the arms that ``"all"``, their names with commas or a list of them stand for.

    Raises
    ------
    RecipeError
        If there is no such arm, or one is named twice.
    """
    if isinstance(names, str):
        names = ARMS if names.strip() == "all" else [name.strip() for name in names.split(",") if name.strip()]
    found = tuple(names)
    wrong = [f"unknown arm {name!r}" for name in found if name not in ARMS]
    wrong += [f"the arm {name!r} is named twice" for name in ARMS if found.count(name) > 1]
    if wrong or not found:
        raise RecipeError(
            wrong[0] if wrong else "no arm is named",
            where="arms",
            next=f"give all, or some of {', '.join(ARMS)}",
        )
    return found


def jobs_of(arms: Sequence[str], n_seeds: int) -> list[Job]:
    """Return arms and seeds, seed by seed.

    Raises
    ------
    RecipeError
        If that is not a number of seeds.
    """
    if not isinstance(n_seeds, Integral) or isinstance(n_seeds, bool) or n_seeds < 1:
        raise RecipeError(f"n_seeds={n_seeds!r}", where="n_seeds", next="give at least 1; 3 show the noise of seeds")
    return [(arm, seed) for seed in range(int(n_seeds)) for arm in arms]


def layers_named(slm: str, layer: str | FrozenLayers, task: Task, wiring: str) -> FrozenLayers:
    """Return the layers that a name stands for, or those that were given; raises what `extract` does."""
    named = named_chain(slm, layer, task, wiring=wiring)
    return extract(named) if isinstance(named, str) else named


@contextmanager
def opened(executor: str | Executor, workers: int) -> Iterator[Executor]:
    """Give the executor of a name, closed afterwards, or the one that was given, left open."""
    where = make_executor(executor, workers)
    try:
        yield where
    finally:
        if isinstance(executor, str):
            where.close()


def run_all(
    crew: Crew, jobs: Iterable[Job], executor: Executor, on_run: Callable[[RunResult], None] | None = None
) -> dict[Job, RunResult]:
    """Make runs, as many at a time as the executor has places; a run whose worker dies is made again.

    Raises
    ------
    BrokenExecutor
        If workers die again and again.
    PifiProbeError
        Whatever a run can raise.
    """
    waiting, running, found, deaths = list(jobs), dict[Future[Outcome], Job](), dict[Job, RunResult](), 0
    try:
        while waiting or running:
            while waiting and len(running) < executor.slots:
                job = waiting.pop(0)
                control = None if job[0] == "real" else job[0]
                layers = () if control in BARE else ("layer",)
                proposal = Proposal(Candidate(layers, control=control), "full", job[1], "")
                running[executor.submit(crew, proposal, lambda: False)] = job
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job, error = running.pop(future), future.exception()
                if isinstance(error, BrokenExecutor) and deaths < MOST_DEATHS:
                    deaths += 1
                    waiting.insert(0, job)
                    continue
                run: RunResult = (future.result().result or {})["run"]
                found[job] = run
                if on_run is not None:
                    on_run(run)
    except BaseException:
        executor.interrupt()
        raise
    return found
