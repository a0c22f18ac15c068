"""The truth table: full PiFi runs for every layer and every control, which selectors are judged by.

Writes one JSON a run below ``book/_studies/truth/<table>/`` and skips the finished ones, so it can be killed and
started again at any moment, and several processes may share the work. Seeds come first, then layers in an order that
spreads over the depth, so that a partial table is a balanced one.

    python benchmarks/truth_table.py movie-reviews-matched     # continue a table
    python benchmarks/truth_table.py --check                   # do 400 texts rank 5 layers as 1,000 texts do?
    python benchmarks/truth_table.py movie-reviews-matched --cheap    # the cheaper fidelities of the search, same texts
    python benchmarks/truth_table.py newsgroups-frozen         # encoder frozen: minutes; book/_studies/truth-frozen/
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from _common import claimed
from scipy.stats import kendalltau, spearmanr

from pifi_probe.files import write_json
from pifi_probe.layerbench import encode_bits
from pifi_probe.layers.extract import extract
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.residual import residual_rms
from pifi_probe.plugin import plug_in
from pifi_probe.probing.frozen_arms import Arm, make_arm
from pifi_probe.probing.frozen_slm import frozen_slm
from pifi_probe.provenance import collect
from pifi_probe.selection.evaluate import Parts, PiFiEvaluator
from pifi_probe.selection.space import Candidate
from pifi_probe.tasks import Task, load_task
from pifi_probe.training import Recipe, RunResult, fine_tune

STUDIES = Path(__file__).resolve().parent.parent / "book" / "_studies" / "truth"
SLM, LLM, N_LAYERS = "minilm-l6", "smollm2-135m", 30
SHIFT = ("tweets", "product-reviews")
CHECKED = (0, 8, 15, 22, 29)  # layers of the check of the small size
CONTROLS = (
    ("vanilla", 29),
    ("linear", 29),
    ("random", 29),
    ("shuffled", 29),
    ("random", 15),
    ("shuffled", 15),
    ("mlp", 29),
    ("unfrozen", 29),
)
FEW = (("vanilla", 29), ("linear", 29), ("random", 29), ("shuffled", 29))
FROZEN_STUDIES = STUDIES.parent / "truth-frozen"
FROZEN_CONTROLS = CONTROLS[:6]  # an MLP and an unfrozen layer are trained with the encoder only
FROZEN_EPOCHS = 8
CHEAP = {"estimator": 1, "frozen": 3, "last-block": 1, "short": 1}  # fidelity -> seeds


@dataclass(frozen=True)
class Table:
    """A task, a wiring, and how much is trained and tested.

    With a frozen encoder, projections and head are trained on its vectors, all seeds of an arm at once; the epoch is
    chosen on a fifth of the training texts, so that the loss by which layers are chosen is on texts that no run saw.
    """

    task: str
    wiring: str
    also: tuple[str, ...] = ()
    layers: tuple[int, ...] = tuple(range(N_LAYERS))
    controls: tuple[tuple[str, int], ...] = CONTROLS
    seeds: int = 3
    train: int = 400
    validation: int = 400
    test: int = 1000
    precision: str = "bf16"
    encoder: str = "trained"


def frozen(task: str) -> Table:
    """Return the plan of a table with a frozen encoder."""
    return Table(task, "matched", controls=FROZEN_CONTROLS, seeds=5, train=1000, precision="float32", encoder="frozen")


TABLES = MappingProxyType(
    {
        "movie-reviews-matched": Table("movie-reviews", "matched", SHIFT),
        "movie-reviews-paper": Table("movie-reviews", "pifi", SHIFT),
        "newsgroups": Table("newsgroups", "matched", layers=tuple(range(2, N_LAYERS, 3)), controls=FEW, seeds=2),
        "translation-match": Table(
            "translation-match", "matched", layers=tuple(range(2, N_LAYERS, 3)), controls=FEW, seeds=2
        ),
        "sentiment-rating": Table(
            "sentiment-rating", "matched", layers=tuple(range(2, N_LAYERS, 3)), controls=FEW, seeds=2
        ),
        **{f"{task}-frozen": frozen(task) for task in ("newsgroups", "translation-match", "reuters-r8")},
        "check-1000": Table("movie-reviews", "matched", SHIFT, layers=CHECKED, controls=CONTROLS[:1], train=1000),
    }
)


def main() -> None:
    """Go on with a table, or check the small size."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("table", nargs="?", choices=list(TABLES), default="movie-reviews-matched")
    options.add_argument("--check", action="store_true", help="compare 5 layers at 400 texts with 1,000 texts")
    options.add_argument("--cheap", action="store_true", help="run the cheaper fidelities of the search instead")
    options.add_argument("--seeds", type=int, nargs="+", help="only these seeds")
    chosen = options.parse_args()
    if chosen.cheap:
        if TABLES[chosen.table].encoder == "frozen":
            options.error("--cheap is for tables whose encoder is trained")
        cheap_fidelities(chosen.table, TABLES[chosen.table])
        return
    names = ["movie-reviews-matched", "check-1000"] if chosen.check else [chosen.table]
    for name in names:
        table = TABLES[name]
        if table.encoder == "frozen":
            fill_frozen(name, table)
            continue
        if chosen.check:
            table = replace(table, layers=CHECKED, controls=CONTROLS[:1])
        fill(name, table, chosen.seeds or range(table.seeds))
    if chosen.check:
        check(*names)


def fill(name: str, table: Table, seeds: Sequence[int]) -> None:
    """Make every run of a table that is not there yet and that no other process is making."""
    task, also = tasks_of(table)
    runs = list(arms(table))
    for seed in seeds:
        for control, index in runs:
            file = STUDIES / name / f"{control or 'layer'}-{index:02d}-seed{seed}.json"
            with claimed(file) as free:
                if free:
                    run = one_run(table, task, also, control, index, seed)
                    run.to_json(file)
                    print(f"{name} {run!r}", flush=True)


def one_run(table: Table, task: Task, also: Sequence[Task], control: str | None, index: int, seed: int) -> RunResult:
    """Train and test one arm with one seed."""
    layer = extract(f"{LLM}[{index}]")
    model = plug_in(SLM, layer, task=task, wiring=table.wiring, control=control, seed=seed)
    return fine_tune(model, task, Recipe(seed=seed, precision=table.precision), also=also)


def fill_frozen(name: str, table: Table) -> None:
    """Make every arm of a table with a frozen encoder that is not there yet, with all its seeds."""
    task, _ = tasks_of(table)
    parts = Parts(task, SLM, (LLM,), table.wiring, Recipe(precision=table.precision))
    for control, index in arms(table):
        file = frozen_file_of(name, control, index)
        with claimed(file) as free:
            if free:
                record = frozen_arm(table, parts, control, index)
                write_json(file, record)
                print(f"{name} {file.stem} {record['seconds']:.0f} s", flush=True)


def frozen_file_of(name: str, control: str | None, index: int) -> Path:
    """Return where all seeds of an arm behind a frozen encoder lie."""
    return FROZEN_STUDIES / name / f"{control or 'layer'}-{index:02d}.json"


def frozen_arm(table: Table, parts: Parts, control: str | None, index: int) -> dict[str, Any]:
    """Train and test one arm behind the frozen encoder, with all its seeds."""
    start, seeds = time.perf_counter(), list(range(table.seeds))
    train, scored = parts.vectors
    (run,) = frozen_slm(
        [arm_of(table, control, index, seeds)],
        train,
        scored,
        n_labels=parts.task.n_labels,
        wiring=table.wiring,
        seeds=seeds,
        epochs=FROZEN_EPOCHS,
    )
    n = len(parts.rows["validation"])
    return {
        "kind": control or "layer",
        "layer": index,
        "seeds": seeds,
        "validation": run.nll[:, :n].mean(axis=1).tolist(),
        "nll": run.nll[:, n:].mean(axis=1).tolist(),
        "correct": [encode_bits("".join(str(int(one)) for one in row)) for row in run.correct[:, n:]],
        "best_epoch": run.best_epoch.tolist(),
        "sizes": {split: len(rows) for split, rows in parts.rows.items()},
        "task": parts.task.fingerprint,
        "seconds": time.perf_counter() - start,
        "provenance": collect(),
    }


def arm_of(table: Table, control: str | None, index: int, seeds: Sequence[int]) -> Arm:
    """Return a layer or a control as it is trained behind a frozen encoder."""
    layer = extract(f"{LLM}[{index}]", dtype="float32")
    assert isinstance(layer, FrozenLayer)
    return make_arm(layer, control, target_rms=residual_rms(layer.card), seeds=seeds)


def cheap_fidelities(name: str, table: Table) -> None:
    """Record what the cheaper fidelities of a search say of every layer, and what each fidelity costs."""
    task, _ = tasks_of(table)
    parts = Parts(task, SLM, (LLM,), table.wiring, Recipe(precision=table.precision))
    evaluator = PiFiEvaluator(parts)
    layers = [Candidate((f"{LLM}[{index}]",)) for index in table.layers]
    file = STUDIES / f"{name}-cheap.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"values": {}}
    evaluator.check()
    record["costs"] = {fidelity: evaluator.cost(layers[0], fidelity) for fidelity in (*CHEAP, "full")}
    for fidelity, n_seeds in CHEAP.items():
        for seed in range(n_seeds):
            done = record["values"].setdefault(fidelity, {}).setdefault(str(seed), {})
            for index, candidate in zip(table.layers, layers, strict=True):
                if str(index) not in done:
                    done[str(index)] = evaluator.evaluate(candidate, fidelity, seed, lambda: False).value
                    write_json(file, record | {"provenance": collect()})
            print(f"{name} {fidelity} seed {seed}", flush=True)


def arms(table: Table) -> Iterator[tuple[str | None, int]]:
    """Yield the controls, then the layers in an order that spreads over the depth."""
    yield from table.controls
    for index in sorted(table.layers, key=spread_key):
        yield None, index


def spread_key(index: int) -> tuple[bool, int]:
    """Order the last layer first and the others by their reversed bits."""
    return index != N_LAYERS - 1, int(f"{index:05b}"[::-1], 2)


def tasks_of(table: Table) -> tuple[Task, list[Task]]:
    """Return the task and its shift tests, cut to the table's size."""
    task = load_task(table.task)
    size = {"train": table.train, "validation": table.validation, "test": table.test}
    small = task.subset(**{split: min(n, len(task.splits[split])) for split, n in size.items()})
    others = [load_task(other) for other in table.also]
    return small, [other.subset(test=min(table.test, len(other.splits["test"]))) for other in others]


def scores(name: str, layers: Sequence[int], seeds: int) -> np.ndarray:
    """Return validation NLL and test accuracies, (seeds, layers, 2)."""
    found = np.empty((seeds, len(layers), 2))
    for seed in range(seeds):
        for place, index in enumerate(layers):
            run = RunResult.from_json(STUDIES / name / f"layer-{index:02d}-seed{seed}.json")
            found[seed, place] = -run.metrics["validation"]["nll"], run.tests["movie-reviews"].metrics["accuracy"]
    return found


def check(small: str, large: str) -> None:
    """Print and record how alike two sizes rank the checked layers, next to how alike the seeds of one size do."""
    first, second = scores(small, CHECKED, 3), scores(large, CHECKED, 3)
    record: dict[str, object] = {"layers": CHECKED, "sizes": [small, large], "provenance": collect()}
    for place, metric in enumerate(("validation NLL", "test accuracy")):
        a, b = first[..., place], second[..., place]
        between = [kendalltau(a[i], a[j]).statistic for i in range(3) for j in range(i)]
        record[metric] = {
            "mean by layer, 400 texts": a.mean(0).tolist(),
            "mean by layer, 1,000 texts": b.mean(0).tolist(),
            "Kendall tau of the means": kendalltau(a.mean(0), b.mean(0)).statistic,
            "Spearman rho of the means": spearmanr(a.mean(0), b.mean(0)).statistic,
            "mean Kendall tau between two seeds of 400 texts": float(np.mean(between)),
        }
        print(metric, record[metric])
    write_json(STUDIES / "check.json", record)


if __name__ == "__main__":
    main()
