"""Runs of an experiment: stored one by one, so that an interrupted experiment goes on where it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pifi_probe.errors import AssetError, RecipeError
from pifi_probe.experiments.plan import Arm, Block, Experiment, Scale
from pifi_probe.layers.extract import extract
from pifi_probe.layers.parallel import FrozenLayers
from pifi_probe.plugin import plug_in
from pifi_probe.tasks import Task, load_task
from pifi_probe.training import Recipe, RunResult, fine_tune
from pifi_probe.training.controls import vanilla_best_lr

__all__ = ["Runs", "run_blocks", "stored_run", "task_of"]

logger = logging.getLogger(__name__)
OnRun = Callable[[int, int, RunResult], None]
After = Callable[[Arm, Any, Path], None]


@dataclass(frozen=True)
class Runs:
    """What was run.

    Parameters
    ----------
    results : dict
        By block, then by arm: one result a seed.
    skipped : dict of str to str
        Block to the reason.
    """

    results: dict[str, dict[str, list[RunResult]]]
    skipped: dict[str, str]


def run_blocks(
    experiment: Experiment,
    scale: Scale,
    folder: Path,
    *,
    data: Path | None = None,
    on_run: OnRun | None = None,
    after: After | None = None,
) -> Runs:
    """Train every arm of every block with every seed.

    Parameters
    ----------
    experiment, scale
    folder : Path
        For results; runs that are finished there are not run again.
    data : Path, optional
        Folder of own data; blocks that need a file are left out without it.
    on_run : callable, optional
        Called with the number of finished runs, the number of all, and the run's result.
    after : callable, optional
        Called with arm, trained model and the run's folder after each run that was not stored before.

    Raises
    ------
    RecipeError
        If the folder holds runs of another recipe or of other texts, or no block can be run.
    """
    tasks: dict[str, tuple[Task, list[Task]]] = {}
    skipped: dict[str, str] = {}
    for name, block in scale.blocks.items():
        try:
            sources = [task_of(source, scale, data) for source in (block.task, *block.also)]
            tasks[name] = (sources[0], sources[1:])
        except (FileNotFoundError, AssetError) as error:
            skipped[name] = str(error)
            logger.warning("%s is left out: %s", name, error)
    if not tasks:
        raise RecipeError(
            f"no part of {experiment.name!r} can be run: {'; '.join(skipped.values())}",
            where="data",
            next="name the folder of the files with data= (--data)",
        )
    total = scale.seeds * sum(len(_arms_of(experiment, scale.blocks[name])) for name in tasks)
    results: dict[str, dict[str, list[RunResult]]] = {name: {} for name in tasks}
    layers: dict[str, FrozenLayers] = {}
    done = 0
    for seed in range(scale.seeds):
        for name, (task, also) in tasks.items():
            for key, arm in _arms_of(experiment, scale.blocks[name]).items():
                if arm.layer is not None and arm.layer not in layers:
                    layers[arm.layer] = extract(scale.layers[arm.layer])
                run = stored_run(
                    folder / "runs" / f"{name}-{key}-seed{seed}" / "result.json",
                    arm,
                    scale.blocks[name].slm,
                    layers[arm.layer] if arm.layer is not None else None,
                    task,
                    also,
                    Recipe(**{**scale.recipe, "seed": seed}),
                    after,
                )
                results[name].setdefault(key, []).append(run)
                done += 1
                if on_run is not None:
                    on_run(done, total, run)
    return Runs(results, skipped)


def stored_run(
    file: Path,
    arm: Arm,
    slm: str,
    layer: FrozenLayers | None,
    task: Task,
    also: list[Task],
    recipe: Recipe,
    after: After | None = None,
) -> RunResult:
    """Return the stored result of a run, or make and store it.

    Raises
    ------
    RecipeError
        If the stored run has another recipe or other texts.
    """
    if file.is_file():
        stored = RunResult.from_json(file)
        same = stored.recipe.replace(learning_rate=recipe.learning_rate) == recipe
        if not same or stored.task["fingerprint"] != task.fingerprint or stored.model["slm"] != slm:
            raise RecipeError(
                "the folder holds a run with another recipe, model or other texts",
                where=str(file),
                next="name another folder with --out, or remove this one",
            )
        return stored
    if arm.tuned:
        return vanilla_best_lr(slm, task, recipe, wiring=arm.wiring, also=also, out=file)
    model = plug_in(
        slm, layer, task=task, wiring=arm.wiring, control=arm.control, combine=arm.combine, seed=recipe.seed
    )
    result = fine_tune(model, task, recipe, also=also)
    if after is not None:
        after(arm, model, file.parent)
    result.to_json(file)  # last: a run without its extras is run again
    return result


def task_of(source: str | Mapping[str, Any], scale: Scale, data: Path | None) -> Task:
    """Return a task at the scale's size.

    Raises
    ------
    FileNotFoundError
        If it is a file of own data that is not there.
    """
    if isinstance(source, str):
        task = load_task(source)
    else:
        options = dict(source)
        file, held_out = options.pop("file"), options.pop("held_out", ())
        path = None if data is None else data / file
        if path is None or not path.is_file():
            raise FileNotFoundError(f"needs the file {file}, which is not in the folder of own data")
        task = load_task(path, **options)
        task = task.held_out(*held_out) if held_out else task
    sizes = {name: min(n, len(task.splits[name])) for name, n in scale.sizes.items() if name in task.splits}
    return task.subset(**sizes)


def _arms_of(experiment: Experiment, block: Block) -> dict[str, Arm]:
    return {key: arm for key, arm in experiment.arms.items() if not block.arms or key in block.arms}
