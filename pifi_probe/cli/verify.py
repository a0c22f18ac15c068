"""``verify``: our layers next to those of transformers, on real weights."""

from __future__ import annotations

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.output import print_json

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("verify", epilog="Example: pifi-probe verify smollm2-135m --layers 0,15,-1")(verify)


def verify(
    model: str = typer.Argument(help=flags.MODEL),
    layers: str = flags.Layers,
    reference: str = typer.Option(
        "", help="Another checkpoint for transformers to load, such as the unquantised model."
    ),
    allow_pickle: bool = flags.AllowPickle,
    as_json: bool = flags.Json,
) -> None:
    """Compare layers as they are read here with transformers' own; print a line for the table of verified models."""
    import pifi_probe as pp
    from pifi_probe.escaping import printable

    found = pp.verify(model, layers, reference=reference or None, allow_pickle=allow_pickle)
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo(printable(found.row()))
