"""The demo: vanilla, controls and layers of three depths in both wirings, on the embedded models and texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pifi_probe.errors import RecipeError
from pifi_probe.experiments.report import write_report
from pifi_probe.files import write_json
from pifi_probe.layers.extract import extract
from pifi_probe.layers.parallel import FrozenLayers
from pifi_probe.plugin import plug_in
from pifi_probe.provenance import collect
from pifi_probe.tasks import Task, load_task
from pifi_probe.training import Comparison, Recipe, RunResult, compare, fine_tune
from pifi_probe.training.controls import vanilla_best_lr

__all__ = ["ARMS", "SIZES", "Arm", "Demo", "Size", "run_demo"]

SLM, LLM = "minilm-l6", "smollm2-135m"
TRAIN_ON, ALSO = "movie-reviews", ("tweets", "product-reviews")


@dataclass(frozen=True)
class Size:
    """How much is trained and tested; arms above `level` are left out."""

    level: int
    train: int
    validation: int
    test: int
    seeds: int
    epochs: int
    precision: str = "float32"

    def __str__(self) -> str:
        return (
            f"{self.train} training, {self.validation} validation and at most {self.test} test texts per set, "
            f"{self.seeds} seeds, {self.epochs} epochs, {self.precision}"
        )


@dataclass(frozen=True)
class Arm:
    """One kind of run: a wiring, a control or none, the index of the layer, and the level from which it runs.

    A tuned arm is vanilla at the best of three learning rates.
    """

    wiring: str
    control: str | None
    index: int
    level: int = 0
    tuned: bool = False

    @property
    def key(self) -> str:
        """Part of a file name."""
        return f"{self.wiring}-{self.control or 'layer'}-{'tuned' if self.tuned else self.index}"


FAST, DEFAULT, FULL = 0, 1, 2
SIZES: Mapping[str, Size] = MappingProxyType(
    {
        "fast": Size(FAST, 64, 64, 60, seeds=2, epochs=2),
        "default": Size(DEFAULT, 256, 128, 500, seeds=2, epochs=3),
        "full": Size(FULL, 1000, 250, 1000, seeds=3, epochs=3, precision="bf16"),
    }
)
LAST, MIDDLE, FIRST = 29, 15, 0
ARMS = (
    Arm("paper", "vanilla", LAST),
    Arm("paper", "vanilla", LAST, FULL, tuned=True),
    Arm("paper", "linear", LAST, DEFAULT),
    Arm("paper", "random", LAST),
    Arm("paper", None, LAST),
    Arm("paper", None, MIDDLE, DEFAULT),
    Arm("paper", None, FIRST, DEFAULT),
    Arm("matched", "vanilla", LAST),
    Arm("matched", "random", LAST),
    Arm("matched", None, LAST),
    Arm("matched", None, MIDDLE, FULL),
)


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Parameters
    ----------
    size : Size
    comparisons : dict of str to Comparison
        ``"vanilla"``: every arm against the encoder alone, in its own wiring; ``"random"``: against the
        random-init layer.
    results : list of RunResult
    folder : Path
        With one JSON a run, ``comparison.json`` and ``report.html``.
    """

    size: Size
    comparisons: dict[str, Comparison]
    results: list[RunResult]
    folder: Path


def run_demo(
    folder: str | Path,
    *,
    size: str = "default",
    on_run: Callable[[int, int, RunResult], None] | None = None,
) -> Demo:
    """Train every arm with every seed, compare, and write a report.

    Parameters
    ----------
    folder : str or Path
        For results; runs that are finished there are not run again.
    size : {"default", "fast", "full"}
    on_run : callable, optional
        Called with the number of finished runs, the number of all runs, and the run's result.

    Returns
    -------
    Demo

    Raises
    ------
    RecipeError
        If `size` is unknown.
    """
    if size not in SIZES:
        raise RecipeError(f"unknown size {size!r}", where="size", next=f"use one of {', '.join(SIZES)}")
    chosen, root = SIZES[size], Path(folder)
    train, also = _tasks(chosen)
    arms = [arm for arm in ARMS if arm.level <= chosen.level]
    layers = {arm.index: extract(f"{LLM}[{arm.index}]") for arm in arms}
    results: list[RunResult] = []
    total = len(arms) * chosen.seeds
    for seed in range(chosen.seeds):
        for arm in arms:
            results.append(_one_run(arm, seed, chosen, train, also, layers[arm.index], root))
            if on_run is not None:
                on_run(len(results), total, results[-1])
    comparisons = {baseline: compare(results, baseline) for baseline in ("vanilla", "random")}
    demo = Demo(chosen, comparisons, results, root)
    _write(demo, size)
    return demo


def _tasks(size: Size) -> tuple[Task, list[Task]]:
    task = load_task(TRAIN_ON)
    also = [load_task(name) for name in ALSO]
    small = task.subset(train=size.train, validation=size.validation, test=_at_most(task, size.test))
    return small, [one.subset(test=_at_most(one, size.test)) for one in also]


def _at_most(task: Task, n: int) -> int:
    return min(n, len(task.splits["test"]))


def _one_run(
    arm: Arm, seed: int, size: Size, train: Task, also: list[Task], layer: FrozenLayers, root: Path
) -> RunResult:
    """Return the stored result of a run, or make and store it."""
    file = root / "runs" / f"{arm.key}-seed{seed}" / "result.json"
    recipe = Recipe(seed=seed, epochs=size.epochs, precision=size.precision)
    if file.is_file():
        stored = RunResult.from_json(file)
        if (
            stored.recipe.replace(learning_rate=recipe.learning_rate) != recipe
            or stored.task["fingerprint"] != train.fingerprint
        ):
            raise RecipeError(
                "the folder holds a run with another recipe or other texts",
                where=str(file),
                next="name another folder with --out, or remove this one",
            )
        return stored
    if arm.tuned:
        return vanilla_best_lr(SLM, train, recipe, wiring=arm.wiring, also=also, out=file)
    model = plug_in(SLM, layer, task=train, wiring=arm.wiring, control=arm.control, seed=seed)
    result = fine_tune(model, train, recipe, also=also)
    result.to_json(file)
    return result


def _write(demo: Demo, size: str) -> None:
    record: dict[str, Any] = {
        "command": f"pifi-probe demo{'' if size == 'default' else ' --' + size}",
        "size": asdict(demo.size),
        "seconds": sum(sum(run.seconds.values()) for run in demo.results),
        "provenance": collect(),
        "comparisons": {baseline: asdict(comparison) for baseline, comparison in demo.comparisons.items()},
    }
    write_json(demo.folder / "comparison.json", record)
    write_report(
        demo.folder / "report.html",
        size=str(demo.size),
        comparisons=demo.comparisons,
        results=demo.results,
        record=record,
    )
