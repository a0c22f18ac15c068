"""The named models, and what `info` says before anything is fetched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import ModelNotFoundError, PlugInError
from pifi_probe.layers import open as opening
from pifi_probe.layers.families import FAMILIES
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.outlook import addition, config_of, outlook, width_of
from pifi_probe.models_table import NAMED_MODELS, repo_of
from tests import tiny
from tests.slm import tiny_slm_folder

LLMS = [name for name, row in NAMED_MODELS.items() if row.role == "llm"]


@pytest.mark.parametrize("name", LLMS)
def test_every_named_donor_is_of_a_supported_family_and_its_layer_can_be_sized(name: str) -> None:
    row, found = NAMED_MODELS[name], outlook(name, 768)
    assert row.family in FAMILIES and found.supported == "yes" and found.adds is not None
    assert found.layer_weights and found.layer_weights > found.adds.frozen_weights > 0
    assert config_of(row).hidden_size == row.hidden_size == found.hidden_size


def test_the_size_of_a_llama_3_layer_is_the_known_one() -> None:
    found = outlook("llama-3.1-8b", 768)
    assert found.layer_weights == 218_112_000 and found.layer_bytes == 436_224_000
    assert found.adds is not None and found.adds.trained_weights == 2 * 768 * 4096


@pytest.mark.parametrize("family", ["llama", "gemma2", "falcon", "mixtral"])
def test_what_pifi_adds_is_what_the_layer_then_holds(family: str, tmp_path: Path) -> None:
    folder = tiny.tiny_checkpoint(family, tmp_path / "llm")
    layer = pp.extract(f"{folder}[0]")
    assert isinstance(layer, FrozenLayer)
    adds = outlook(str(folder), 24).adds
    assert adds is not None and adds == addition(layer.config, 24, torch.float32)
    assert adds.frozen_weights == pp.reduce(layer).n_params
    assert adds.frozen_bytes == pp.reduce(layer).nbytes


def test_a_name_of_the_table_stands_for_its_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("pifi_probe.layers.open.open_hub_checkpoint", lambda repo, *args, **kwargs: asked.append(repo))
    opening.open_checkpoint("qwen2-0.5b")
    assert asked == ["Qwen/Qwen2-0.5B"] and repo_of("org/other") == "org/other"


def test_a_width_comes_from_a_number_a_name_or_a_folder(tmp_path: Path) -> None:
    folder = tiny_slm_folder(tmp_path / "slm")
    assert width_of("128") == 128 and width_of("roberta-large") == 1024
    assert width_of(str(folder)) == AutoConfig.from_pretrained(folder).hidden_size


@pytest.mark.parametrize(("slm", "error"), [("0", PlugInError), ("./nothing-here", ModelNotFoundError)])
def test_a_width_that_cannot_be_is_refused(slm: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        width_of(slm)


def test_info_prints_the_list_and_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "list", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == set(NAMED_MODELS)
    assert main(["info", "mistral-7b-v0.1", "--slm", "bert-base", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["layers"] == 32 and record["gated"] == "ask the hub"
    assert record["PiFi adds trained weights (slm bert-base)"] == 2 * 768 * 4096
