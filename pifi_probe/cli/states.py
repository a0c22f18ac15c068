"""``states``: hidden states of any layers of a model, written to a folder."""

from __future__ import annotations

from pathlib import Path

import typer

from pifi_probe.cli import flags
from pifi_probe.cli.output import print_json, print_record

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command(
        "states", epilog="Example: pifi-probe states smollm2-135m --texts reviews.csv --layers 8,-1 --out states"
    )(states)


def states(
    model: str = typer.Argument(help=flags.MODEL),
    texts: Path = typer.Option(..., help=".txt (a text a line), CSV, TSV, JSONL or parquet file."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder for the arrays; the same call again continues there."),
    layers: str = typer.Option("all", help=f"{flags.LAYERS}; i is the input of layer i."),
    pooling: str = typer.Option("mean", help="mean, last, or none: every token."),
    text: str = typer.Option("text", help="Column with the text."),
    max_tokens: int = typer.Option(None, help=f"{flags.CUT}; by default what the model takes."),
    dtype: str = typer.Option("float32", help="Of the arrays: float32 or float16."),
    precision: str = typer.Option("float32", help="Of the pass: float32 or bf16."),
    device: str = flags.Device,
    batch_tokens: int = typer.Option(None, help="Tokens of a batch, padding included."),
    tokenizer: str = typer.Option("", help="A tokenizer other than the model's own."),
    allow_pickle: bool = flags.AllowPickle,
    as_json: bool = flags.Json,
) -> None:
    """Write the hidden states of texts at any layers of a language model; one layer is in memory at a time."""
    import pifi_probe as pp
    from pifi_probe.tasks.from_file import read_texts

    found = pp.states(
        model,
        read_texts(texts, text),
        out=out,
        layers=layers,
        pooling=pooling,
        max_tokens=max_tokens,
        dtype=dtype,
        precision=precision,
        device=device,
        batch_tokens=batch_tokens,
        tokenizer=tokenizer or None,
        allow_pickle=allow_pickle,
    )
    record = {
        "model": model,
        "layers": ", ".join(map(str, found.layers)),
        "texts": len(found),
        "tokens": found.info["n_tokens"],
        "texts that were cut": found.info["n_cut"],
        "width": found.info["width"],
        "folder": str(found.folder),
    }
    if as_json:
        print_json(record | {"layers": list(found.layers)})
    else:
        print_record("hidden states", record)
