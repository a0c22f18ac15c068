"""The combination study: do two or three layers together do what one layer, or its controls at equal k, cannot?

For each task a pair and a triple (side by side, each layer with projections of its own) are chosen greedily, and a
block of two neighbours in series, all by the validation NLL on the search's fidelity "frozen". Each is then trained in
full next to its controls: (a) one layer k times, (b) shuffled layers, (c) an ensemble of k seeds of the
best single layer, (d) a trainable MLP with as many weights as the projections. One JSON a run below
``book/_studies/combinations/<task>/``; finished ones are skipped, so it can be killed and started again.

    python benchmarks/combinations.py                  # both tasks, then their summaries
    python benchmarks/combinations.py reuters-r8       # one of them
    python benchmarks/combinations.py --summary        # the summaries of the runs that are there
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from _combination_tables import summary, table
from _common import claimed
from _frozen_sets import FrozenSets, greedy, step

from pifi_probe.files import write_json, write_text
from pifi_probe.layers.extract import extract
from pifi_probe.plugin import plug_in
from pifi_probe.probing.frozen_slm import Vectors
from pifi_probe.provenance import collect
from pifi_probe.selection.evaluate import Parts
from pifi_probe.tasks import Task, load_task
from pifi_probe.training import Recipe, RunResult, fine_tune
from pifi_probe.training.controls import controls_at_equal_k
from pifi_probe.training.ensemble import ensemble

STUDIES = Path(__file__).resolve().parent.parent / "book" / "_studies"
OUT = STUDIES / "combinations"
SLM, LLM, N_LAYERS, WIRING = "minilm-l6", "smollm2-135m", 30, "matched"
SEEDS = 3
Model = Callable[[int], Any]


@dataclass(frozen=True)
class Study:
    """A task, how much of it is used, and what may be taken from the truth table.

    Parameters
    ----------
    task : str
    max_tokens : int
        Tokens after which a text is cut; 100 is the recipe's own.
    truth : dict of str to str
        Arm to the beginning of the names of its recorded runs, which are made alike.
    """

    task: str
    max_tokens: int = 100
    truth: tuple[tuple[str, str], ...] = ()
    train: int = 400
    validation: int = 400
    test: int = 1000
    frozen_seeds: int = 2
    precision: str = "bf16"


TRUTH = (("vanilla", "vanilla-29"), ("last", "layer-29"), ("best-in-full", "layer-02"))
TASKS = MappingProxyType(
    {
        "movie-reviews": Study("movie-reviews", truth=TRUTH),
        "reuters-r8": Study("reuters-r8", max_tokens=40),
    }
)


def main() -> None:
    """Go on with the study, then write its summaries."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("tasks", nargs="*", help=f"some of {', '.join(TASKS)}; all by default")
    options.add_argument("--summary", action="store_true", help="run nothing")
    chosen = options.parse_args()
    for name in chosen.tasks or TASKS:
        study, folder = TASKS[name], OUT / name
        if not chosen.summary:
            fill(study, folder)
        summarise(study, folder)


def fill(study: Study, folder: Path) -> None:
    """Make every run that is not there yet, a whole seed before the next one."""
    task = task_of(study)
    selection = select(study, task, folder / "selection.json")
    arms = arms_of(selection, task)
    for seed in range(SEEDS):
        reused = reuse(study, folder, seed)
        singles(study, task, folder, selection, seed)
        for arm, model in arms.items():
            file = folder / f"{arm}-seed{seed}.json"
            with claimed(file) as free:
                if free and arm not in reused:
                    fine_tune(model(seed), task, recipe(study, seed)).to_json(file)
                    print(f"{study.task} {arm} seed {seed}", flush=True)


def task_of(study: Study) -> Task:
    """Return the task, cut to the study's size."""
    task = load_task(study.task)
    size = {"train": study.train, "validation": study.validation, "test": study.test}
    return task.subset(**{split: min(n, len(task.splits[split])) for split, n in size.items()})


def recipe(study: Study, seed: int = 0) -> Recipe:
    """Return the settings of a full run."""
    return Recipe(seed=seed, precision=study.precision, max_tokens=study.max_tokens)


def select(study: Study, task: Task, file: Path) -> dict[str, Any]:
    """Choose single layer, pair, triple and block by validation NLL of frozen runs, or read what was chosen."""
    with claimed(file) as free:
        if free:
            parts = Parts(task, SLM, (LLM,), WIRING, recipe(study))
            train, scored = parts.vectors
            n = len(parts.rows["validation"])
            score = FrozenSets(LLM, train, Vectors(scored.h[:n], scored.labels[:n]), task.n_labels, WIRING)
            seeds = range(study.frozen_seeds)
            found = dict(zip(("single", "pair", "triple"), greedy(score, N_LAYERS, "unshared", 3, seeds), strict=True))
            found["block"] = step(score, [(i, i + 1) for i in range(N_LAYERS - 1)], "serial", seeds)
            write_json(file, {**found, "provenance": collect(task=task.fingerprint)})
    return dict(json.loads(file.read_text(encoding="utf-8")))


def arms_of(selection: dict[str, Any], task: Task) -> dict[str, Model]:
    """Return a factory for each arm but the single layers, what matters most first."""

    def plugged(spec: str, combine: str | None = None) -> Model:
        return lambda seed: plug_in(SLM, extract(spec), task=task, wiring=WIRING, combine=combine, seed=seed)

    specs = {name: spec_of(selection[name]) for name in ("pair", "triple", "block")}
    arms: dict[str, Model] = {
        "vanilla": lambda seed: plug_in(SLM, None, task=task, wiring=WIRING, control="vanilla", seed=seed),
        "pair": plugged(specs["pair"], "unshared"),
        "triple": plugged(specs["triple"], "unshared"),
        "block": plugged(specs["block"]),
    }
    for name in ("pair", "triple"):
        controls = controls_at_equal_k(SLM, specs[name], task, WIRING, "unshared")
        arms |= {f"{control}-{name}": model for control, model in controls.items()}
    arms["shuffled-block"] = controls_at_equal_k(SLM, specs["block"], task, WIRING)["shuffled"]
    return arms


def spec_of(chosen: dict[str, Any]) -> str:
    """Return chosen layers in the grammar of layer specifications."""
    return (" >> " if chosen["design"] == "serial" else " | ").join(f"{LLM}[{index}]" for index in chosen["layers"])


def singles(study: Study, task: Task, folder: Path, selection: dict[str, Any], seed: int) -> None:
    """Train three seeds of the best single layer; record the first, and ensembles of two and of three.

    The ensembles of different seeds have no member in common.
    """
    files = [folder / f"{arm}-seed{seed}.json" for arm in ("single", "ensemble-pair", "ensemble-triple")]
    with claimed(files[-1]) as free:
        if not free:
            return
        layer = extract(spec_of(selection["single"]))
        models, runs = [], []
        for member in range(seed, 3 * SEEDS, SEEDS):
            models.append(plug_in(SLM, layer, task=task, wiring=WIRING, seed=member))
            runs.append(fine_tune(models[-1], task, recipe(study, member)))
            print(f"{study.task} single seed {member}", flush=True)
        runs[0].to_json(files[0])
        ensemble(models[:2], runs[:2], task).to_json(files[1])
        ensemble(models, runs, task).to_json(files[2])


def reuse(study: Study, folder: Path, seed: int) -> Sequence[str]:
    """Copy the truth table's runs of the same size, without their further test sets; return their arms."""
    for arm, start in study.truth:
        file = folder / f"{arm}-seed{seed}.json"
        with claimed(file) as free:
            if free:
                run = RunResult.from_json(STUDIES / "truth" / f"{study.task}-matched" / f"{start}-seed{seed}.json")
                replace(run, tests={study.task: run.tests[study.task]}).to_json(file)
    return [arm for arm, _ in study.truth]


def summarise(study: Study, folder: Path) -> None:
    """Write ``summary.json`` and ``table.md`` of the runs that are there."""
    selection = json.loads((folder / "selection.json").read_text(encoding="utf-8"))
    found = summary(folder, selection) | {"settings": vars(study) | {"slm": SLM, "llm": LLM, "wiring": WIRING}}
    write_json(folder / "summary.json", found | {"provenance": collect()})
    write_text(folder / "table.md", table(found))
    print(table(found), flush=True)


if __name__ == "__main__":
    main()
