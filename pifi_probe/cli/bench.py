"""``bench``: what the block costs next to its rivals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.inputs import load_task
from pifi_probe.cli.output import console, print_json

__all__ = ["register"]

BATCHES, LENGTHS, ROUNDS = [1, 8, 32], [32, 128, 512], 10


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("bench", epilog="Example: pifi-probe bench --layer 'smollm2-135m[-1]' -o bench")(bench)


def bench(
    task: str = typer.Option("movie-reviews", help=flags.TASK),
    slm: str = flags.Slm,
    layer: str = typer.Option("smollm2-135m[-1]", help="MODEL[i]."),
    wiring: str = typer.Option("pifi", help=flags.WIRING),
    text: str = flags.Text,
    label: str = flags.Label,
    kind: str = flags.Kind,
    language: str = flags.Language,
    batches: list[int] = typer.Option(BATCHES, "--batch", help="Texts in a batch; may be repeated."),
    lengths: list[int] = typer.Option(LENGTHS, "--length", help="Tokens of a text; may be repeated."),
    rounds: int = typer.Option(ROUNDS, help="Measurements of every arm, after a warm-up."),
    seconds: float = typer.Option(60.0, help="At most this many seconds for one shape."),
    precision: str = flags.Precision,
    device: str = flags.Device,
    n_seeds: int = typer.Option(
        0,
        "--n-seeds",
        "--seeds",
        help="Train every arm with this many seeds, with --epochs, --learning-rate and --max-tokens: quality next to "
        "cost; needs --out.",
    ),
    also: list[str] = typer.Option([], help="With --seeds: test sets of other domains, for forgetting."),
    n_train: int = typer.Option(0, help="With --seeds: train on this many texts only."),
    epochs: int = flags.Epochs,
    learning_rate: float = flags.LearningRate,
    max_tokens: int = flags.MaxTokens,
    study: str = typer.Option(
        "", help="With --seeds: the search that chose the layer; what it took is shown next to it."
    ),
    arms: list[str] = typer.Option([], "--arm", help="With --seeds: only this arm; may be repeated."),
    allow_busy: bool = typer.Option(False, "--allow-busy", help="Measure time even while others run."),
    out: Path = typer.Option(None, "--out", "-o", help="Folder for the numbers and the report."),
    allow_pickle: bool = flags.AllowPickle,
    as_json: bool = flags.Json,
) -> None:
    """Measure time, memory, MACs and bytes of PiFi next to vanilla, folded, LoRA, IA3, a trained layer and an MLP."""
    import pifi_probe as pp

    data = load_task(task, text, label, kind, language)
    if n_seeds:
        if wiring != "pifi":
            raise typer.BadParameter("with --seeds the arms name the wirings", param_hint="--wiring")
        if (list(batches), list(lengths), rounds) != (BATCHES, LENGTHS, ROUNDS):
            raise typer.BadParameter("--batch, --length and --rounds belong to the measurement without --seeds")
        if out is None:
            raise typer.BadParameter("--seeds keeps every run in a folder: name it with --out")
        data = data.subset(train=n_train) if n_train else data
        some: dict[str, Any] = {"arms": arms} if arms else {}
        table = pp.cost_table(
            slm,
            layer,
            data,
            pp.Recipe(
                learning_rate=learning_rate, epochs=epochs, max_tokens=max_tokens, precision=precision, device=device
            ),
            out=out,
            n_seeds=n_seeds,
            also=[load_task(name, text, label, kind, language) for name in also],
            most_seconds=seconds,
            allow_busy=allow_busy,
            study=study or None,
            allow_pickle=allow_pickle,
            **some,
        )
        _show_table(table, out, as_json)
        return
    if study or arms or also or n_train:
        raise typer.BadParameter("--study, --arm, --also and --n-train belong to the table of --seeds")
    model = pp.plug_in(slm, layer, task=data, wiring=wiring, allow_pickle=allow_pickle)
    recipe = pp.Recipe(precision=precision, device=device)
    shapes: dict[str, Any] = {"batches": batches, "lengths": lengths, "rounds": rounds, "most_seconds": seconds}
    found = pp.benchmark(model, data, recipe, allow_busy=allow_busy, **shapes)
    if out is not None:
        _write(found, out)
    if as_json:
        print_json(found.to_dict())
        return
    terminal = console()
    terminal.print(found.to_rich())
    for line in _left_out(found):
        terminal.print(line)
    if out is not None:
        terminal.print(f"report: {out / 'benchmark.html'}")


def _show_table(found: Any, out: Path, as_json: bool) -> None:
    """Write the report of quality next to cost, and print the table."""
    from pifi_probe.reporting.html import report

    sections: Any = [{"title": "Every number", "table": found.frame}]
    if found.frame["P90 ms"].notna().any():
        alt = "Quality over the 90th percentile of latency, one mark an arm."
        sections.insert(0, {"title": "Quality over latency", "figure": found.figure(), "alt": alt})
    report(f"Quality and cost of {found.pair}", sections, out / "costs.html", found.provenance)
    if as_json:
        print_json(found.to_dict())
        return
    terminal = console()
    terminal.print(found.to_rich())
    terminal.print(f"report: {out / 'costs.html'}")


def _left_out(found: Any) -> list[str]:
    """Return what was not measured, besides arms, which are rows of the table."""
    arms = set(found.frame["arm"])
    return [f"left out: {part}: {why}" for part, why in found.left_out.items() if part not in arms]


def _write(found: Any, out: Path) -> None:
    from pifi_probe.reporting.html import report

    found.to_json(out / "benchmark.json")
    sections: Any = [
        {
            "title": "Above vanilla",
            "figure": found.figure(),
            "alt": "What each arm costs above vanilla in percent: training step, training memory, inference.",
        },
        {"title": "Every number", "text": "\n".join(_left_out(found)), "table": found.frame},
    ]
    report(f"Cost of {found.model}", sections, out / "benchmark.html", found.provenance)
