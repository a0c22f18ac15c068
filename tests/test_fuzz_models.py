"""Altered configurations, saved layers and models, tokenizers and cards are read, or refused in one line."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pifi_probe.alignment.interface import Interface
from pifi_probe.layers.configs import read_config, read_licence
from pifi_probe.layers.extract import extract
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin.build import plug_in
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.pretrained import open_tokenizer
from pifi_probe.slm import load_encoder
from tests.fuzzing import fuzz, mutate_bytes, mutate_text
from tests.slm import tiny_slm, tiny_task, tiny_tokenizer
from tests.tiny import tiny_checkpoint

Case = Callable[[random.Random], None]
CARD = """---
license: apache-2.0
license_name: own
tags:
- text
base_model: someone/model
---
# A model

Text.
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A donor, an encoder with its tokenizer, a saved layer and a saved model, each in a folder."""
    root = tmp_path_factory.mktemp("whole")
    donor = tiny_checkpoint("llama", root / "donor")
    (root / "donor" / "README.md").write_text(CARD, encoding="utf-8")
    tiny_slm("bert").save_pretrained(root / "slm")
    tiny_tokenizer().save_pretrained(root / "slm")
    layer = extract(f"{donor}[1]", dtype="float32")
    layer.save(root / "layer")
    plug_in(str(root / "slm"), layer, task=tiny_task()).save_pretrained(root / "model")
    return root


def altered(source: Path, target: Path, name: str, draw: random.Random) -> None:
    """Copy a folder with one file altered."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    raw = (source / name).read_bytes()
    if name.endswith(".json"):
        (target / name).write_bytes(mutate_text(json.loads(raw), draw))
    else:
        end = 8 + int.from_bytes(raw[:8], "little") if name.endswith(".safetensors") else None
        (target / name).write_bytes(mutate_bytes(raw, draw, end=end))


def config_case(whole: Path, folder: Path) -> Case:
    def case(draw: random.Random) -> None:
        altered(whole / "donor", folder, "config.json", draw)
        config = read_config(folder)
        extract(f"{folder}[0]", dtype="float32")(torch.ones(1, 2, config.hidden_size))

    return case


def encoder_case(whole: Path, folder: Path) -> Case:
    def case(draw: random.Random) -> None:
        altered(whole / "slm", folder, "config.json", draw)
        load_encoder(str(folder))

    return case


def layer_case(whole: Path, folder: Path) -> Case:
    def case(draw: random.Random) -> None:
        altered(whole / "layer", folder, draw.choice(["layer.json", "layer.json", "layer.safetensors"]), draw)
        layer = FrozenLayer.load(folder)
        assert repr(layer) and layer._repr_html_() and layer.card.spec

    return case


def model_case(whole: Path, folder: Path) -> Case:
    def case(draw: random.Random) -> None:
        name = draw.choice(["config.json", "config.json", "config.json", "model.safetensors"])
        altered(whole / "model", folder, name, draw)
        PiFiForSequenceClassification.from_pretrained(folder)

    return case


def tokenizer_case(whole: Path, folder: Path) -> Case:
    names = ["tokenizer.json", "tokenizer.json", "tokenizer_config.json"]

    def case(draw: random.Random) -> None:
        altered(whole / "slm", folder, draw.choice(names), draw)
        open_tokenizer(folder)(["the film is good"])

    return case


def card_case(whole: Path, folder: Path) -> Case:
    """No card can be wrong: a licence is read from it or not."""
    words = [
        "license",
        ":",
        "---\n",
        "\n",
        "'",
        '"',
        "[",
        "]",
        "mit",
        "\0",
        "\x1b",
        "- ",
        "&a *a",
        "!!python/object",
        "é",
    ]

    def case(draw: random.Random) -> None:
        text = CARD.encode()
        if draw.random() < 0.5:
            text = "".join(draw.choice(words) for _ in range(draw.randrange(40))).encode()
        (folder / "README.md").write_bytes(mutate_bytes(text, draw))
        licence = read_licence(folder)
        assert licence is None or (licence and "\n" not in licence and len(licence) < 1 << 16)

    return case


def interface_case(whole: Path, folder: Path) -> Case:
    made = Interface(torch.ones(6, 8), torch.ones(6), torch.ones(6), 0.5, 0.25, 3, "llm", "slm", 0.1, {"texts": 9})
    tensors = {"weight": made.weight, "bias": made.bias, "first": made.first}

    def case(draw: random.Random) -> None:
        some, facts = dict(tensors), json.dumps(made.facts())
        if draw.random() < 0.3:
            shape = draw.choice([(0,), (6,), (8, 6), (6, 7), (1, 6, 8), ()])
            values = [torch.ones(shape), torch.full(shape, torch.inf), torch.ones(shape).half()]
            some[draw.choice(list(some))] = draw.choice(values)
        else:
            facts = mutate_text(made.facts(), draw).decode("utf-8", errors="replace")
        raw = safetensors.torch.save(some, {"interface": facts})
        if draw.random() < 0.3:
            raw = mutate_bytes(raw, draw, end=8 + int.from_bytes(raw[:8], "little"))
        (folder / "interface").write_bytes(raw)
        found = Interface.load(folder / "interface")
        assert repr(found) and found.digest() and found(torch.ones(1, 2, found.weight.shape[1] // 2)).shape[2] == 6

    return case


KINDS: dict[str, tuple[Callable[[Path, Path], Case], tuple[float, float], int]] = {
    "config.json of a donor": (config_case, (0.05, 0.9), 3),
    "config.json of an encoder": (encoder_case, (0.05, 0.9), 2),
    "saved layer": (layer_case, (0.02, 0.8), 4),
    "saved model": (model_case, (0.02, 0.9), 4),
    "tokenizer": (tokenizer_case, (0.05, 0.9), 2),
    "card": (card_case, (1.0, 1.0), 1),
    "interface": (interface_case, (0.05, 0.8), 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_altered_folders(kind: str, whole: Path, tmp_path: Path) -> None:
    make, accepted, ways = KINDS[kind]
    fuzz(make(whole, tmp_path), 1000, seed=1, accepted=accepted, ways=ways)
