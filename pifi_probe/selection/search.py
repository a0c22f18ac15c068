"""`search`: find the layer that helps an encoder most on a task, under a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pifi_probe.errors import SearchError
from pifi_probe.permissions import pickle_on_request
from pifi_probe.selection.budget import Budget
from pifi_probe.selection.events import OnEvent
from pifi_probe.selection.executors import Executor, make_executor
from pifi_probe.selection.settings import Settings, make_space
from pifi_probe.selection.store import Store
from pifi_probe.selection.study import Study, complete, make_evaluator

if TYPE_CHECKING:
    from pifi_probe.tasks.task import Task
    from pifi_probe.training.recipe import Recipe

__all__ = ["search"]


@pickle_on_request
def search(
    task: Task,
    slm: str = "minilm-l6",
    llm: str | Sequence[str] = "smollm2-135m",
    *,
    strategy: str = "auto",
    options: Mapping[str, Any] | None = None,
    budget: str | float = "12",
    seeds: int = 3,
    wiring: str = "matched",
    layers: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    max_length: int = 1,
    designs: Sequence[str] | None = None,
    modes: Sequence[Mapping[str, object]] = (),
    recipe: Recipe | None = None,
    study: str | Path | None = "s.db",
    executor: str | Executor = "local",
    workers: int = 1,
    confirm: bool = True,
    on_event: OnEvent | None = None,
    resume: bool = True,
    allow_pickle: bool = False,
) -> Study:
    """Find the layer, or the few layers, that help an encoder most on a task, and say how sure that is.

    Parameters
    ----------
    task : Task
        With a training, a validation and a test split. Candidates are compared on the validation split; the test
        split is only read to say what the choice is worth.
    slm : str
        The small language model, as for `plug_in`.
    llm : str or list of str
        The donors.
    strategy : str
        ``"auto"``: all layers with a frozen encoder, then a Gaussian process with Thompson sampling on full runs,
        then a race of the last few. ``"fast"``: the first part only. Others: `pifi_probe.selection.strategies`.
    options : mapping, optional
        Of the strategy.
    budget : str or float
        What the selection may spend: full runs (``"12"``), ``"20 trials"`` or a time (``"45m"``, ``"2h"``). The
        confirmation comes on top.
    seeds : int
        For each candidate of a sweep, and fresh ones for the confirmation.
    wiring : {"matched", "paper", "aligned"}
        ``"aligned"``: chains of up to `max_length` neighbours; ``strategy="span"`` is made for them.
    layers : list of int, or mapping from model to one, optional
        Only these; negative indices count from the end.
    max_length : int
        The most layers in a combination.
    designs : sequence of str, optional
        Of combinations; see `Space`. None: "mix", and "serial" for aligned chains.
    modes : sequence of mappings
        Alternatives to choose between, such as ``[{}, {"feed": "sequence"}]``; empty: the wiring as it is.
    recipe : Recipe, optional
        Of a full run; its seed is not used.
    study : str, Path or None
        A SQLite file, or a database URL; ``#name`` at its end picks one of several studies in it. None: in memory.
    executor : {"local", "processes", "ray"} or Executor
        `pifi_probe.selection.on_ray.Ray` takes the address of a cluster, and what a trial asks of it.
    workers : int
        Trials that run at the same time, but for "local".
    confirm : bool
        Run the choice, and the controls vanilla, linear, random, shuffled and last layer, again on fresh seeds.
    on_event : callable, optional
        Called with each `pifi_probe.selection.events.Event`, in this thread.
    resume : bool
        Go on with a study that has trials, with its own settings; otherwise such a study is refused.
    allow_pickle : bool
        Read legacy ``.bin`` weights, too, with ``weights_only=True``; see `plug_in`.

    Returns
    -------
    Study
        Finished, or paused by the first Ctrl-C or `Study.pause`; every finished trial is on disk.

    Raises
    ------
    SearchError
        If an argument is unusable, the budget is smaller than one trial, the study is locked or belongs to another
        search (the difference is shown).
    CorruptFileError
        If the study's file is damaged.
    SaveError
        If the disk is full; every finished trial is kept.

    Examples
    --------
    >>> study = pp.search(task, strategy="fast", budget="5m")  # doctest: +SKIP
    >>> print(study.result)  # doctest: +SKIP
    """
    amount = Budget.parse(budget)
    make_executor(executor, workers)  # its name and number are checked before anything slow
    designs = designs if designs is not None else ("serial",) if wiring == "aligned" else ("mix",)
    if wiring == "aligned" and max_length > 1 and tuple(designs) != ("serial",):
        raise SearchError("aligned layers are one chain", where="designs", next='use designs=("serial",)')
    store = Store.open(study)
    if not resume and store.records():
        raise SearchError(
            f"the study holds {len(store.records())} trials already",
            where=str(store.address),
            next="give resume=True to go on with it, or name another file",
        )
    from pifi_probe.selection.strategies import make_strategy
    from pifi_probe.training.recipe import Recipe

    recipe = recipe if recipe is not None else Recipe()
    space = make_space(llm, layers, max_length, designs, modes)
    settings = Settings.of(
        task,
        slm,
        space,
        wiring=wiring,
        recipe=recipe,
        strategy=strategy,
        options=options or {},
        seeds=seeds,
    )
    make_strategy(strategy, space, seeds=seeds, **(options or {}))
    store.settle(settings.to_dict(), complete)
    store.note("confirm", confirm)
    found = Study(store, make_evaluator(settings, task, recipe.device), on_event)
    found.task = task
    found.resume(budget=amount, executor=executor, workers=workers)
    return found
