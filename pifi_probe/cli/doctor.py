"""``doctor``: what this machine has, and what it lacks."""

from __future__ import annotations

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.output import console, print_json

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("doctor", epilog="Example: pifi-probe doctor")(doctor)


def doctor(as_json: bool = flags.Json) -> None:
    """Check Python, packages, threads, memory, cache, assets, device; exit code 1 when something is wrong."""
    from pifi_probe.experiments.doctor import doctor as look

    checkup = look()
    if as_json:
        print_json(checkup.to_dict())
    else:
        console().print(str(checkup), markup=False, soft_wrap=True)
    if not checkup.well:
        raise typer.Exit(1)
