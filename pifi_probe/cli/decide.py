"""``decide``: one question about one layer, with as many seeds as it takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.inputs import chosen_layer, load_task
from pifi_probe.cli.output import console, print_json

if TYPE_CHECKING:
    from pifi_probe.training import RunResult

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("decide", epilog="Example: pifi-probe decide --task reviews.csv --budget 15m")(decide)


def decide(
    task: str = flags.Task,
    slm: str = flags.Slm,
    layer: str = typer.Option(
        "", help="MODEL[i], or several: A[i] >> B[j]; by default the last of smollm2-135m, or its chain."
    ),
    question: str = typer.Option("knowledge", help="knowledge, plugging in, projections or block."),
    margin: float = typer.Option(1.0, help="Smaller differences count as none, in points."),
    budget: str = typer.Option("30m", help="A time (30m, 2h) or full runs (40)."),
    wiring: str = typer.Option("matched", help=flags.WIRING),
    text: str = flags.Text,
    label: str = flags.Label,
    kind: str = flags.Kind,
    language: str = flags.Language,
    n_train: int = flags.NTrain,
    fraction: list[float] = flags.Fraction,
    epochs: int = flags.Epochs,
    learning_rate: float = flags.LearningRate,
    max_tokens: int = flags.MaxTokens,
    precision: str = flags.Precision,
    device: str = flags.Device,
    executor: str = flags.Executor,
    workers: int = flags.Workers,
    out: Path = typer.Option(None, "--out", "-o", help="Folder for results, runs/decide-TASK when not given."),
    table: bool = typer.Option(False, "--table", help="Show all that was found, not only the answer."),
    allow_pickle: bool = flags.AllowPickle,
    as_json: bool = flags.Json,
) -> None:
    """Train the layer and its controls with more and more seeds until the question is decided."""
    import pifi_probe as pp

    layer = chosen_layer(layer, wiring)
    main = load_task(task, text, label, kind, language)
    main = main.subset(train=n_train) if n_train else main
    terminal = console()

    def say(run: RunResult) -> None:
        if not as_json:
            terminal.print(f"{run.label}, seed {run.seed}: {sum(run.seconds.values()):.0f} s")

    recipe = pp.Recipe(
        epochs=epochs, learning_rate=learning_rate, max_tokens=max_tokens, precision=precision, device=device
    )
    options = {
        "margin": margin,
        "budget": budget,
        "question": question,
        "wiring": wiring,
        "fractions": fraction,
    }
    options |= {"executor": executor, "workers": workers, "allow_pickle": allow_pickle}
    found = pp.decide(slm, layer, main, **options, recipe=recipe, out=out, on_run=say)  # type: ignore[arg-type]
    if as_json:
        print_json(found.to_dict())
        return
    if table:
        terminal.print(str(found))
        terminal.print(found.to_rich())
    else:
        terminal.print(found.panel())
        for line in found.sight:
            terminal.print(f"Sight of the weights: {line}.")
        for size, fewer in sorted(found.fewer.items()):
            terminal.print(f"{size:,} labelled texts: {str(fewer).splitlines()[0]}")
    terminal.print(f"runs, and all that was found: {found.folder}; the same command continues there")
