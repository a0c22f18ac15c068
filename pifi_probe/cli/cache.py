"""``cache``: the features that probing keeps on disk, and what was fetched of models on the hub."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.output import print_json, print_record

__all__ = ["register"]

Hub = typer.Option(False, "--hub", help="What was fetched from models on the hub, instead of features.")
group = typer.Typer(help="Show and delete the cached features of language models.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Attach the command group."""
    app.add_typer(group, name="cache")


@group.command("list", epilog="Example: pifi-probe cache list --json")
def list_all(hub: bool = Hub, as_json: bool = flags.Json) -> None:
    """List cached features, what they were made from, and how much room they take."""
    if hub:
        _list_hub(as_json)
        return
    from pifi_probe.features.cache import cache_entries
    from pifi_probe.files import features_root

    entries = cache_entries()
    if as_json:
        print_json([asdict(entry) | {"last_used": entry.last_used.isoformat()} for entry in entries])
        return
    if not entries:
        typer.echo(f"no features in {features_root()}")
    for entry in entries:
        shown: dict[str, Any] = {
            "model": entry.key.get("model_name"),
            "pooling": entry.key.get("pooling"),
            "precision": entry.key.get("precision"),
            "points": f"{entry.points_done} of {entry.n_points}",
            "size": f"{entry.bytes / 1e6:,.1f} MB",
            "last used": f"{entry.last_used:%Y-%m-%d %H:%M} UTC",
        }
        print_record(entry.name, shown)


def _list_hub(as_json: bool) -> None:
    from pifi_probe.layers.hub_cache import hub_cache_entries

    kept = hub_cache_entries()
    if as_json:
        print_json([{"name": name, "bytes": size} for name, size in kept.items()])
    elif not kept:
        typer.echo("nothing from the hub is kept")
    for name, size in () if as_json else kept.items():
        print_record(name, {"size": f"{size / 1e6:,.1f} MB"})


@group.command(epilog="Example: pifi-probe cache clear --hub org/model")
def clear(
    names: list[str] = typer.Argument(None, help="Names, or their beginnings; without one, all entries."),
    hub: bool = Hub,
    as_json: bool = flags.Json,
) -> None:
    """Delete cached features; those that a running process is writing stay."""
    from pifi_probe.features.cache import clear_cache
    from pifi_probe.layers.hub_cache import clear_hub_cache

    freed = clear_hub_cache(names or None) if hub else clear_cache(names or None)
    if as_json:
        print_json({"bytes": freed})
    else:
        typer.echo(f"{freed / 1e6:,.1f} MB freed")
