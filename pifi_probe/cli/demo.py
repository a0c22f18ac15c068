"""``demo``: the main findings on the embedded models and texts, live."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.output import console, print_json

if TYPE_CHECKING:
    from pifi_probe.training import RunResult

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("demo", epilog="Example: pifi-probe demo --fast")(demo)


def demo(
    fast: bool = typer.Option(False, "--fast", help="Both wirings, at most two minutes: few texts and arms."),
    full: bool = typer.Option(False, "--full", help="Both wirings, 1,000 texts, 3 seeds, every arm; about an hour."),
    out: Path = typer.Option(Path("runs"), "--out", "-o", help="Folder for results; finished runs are kept."),
    table: bool = typer.Option(False, "--table", help="Also show every arm."),
    as_json: bool = flags.Json,
) -> None:
    """Show in ten minutes what only a real layer does, where layers help, and what the paper's wiring does."""
    from pifi_probe.files import make_folder

    if fast and full:
        raise typer.BadParameter("choose one of --fast and --full")
    size = "fast" if fast else "full" if full else "default"
    folder = make_folder(out / f"demo-{size}")  # before anything is fetched or trained
    if size == "default":
        _tour(folder, table, as_json)
    else:
        _wirings(folder, size, table, as_json)


def _tour(folder: Path, table: bool, as_json: bool) -> None:
    from pifi_probe.errors import RunInterrupted
    from pifi_probe.experiments.tour import run_tour

    terminal = console()
    try:
        tour = run_tour(folder, say=(lambda line: None) if as_json else terminal.print)
    except RunInterrupted as error:
        again = "run `pifi-probe demo` again, which goes on from there"
        raise RunInterrupted("interrupted; what is finished is kept", where=str(folder), next=again) from error
    if as_json:
        print_json(tour.to_dict())
        return
    if table:
        for found in (tour.control, tour.chain, tour.comparison):
            terminal.print(found.to_rich())
    terminal.print(f"\nThe answer, after {sum(tour.seconds.values()) - tour.seconds['first']:.0f} s of work")
    for asked, answer in tour.answers.items():
        terminal.print(f"\n{asked}")
        terminal.print(answer)
    terminal.print(f"\n{opener()} {folder / 'report.html'}", soft_wrap=True)


def opener() -> str:
    """Return this system's command that opens a file in its program."""
    return {"darwin": "open", "win32": "start"}.get(sys.platform, "xdg-open")


def _wirings(folder: Path, size: str, table: bool, as_json: bool) -> None:
    """Train vanilla, controls and plugged layers in both wirings on movie reviews; test on three domains."""
    from pifi_probe.experiments.demo import SIZES, run_demo

    terminal = console()
    if not as_json:
        terminal.print(f"minilm-l6 with layers of smollm2-135m, trained on movie-reviews: {SIZES[size]}")

    def say(done: int, total: int, run: RunResult) -> None:
        if not as_json:
            scores = ", ".join(f"{name} {test['accuracy']:.1%}" for name, test in run.metrics.items())
            terminal.print(f"[{done}/{total}] {run.label}, seed {run.seed}: {scores}")

    result = run_demo(folder, size=size, on_run=say)
    if as_json:
        print_json({baseline: comparison.to_dict() for baseline, comparison in result.comparisons.items()})
        return
    for baseline, comparison in result.comparisons.items() if table else ():
        terminal.print(comparison.to_rich(f"against {baseline}"))
    terminal.print(result.comparisons["vanilla"].panel())
    terminal.print(f"{opener()} {result.folder / 'report.html'}", soft_wrap=True)
