"""`cost_table`: quality next to cost, each arm trained with several seeds, then served on an idle machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pifi_probe.efficiency.arms import adapted
from pifi_probe.efficiency.serving import Text, file_costs, offline, refuse_busy, single_stream
from pifi_probe.encoders import within_positions
from pifi_probe.errors import PifiProbeError, PlugInError
from pifi_probe.files import write_text
from pifi_probe.kinds import KINDS
from pifi_probe.plugin.build import plug_in
from pifi_probe.plugin.loading import tokenizer_for
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.provenance import collect
from pifi_probe.stats import mean_interval
from pifi_probe.tasks.task import Task
from pifi_probe.training.devices import device_of
from pifi_probe.training.recipe import Recipe
from pifi_probe.training.result import RunResult
from pifi_probe.training.run import fine_tune

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["COST_ARMS", "CostRow", "CostTable", "cost_table"]

logger = logging.getLogger(__name__)

Model = PiFiForSequenceClassification
ALONE, FOLDED = "encoder alone", "PiFi, folded"
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
}


@dataclass(frozen=True)
class CostRow:
    """One arm; what was not measured is None, and what failed says why.

    Parameters
    ----------
    arm : str
    failed : str
        Why there is no row, or what of it could not be measured.
    metric : str
        The score that ``quality`` is the mean of.
    quality, low, high : float or None
        Over examples and seeds, with its 95 % interval.
    by_seed : list of float
        The score of each seed.
    forgetting : float or None
        By how much the loss on the test sets of other domains lies above the encoder's alone, in nats.
    trained, total : int or None
        Weights.
    train_s_per_1000 : float or None
        Seconds of training, validation included, for 1,000 texts.
    peak_bytes, p99_bytes : int or None
        Resident memory of the process while training: the most, and the 99th percentile of samples every 10 ms; on CUDA
        the allocator's record, and no percentile.
    file : dict
        See `file_costs`.
    stream : dict
        See `single_stream`: raw seconds.
    offline : dict
        See `offline`.
    """

    arm: str
    failed: str = ""
    metric: str = ""
    quality: float | None = None
    low: float | None = None
    high: float | None = None
    by_seed: list[float] = field(default_factory=list)
    forgetting: float | None = None
    trained: int | None = None
    total: int | None = None
    train_s_per_1000: float | None = None
    peak_bytes: int | None = None
    p99_bytes: int | None = None
    file: dict[str, float] = field(default_factory=dict)
    stream: dict[str, Any] = field(default_factory=dict)
    offline: dict[str, Any] = field(default_factory=dict)

    def percentile(self, what: str, q: float) -> float | None:
        """Return a percentile of ``"forward_s"`` or ``"whole_s"`` in seconds."""
        return float(np.percentile(self.stream[what], q)) if self.stream.get(what) else None


@dataclass(frozen=True)
class CostTable:
    """What `cost_table` returns.

    Parameters
    ----------
    pair, task, device, precision : str
    n_seeds : int
    rows : tuple of CostRow
    provenance : dict
    """

    pair: str
    task: str
    device: str
    precision: str
    n_seeds: int
    rows: tuple[CostRow, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def frame(self) -> pd.DataFrame:
        """One row an arm, failures too."""
        import pandas as pd

        return pd.DataFrame([_shown(row) for row in self.rows])

    def to_dict(self) -> dict[str, Any]:
        """Return everything, raw seconds too, as values that JSON can hold."""
        return asdict(self)

    def to_json(self, path: str | Path | None = None) -> str:
        """Return everything as JSON, and write it to `path`, atomically, when one is given."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"
        if path is not None:
            write_text(path, text)
        return text

    def figure(self) -> Figure:
        """Plot quality over P90 of one text at a time; the size of a mark is that of the file."""
        from pifi_probe.reporting.pareto import pareto

        return pareto(self.frame, f"{self.pair}, {self.task}, {self.device}")


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
        A folder. Every run is kept there, so that a call goes on that was cut off, or refused on a busy machine.
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

    Returns
    -------
    CostTable
        One device only; an arm that fails is a row with the reason.

    Raises
    ------
    PlugInError
        If an arm is unknown.
    RecipeError
        If other processes keep the machine busy, once training has ended; or the machine cannot follow the recipe.

    Notes
    -----
    After the rules of peft's method comparison (quality next to cost, forgetting), optimum-benchmark (percentiles,
    warm-up) and MLPerf inference (single stream P90, offline throughput).
    """
    unknown = [name for name in arms if name not in COST_ARMS]
    if unknown or n_seeds < 1:
        raise PlugInError(
            f"unknown arm {unknown[0]!r}" if unknown else f"{n_seeds} seeds make no table",
            where="cost_table",
            next=f"use some of: {', '.join(COST_ARMS)}" if unknown else "use five or more",
        )
    device, folder = device_of(recipe), Path(out)
    models: dict[str, Model] = {}
    rows: dict[str, dict[str, Any]] = {}
    base: list[RunResult] = []
    for name in arms:
        try:
            if "fold" in COST_ARMS[name]:
                models[name], rows[name] = _folded(models, rows, COST_ARMS[name]["fold"])
                continue
            made = lambda seed, name=name: _built(slm, layer, task, COST_ARMS[name], seed)  # noqa: E731
            model, runs = _trained(made, task, recipe, n_seeds, tuple(also), folder / "runs" / name)
            base = runs if name == ALONE else base
            models[name], rows[name] = model.to(device), _learned(model, runs, base, task, recipe)
        except (PifiProbeError, ValueError, RuntimeError, MemoryError) as error:
            rows[name] = {"failed": " ".join(str(error).split())[:300]}
            logger.warning("%s: %s", name, rows[name]["failed"])
    if not allow_busy:
        refuse_busy()
    if models:
        _serve(models, rows, task, recipe, n_stream or N_STREAM[device.type], batch_size, most_seconds)
    settings = {"n_seeds": n_seeds, "recipe": recipe.to_dict(), "busy": allow_busy, "batch_size": batch_size}
    found = CostTable(
        pair=f"{slm} + {layer}",
        task=task.name,
        device=str(device),
        precision=recipe.precision,
        n_seeds=n_seeds,
        rows=tuple(CostRow(arm=name, **rows[name]) for name in arms),
        provenance=collect(settings=settings),
    )
    found.to_json(folder / "costs.json")
    return found


def _built(slm: str, layer: str, task: Task, told: Mapping[str, str], seed: int) -> Model:
    options: dict[str, Any] = {key: value for key, value in told.items() if key != "adapter"}
    model = plug_in(slm, layer, task=task, seed=seed, **options)
    if not isinstance(model, PiFiForSequenceClassification):
        raise PlugInError(f"a {task.kind} task is not measured", where=task.name, next="take one of whole texts")
    return adapted(model, told["adapter"]) if "adapter" in told else model


def _trained(
    make: Callable[[int], Model], task: Task, recipe: Recipe, n_seeds: int, also: tuple[Task, ...], folder: Path
) -> tuple[Model, list[RunResult]]:
    """Return the trained model of the first seed, and the results of all."""
    first, runs = None, []
    for seed in range(recipe.seed, recipe.seed + n_seeds):
        model, keep = make(seed), first is None
        out = folder / f"seed-{seed}"
        runs.append(fine_tune(model, task, recipe.replace(seed=seed), also=also, out=out, resume=True, save_model=keep))
        first = first or model
    assert first is not None
    return first.eval(), runs


def _learned(model: Model, runs: list[RunResult], base: list[RunResult], task: Task, recipe: Recipe) -> dict[str, Any]:
    tests = [run.tests[task.name] for run in runs]
    metric = tests[0].score_names[0]
    scores = np.stack([test.per_example(metric) for test in tests])
    interval = mean_interval(scores)
    n_texts = recipe.epochs * len(task.splits["train"])
    memory = [run.peak_memory for run in runs]
    peaks = [one.get("cuda_bytes") or one["rss_bytes"] or 0 for one in memory]
    p99: list[Any] = [one["rss_p99_bytes"] for one in memory if one.get("rss_p99_bytes") and not one.get("cuda_bytes")]
    return {
        "metric": metric,
        "quality": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "by_seed": scores.mean(1).tolist(),
        "forgetting": _elsewhere(runs) - _elsewhere(base) if base and len(runs[0].tests) > 1 else None,
        "trained": runs[0].parameters["trainable"],
        "total": sum(p.numel() for p in model.parameters()),
        "train_s_per_1000": 1000 * float(np.median([run.seconds["train"] for run in runs])) / n_texts,
        "peak_bytes": max(peaks),
        "p99_bytes": max(p99, default=None),
    }


def _elsewhere(runs: list[RunResult]) -> float:
    """Return the mean loss on the test sets of other domains."""
    return float(np.mean([test.per_example("nll").mean() for run in runs for test in [*run.tests.values()][1:]]))


def _folded(models: Mapping[str, Model], rows: Mapping[str, Any], of: str) -> tuple[Model, dict[str, Any]]:
    """Return the folded form of an arm, whose quality is that arm's, since folding is exact."""
    if of not in models:
        raise PlugInError(f"there is no {of} to fold", where=FOLDED, next=f"measure {of}, too")
    model = models[of].fold()
    same = ("metric", "quality", "low", "high", "by_seed", "forgetting")
    return model, {**{name: rows[of][name] for name in same}, "total": sum(p.numel() for p in model.parameters())}


def _serve(
    models: Mapping[str, Model],
    rows: dict[str, dict[str, Any]],
    task: Task,
    recipe: Recipe,
    n_stream: int,
    batch_size: int,
    most_seconds: float,
) -> None:
    """Add to each row what its model costs in use."""
    kind, split = KINDS[task.kind], task.splits["test"]
    texts: list[Text] = [kind.read(split, row % len(split)) for row in range(n_stream)]
    first = next(iter(models.values()))
    tokenizer = tokenizer_for(first)
    options: dict[str, Any] = {
        "max_tokens": within_positions(first.encoder, recipe.max_tokens),
        "precision": recipe.precision,
    }
    streams = single_stream(models, tokenizer, texts, most_seconds=most_seconds, seed=recipe.seed, **options)
    for name, model in models.items():
        rows[name]["stream"] = streams[name]
        rows[name]["offline"] = offline(model, tokenizer, texts, batch_size=batch_size, **options)
        rows[name]["file"] = file_costs(model)


def _shown(row: CostRow) -> dict[str, Any]:
    scaled: Callable[[float | None, float], float | None] = lambda value, by: None if value is None else value * by  # noqa: E731
    return {
        "arm": row.arm,
        "metric": row.metric,
        "quality": row.quality,
        "low": row.low,
        "high": row.high,
        "forgetting": row.forgetting,
        "trained, M": scaled(row.trained, 1e-6),
        "weights, M": scaled(row.total, 1e-6),
        "file MB": scaled(row.file.get("bytes"), 1e-6),
        "train s / 1,000": row.train_s_per_1000,
        "peak MB": scaled(row.peak_bytes, 1e-6),
        "p99 MB": scaled(row.p99_bytes, 1e-6),
        "P50 ms": scaled(row.percentile("forward_s", 50), 1e3),
        "P90 ms": scaled(row.percentile("forward_s", 90), 1e3),
        "P50 ms, tokenised": scaled(row.percentile("whole_s", 50), 1e3),
        "P90 ms, tokenised": scaled(row.percentile("whole_s", 90), 1e3),
        "first ms": scaled(row.stream.get("first_s"), 1e3),
        "texts/s": row.offline.get("texts_per_s"),
        "at once": row.offline.get("batch_size"),
        "J": row.offline.get("joules"),
        "load cold ms": scaled(row.file.get("cold_s"), 1e3),
        "load warm ms": scaled(row.file.get("warm_s"), 1e3),
        "failed": row.failed,
    }
