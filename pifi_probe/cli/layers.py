"""``extract`` and ``info``: what a model holds, and one layer of it on disk."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from pifi_probe.cli.output import Json, print_json, print_record

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the commands."""
    app.command("extract", epilog="Example: pifi-probe extract 'smollm2-135m[-1]' --out layer")(extract)
    app.command("info", epilog="Example: pifi-probe info smollm2-135m")(info)


def extract(
    spec: str = typer.Argument(help="MODEL[i]: hub id, folder, .gguf or .safetensors file, or embedded name."),
    out: Path = typer.Option(Path("layer"), "--out", "-o", help="Folder for layer.safetensors and layer.json."),
    dtype: str = typer.Option("auto", help="auto, float32, bfloat16 or float16."),
    allow_pickle: bool = typer.Option(False, help="Read legacy .bin checkpoints too."),
    allow_full_download: bool = typer.Option(False, help="Download whole files when byte ranges are not served."),
    as_json: bool = Json,
) -> None:
    """Read one layer of a language model, alone, and save it."""
    import pifi_probe as pp
    from pifi_probe.layers.frozen import list_of

    layer = pp.extract(spec, dtype=dtype, allow_pickle=allow_pickle, allow_full_download=allow_full_download)
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
        print_record(f"{record['model']}[{record['index']}]", record)


def info(
    model: str = typer.Argument("", help="A model; without one: versions, machine and embedded names."),
    slm: int = typer.Option(384, help="Width of the small model, for what PiFi would add."),
    as_json: bool = Json,
) -> None:
    """Tell what a model holds before anything large is read, or what is installed."""
    record = _model_record(model, slm) if model else _environment()
    if as_json:
        print_json(record)
    else:
        print_record(model or "pifi_probe", record)


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


def _model_record(model: str, d_slm: int) -> dict[str, Any]:
    from pifi_probe.layers.checkpoint import open_checkpoint
    from pifi_probe.layers.families import FAMILIES

    checkpoint = open_checkpoint(model)
    config = checkpoint.config
    infos = [checkpoint.tensors[name] for name in checkpoint.layer_names(0)]
    width = int(config.hidden_size)
    return {
        "family": config.model_type,
        "supported": "yes" if config.model_type in FAMILIES else "no: the family has no row in the table",
        "layers": int(config.num_hidden_layers),
        "hidden size": width,
        "stored as": checkpoint.format,
        "bytes of one layer": sum(part.nbytes for part in infos),
        "weights of one layer": sum(_numel(part.shape) for part in infos),
        "licence": checkpoint.licence or "not stated",
        "gated": checkpoint.gated,
        f"trained weights PiFi adds (d_slm={d_slm})": 2 * d_slm * width,
    }


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
