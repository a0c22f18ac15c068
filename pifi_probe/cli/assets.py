"""``assets``: the pinned packages that ship real weights and text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.output import in_words, print_json, print_record

if TYPE_CHECKING:
    from pifi_probe.assets import AssetStatus

__all__ = ["register"]

group = typer.Typer(help="Fetch, verify and clear the embedded models and texts.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Attach the command group."""
    app.add_typer(group, name="assets")


def _record(status: AssetStatus) -> dict[str, Any]:
    asset = status.asset
    return {
        "name": asset.name,
        "also": ", ".join(asset.aliases),
        "what": asset.title,
        "package": f"{asset.package}=={asset.version}",
        "bytes": sum(one.nbytes for one in asset.packages),
        "licence": asset.licence,
        "terms": asset.terms,
        "present": status.cached,
        "path": str(status.path),
    }


@group.command("list", epilog="Example: pifi-probe assets list --json")
def list_all(as_json: bool = flags.Json) -> None:
    """List what is embedded, what it is and whether it is here."""
    from pifi_probe import assets

    records = [_record(status) for status in assets.list_assets()]
    if as_json:
        print_json(records)
        return
    for record in records:
        print_record(record["name"], in_words({key: value for key, value in record.items() if value != ""}))


@group.command(epilog="Example: pifi-probe assets pull")
def pull(
    name: str = typer.Argument("", help="One asset; without a name, what the demo needs."),
    accept_terms: bool = typer.Option(False, "--accept-terms", help="Accept the terms of assets that have some."),
) -> None:
    """Fetch assets into the cache, verified by their digests."""
    from pifi_probe import assets

    for path in assets.pull(name or None, accept_terms=accept_terms):
        typer.echo(str(path))


@group.command(epilog="Example: pifi-probe assets verify minilm-l6")
def verify(name: str = typer.Argument("", help="One asset; without a name, all that are here.")) -> None:
    """Compare every file of an asset with its digest; a broken one is fetched again."""
    from pifi_probe import assets

    present = [status.asset.name for status in assets.list_assets() if status.begun]
    for one in [name] if name else present:
        repaired = assets.verify(one)
        typer.echo(f"{one}: {'repaired ' + ', '.join(repaired) if repaired else 'complete'}")


@group.command(epilog="Example: pifi-probe assets path minilm-l6")
def path(name: str = typer.Argument(help="Name of the asset.")) -> None:
    """Print where an asset lies, fetching it when missing."""
    from pifi_probe import assets

    typer.echo(str(assets.path(name)))


@group.command(epilog="Example: pifi-probe assets clear minilm-l6")
def clear(name: str = typer.Argument("", help="One asset; without a name, all.")) -> None:
    """Remove assets from the cache."""
    from pifi_probe import assets

    assets.clear(name or None)
