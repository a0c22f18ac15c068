"""``reproduce``: the paper's experiments by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.output import console, print_json, print_rows

if TYPE_CHECKING:
    from pifi_probe.experiments.reproduce import Reproduction
    from pifi_probe.training import RunResult

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("reproduce", epilog="Example: pifi-probe reproduce layer-position")(reproduce)


def reproduce(
    name: str = typer.Argument("list", help="An experiment, or list."),
    scale: str = typer.Option("small", help="small: embedded models and texts; paper: the paper's own, on a GPU."),
    out: Path = typer.Option(None, "--out", "-o", help="Folder for results, runs/NAME-SCALE when not given."),
    data: Path = typer.Option(None, help="Folder of own data, for the parts that need a file."),
    fraction: list[float] = flags.Fraction,
    table: bool = typer.Option(False, "--table", help="Show every claim, not only the answer."),
    as_json: bool = flags.Json,
) -> None:
    """Run an experiment of the paper and compare what it finds with what the paper reports; runs are kept."""
    import pifi_probe as pp
    from pifi_probe.experiments.plan import load_experiment
    from pifi_probe.training.result import describe_score

    if name == "list":
        _list(as_json)
        return
    size = load_experiment(name).scale(scale)
    terminal = console()
    if not as_json:
        terminal.print(size.stands_for)

    def say(done: int, total: int, run: RunResult) -> None:
        if not as_json:
            scores = (f"{test} {describe_score(own.score_names[0], own)}" for test, own in run.tests.items())
            terminal.print(f"[{done}/{total}] {run.label}, seed {run.seed}: {', '.join(scores)}")

    found = pp.reproduce(name, scale, out=out, data=data, fractions=fraction, on_run=say)
    if as_json:
        print_json(found.to_dict())
        return
    _show(found, table=table)
    for count, fewer in found.fewer.items():
        terminal.print(f"with {count:,} labelled texts:")
        _show(fewer, table=table)


def _show(found: Reproduction, *, table: bool) -> None:
    terminal, panel = console(), found.panel()
    if panel:
        terminal.print(panel, soft_wrap=True)
    if table or not panel:
        terminal.print(found.to_rich())
    else:
        terminal.print("every claim and its verdict: the same command with --table")
    for part, why in found.left_out.items():
        terminal.print(f"left out: {part}: {why}")
    terminal.print(f"report: {found.folder / 'summary.html'}")


def _list(as_json: bool) -> None:
    from pifi_probe.experiments.plan import experiments, load_experiment

    plans = [load_experiment(name) for name in experiments()]
    rows = [
        {
            "name": plan.name,
            "asks": plan.title,
            **{
                f"{name}: runs": sum(sum(plan.seeds_of(size, block).values()) for block in size.blocks)
                for name, size in plan.scales.items()
            },
            "small: minutes on two cores": plan.scales["small"].minutes,
        }
        for plan in plans
    ]
    if as_json:
        print_json(rows)
    else:
        print_rows("experiments", rows)
