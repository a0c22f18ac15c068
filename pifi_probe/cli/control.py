"""``control``: what the weights of a donor's layers do beyond doubt, on repeated random words."""

from __future__ import annotations

from pathlib import Path

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.output import console

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("control", epilog="Example: pifi-probe control smollm2-135m --layers 16-19")(control)


def control(
    model: str = typer.Argument(help=flags.MODEL),
    layers: str = typer.Option("", help=f"{flags.LAYERS}; all by default."),
    foreign: bool = typer.Option(False, help="Foreign codes through an aligned interface and one chain of layers."),
    seed: int = typer.Option(0, help="Seed of words, sequences and twins."),
    device: str = flags.Device,
    out: Path = typer.Option(None, "--out", "-o", help="Write everything here as JSON."),
    allow_pickle: bool = flags.AllowPickle,
    as_json: bool = flags.Json,
) -> None:
    """Positive control of a donor: repeated random words, every layer against its twins and one token at a time."""
    import pifi_probe as pp

    found = pp.positive_control(
        model, layers or None, foreign=foreign, seed=seed, device=device, allow_pickle=allow_pickle
    )
    if out is not None:
        found.to_json(out)
    if as_json:
        typer.echo(found.to_json())
        return
    console().print(found.answer)
    console().print(found.to_rich())
