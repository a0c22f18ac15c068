"""``control``: what the weights of a donor's layers do beyond doubt, on repeated random words."""

from __future__ import annotations

from pathlib import Path

import typer

from pifi_probe.cli.output import Json, console

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("control", epilog="Example: pifi-probe control smollm2-135m --layers 16-19")(control)


def control(
    model: str = typer.Argument(help="Hub id, folder, .gguf or .safetensors file, or embedded name."),
    layers: str = typer.Option("", help='Such as "17", "16-19" or "0,17-18"; all by default.'),
    foreign: bool = typer.Option(False, help="Foreign codes through an aligned interface and one chain of layers."),
    seed: int = typer.Option(0, help="Seed of words, sequences and twins."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, ..."),
    out: Path = typer.Option(None, "--out", "-o", help="Write everything here as JSON."),
    as_json: bool = Json,
) -> None:
    """Positive control of a donor: repeated random words, every layer against its twins and one token at a time."""
    import pifi_probe as pp

    found = pp.positive_control(model, layers or None, foreign=foreign, seed=seed, device=device)
    if out is not None:
        found.to_json(out)
    if as_json:
        typer.echo(found.to_json())
        return
    console().print(found.answer)
    console().print(found.to_rich())
