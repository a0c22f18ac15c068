"""The matched controls of an experiment, each as one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from pifi_probe.errors import RecipeError
from pifi_probe.layers.extract import extract
from pifi_probe.layers.frozen import FrozenLayers, FrozenParallel, branches_of, list_of
from pifi_probe.plugin.build import plug_in
from pifi_probe.plugin.config import CONTROLS
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.tasks.task import Task
from pifi_probe.training.folder import temporary_run_folder
from pifi_probe.training.recipe import Recipe
from pifi_probe.training.result import RunResult
from pifi_probe.training.run import Run

__all__ = ["controls", "controls_at_equal_k", "vanilla_best_lr"]

FACTORS = (0.4, 1.0, 2.0)  # of the learning rate, for `vanilla_best_lr`
Factory = Callable[[int], PiFiForSequenceClassification]


def controls(slm: str, layer: str | FrozenLayers, task: Task, wiring: str = "pifi") -> dict[str, Factory]:
    """Return a factory for each matched control of a layer.

    Parameters
    ----------
    slm : str
        The small language model, as for `plug_in`.
    layer : str, FrozenLayer, FrozenChain or FrozenParallel
        The layer or layers, extracted once.
    task : Task
    wiring : {"pifi", "matched"}

    Returns
    -------
    dict of str to callable
        ``"vanilla"``, ``"linear"``, ``"random"``, ``"shuffled"``, ``"unfrozen"`` and ``"mlp"``; each takes a seed
        and returns a model.

    Examples
    --------
    >>> arms = controls("minilm-l6", "smollm2-135m[-1]", task)  # doctest: +SKIP
    >>> fine_tune(arms["linear"](0), task, Recipe(seed=0))  # doctest: +SKIP
    """
    donor = extract(layer) if isinstance(layer, str) else layer

    def factory(control: str) -> Factory:
        return lambda seed: plug_in(slm, donor, task=task, wiring=wiring, control=control, seed=seed)

    return {control: factory(control) for control in CONTROLS}


def controls_at_equal_k(
    slm: str, layers: str | FrozenLayers, task: Task, wiring: str = "pifi", combine: str | None = None
) -> dict[str, Factory]:
    """Return a factory for each control that has as many parts as a combination (book/methods.md, Combinations).

    The fourth one, c, is `pifi_probe.training.ensemble.ensemble` of k seeds of the best single layer.

    Parameters
    ----------
    slm : str
        The small language model, as for `plug_in`.
    layers : str, FrozenChain or FrozenParallel
        The combination, extracted once.
    task : Task
    wiring : {"pifi", "matched"}
    combine : str, optional
        As for `plug_in`.

    Returns
    -------
    dict of str to callable
        ``"repeated"``: the first layer k times, each with projections of its own; ``"shuffled"``: the
        combination of shuffled layers; ``"mlp"``: a trainable MLP with as many weights as the projections. Each
        takes a seed and returns a model.
    """
    donor = extract(layers) if isinstance(layers, str) else layers
    branches = branches_of(donor)
    parts = branches if len(branches) > 1 else list_of(donor)
    repeated = FrozenParallel([parts[0]] * len(parts))

    def factory(control: str) -> Factory:
        return lambda seed: plug_in(slm, donor, task=task, wiring=wiring, combine=combine, control=control, seed=seed)

    return {
        "repeated": lambda seed: plug_in(slm, repeated, task=task, wiring=wiring, combine="unshared", seed=seed),
        **{control: factory(control) for control in ("shuffled", "mlp")},
    }


def vanilla_best_lr(
    slm: str,
    task: Task,
    recipe: Recipe,
    *,
    wiring: str = "pifi",
    factors: Sequence[float] = FACTORS,
    also: Sequence[Task] = (),
    out: str | Path | None = None,
) -> RunResult:
    """Run vanilla fine-tuning at several learning rates and test only the best of them.

    Chosen on the validation split (accuracy, ties by the lower NLL), so that the baseline is tuned as a method
    with more settings could have been (book/methods.md, Twins and controls).

    Parameters
    ----------
    slm, task, recipe, wiring, also
        As for `plug_in` and `fine_tune`; the wiring gives the pooling.
    factors : sequence of float
        Multiples of the recipe's learning rate: 2e-5, 5e-5 and 1e-4 with the defaults.
    out : str or Path, optional
        A file for the result, written atomically.

    Returns
    -------
    RunResult
        With ``tuned`` set, which `compare` accepts next to runs at the recipe's own rate.

    Raises
    ------
    RecipeError
        If `factors` is empty or holds anything but positive numbers.
    """
    if not factors or not all(isinstance(factor, int | float) and 0 < factor < math.inf for factor in factors):
        raise RecipeError(
            f"factors={tuple(factors)!r} are not multiples of a learning rate",
            where="vanilla_best_lr",
            next="give at least one positive number, such as (0.4, 1.0, 2.0)",
        )
    best: Run | None = None
    for factor in factors:
        model = plug_in(slm, task=task, wiring=wiring, control="vanilla", seed=recipe.seed)
        run = Run(model, task, recipe.replace(learning_rate=factor * recipe.learning_rate), tuple(also))
        with temporary_run_folder() as folder:
            run.train(folder, keep_checkpoints=False)
        if best is None or run.history.best_score > best.history.best_score:
            best = run
    assert best is not None
    result = best.test(tuned={"learning_rate": best.recipe.learning_rate})
    if out is not None:
        result.to_json(out)
    return result
