"""`demo --fast` and `--full`: controls and layers of three depths in both wirings, on the embedded models and texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pifi_probe.errors import RecipeError
from pifi_probe.experiments.plan import Arm
from pifi_probe.experiments.report import write_report
from pifi_probe.experiments.runner import stored_run
from pifi_probe.files import write_record
from pifi_probe.ladder import control_seeds
from pifi_probe.layers.extract import extract
from pifi_probe.provenance import collect
from pifi_probe.tasks import Task, load_task
from pifi_probe.training import Comparison, Recipe, RunResult, compare
from pifi_probe.vocabulary import BASIC_CONTROLS

__all__ = ["ARMS", "SIZES", "Demo", "DemoArm", "Size", "run_demo"]

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
            f"{self.seeds} seeds (controls of several layers more), {self.epochs} epochs, {self.precision}"
        )


@dataclass(frozen=True)
class DemoArm:
    """One kind of run: an arm, the index of its layer, and the level from which it runs."""

    arm: Arm
    index: int
    level: int = 0

    @property
    def key(self) -> str:
        """Part of a file name."""
        return f"{self.arm.wiring}-{self.arm.control or 'layer'}-{'tuned' if self.arm.tuned else self.index}"


FAST, DEFAULT, FULL = 0, 1, 2
SIZES: Mapping[str, Size] = MappingProxyType(
    {
        "fast": Size(FAST, 64, 32, 32, seeds=2, epochs=2),
        "full": Size(FULL, 1000, 250, 1000, seeds=3, epochs=3, precision="bf16"),
    }
)
LAST, MIDDLE, FIRST = 29, 15, 0
ARMS = (
    DemoArm(Arm(control="vanilla"), LAST),
    DemoArm(Arm(control="vanilla", tuned=True), LAST, FULL),
    DemoArm(Arm(control="linear"), LAST, DEFAULT),
    DemoArm(Arm(control="random"), LAST),
    DemoArm(Arm(), LAST),
    DemoArm(Arm(), MIDDLE, DEFAULT),
    DemoArm(Arm(), FIRST, DEFAULT),
    DemoArm(Arm(wiring="matched", control="vanilla"), LAST),
    DemoArm(Arm(wiring="matched", control="random"), LAST),
    DemoArm(Arm(wiring="matched"), LAST),
    DemoArm(Arm(wiring="matched"), MIDDLE, FULL),
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
    size: str = "full",
    on_run: Callable[[int, int, RunResult], None] | None = None,
) -> Demo:
    """Train every arm with every seed, compare, and write a report.

    Parameters
    ----------
    folder : str or Path
        For results; runs that are finished there are not run again.
    size : {"full", "fast"}
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
    seeds = {arm: _seeds(arm, arms, chosen.seeds) for arm in arms}
    total = sum(seeds.values())
    for seed in range(max(seeds.values())):
        for arm in (one for one in arms if seed < seeds[one]):
            file = root / "runs" / f"{arm.key}-seed{seed}" / "result.json"
            recipe = Recipe(seed=seed, epochs=chosen.epochs, precision=chosen.precision)
            results.append(stored_run(file, arm.arm, SLM, layers[arm.index], train, also, recipe))
            if on_run is not None:
                on_run(len(results), total, results[-1])
    comparisons = {baseline: compare(results, baseline) for baseline in ("vanilla", "random")}
    demo = Demo(chosen, comparisons, results, root)
    _write(demo, size)
    return demo


def _seeds(arm: DemoArm, arms: Sequence[DemoArm], n_seeds: int) -> int:
    """Return the seeds of an arm: those in every comparison of their wiring get more."""
    layers = sum(one.arm.control is None and one.arm.wiring == arm.arm.wiring for one in arms)
    return control_seeds(n_seeds, layers) if arm.arm.control in BASIC_CONTROLS and not arm.arm.tuned else n_seeds


def _tasks(size: Size) -> tuple[Task, list[Task]]:
    task = load_task(TRAIN_ON)
    also = [load_task(name) for name in ALSO]
    small = task.subset(train=size.train, validation=size.validation, test=at_most(task, size.test))
    return small, [one.subset(test=at_most(one, size.test)) for one in also]


def at_most(task: Task, n: int) -> int:
    """Return `n`, or the size of the test split where that is smaller."""
    return min(n, len(task.splits["test"]))


def _write(demo: Demo, size: str) -> None:
    record: dict[str, Any] = {
        "command": f"pifi-probe demo --{size}",
        "size": asdict(demo.size),
        "seconds": sum(sum(run.seconds.values()) for run in demo.results),
        "provenance": collect(),
        "comparisons": {baseline: asdict(comparison) for baseline, comparison in demo.comparisons.items()},
    }
    write_record(demo.folder / "comparison.json", record)
    write_report(
        demo.folder / "report.html",
        size=str(demo.size),
        comparisons=demo.comparisons,
        results=demo.results,
        record=record,
    )
