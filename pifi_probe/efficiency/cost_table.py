"""`cost_table`: quality next to cost, each arm trained with several seeds, then served on an idle machine."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from pifi_probe.devices import device_of
from pifi_probe.efficiency.arms import adapted, failures
from pifi_probe.efficiency.cost_result import CostRow, CostTable
from pifi_probe.efficiency.reference import probed
from pifi_probe.efficiency.serving import Text, file_costs, offline, refuse_busy, single_stream
from pifi_probe.encoders import within_positions
from pifi_probe.errors import PlugInError, SearchError
from pifi_probe.kinds import KINDS
from pifi_probe.layers.extract import extract
from pifi_probe.layers.frozen import list_of
from pifi_probe.layers.spec import parse
from pifi_probe.permissions import pickle_on_request
from pifi_probe.plugin.build import plug_in
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.plugin.tokenizer import tokenizer_for
from pifi_probe.provenance import collect
from pifi_probe.selection.study import Study
from pifi_probe.stats import mean_interval
from pifi_probe.tasks.task import Task
from pifi_probe.training.recipe import Recipe
from pifi_probe.training.result import RunResult, TestResult
from pifi_probe.training.run import fine_tune

__all__ = ["COST_ARMS", "CostRow", "CostTable", "cost_table"]

Model = PiFiForSequenceClassification
ALONE, FOLDED, DONOR = "encoder alone", "PiFi, folded", "donor, by probe"
N_STREAM = {"cpu": 256, "cuda": 1024, "mps": 1024}  # texts, one at a time
# what `plug_in` is told; adapters of peft are put into the encoder alone
COST_ARMS: Mapping[str, Mapping[str, str]] = {
    ALONE: {"control": "vanilla"},
    "MLP of equal size": {"control": "mlp"},
    "LoRA": {"control": "vanilla", "adapter": "lora"},
    "IA3": {"control": "vanilla", "adapter": "ia3"},
    "PiFi": {"wiring": "pifi"},
    "PiFi, matched": {"wiring": "matched"},
    "PiFi, aligned": {"wiring": "aligned"},
    "random twin": {"wiring": "pifi", "control": "random"},
    "layer trained too": {"wiring": "pifi", "control": "unfrozen"},
    FOLDED: {"fold": "PiFi"},
    DONOR: {"probe": "best point"},
}
Tests = Mapping[str, TestResult]
Load = Callable[[], tuple[nn.Module, PreTrainedTokenizerBase]]


@dataclass(frozen=True)
class _Learned:
    """An arm that was trained: its tests by seed, the fields of its row, and what loads its first model."""

    tests: Sequence[Tests]
    load: Load
    facts: Mapping[str, Any] = field(default_factory=dict)


@pickle_on_request
def cost_table(
    slm: str,
    layer: str,
    task: Task,
    recipe: Recipe = Recipe(),  # noqa: B008  (frozen)
    *,
    out: str | Path,
    n_seeds: int = 5,
    also: Sequence[Task] = (),
    arms: Sequence[str] = tuple(COST_ARMS),
    n_stream: int | None = None,
    batch_size: int = 32,
    most_seconds: float = 60.0,
    allow_busy: bool = False,
    study: str | Path | None = None,
    allow_pickle: bool = False,
) -> CostTable:
    """Train every arm with several seeds, measure what the first of each costs in use, and set both side by side.

    Parameters
    ----------
    slm, layer : str
        As of `plug_in`.
    task : Task
        Of a kind whose head classifies whole texts.
    recipe : Recipe
        Its seed is the first one.
    out : str or Path
        A folder. Every run is kept there, so that a call that was cut off, or refused on a busy machine, continues run
        by run.
    n_seeds : int
        Runs of each arm; five at least for an interval that means something.
    also : sequence of Task
        Test sets of other domains, for forgetting.
    arms : sequence of str
        Some of `COST_ARMS`.
    n_stream : int, optional
        Texts that are read one at a time. None: 256 on the CPU, else 1,024; or as many as `most_seconds` allows.
    batch_size : int
        Of the offline measurement.
    allow_busy : bool
        Measure time although other processes are running; the table says so.
    study : str or Path, optional
        The search that chose `layer`; what it took stands next to the arms that plug the layer in.
    allow_pickle : bool
        Read legacy ``.bin`` weights, too, with ``weights_only=True``; see `plug_in`.

    Returns
    -------
    CostTable
        One device only; an arm that fails is a row with the reason.

    Raises
    ------
    PlugInError
        If an arm is unknown.
    SearchError
        If the study is missing, chose another layer, or is of another encoder or task.
    RecipeError
        If other processes keep the machine busy, before or after training; or the machine cannot follow the recipe.
    RunInterrupted
        On Ctrl-C; the same call continues.

    Notes
    -----
    After the rules of peft's method comparison (quality next to cost, forgetting), optimum-benchmark (percentiles,
    warm-up) and MLPerf inference (single stream P90, offline throughput).
    """
    unknown = [name for name in arms if name not in COST_ARMS]
    if unknown or n_seeds < 1:
        raise PlugInError(
            f"unknown arm {unknown[0]!r}" if unknown else f"{n_seeds} seeds are too few for a table",
            where="cost_table",
            next=f"use some of: {', '.join(COST_ARMS)}" if unknown else "use five or more",
        )
    device, folder = device_of(recipe.device, recipe.precision), Path(out)
    recipe = recipe.replace(device=device.type)  # runs of another device in the folder are others
    searched = _search_cost(study, slm, layer, task) if study is not None else {}
    others_busy = [] if allow_busy else [refuse_busy()]
    failed: dict[str, str] = {}
    trained = {
        name: _Training(partial(_built, slm, layer, task, told), task, recipe, tuple(also), folder / "runs" / name)
        for name, told in COST_ARMS.items()
        if name in arms and not {"fold", "probe"} & told.keys()
    }
    _train_in_turns(trained, failed, recipe, n_seeds)
    learned: dict[str, _Learned] = {}
    for name in (name for name in arms if name not in failed):
        told = COST_ARMS[name]
        with failures(failed, name):
            if "fold" in told:
                learned[name] = _folded(learned, told["fold"])
            elif "probe" in told:
                learned[name] = _donor(layer, task, recipe, also, folder / "donor")
            else:
                learned[name] = trained[name].learned()
        gc.collect()
    if not allow_busy:
        others_busy.append(refuse_busy())
    rows = {name: {**_quality(one.tests, learned.get(ALONE), task), **one.facts} for name, one in learned.items()}
    n_stream = n_stream or N_STREAM[device.type]
    _serve(learned, rows, failed, task, recipe, n_stream, batch_size, most_seconds)
    for name in rows:
        told = COST_ARMS[name]
        plugs = "fold" in told or ("wiring" in told and told.get("control") in (None, "unfrozen"))
        rows[name]["search_s"] = searched.get("select_s") if plugs else None
    settings = {
        "n_seeds": n_seeds,
        "recipe": recipe.to_dict(),
        "sizes": {name: len(split) for name, split in task.splits.items()},
        "also": {other.name: len(other.splits["test"]) for other in also},
        "n_stream": n_stream,
        "batch_size": batch_size,
        "most_seconds": most_seconds,
        "busy": allow_busy,
        "others_busy": others_busy,
    }
    found = CostTable(
        pair=f"{slm} + {layer}",
        task=task.name,
        device=str(device),
        precision=recipe.precision,
        n_seeds=n_seeds,
        rows=tuple(CostRow(arm=name, failed=failed.get(name, ""), **rows.get(name, {})) for name in arms),
        search=searched,
        provenance=collect(settings=settings),
    )
    found.to_json(folder / "costs.json")
    return found


def _search_cost(study: str | Path, slm: str, layer: str, task: Task) -> dict[str, Any]:
    """Return what the search took that chose a layer.

    Raises
    ------
    SearchError
        If it chose another layer, or is of another encoder or task.
    """
    found = Study.open(study)
    specs: list[Any] = [parse(one) for one in (found.best.layers if found.best else ())]
    layers = [f"{one.card.model}[{one.card.index}]" for one in list_of(extract(layer))]
    own = {"encoder": slm, "task": task.name, "layer": " and ".join(layers)}
    stored = {"encoder": found.settings.slm, "task": found.settings.task["name"]}
    stored["layer"] = " and ".join(f"{spec.model}[{spec.index}]" for spec in specs) or "none yet"
    for name, value in own.items():
        if stored[name] != value:
            raise SearchError(
                f"the study is about another {name}: {stored[name]} there, {value} here",
                where=str(found.store.address),
                next="name the study that chose this layer, or measure the layer that it chose",
            )
    select, whole = found.store.spent(), found.store.spent(confirmed=True)
    return {
        "study": Path(str(study)).name,
        "strategy": found.settings.strategy["name"],
        "trials": select.trials,
        "full_runs": select.cost,
        "select_s": select.seconds,
        "whole_s": whole.seconds,
    }


def _built(slm: str, layer: str, task: Task, told: Mapping[str, str], seed: int) -> Model:
    options: dict[str, Any] = {key: value for key, value in told.items() if key != "adapter"}
    model = plug_in(slm, layer, task=task, seed=seed, **options)
    if not isinstance(model, PiFiForSequenceClassification):
        raise PlugInError(f"a {task.kind} task is not measured", where=task.name, next="take one of whole texts")
    if "adapter" not in told:
        return model
    with torch.random.fork_rng(devices=[]):  # peft draws its weights from the global state
        torch.manual_seed(seed)
        return adapted(model, told["adapter"])


@dataclass(frozen=True)
class _Training:
    """The runs of an arm, one a seed; no model is held after its run, and the first is kept on disk."""

    make: Callable[[int], Model]
    task: Task
    recipe: Recipe
    also: tuple[Task, ...]
    folder: Path
    runs: list[RunResult] = field(default_factory=list)

    def train(self, seed: int) -> None:
        self.runs.append(self._run(seed, self.make(seed)))

    def _run(self, seed: int, model: Model) -> RunResult:
        own, out = self.recipe.replace(seed=seed), self.folder / f"seed-{seed}"
        keep = seed == self.recipe.seed
        return fine_tune(model, self.task, own, also=self.also, out=out, resume=True, save_model=keep)

    def load(self) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        model = self.make(self.recipe.seed)
        self._run(self.recipe.seed, model)  # has ended: its weights are put into the model
        return model.eval(), tokenizer_for(model)

    def learned(self) -> _Learned:
        n_texts = self.recipe.epochs * len(self.task.splits["train"])
        seconds = [one.seconds["train"] for one in self.runs]
        facts = {
            "trained": self.runs[0].parameters["trainable"],
            "train_s_per_1000": 1000 * float(np.median(seconds)) / n_texts,
            "train_s": seconds,
            **_memory([one.peak_memory for one in self.runs]),
        }
        return _Learned([one.tests for one in self.runs], self.load, facts)


def _train_in_turns(trained: Mapping[str, _Training], failed: dict[str, str], recipe: Recipe, n_seeds: int) -> None:
    """Train every arm with the first seed, then with the next: what slows the machine for a while slows all arms."""
    for seed in range(recipe.seed, recipe.seed + n_seeds):
        for name in (name for name in trained if name not in failed):
            with failures(failed, name):
                trained[name].train(seed)
            gc.collect()  # the memory of one run is not that of the next


def _donor(layer: str, task: Task, recipe: Recipe, also: Sequence[Task], folder: Path) -> _Learned:
    tests, facts, load = probed(layer, task, recipe, also, folder)
    known = {name: facts[name] for name in ("point", "trained")} | _memory([facts["peak_memory"]])
    known |= {"train_s_per_1000": 1000 * facts["seconds"] / len(task.splits["train"]), "train_s": [facts["seconds"]]}
    return _Learned([tests], load, known)


def _folded(learned: Mapping[str, _Learned], of: str) -> _Learned:
    """Return the folded form of an arm, whose quality is that arm's, since folding is exact."""
    if of not in learned:
        raise PlugInError(f"there is no {of} to fold", where=FOLDED, next=f"measure {of}, too")

    def load() -> tuple[nn.Module, PreTrainedTokenizerBase]:
        model: Any = learned[of].load()[0]
        return model.fold().eval(), tokenizer_for(model)

    return _Learned(learned[of].tests, load)


def _memory(measured: Sequence[Mapping[str, int | None]]) -> dict[str, Any]:
    """Return the most memory of each run and of all, and the highest of their 99th percentiles; of the card if any."""
    where = "cuda" if any(one.get("cuda_bytes") for one in measured) else "rss"
    most = {name: [one.get(f"{where}_{name}bytes") or 0 for one in measured] for name in ("", "p99_")}
    return {"train_bytes": most[""], "peak_bytes": max(most[""]) or None, "p99_bytes": max(most["p99_"]) or None}


def _quality(tests: Sequence[Tests], base: _Learned | None, task: Task) -> dict[str, Any]:
    own = [one[task.name] for one in tests]
    metric = own[0].score_names[0]
    scores = np.stack([test.per_example(metric) for test in own])
    interval = mean_interval(scores)
    return {
        "metric": metric,
        "quality": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "by_seed": scores.mean(1).tolist(),
        "forgetting": _elsewhere(tests) - _elsewhere(base.tests) if base and len(tests[0]) > 1 else None,
    }


def _elsewhere(tests: Iterable[Tests]) -> float:
    """Return the mean loss on the test sets of other domains."""
    return float(np.mean([test.per_example("nll").mean() for one in tests for test in [*one.values()][1:]]))


def _serve(
    learned: Mapping[str, _Learned],
    rows: dict[str, dict[str, Any]],
    failed: dict[str, str],
    task: Task,
    recipe: Recipe,
    n_stream: int,
    batch_size: int,
    most_seconds: float,
) -> None:
    """Add to each row what its model costs in use; what fails is left out, and why is noted."""
    kind, split = KINDS[task.kind], task.splits["test"]
    texts: list[Text] = [kind.read(split, row % len(split)) for row in range(n_stream)]
    models: dict[str, nn.Module] = {}
    tokenizers: dict[str, PreTrainedTokenizerBase] = {}
    limit = recipe.max_tokens
    for name, one in learned.items():
        with failures(failed, name):
            model, tokenizers[name] = one.load()
            models[name] = model.to(device_of(recipe.device, recipe.precision))
            rows[name]["total"] = sum(p.numel() for p in model.parameters())
            if isinstance(model, PiFiForSequenceClassification):
                limit = within_positions(model.encoder, limit)
    options: dict[str, Any] = {"max_tokens": limit, "precision": recipe.precision, "seed": recipe.seed}
    streams = single_stream(models, tokenizers, texts, most_seconds=most_seconds, **options)
    together = offline(models, tokenizers, texts, batch_size=batch_size, **options)
    for name, model in models.items():
        rows[name] |= {"stream": streams[name], "offline": together[name]}
        if why := rows[name]["stream"].pop("failed", "") or rows[name]["offline"].pop("failed", ""):
            failed[name] = why
        with failures(failed, name):
            rows[name]["file"] = file_costs(model)
