"""``headroom``: what a donor's states add to an encoder, before anything is plugged in."""

from __future__ import annotations

from pathlib import Path

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.inputs import load_task
from pifi_probe.cli.output import console

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("headroom", epilog="Example: pifi-probe headroom --task movie-reviews")(headroom)


def headroom(
    task: str = flags.Task,
    slm: str = flags.Slm,
    llm: str = typer.Option("smollm2-135m", help="The donor: hub id, folder, file or embedded name."),
    n: int = typer.Option(1000, "--n", "-n", help="Number of texts, drawn by class."),
    split: str = typer.Option("train", help="train or validation; never test."),
    text: str = flags.Text,
    label: str = flags.Label,
    kind: str = flags.Kind,
    language: str = flags.Language,
    seed: int = typer.Option(0, help="Seed of the draws."),
    max_tokens: int = flags.MaxTokens,
    device: str = flags.Device,
    tokenizer: str = flags.Tokenizer,
    out: Path = typer.Option(None, "--out", "-o", help="Write the result here as JSON."),
    allow_pickle: bool = flags.AllowPickle,
    as_json: bool = flags.Json,
) -> None:
    """Say whether a language model knows anything of a task that the encoder does not, and in which layers."""
    import pifi_probe as pp

    loaded = load_task(task, text, label, kind, language)
    found = pp.headroom(
        slm,
        llm,
        loaded,
        n=n,
        split=split,
        max_tokens=max_tokens,
        device=device,
        tokenizer=tokenizer or None,
        seed=seed,
        allow_pickle=allow_pickle,
    )
    if out is not None:
        found.to_json(out)
    if as_json:
        typer.echo(found.to_json())
        return
    console().print(found.answer)
    console().print(found.to_rich())
    if found.something:
        console().print(f"layers for a chain: {found.span[0]} to {found.span[1]}")
