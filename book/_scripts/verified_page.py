"""Layers next to those of transformers on real weights, and `book/verified.md`.

python book/_scripts/verified_page.py --run     # makes checkpoints of every format from SmolLM2, writes the record
python book/_scripts/verified_page.py           # writes the page from it

The packers are those of the tests (`tests/quantised.py`). They share no code with the package; what they say that a
packed weight stands for is given to transformers as a plain checkpoint, and is the reference. A line that somebody has
sent is added to the record by `pifi-probe verify MODEL --json`.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import pifi_probe as pp
from pifi_probe.experiments.verify import HEADING, Verified
from pifi_probe.experiments.whole import load_whole
from pifi_probe.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "book" / "_studies" / "verified.json"
PAGE = ROOT / "book" / "verified.md"
MODEL, N_LAYERS = "smollm2-135m", 3  # so many of its first layers are in a made checkpoint
FORMATS = (
    "bitsandbytes nf4", "gptq 4-bit", "awq", "mlx 4-bit", "compressed-tensors int4", "fp8", "fp8 per tensor",
    "gptq 4-bit v2 order", "bitsandbytes nf4 nested", "compressed-tensors nvfp4", "mlx mxfp4", "torchao int8",
)  # fmt: skip

HEAD = """# Verified on real weights

Each line is one run of `pifi-probe verify`: transformers loads the whole model and runs a dozen sentences through it;
each of our layers is given what transformers' layer was given, and the outputs are compared token by token, in float32.
The error is the largest one of all tokens and layers: the length of the difference over the length of the output.
What rounding in float32 alone makes is about 1e-6; 0 means that not one bit differs.

The first line is an embedded model as it is. Of its first three layers we have made checkpoints in other formats.
There the reference is transformers with the weights that the packer says it has packed, so the line says that they
are read as they were written, not how good the quantisation is. The packers are our own, written number by number
next to the reader; their output is compared with that of the libraries which own the formats in another test
(`tests/test_format_cases.py`). Models that need the hub or a signed licence, Gemma 3 among them, are not in the table
yet: a line of yours, from `pifi-probe verify MODEL`, is welcome.

"""


def run() -> None:
    """Verify the embedded model and the checkpoints that are made from it; every row is kept at once."""
    sys.path.insert(0, str(ROOT))
    from tests.quantised import SCHEMES, is_packed

    rows = [done(pp.verify(MODEL))]
    whole = load_whole(MODEL)
    whole.model.config.num_hidden_layers = N_LAYERS
    left_out = (*(f".layers.{i}." for i in range(N_LAYERS, 100)), "lm_head.weight")
    plain = {n: t for n, t in whole.model.state_dict().items() if not any(part in n for part in left_out)}
    packed_names = [name for name, tensor in plain.items() if is_packed(name, tensor)]
    with tempfile.TemporaryDirectory(prefix="pifi-verified-") as folder:
        for name in (None, *FORMATS):
            stored, meant = dict(plain), dict(plain)
            for weight in packed_names if name else ():
                packed, meant[weight] = SCHEMES[name].pack(weight, plain[weight])
                del stored[weight]
                stored |= packed
            settings = {SCHEMES[name].key: dict(SCHEMES[name].settings)} if name and SCHEMES[name].settings else {}
            title = f"SmolLM2-135M, {N_LAYERS} layers, {name or 'float32'}"
            made, reference = Path(folder) / title, Path(folder) / "the weights that were packed"
            save(made, whole, stored, settings)
            if name:
                save(reference, whole, meant, {})
            found = pp.verify(str(made), reference=str(reference) if name else None)
            rows.append(done(found) | {"model": title, "reference": found.reference.replace(f"{folder}/", "")})
            shutil.rmtree(made)
            write_json(RECORD, rows)


def save(folder: Path, whole: Any, tensors: dict[str, torch.Tensor], settings: dict[str, Any]) -> None:
    """Write a checkpoint with the model's own configuration and tokenizer."""
    folder.mkdir(exist_ok=True)
    config = whole.model.config.to_dict()
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"} | settings, default=str))
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    whole.tokenizer.save_pretrained(folder)


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
    if "--run" in sys.argv[1:]:
        run()
    write_text(PAGE, page(json.loads(RECORD.read_text(encoding="utf-8"))))
