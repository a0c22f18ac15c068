"""`ensemble`: several trained seeds of one arm as one classifier, the control of every combination of layers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from pifi_probe.errors import RecipeError
from pifi_probe.kinds.parts.encoding import encode
from pifi_probe.kinds.parts.evaluating import predict_logits
from pifi_probe.kinds.parts.metrics import classification_metrics
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.provenance import collect
from pifi_probe.tasks.task import Split, Task
from pifi_probe.training.result import RunResult, TestResult
from pifi_probe.training.run import Run

__all__ = ["ensemble"]


def ensemble(
    models: Sequence[PiFiForSequenceClassification],
    results: Sequence[RunResult],
    task: Task,
    *,
    also: Sequence[Task] = (),
) -> RunResult:
    """Score the mean of the class probabilities of several runs (book/methods.md, Combinations).

    Parameters
    ----------
    models : sequence of PiFiForSequenceClassification
        Trained by `fine_tune`.
    results : sequence of RunResult
        What `fine_tune` returned for them: seeds of one arm.
    task : Task
        The runs' task.
    also : sequence of Task
        Further test sets.

    Returns
    -------
    RunResult
        As of one run, with the first one's recipe: `compare` takes it next to others. Its only epoch has the
        validation metrics; weights, seconds and frozen layers are those of all members.

    Raises
    ------
    RecipeError
        If rows do not have one class each, there are fewer than two runs, a seed comes twice, or the runs are of
        different arms.
    """
    _check(models, results, task)
    runs = [Run(model, task, one.recipe, tuple(also)) for model, one in zip(models, results, strict=True)]
    validation = task.splits["validation"]
    metrics = classification_metrics(validation.labels, _mean_logits(runs, validation))
    tests = {
        name: TestResult.of(view, _mean_logits(runs, view.splits["test"]), task.splits["train"].labels, note)
        for name, (view, note) in runs[0].views.items()
    }
    first = results[0]
    label = f"{first.model['label']}, ensemble of {len(results)}"
    return replace(
        first,
        model=first.model
        | {
            "label": label,
            "members": [one.seed for one in results],
            "layers": [layer for one in results for layer in one.model["layers"]],
        },
        start=hashlib.sha256("".join(one.start for one in results).encode()).hexdigest(),
        epochs=[{"epoch": 0, **metrics}],
        best_epoch=0,
        tests=tests,
        curves={},
        parameters={name: sum(one.parameters[name] for one in results) for name in first.parameters},
        layer_digests={
            moment: [digest for one in results for digest in one.layer_digests[moment]]
            for moment in first.layer_digests
        },
        seconds={name: sum(one.seconds[name] for one in results) for name in first.seconds},
        provenance=collect(),
    )


def _check(models: Sequence[PiFiForSequenceClassification], results: Sequence[RunResult], task: Task) -> None:
    if not task.has_row_classes:
        raise RecipeError(
            f"the mean of class probabilities needs one class a row, which a {task.kind} task does not have",
            where=f"ensemble, {task.name}",
            next="compare the runs themselves with pp.compare",
        )
    labels, seeds = {one.label for one in results}, {one.seed for one in results}
    if len(models) != len(results) or len(results) < 2:
        raise RecipeError(
            f"{len(models)} models and {len(results)} results do not make an ensemble",
            where="ensemble",
            next="give two or more trained models, and the result of each",
        )
    if len(labels) > 1 or len(seeds) < len(results):
        raise RecipeError(
            "the members are not seeds of one arm",
            where=", ".join(f"{one.label}, seed {one.seed}" for one in results),
            next="train one arm with different seeds",
        )


def _mean_logits(runs: Sequence[Run], split: Split) -> NDArray[np.float64]:
    """Return the logarithm of the mean of the members' class probabilities, (n, K)."""
    members = []
    for run in runs:
        rows = encode(split, run.tokenizer, run.recipe.max_tokens)
        logits = predict_logits(run.model, rows, run.tokenizer, precision=run.recipe.precision)
        members.append(log_softmax(np.asarray(logits, dtype=np.float64), axis=1))
    mean: NDArray[np.float64] = logsumexp(members, axis=0) - np.log(len(members))
    return mean
