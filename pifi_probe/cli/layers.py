"""``extract`` and ``info``: what a model holds, and one layer of it on disk."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.output import in_words, print_json, print_record, print_rows
from pifi_probe.permissions import allowing_pickle

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the commands."""
    app.command("extract", epilog="Example: pifi-probe extract 'smollm2-135m[-1]' --out layer")(extract)
    app.command("info", epilog="Example: pifi-probe info smollm2-135m")(info)


def extract(
    spec: str = typer.Argument(help="MODEL[i]: hub id, folder, .gguf or .safetensors file, or embedded name."),
    out: Path = typer.Option(Path("layer"), "--out", "-o", help="Folder for layer.safetensors and layer.json."),
    dtype: str = typer.Option("auto", help="auto, float32, bfloat16 or float16."),
    allow_pickle: bool = flags.AllowPickle,
    allow_full_download: bool = typer.Option(False, help="Download whole files when byte ranges are not served."),
    adapter: str = typer.Option("", help="A LoRA adapter of the model to merge: a folder or a hub id."),
    as_json: bool = flags.Json,
) -> None:
    """Read one layer of a language model, alone, and save it."""
    import pifi_probe as pp
    from pifi_probe.layers.frozen import list_of

    layer = pp.extract(
        spec,
        dtype=dtype,
        allow_pickle=allow_pickle,
        allow_full_download=allow_full_download,
        adapter=adapter or None,
    )
    parts = list_of(layer)
    records = []
    for number, part in enumerate(parts):
        folder = out if len(parts) == 1 else out / str(number)
        part.save(folder)
        records.append({**asdict(part.card), "weights": part.n_params, "bytes": part.nbytes, "saved": str(folder)})
    if as_json:
        print_json(records[0] if len(records) == 1 else records)
        return
    for record in records:
        print_record(f"{record['model']}[{record['index']}]", _in_words(record))


def info(
    model: str = typer.Argument("", help="A model, or list: the named models; without one: versions and machine."),
    slm: str = typer.Option("384", help="The small model, or its width, for what PiFi would add."),
    allow_pickle: bool = flags.AllowPickle,
    as_json: bool = flags.Json,
) -> None:
    """Tell what a model holds before anything large is read, or what is installed."""
    if model == "list":
        _list_models(as_json)
        return
    with allowing_pickle(allow_pickle):
        record = _model_record(model, slm) if model else _environment()
    if as_json:
        print_json(record)
    else:
        print_record(model or "pifi_probe", _in_words(record))


def _list_models(as_json: bool) -> None:
    from pifi_probe.models_table import NAMED_MODELS

    rows = [
        {
            "name": name,
            "role": row.role,
            "hub id": row.repo,
            "layers": row.layers,
            "hidden size": row.hidden_size,
            "dtype": row.dtype,
            "licence": row.licence,
            "gated": "ask the hub" if row.gated is None else row.gated,
        }
        for name, row in NAMED_MODELS.items()
    ]
    if as_json:
        print_json(rows)
    else:
        print_rows("named models", rows)


def _environment() -> dict[str, Any]:
    from pifi_probe import assets, provenance
    from pifi_probe.files import cache_root

    made = provenance.collect()
    return {
        **{f"version of {name}": number for name, number in made["versions"].items()},
        "machine": made["machine"],
        "cache": str(cache_root()),
        "embedded": ", ".join(status.asset.name for status in assets.list_assets()),
    }


def _in_words(record: dict[str, Any]) -> dict[str, Any]:
    """Return what a model or a layer holds as people read it."""
    words = in_words(record)
    if record.get("quantised"):
        words["note"] = "the layer is the quantised one, not that of the model that it was made from"
    return words


def _model_record(model: str, slm: str) -> dict[str, Any]:
    from pifi_probe.layers.outlook import outlook, width_of

    found = outlook(model, width_of(slm))
    record = {name.replace("_", " "): value for name, value in asdict(found).items() if name not in ("model", "adds")}
    added = asdict(found.adds) if found.adds else {}
    record["gated"] = "ask the hub" if found.gated is None else found.gated
    return record | {f"PiFi adds {name.replace('_', ' ')} (slm {slm})": value for name, value in added.items()}
