"""``export``: a trained model, or the choice of a search, in a form that runs without this package."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.output import print_json
from pifi_probe.cli.search import load
from pifi_probe.permissions import allowing_pickle

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("export", epilog="Example: pifi-probe export runs/last --out deployed --fold --int8")(export)


def export(
    source: str = typer.Argument(help="Folder of a saved model or of a run, hub id, or file or URL of a study."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder to write into."),
    format: str = typer.Option("onnx", help="onnx."),
    fold: bool = typer.Option(False, "--fold", help="Multiply the projections into the layer first."),
    int8: bool = typer.Option(False, "--int8", help="Store weights in int8."),
    allow_pickle: bool = flags.AllowPickle,
    as_json: bool = flags.Json,
) -> None:
    """Write the model as an ONNX graph, with its tokenizer; the choice of a study is trained once more first."""
    from pifi_probe.plugin.loading import open_plugged
    from pifi_probe.plugin.modeling import PiFiForSequenceClassification
    from pifi_probe.selection.study import Study

    if format != "onnx":
        raise typer.BadParameter(f"{format!r} is unknown; use onnx", param_hint="--format")
    with allowing_pickle(allow_pickle):
        saved = _saved(source)
        if saved is None:
            saved = Study.open(source, task=load(source)).export(out / "study") / "model"
        model = open_plugged(saved)
    if fold:
        if not isinstance(model, PiFiForSequenceClassification):
            raise typer.BadParameter(f"a {type(model).__name__} does not fold", param_hint="--fold")
        model = model.fold()
    made = model.export_onnx(out, int8=int8)
    if as_json:
        print_json(asdict(made))
        return
    typer.echo(f"{made.file}: {made.n_bytes / 2**20:.1f} MiB, largest difference {made.difference:.1e}")


def _saved(source: str) -> str | Path | None:
    """Return where a saved model lies; None for a study."""
    folder = Path(source)
    for one in (folder, folder / "model"):
        if (one / "config.json").is_file():
            return one
    study = "://" in source or Path(source.partition("#")[0]).is_file()
    return None if study else source
