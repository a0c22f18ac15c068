"""`benchmark`: the plugged model next to vanilla, folded, LoRA, IA3, a trained layer and an MLP, in one run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import torch

from pifi_probe.compat import quiet_transformers
from pifi_probe.devices import device_of
from pifi_probe.efficiency.arms import FOLDED, VANILLA, Model, build_arms, failures, frozen_layer_of
from pifi_probe.efficiency.counts import counted_macs, held_bytes, measured_macs, random_batch
from pifi_probe.efficiency.measure import Moments, forward_of, interleaved, peak_bytes, step_of
from pifi_probe.efficiency.result import ArmCost, Benchmark, Spread
from pifi_probe.efficiency.serving import refuse_busy
from pifi_probe.encoders import room_of, within_positions
from pifi_probe.errors import PlugInError, RecipeError, TaskError
from pifi_probe.kinds import Kind, kind_of
from pifi_probe.plugin.build import tokenizer_for
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.provenance import collect
from pifi_probe.tasks.task import Task
from pifi_probe.training.recipe import Recipe

__all__ = ["benchmark"]

MACS_LENGTH = 128
Times = dict[str, list[float]]


def benchmark(
    model: PiFiForSequenceClassification,
    task: Task,
    recipe: Recipe = Recipe(),  # noqa: B008  (frozen)
    *,
    batches: Sequence[int] = (1, 8, 32),
    lengths: Sequence[int] = (32, 128, 512),
    rounds: int = 10,
    most_seconds: float = 60.0,
    allow_busy: bool = False,
) -> Benchmark:
    """Measure what PiFi costs next to what else the same encoder could be trained as.

    The arms are made from `model` and take turns in every round: the encoder alone, the model, its folded form, LoRA
    (rank 8) and IA3 of the encoder by peft, the model with the whole LLM layer trained too, and a trained MLP with as
    many weights as both projections. An arm that fails is a row with the reason.

    Parameters
    ----------
    model : PiFiForSequenceClassification
        From `plug_in`, with one frozen layer. Left as it is.
    task : Task
        Its training texts make up the batch of the training step: one of median length, padded.
    recipe : Recipe
        Batch size, length, precision and device; the optimiser is the one of `fine_tune`.
    batches, lengths : sequence of int
        Shapes of random texts for inference: each batch size with each number of tokens.
    rounds : int
        Measurements of each arm, after a warm-up.
    most_seconds : float
        For the rounds of one shape; a shape that takes longer than this for a single round is left out, and said.
    allow_busy : bool
        Measure time although other processes are running; the result says so.

    Returns
    -------
    Benchmark

    Raises
    ------
    PlugInError
        If the model is not a classifier with one frozen layer.
    TaskError
        If the task has no training split.
    RecipeError
        If other processes keep the machine busy, or the machine cannot follow the recipe.

    Examples
    --------
    >>> task = pp.load_task("movie-reviews")  # doctest: +SKIP
    >>> pp.benchmark(pp.plug_in("minilm-l6", "smollm2-135m[-1]", task=task), task)  # doctest: +SKIP
    """
    _check(model, task)
    device = device_of(recipe.device, recipe.precision)
    others_busy = None if allow_busy else refuse_busy()
    arms, left_out = build_arms(model, device)
    kind = kind_of(task)
    batch, steps_per_epoch = _training_batch(model, task, kind, recipe, device)
    trained = {name: arm for name, arm in arms.items() if name != FOLDED}
    memory: dict[str, int] = {}
    for name, arm in trained.items():
        with failures(left_out, name):
            memory[name] = peak_bytes(arm, partial(step_of, arm, batch, kind, recipe))
    if VANILLA in left_out:
        raise RecipeError(
            f"not even the encoder alone can be trained: {left_out[VANILLA]}",
            where=f"{model.config.slm}, batches of {recipe.batch_size}",
            next="take a smaller batch_size= or max_tokens=",
        )
    arms = {name: arm for name, arm in arms.items() if name not in left_out}
    trained = {name: arm for name, arm in trained.items() if name in arms}
    moments: Moments = defaultdict(dict)
    calls = {name: step_of(arm, batch, kind, recipe, moments) for name, arm in trained.items()}
    steps = interleaved(calls, rounds, most_seconds=most_seconds, seed=recipe.seed)
    if not steps:
        left_out["training step"] = f"one step of every arm takes more than {most_seconds:g} s"
    del calls, moments
    shapes = [(rows, seq) for seq in lengths for rows in batches]
    latency: dict[str, Times] = {}
    for rows, seq in shapes:
        times, why = _latency(arms, rows, seq, recipe, rounds, most_seconds)
        if why:
            left_out[f"{rows} x {seq}"] = why
        else:
            latency[f"{rows} x {seq}"] = times
    costs = []
    for name, arm in arms.items():
        step = Spread.of(steps[name]) if name in steps else None
        costs.append(
            ArmCost(
                arm=name,
                trainable=0 if name == FOLDED else sum(p.numel() for p in arm.parameters() if p.requires_grad),
                total=sum(p.numel() for p in arm.parameters()),
                n_bytes=held_bytes(arm),
                macs_measured=measured_macs(arm, _macs_length(model)),
                macs_counted=counted_macs(arm, _macs_length(model)),
                step=step,
                epoch=step.times(steps_per_epoch) if step else None,
                training_bytes=memory.get(name),
                latency={shape: Spread.of(times[name]) for shape, times in latency.items()},
            )
        )
    return Benchmark(
        model=f"{model.config.slm} + {model.config.layer_specs}",
        task=task.name,
        device=str(device),
        precision=recipe.precision,
        macs_length=_macs_length(model),
        arms=tuple(costs),
        left_out=left_out,
        provenance=collect(
            settings={
                "rounds": rounds,
                "most_seconds": most_seconds,
                "recipe": recipe.to_dict(),
                "busy": allow_busy,
                "others_busy": others_busy,
            }
        ),
    )


def _check(model: PiFiForSequenceClassification, task: Task) -> None:
    if not isinstance(model, PiFiForSequenceClassification) or frozen_layer_of(model) is None:
        raise PlugInError(
            "only a classifier with one frozen layer can be measured side by side with its rivals",
            where=type(model).__name__,
            next='make it with pp.plug_in(slm, "MODEL[i]", task=task), without control= and combine=',
        )
    if "train" not in task.splits:
        raise TaskError("the task has no train split", where=task.name, next="load it with training rows")


def _training_batch(
    model: Model, task: Task, kind: Kind, recipe: Recipe, device: torch.device
) -> tuple[dict[str, torch.Tensor], int]:
    """Return the batch of median length of an epoch whose texts are grouped by length, and the steps per epoch."""
    with quiet_transformers():
        tokenizer = tokenizer_for(model)
        split = kind.encode(task.splits["train"], tokenizer, within_positions(model.encoder, recipe.max_tokens))
        order = sorted(range(len(split)), key=lambda row: split.lengths[row])
        start = max(0, (len(order) - recipe.batch_size) // 2)
        rows = [split[row] for row in order[start : start + recipe.batch_size]]
        batch = kind.collate(tokenizer)(rows)
    return {name: value.to(device) for name, value in batch.items()}, math.ceil(len(split) / recipe.batch_size)


def _latency(
    arms: dict[str, Model], rows: int, seq: int, recipe: Recipe, rounds: int, most_seconds: float
) -> tuple[Times, str]:
    """Return seconds by arm, or why there are none."""
    longest = room_of(next(iter(arms.values())).encoder)
    if seq > longest:
        return {}, f"the encoder reads at most {longest} tokens"
    calls = {name: forward_of(arm, random_batch(arm, rows, seq), recipe.precision) for name, arm in arms.items()}
    try:
        times = interleaved(calls, rounds, most_seconds=most_seconds, seed=recipe.seed)
    except torch.OutOfMemoryError:
        return {}, "does not fit into the device's memory"
    return times, "" if times else f"one round takes more than {most_seconds:g} s"


def _macs_length(model: Model) -> int:
    return min(MACS_LENGTH, room_of(model.encoder))
