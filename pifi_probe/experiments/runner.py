"""Runs of an experiment: stored one by one, so that an interrupted experiment continues where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pifi_probe import assets
from pifi_probe.errors import AssetError, HubError, ModelNotFoundError, RecipeError
from pifi_probe.experiments.plan import Arm, Experiment, Scale
from pifi_probe.layers.extract import extract
from pifi_probe.layers.frozen import FrozenLayers
from pifi_probe.plugin import plug_in
from pifi_probe.tasks import Task, load_task
from pifi_probe.training import Recipe, RunResult, fine_tune
from pifi_probe.training.controls import FACTORS, vanilla_best_lr
from pifi_probe.training.key import RunKey

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
    tasks : dict of str to Task
        By block.
    skipped : dict of str to str
        Block or layer to the reason.
    """

    results: dict[str, dict[str, list[RunResult]]]
    tasks: dict[str, Task]
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
    skipped: dict[str, str] = {}
    tasks = _tasks(scale, data, skipped)
    if not tasks:
        raise RecipeError(
            f"no part of {experiment.name!r} can be run: {'; '.join(skipped.values())}",
            where="data",
            next="name the folder of the files with data= (--data)",
        )
    arms = {name: experiment.arms_in(scale, name) for name in tasks}
    layers = _layers(scale, {arm.layer for own in arms.values() for arm in own.values() if arm.layer}, skipped)
    seeds = {name: experiment.seeds_of(scale, name) for name in tasks}
    jobs = [
        (seed, name, key, arm)
        for seed in range(max(n for own in seeds.values() for n in own.values()))
        for name, own in arms.items()
        for key, arm in own.items()
        if seed < seeds[name][key] and (arm.layer is None or arm.layer in layers)
    ]
    results: dict[str, dict[str, list[RunResult]]] = {name: {} for name in tasks}
    for done, (seed, name, key, arm) in enumerate(jobs, start=1):
        task, also = tasks[name]
        file = folder / "runs" / f"{name}-{key}-seed{seed}" / "result.json"
        recipe = Recipe.from_dict({**scale.recipe, "seed": seed})
        layer = layers[arm.layer] if arm.layer is not None else None
        run = stored_run(file, arm, scale.blocks[name].slm, layer, task, also, recipe, after)
        results[name].setdefault(key, []).append(run)
        if on_run is not None:
            on_run(done, len(jobs), run)
    return Runs(results, {name: task for name, (task, _) in tasks.items()}, skipped)


def _tasks(scale: Scale, data: Path | None, skipped: dict[str, str]) -> dict[str, tuple[Task, list[Task]]]:
    """Return each block's task and further test sets; what cannot be had is left out, and said."""
    tasks = {}
    for name, block in scale.blocks.items():
        try:
            if assets.is_asset(block.slm):
                assets.path(block.slm)
            main, *also = [task_of(source, scale, data) for source in (block.task, *block.also)]
        except (FileNotFoundError, AssetError, HubError) as error:
            _skip(skipped, name, error)
        else:
            tasks[name] = (main, also)
    return tasks


def _layers(scale: Scale, names: set[str], skipped: dict[str, str]) -> dict[str, FrozenLayers]:
    layers = {}
    for name in sorted(names):
        try:
            layers[name] = extract(scale.layers[name])
        except (AssetError, HubError, ModelNotFoundError) as error:
            _skip(skipped, f"{name} ({scale.layers[name]})", error)
    return layers


def _skip(skipped: dict[str, str], name: str, error: Exception) -> None:
    skipped[name] = str(error)
    logger.warning("%s is left out: %s", name, error)


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
        If the stored run is another one; what differs is named.
    """
    if file.is_file():
        stored = RunResult.from_json(file)
        wanted = RunKey.planned(
            slm, layer, task, recipe, wiring=arm.wiring, control=arm.control, combine=arm.combine, also=also
        )
        if arm.tuned:
            wanted = wanted.replacing(**{"recipe.learning_rate": [f * recipe.learning_rate for f in FACTORS]})
        differences = stored.key.differences(wanted)
        if bool(stored.tuned) != arm.tuned:
            differences.append(f"tuned: {bool(stored.tuned)} there, {arm.tuned} here")
        if differences:
            recipe_only = all(one.startswith("recipe.") for one in differences)
            raise RecipeError(
                f"the folder holds another run{' (of another recipe)' if recipe_only else ''}: "
                f"{'; '.join(differences[:4])}",
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
        file, only, held_out = (options.pop(name, ()) for name in ("file", "only", "held_out"))
        path = None if data is None else data / str(file)
        if path is None or not path.is_file():
            raise FileNotFoundError(f"needs the file {file}, which is not in the folder of own data")
        task = load_task(path, **options)
        task = _only(task, set(only)) if only else task
        task = task.held_out(*held_out) if held_out else task
    sizes = {name: min(n, len(task.splits[name])) for name, n in scale.sizes.items() if name in task.splits}
    return task.subset(**sizes)


def _only(task: Task, groups: set[str]) -> Task:
    kept = {
        name: [row for row, group in enumerate(split.groups or ()) if group in groups]
        for name, split in task.splits.items()
    }
    return replace(task, splits={name: task.splits[name].take(rows) for name, rows in kept.items() if rows})
