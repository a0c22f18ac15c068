"""`search`: find the layer that helps an encoder most on a task, under a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pifi_probe.errors import SearchError
from pifi_probe.layers.spec import Layers
from pifi_probe.permissions import pickle_on_request
from pifi_probe.selection.budget import DEFAULT, Budget
from pifi_probe.selection.database import DATED, dated
from pifi_probe.selection.events import OnEvent
from pifi_probe.selection.executors import Executor, make_executor
from pifi_probe.selection.settings import Settings, make_space, read_settings, settle
from pifi_probe.selection.store import Store
from pifi_probe.selection.study import FIRST_PASS, Study, first_pass, make_evaluator
from pifi_probe.tags import tags_of, with_tags
from pifi_probe.vocabulary import mode_of_today

if TYPE_CHECKING:
    from pifi_probe.tasks.task import Task
    from pifi_probe.training.recipe import Recipe

__all__ = ["search"]


@pickle_on_request
def search(
    slm: str,
    llm: str | Sequence[str],
    task: Task,
    *,
    strategy: str = "auto",
    options: Mapping[str, Any] | None = None,
    budget: str | float = DEFAULT,
    n_seeds: int = 3,
    wiring: str = "matched",
    layers: Layers | Mapping[str, Layers] = None,
    max_layers: int = 1,
    combine: Sequence[str] | None = None,
    modes: Sequence[Mapping[str, object]] = (),
    max_texts: int | None = FIRST_PASS,
    recipe: Recipe | None = None,
    study: str | Path | None = DATED,
    executor: str | Executor = "local",
    workers: int = 1,
    confirm: bool = True,
    on_event: OnEvent | None = None,
    resume: bool = True,
    tokenizer: str | Path | None = None,
    allow_pickle: bool = False,
    tags: str | Sequence[str] = (),
) -> Study:
    """Find the layer, or the few layers, that help an encoder most on a task, and say how sure the choice is.

    Parameters
    ----------
    slm : str
        The small language model, as for `plug_in`.
    llm : str or list of str
        The donors.
    task : Task
        With a training, a validation and a test split. Candidates are compared on the validation split; the test
        split is only read to say what the choice is worth.
    strategy : str
        ``"auto"``: all layers with a frozen encoder, then a Gaussian process with Thompson sampling on full runs,
        then a race of the last few. ``"fast"``: the first part only. Others: `pifi_probe.selection.strategies`.
    options : mapping, optional
        Of the strategy.
    budget : str or float
        A time (``"45m"``, ``"2h"``) is what the whole search may take on this machine: what the confirmation needs is
        kept back, with two seeds where all are too many, and with a frozen encoder where full runs are too many.
        Full runs (``"12"``) and trials (``"20 trials"``) are for the selection; the confirmation comes on top.
    n_seeds : int
        For each candidate of a sweep, and fresh ones for the confirmation; its controls get more, see
        `pifi_probe.ladder.control_seeds`.
    wiring : {"matched", "pifi", "aligned"}
        ``"matched"`` unless told, as in `pifi_probe.decide`; `pifi_probe.plug_in` makes the paper's model, ``"pifi"``,
        unless told. ``"aligned"``: chains of up to `max_layers` neighbours; ``strategy="span"`` is made for them.
    layers : str, list of int, or mapping from model to one, optional
        Only these: ``"0-9,15,-1"``, ``"0:30:3"`` or numbers; negative ones count from the end.
    max_layers : int
        The most layers in a combination.
    combine : sequence of str, optional
        Of combinations; see `Space`. None: "mix", and "serial" for aligned chains.
    modes : sequence of mappings
        Alternatives to choose between, such as ``[{}, {"feed": "sequence"}]``; empty: the wiring as it is.
    max_texts : int or None
        A first pass: at most so many texts of each split. None: all.
    recipe : Recipe, optional
        Of a full run; its seed is not used.
    study : str, Path or None
        A SQLite file, or a database URL; ``#name`` at its end picks one of several studies in it; the same call
        continues it. None: in memory. By default a new file with the date in its name, in the folder ``runs``.
    executor : {"local", "processes", "ray"} or Executor
        `pifi_probe.selection.executors.Ray` takes the address of a cluster, and what a trial asks of it.
    workers : int
        Trials that run at the same time; not for "local".
    confirm : bool
        Run the choice, and the controls vanilla, linear, random, shuffled and last layer, again on fresh seeds.
    on_event : callable, optional
        Called with each `pifi_probe.selection.events.Event`, in this thread.
    resume : bool
        Go on with what the same call has left in `study` before, and refuse what another one has; False uses none of
        it. Nothing is ever deleted: with False a study that has trials is refused.
    tokenizer : str or Path, optional
        Another one than the encoder's own: a hub id, a folder, or an embedded name; a study remembers names only.
    allow_pickle : bool
        Read legacy ``.bin`` weights, too, with ``weights_only=True``; see `plug_in`.
    tags : str or sequence of str
        Words of your own that the study keeps; a search that is continued adds its own to them.

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
    >>> study = pp.search("minilm-l6", "smollm2-135m", task, budget="5m")  # doctest: +SKIP
    >>> print(study.result)  # doctest: +SKIP
    """
    from pifi_probe.plugin.config import is_aligned

    amount, tags = Budget.parse(budget), tags_of(tags)
    wiring = mode_of_today("wiring", wiring)
    modes = [{name: mode_of_today(name, value) for name, value in one.items()} for one in modes]
    make_executor(executor, workers)  # its name and number are checked before anything slow
    combine = combine if combine is not None else ("serial",) if is_aligned(wiring) else ("mix",)
    if is_aligned(wiring) and max_layers > 1 and tuple(combine) != ("serial",):
        raise SearchError("aligned layers are one chain", where="combine", next='use combine=("serial",)')
    store = Store.open(dated(study))
    if not resume and store.records():
        raise SearchError(
            f"the study already holds {len(store.records())} trials",
            where=str(store.address),
            next="give resume=True to go on with it, or name another file",
        )
    from pifi_probe.selection.strategies import make_strategy
    from pifi_probe.training.recipe import Recipe

    recipe = recipe if recipe is not None else Recipe()
    if max_texts is not None and max_texts < 1:
        raise SearchError(f"max_texts={max_texts}", where="max_texts", next="give a number above 0, or None for all")
    noted = store.noted("settings")
    begun = noted is not None and read_settings(noted, str(store.address))[0].task["fingerprint"] == task.fingerprint
    whole, task = task, task if begun else first_pass(task, max_texts)
    space = make_space(llm, layers, max_layers, combine, modes)
    settings = Settings.of(
        task,
        slm,
        space,
        wiring=wiring,
        recipe=recipe,
        strategy=strategy,
        options=options or {},
        seeds=n_seeds,
        tokenizer=_name_of(tokenizer),
    )
    make_strategy(strategy, space, seeds=n_seeds, **(options or {}))
    settle(store, settings)
    store.note("confirm", confirm)
    if tags:
        store.note("tags", with_tags(store.noted("tags"), tags))
    if task is not whole:
        store.note("texts", _said(task, whole))
    found = Study(store, make_evaluator(settings, task, recipe.device), on_event)
    found.task = task
    found.resume(budget=amount, executor=executor, workers=workers)
    return found


def _said(task: Task, whole: Task) -> str:
    """Say on how many texts a first pass ran."""
    sizes = [
        f"{len(split):,} of {len(whole.splits[name]):,} {name}"
        for name, split in task.splits.items()
        if len(split) < len(whole.splits[name])
    ]
    more = "max_texts=None (--max-texts 0) searches on all, in a study of its own"
    return f"a first pass on {', '.join(sizes)} texts; {more}"


def _name_of(tokenizer: str | Path | None) -> str:
    if tokenizer is None or isinstance(tokenizer, str | Path):
        return str(tokenizer or "")
    raise SearchError(
        f"a study cannot remember a {type(tokenizer).__name__} in memory",
        where="tokenizer",
        next="save it (tokenizer.save_pretrained(folder)), and give the folder",
    )
