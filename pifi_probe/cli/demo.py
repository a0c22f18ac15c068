"""``demo``: the main job on the embedded models and texts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pifi_probe.cli.output import Json, console, print_json

if TYPE_CHECKING:
    from pifi_probe.training import RunResult

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("demo", epilog="Example: pifi-probe demo --fast")(demo)


def demo(
    fast: bool = typer.Option(False, "--fast", help="At most two minutes: fewer texts and arms."),
    full: bool = typer.Option(False, "--full", help="The README's table: 1,000 texts, 3 seeds; about an hour."),
    out: Path = typer.Option(Path("runs"), "--out", "-o", help="Folder for results; finished runs are kept."),
    table: bool = typer.Option(False, "--table", help="Show every arm, too."),
    as_json: bool = Json,
) -> None:
    """Train vanilla, controls and plugged layers in both wirings on movie reviews; test on three domains."""
    from pifi_probe.experiments.demo import SIZES, run_demo
    from pifi_probe.files import make_folder

    if fast and full:
        raise typer.BadParameter("choose one of --fast and --full")
    size = "fast" if fast else "full" if full else "default"
    folder = make_folder(out / f"demo-{size}")  # before anything is fetched or trained
    terminal = console()
    if not as_json:
        terminal.print(f"minilm-l6 with layers of smollm2-135m, trained on movie-reviews: {SIZES[size]}")

    def say(done: int, total: int, run: RunResult) -> None:
        if not as_json:
            scores = ", ".join(f"{name} {test['accuracy']:.1%}" for name, test in run.metrics.items())
            terminal.print(f"[{done}/{total}] {run.label}, seed {run.seed}: {scores}")

    result = run_demo(folder, size=size, on_run=say)
    if as_json:
        print_json({baseline: asdict(comparison) for baseline, comparison in result.comparisons.items()})
        return
    for baseline, comparison in result.comparisons.items() if table else ():
        terminal.print(comparison.to_rich(f"against {baseline}"))
    terminal.print(result.comparisons["vanilla"].panel())
    terminal.print(f"report: {result.folder / 'report.html'}")
