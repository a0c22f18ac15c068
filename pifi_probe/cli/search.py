"""``search``: find the layer that helps an encoder most, under a budget."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.inputs import columns_of
from pifi_probe.cli.output import console, print_json
from pifi_probe.escaping import one_line
from pifi_probe.layers.spec import layer_ranges
from pifi_probe.selection.database import DATED, dated
from pifi_probe.tags import tags_of
from pifi_probe.vocabulary import COMBINATIONS

__all__ = ["register"]

SHOWN = 20  # candidates
Table = typer.Option(False, "--table", help="Show every candidate and control, not only the answer.")


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command(
        "search",
        epilog="Example: pifi-probe search --task movie-reviews --strategy fast --budget 5m --study s.db",
    )(search)


def search(
    task: str = flags.Task,
    slm: str = flags.Slm,
    llm: list[str] = typer.Option(["smollm2-135m"], help="The donor; may be repeated."),
    strategy: str = typer.Option("auto", help="auto, fast, or another; see the documentation."),
    budget: str = typer.Option(
        "20m", help="Time for the whole search (45m, 2h), or the runs that may choose: full ones (12) or '20 trials'."
    ),
    study: str = typer.Option(DATED, help="File or database URL; '#name' picks one of several studies in it."),
    n_seeds: int = typer.Option(
        3, "--n-seeds", "--seeds", help="Seeds of a sweep, and fresh ones to confirm the choice."
    ),
    wiring: str = typer.Option("matched", help=flags.WIRING),
    layers: str = flags.Layers,
    max_layers: int = typer.Option(1, help="The most layers in a combination."),
    combine: list[str] = typer.Option([], help=f"Of several layers: {', '.join(COMBINATIONS)}; may be repeated."),
    epochs: int = flags.Epochs,
    learning_rate: float = flags.LearningRate,
    precision: str = flags.Precision,
    max_tokens: int = flags.MaxTokens,
    device: str = flags.Device,
    n_train: int = flags.NTrain,
    max_texts: int = typer.Option(1000, help="A first pass: at most this many texts of each split; 0 for all."),
    text: str = flags.Text,
    label: str = flags.Label,
    kind: str = flags.Kind,
    language: str = flags.Language,
    executor: str = flags.Executor,
    workers: int = flags.Workers,
    confirm: bool = typer.Option(True, help="Run the choice and its controls again on fresh seeds."),
    table: bool = Table,
    tokenizer: str = flags.Tokenizer,
    tags: list[str] = flags.Tags,
    allow_pickle: bool = flags.AllowPickle,
    as_json: bool = flags.Json,
) -> None:
    """Search, showing every trial; the first Ctrl-C pauses and saves."""
    from pifi_probe.selection.budget import Budget
    from pifi_probe.selection.store import Store

    Budget.parse(budget)
    tags_of(tags)
    columns = columns_of(text, label, kind, language)
    layer_ranges(layers, "--layers")
    study = str(dated(study))
    _begin(Store.open(study), task, columns, n_train)  # on disk before anything slow

    import pifi_probe as pp
    from pifi_probe.cli.live import Live

    recipe = pp.Recipe(
        epochs=epochs, learning_rate=learning_rate, precision=precision, max_tokens=max_tokens, device=device
    )
    with Live(quiet=as_json) as live:
        found = pp.search(
            slm,
            llm,
            load(study),
            strategy=strategy,
            budget=budget,
            n_seeds=n_seeds,
            wiring=wiring,
            layers=layers,
            max_layers=max_layers,
            combine=combine or None,
            max_texts=max_texts or None,
            recipe=recipe,
            study=study,
            executor=executor,
            workers=workers,
            confirm=confirm,
            on_event=live,
            tokenizer=tokenizer or None,
            allow_pickle=allow_pickle,
            tags=tags,
        )
    finish(found, live.reason, as_json=as_json, table=table)


def _begin(store: Any, task: str, columns: dict[str, str], n_train: int) -> None:
    """Note where the texts come from, unless the study holds a search already; that one decides."""
    from pifi_probe.errors import SearchError
    from pifi_probe.selection.settings import note_source, read_n_train, read_source

    if store.noted("settings") is None:
        note_source(store, task, n_train, **columns)
        return
    source, n_stored = read_source(store), read_n_train(store)
    if source is not None and (source, n_stored) != ({"name_or_path": task, **columns}, n_train):
        raise SearchError(
            f"the study was made with another task: {source['name_or_path']}, n_train={n_stored} there; "
            f"{task}, n_train={n_train} here",
            where=str(store.address),
            next="give the same task, or name another study file",
        )


def load(study: str | Path) -> Any:
    """Return the task that a study was given on the command line.

    Raises
    ------
    TaskError
        If it cannot be loaded here.
    CorruptFileError
        If the study does not say where its texts come from.
    """
    from pifi_probe.selection.database import Address
    from pifi_probe.selection.settings import read_n_train, read_source
    from pifi_probe.selection.store import Store
    from pifi_probe.selection.study import Study
    from pifi_probe.tasks import load_task

    store = Store(Address.parse(study), create=False)
    n_train = read_n_train(store)
    source: dict[str, Any] = read_source(store) or Study(store).source
    task = load_task(**source)
    return task.subset(train=n_train) if n_train else task


def finish(study: Any, reason: str, *, as_json: bool, table: bool = False) -> None:
    """Print what was found; leave with 130 when the search was paused."""
    result = study.result
    if as_json:
        print_json({"state": reason or "finished", "result": None if result is None else result.to_dict()})
    else:
        show(study, table=table)
    if reason == "paused":
        typer.echo(f"paused and saved; continue with: pifi-probe study resume {_argument(study)}", err=True)
        raise typer.Exit(130)


def show(study: Any, *, table: bool = False) -> None:
    """Print the answer; with `table`, how the choice was made and the best candidates, too."""
    from pifi_probe.reporting.tables import to_rich

    result, terminal = study.result, console()
    if result is None:
        terminal.print("no trial is complete yet")
        return
    terminal.print(result.panel(), soft_wrap=True)
    if study.tags:
        terminal.print(f"tags: {', '.join(study.tags)}", soft_wrap=True, markup=False)
    if not table:
        terminal.print(f"every candidate and control: pifi-probe study show {_argument(study)} --table", soft_wrap=True)
        return
    terminal.print("\n".join(result.details), soft_wrap=True)
    board = study.leaderboard()
    columns = ["candidate", "fidelity", "phase", "seeds", "nll", "accuracy", "p_best"]
    terminal.print(to_rich(board.loc[: SHOWN - 1, columns], f"{study.settings.task['name']}, {study.budget}"))
    if len(board) > SHOWN:
        terminal.print(
            f"and {len(board) - SHOWN} more: pifi-probe study show {_argument(study)} --json", soft_wrap=True
        )


def _argument(study: Any) -> str:
    """Return the name of a study as a shell takes it; a password is not shown."""
    return one_line(shlex.quote(str(study.store.address)))
