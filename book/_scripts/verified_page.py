"""Layers next to those of transformers on real weights, and `book/verified.md`.

python book/_scripts/verified_page.py --run                         # makes checkpoints of every format, and the record
python book/_scripts/verified_page.py --run smollm2-135m awq fp8    # these alone, in place of their rows
python book/_scripts/verified_page.py                               # writes the page from the record

The checkpoints are made from the two embedded language models; Gemma 3 is an optional asset with terms of its own
(`pifi-probe assets pull gemma3-270m --accept-terms`). The packers are those of the tests (`tests/quantised.py`). They
share no code with the package; what they say that a packed weight stands for is given to transformers as a plain
checkpoint, and is the reference. A line that somebody has sent is added to the record by
`pifi-probe verify MODEL --json`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import pifi_probe as pp
from pifi_probe.experiments.verify import HEADING, Verified
from pifi_probe.experiments.whole import load_whole
from pifi_probe.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "book" / "_studies" / "verified.json"
PAGE = ROOT / "book" / "verified.md"
N_LAYERS = 3  # so many of a model's first layers are in a made checkpoint
PLAIN = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COMMON = (
    "bitsandbytes nf4", "bitsandbytes nf4 nested", "bitsandbytes int8", "gptq 4-bit", "gptq 4-bit v2 order", "awq",
    "mlx 4-bit", "mlx mxfp4", "compressed-tensors int4", "compressed-tensors nvfp4", "fp8", "fp8 per tensor", "mxfp8",
    "modelopt nvfp4", "torchao int8",
)  # fmt: skip
SELDOM = (
    "bitsandbytes fp4", "gptq 2-bit", "gptq 3-bit", "gptq 8-bit", "awq gemv", "mlx 2-bit", "mlx 3-bit", "mlx 5-bit",
    "mlx 6-bit", "mlx 8-bit", "mlx nvfp4", "mlx mxfp8", "compressed-tensors int4 asymmetric",
    "compressed-tensors int8", "compressed-tensors order", "compressed-tensors int8 rows",
    "compressed-tensors float8", "compressed-tensors mxfp4", "fp8 deepseek", "fp8 mistral", "fp4 deepseek",
    "torchao float8", "torchao int4",
)  # fmt: skip
MODELS = {"smollm2-135m": ("SmolLM2-135M", COMMON + SELDOM), "gemma3-270m": ("Gemma-3-270M", COMMON)}

HEAD = """# Verified on real weights

Each line is one run of `pifi-probe verify`: transformers loads the whole model and runs a dozen sentences through it;
each of our layers is given what transformers' layer was given, and the outputs are compared token by token, in float32.
The error is the largest one of all tokens and layers: the length of the difference over the length of the output.
What rounding in float32 alone makes is about 1e-6; 0 means that not one bit differs.

SmolLM2-135M and Gemma 3 270M are in the table as they are embedded, with all their layers. Of the first three layers
of each we have made checkpoints in other formats. There the reference is transformers with the weights that the packer
says it has packed, so the line says that they are read as they were written, not how good the quantisation is. The
packers are our own, written number by number next to the reader; their output is compared with that of the libraries
which own the formats in another test (`tests/test_format_cases.py`). MXFP4 as gpt-oss has it packs experts, which
neither of the two models has: tests read it from a small model without real weights. Models that need the hub are not
in the table yet: a line of yours, from `pifi-probe verify MODEL`, is welcome.

"""


def run(model: str = "", *formats: str) -> None:
    """Verify the embedded models and the checkpoints that are made from them; every row is kept at once.

    With a model, only it, and with formats only the checkpoints in these, in place of the rows that there are.
    """
    sys.path.insert(0, str(ROOT))
    for one in (model,) if model else MODELS:
        if not formats:
            keep(done(pp.verify(one)))
        for row in made_of(one, formats or (*PLAIN, *MODELS[one][1])):
            keep(row)


def keep(row: dict[str, Any]) -> None:
    """Put a row into the record, in place of that of the same checkpoint: models first, formats in their order."""
    rows = json.loads(RECORD.read_text(encoding="utf-8"))
    order = [*MODELS, *(called(model, name) for model in MODELS for name in (*PLAIN, *MODELS[model][1]))]
    found = {each["model"]: each for each in rows} | {row["model"]: row}
    write_json(RECORD, [found[name] for name in (*order, *sorted(found.keys() - order)) if name in found])


def called(model: str, name: str) -> str:
    """Return what a made checkpoint is called."""
    return f"{MODELS[model][0]}, {N_LAYERS} layers, {name}"


def made_of(model: str, formats: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Verify the first layers of a model in each of some formats."""
    from tests.quantised import SCHEMES, first_layers, packed, write

    whole = load_whole(model)
    plain, config = first_layers(whole, N_LAYERS)
    with tempfile.TemporaryDirectory(prefix="pifi-verified-") as folder:
        for name in formats:
            title, scheme = called(model, name), SCHEMES.get(name)
            made, reference = Path(folder) / title, Path(folder) / "the weights that were packed"
            if scheme:
                stored, meant = packed(scheme, plain)
                write(made, stored, config | scheme.config, whole.tokenizer)
                write(reference, meant, config, whole.tokenizer)
            else:
                dtype = {"dtype": str(PLAIN[name]).removeprefix("torch.")}
                write(made, {key: one.to(PLAIN[name]) for key, one in plain.items()}, config | dtype, whole.tokenizer)
            found = pp.verify(str(made), reference=str(reference) if scheme else None)
            yield done(found) | {"model": title, "reference": found.reference.replace(f"{folder}/", "")}
            shutil.rmtree(made)


def done(found: Verified) -> dict[str, Any]:
    """Return a row of the record, and say it."""
    print(found.row(), flush=True)
    return found.to_dict()


def page(record: list[dict[str, Any]]) -> str:
    """Return the page."""
    rows = [Verified(**row | {"layers": tuple(row["layers"]), "errors": tuple(row["errors"])}).row() for row in record]
    line = "|" + "---|" * (HEADING.count("|") - 1)
    return HEAD + "\n".join([HEADING, line, *rows]) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(*sys.argv[2:])
    write_text(PAGE, page(json.loads(RECORD.read_text(encoding="utf-8"))))
