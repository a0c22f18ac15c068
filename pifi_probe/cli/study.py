"""``study``: read a search, continue it, join it, export its choice, look at it in a browser."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.output import print_json
from pifi_probe.cli.search import Table, finish, load
from pifi_probe.cli.search import show as show_study
from pifi_probe.permissions import allowing_pickle

__all__ = ["register"]

STUDY = typer.Argument(help="File or database URL of the study; '#name' picks one of several.")


def register(app: typer.Typer) -> None:
    """Attach the commands."""
    study = typer.Typer(help="Show a search, continue it, join it, or export its choice.", no_args_is_help=True)
    for command in (show, resume, export, join, serve):
        study.command(command.__name__)(command)
    app.add_typer(study, name="study")


def show(study: str = STUDY, table: bool = Table, as_json: bool = flags.Json) -> None:
    """Print the answer, and with --table every candidate and how sure the choice is."""
    from pifi_probe.selection.study import Study

    found = Study.open(study)
    if not as_json:
        show_study(found, table=table)
        return
    result = found.result
    rows = found.leaderboard().to_dict("records")
    print_json({"result": None if result is None else result.to_dict(), "leaderboard": rows, "tags": found.tags})


def resume(
    study: str = STUDY,
    budget: str = typer.Option("", help="A new budget for the whole study; by default what is left of the old one."),
    executor: str = flags.Executor,
    workers: int = flags.Workers,
    allow_pickle: bool = flags.AllowPickle,
    as_json: bool = flags.Json,
) -> None:
    """Spend what is left of the budget, and confirm the choice; does nothing when nothing is left."""
    with allowing_pickle(allow_pickle):
        _go_on(study, budget, executor, workers, as_json)


def join(
    study: str = STUDY,
    executor: str = flags.Executor,
    workers: int = flags.Workers,
    allow_pickle: bool = flags.AllowPickle,
    as_json: bool = flags.Json,
) -> None:
    """Work on a study together with other processes, on this or any machine; no trial is run twice."""
    with allowing_pickle(allow_pickle):
        _go_on(study, "", executor, workers, as_json)


def _go_on(name: str, budget: str, executor: str, workers: int, as_json: bool) -> None:
    from pifi_probe.cli.live import Live
    from pifi_probe.selection.study import Study

    found = Study.open(name)
    if not found.is_over(budget or None):
        found = Study.open(name, task=load(name))
    with Live(quiet=as_json) as live:
        found.on_event = live
        found.resume(budget=budget or None, executor=executor, workers=workers)
    finish(found, live.reason, as_json=as_json)


def export(
    study: str = STUDY,
    out: Path = typer.Option(..., "--out", "-o", help="Folder to write into."),
    allow_pickle: bool = flags.AllowPickle,
) -> None:
    """Train the choice once more, and write its checkpoint, card, report, trials and script."""
    from pifi_probe.selection.study import Study

    with allowing_pickle(allow_pickle):
        folder = Study.open(study, task=load(study)).export(out)
    typer.echo(str(folder))


def serve(
    study: str = STUDY,
    port: int = typer.Option(8080, help="Port on this machine."),
) -> None:
    """Open the study in optuna-dashboard, if it is installed."""
    from pifi_probe.errors import SearchError
    from pifi_probe.selection.store import Store

    try:
        dashboard: Any = importlib.import_module("optuna_dashboard")
    except ImportError as error:
        raise SearchError(
            "optuna-dashboard is not installed",
            where="study serve",
            next="pip install 'pifi-probe[dashboard]'",
        ) from error
    storage: Any = Store.open(study, create=False).storage
    typer.echo(f"http://127.0.0.1:{port}/ (Ctrl-C ends it)")
    dashboard.run_server(storage, host="127.0.0.1", port=port)
