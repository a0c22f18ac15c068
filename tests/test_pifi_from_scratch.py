"""The method in one plain file is the library's: same logits, same controls, and short enough to be read first."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import pifi_probe as pp
from tests import slm, tiny

FILE = Path(__file__).parents[1] / "notebooks" / "pifi_from_scratch.py"


@pytest.fixture(scope="module")
def scratch() -> Any:
    spec = importlib.util.spec_from_file_location("pifi_from_scratch", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("parts")
    return slm.tiny_slm_folder(folder / "slm"), tiny.tiny_checkpoint("llama", folder / "llm")


def mine(scratch: Any, parts: tuple[Path, Path], arm: str, n_labels: int = 2) -> Any:
    encoder = AutoModel.from_pretrained(parts[0], add_pooling_layer=False)
    layer = scratch.OneLayer(AutoModelForCausalLM.from_pretrained(parts[1], dtype=torch.float32), -1)
    return scratch.build(arm, encoder, layer, n_labels)


def test_it_is_read_first() -> None:
    assert len(FILE.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize(("arm", "control"), [("vanilla", "vanilla"), ("linear", "linear"), ("pifi", None)])
def test_it_gives_the_logits_of_the_library(
    arm: str, control: str | None, scratch: Any, parts: tuple[Path, Path]
) -> None:
    task = slm.tiny_task()
    model = mine(scratch, parts, arm, task.n_labels).eval()
    theirs = pp.plug_in(str(parts[0]), f"{parts[1]}[-1]", task=task, wiring="pifi", control=control).eval()
    theirs.encoder.load_state_dict(model.encoder.state_dict())
    theirs.head.load_state_dict(model.head.state_dict())
    if model.L_in is not None:
        theirs.plugin.L_in.load_state_dict(model.L_in.state_dict())
        theirs.plugin.L_out.load_state_dict(model.L_out.state_dict())
    tokens = scratch.tokenize(AutoTokenizer.from_pretrained(parts[0]), ["a good film", "two hours of it"])
    logits = model(**tokens)
    assert logits.std() > 0
    assert torch.allclose(logits, theirs(**tokens).logits, atol=1e-5)


def test_only_the_layer_stays_and_the_twin_has_its_values_in_another_order(
    scratch: Any, parts: tuple[Path, Path]
) -> None:
    model = mine(scratch, parts, "pifi")
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    texts, labels = ["a good film", "a bad film"] * 4, [1, 0] * 4
    scratch.fit(model, AutoTokenizer.from_pretrained(parts[0]), texts, labels, epochs=1)
    stayed = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
    assert stayed == {name for name in before if name.startswith("layer.")}
    assert 0 <= scratch.accuracy(model, AutoTokenizer.from_pretrained(parts[0]), texts, labels) <= 1
    twin = scratch.shuffled(model.layer)
    for weight, other in zip(model.layer.parameters(), twin.parameters(), strict=True):
        assert torch.equal(weight.flatten().sort().values, other.flatten().sort().values)
        assert weight.dim() < 2 or not torch.equal(weight, other)
