"""``probe``: a score for every layer of a model, with intervals and a null."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.inputs import load_task
from pifi_probe.cli.output import console, echo_json
from pifi_probe.permissions import allowing_pickle

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("probe", epilog="Example: pifi-probe probe smollm2-135m --task movie-reviews --html probe.html")(probe)


def probe(
    model: str = typer.Argument(help=flags.MODEL),
    task: str = flags.Task,
    slm: str = typer.Option("", help="Score layers as plug-ins of this small model, not the model's own states."),
    estimators: str = typer.Option("default", help="default, all, or names with commas between."),
    n: int = typer.Option(1000, "--n", "-n", help="Number of texts, drawn by class."),
    split: str = typer.Option("train", help="train or validation; never test."),
    text: str = flags.Text,
    label: str = flags.Label,
    kind: str = flags.Kind,
    language: str = flags.Language,
    fraction: list[float] = flags.Fraction,
    max_tokens: int = flags.MaxTokens,
    device: str = flags.Device,
    seed: int = typer.Option(0, help="Seed of the draws."),
    out: Path = typer.Option(None, "--out", "-o", help="Write the whole table here as JSON."),
    csv: Path = typer.Option(None, help="Write the rows here as CSV."),
    html: Path = typer.Option(None, help="Write a report with plots here."),
    tokenizer: str = typer.Option(
        "",
        help="Another tokenizer for the model, or with --slm for the small one.",
    ),
    allow_pickle: bool = flags.AllowPickle,
    as_json: bool = flags.Json,
) -> None:
    """Score every layer of a language model on a task: held out, with intervals and permuted labels."""
    import pifi_probe as pp

    loaded = load_task(task, text, label, kind, language)
    options: dict[str, Any] = {"estimators": estimators, "n": n, "seed": seed}
    shared: dict[str, Any] = {"split": split, "max_tokens": max_tokens, "device": device}
    if tokenizer:
        options["tokenizer"] = tokenizer
    if fraction and slm:
        raise typer.BadParameter("layers as plug-ins are scored with all labels", param_hint="--fraction")
    with allowing_pickle(allow_pickle):
        if slm:
            table = pp.probe_plugin(slm, model, loaded, pp.PluginProbeSettings(**shared), **options)
        else:
            table = pp.probe(model, loaded, pp.ProbeSettings(**shared, fractions=tuple(fraction)), **options)
    for path, write in ((out, table.to_json), (csv, table.to_csv), (html, table.report)):
        if path is not None:
            write(path)
    if as_json:
        echo_json(table.to_json())
        return
    console().print(table.to_rich())
    for note in table.notes:
        console().print(f"- {note}")
