"""``headroom``: what a donor's states add to an encoder, before anything is plugged in."""

from __future__ import annotations

from pathlib import Path

import typer

from pifi_probe.cli.output import Json, console
from pifi_probe.cli.runs import load_task

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("headroom", epilog="Example: pifi-probe headroom --task movie-reviews")(headroom)


def headroom(
    task: str = typer.Option(..., help="Embedded or named task, CSV, TSV, JSONL or parquet file, or hub id."),
    slm: str = typer.Option("minilm-l6", help="The small language model."),
    llm: str = typer.Option("smollm2-135m", help="The donor: hub id, folder, file or embedded name."),
    n: int = typer.Option(1000, "--n", "-n", help="Number of texts, drawn by class."),
    split: str = typer.Option("train", help="train or validation; never test."),
    text: str = typer.Option("text", help="Column with the text, for files and hub data."),
    label: str = typer.Option("label", help="Column with the label, for files and hub data."),
    seed: int = typer.Option(0, help="Seed of the draws."),
    tokenizer: str = typer.Option("", help="Another tokenizer for the small model: hub id, folder or name."),
    out: Path = typer.Option(None, "--out", "-o", help="Write the result here as JSON."),
    as_json: bool = Json,
) -> None:
    """Say whether a language model knows anything of a task that the encoder does not, and in which layers."""
    import pifi_probe as pp

    loaded = load_task(task, text, label)
    found = pp.headroom(slm, llm, loaded, n=n, split=split, seed=seed, tokenizer=tokenizer or None)
    if out is not None:
        found.to_json(out)
    if as_json:
        typer.echo(found.to_json())
        return
    console().print(found.answer)
    console().print(found.to_rich())
    if found.something:
        console().print(f"layers for a chain: {found.span[0]} to {found.span[1]}")
