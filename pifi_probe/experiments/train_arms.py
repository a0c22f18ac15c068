"""`train_arms`: a layer and its controls with several seeds, in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pifi_probe.experiments.crew import Crew, arms_named, jobs_of, layers_named, opened, run_all
from pifi_probe.folders import make_folder
from pifi_probe.layers.frozen import FrozenLayers
from pifi_probe.permissions import pickle_on_request
from pifi_probe.selection.executors import Executor
from pifi_probe.tags import tags_of
from pifi_probe.tasks import Task
from pifi_probe.training import Recipe, RunResult

__all__ = ["train_arms"]


@pickle_on_request
def train_arms(
    slm: str,
    layer: str | FrozenLayers,
    task: Task,
    recipe: Recipe = Recipe(),  # noqa: B008  (frozen)
    *,
    out: str | Path,
    arms: str | Sequence[str] = "all",
    n_seeds: int = 3,
    wiring: str = "pifi",
    combine: str | None = None,
    also: Sequence[Task] = (),
    tags: Sequence[str] = (),
    executor: str | Executor = "local",
    workers: int = 1,
    on_run: Callable[[RunResult], None] | None = None,
    allow_pickle: bool = False,
) -> list[RunResult]:
    """Train a layer and its matched controls with the same seeds; `pifi_probe.compare` judges what comes back.

    Parameters
    ----------
    slm, layer, wiring, combine
        As of `plug_in`.
    task : Task
    recipe : Recipe
        Its seed is the first one.
    out : str or Path
        Each run lies in ``ARM-seedN`` below it; the same call again makes only what is missing.
    arms : str or sequence of str
        "all", or some of "vanilla", "linear", "random", "shuffled" and "real", the layer itself.
    n_seeds : int
        Runs of every arm.
    also : sequence of Task
        Further test sets.
    tags : sequence of str
        Words that every run gets.
    executor, workers
        As of `search`: where runs are made, and how many at the same time.
    on_run : callable, optional
        Called with each run.
    allow_pickle : bool
        Read legacy ``.bin`` weights, too, with ``weights_only=True``.

    Returns
    -------
    list of RunResult
        Seed by seed, in the order of `arms`.

    Raises
    ------
    RecipeError
        If an arm is unknown or named twice, `n_seeds` is not a number of runs, or a folder holds another run.
    PifiProbeError
        Whatever a run can raise.
    """
    names = arms_named(arms)
    donor = layers_named(slm, layer, task, wiring)
    jobs = jobs_of(names, n_seeds)
    crew = Crew(
        make_folder(Path(out)), slm, donor, task, recipe, wiring, combine, tuple(also), tags=tuple(tags_of(tags))
    )
    with opened(executor, workers) as where:
        found = run_all(crew, jobs, where, on_run)
    return [found[job] for job in jobs]
