"""Of several files of weights those are read that transformers reads, in a folder and on the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pifi_probe.errors import CheckpointError
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.hub import open_hub_checkpoint
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.weight_files import INDEX, weight_files
from tests import tiny
from tests.hub_server import HubServer, running_hub

NAME = "org/model"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models of unlike weights, in one file or in shards, as safetensors or as pickle."""
    root = tmp_path_factory.mktemp("models")
    folders = {
        "one": tiny.tiny_checkpoint("llama", root / "one"),
        "shards": tiny.tiny_checkpoint("llama", root / "shards", max_shard_size="40KB"),
    }
    for name, factor in (("one", 1.0), ("shards", 2.0)):
        for file in folders[name].glob("*.safetensors"):
            save_file({key: factor * t for key, t in load_file(file).items()}, file, metadata={"format": "pt"})
    pickled = {key: 3.0 * tensor for key, tensor in load_file(folders["one"] / "model.safetensors").items()}
    folders["bin"] = root / "bin"
    folders["bin"].mkdir()
    shutil.copy(folders["one"] / "config.json", folders["bin"])
    torch.save(pickled, folders["bin"] / "pytorch_model.bin")
    folders["bin shards"] = root / "bin shards"
    folders["bin shards"].mkdir()
    shutil.copy(folders["one"] / "config.json", folders["bin shards"])
    half = len(pickled) // 2
    parts = {
        "pytorch_model-00001-of-00002.bin": [*pickled][:half],
        "pytorch_model-00002-of-00002.bin": [*pickled][half:],
    }
    for file_name, names in parts.items():
        torch.save({name: 4 / 3 * pickled[name] for name in names}, folders["bin shards"] / file_name)
    index = {"metadata": {}, "weight_map": {name: file for file, names in parts.items() for name in names}}
    (folders["bin shards"] / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folders


def merged(models: dict[str, Path], names: tuple[str, ...], folder: Path) -> Path:
    for name in names:
        shutil.copytree(models[name], folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with running_hub(monkeypatch, tmp_path) as server:
        yield server


def open_local(folder: Path, server: HubServer) -> Checkpoint:
    return open_checkpoint(str(folder), allow_pickle=True)


def open_on_the_hub(folder: Path, server: HubServer) -> Checkpoint:
    server.add_repo(NAME, folder)
    return open_hub_checkpoint(NAME, allow_pickle=True, allow_full_download=True)


WAYS = [open_local, open_on_the_hub]
MIXTURES = [
    ("shards", "one"),
    ("one", "shards"),
    ("bin", "one"),
    ("bin", "shards"),
    ("bin shards", "bin"),
    ("bin shards", "one"),
    ("bin", "bin shards", "shards", "one"),
    ("bin shards",),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("names", MIXTURES, ids=" + ".join)
def test_the_weights_are_those_that_transformers_loads(
    names: tuple[str, ...],
    way: Callable[[Path, HubServer], Checkpoint],
    models: dict[str, Path],
    tmp_path: Path,
    server: HubServer,
) -> None:
    folder = merged(models, names, tmp_path / "mixed")
    expected = AutoModelForCausalLM.from_pretrained(folder).model.layers[1].state_dict()
    got = way(folder, server).read_layer(1)
    assert len(got) == len(expected)
    for name, tensor in got.items():
        assert torch.equal(tensor, expected[name.split("layers.0.")[1]]), name


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_the_configuration_states_comes_first(
    way: Callable[[Path, HubServer], Checkpoint], models: dict[str, Path], tmp_path: Path, server: HubServer
) -> None:
    folder = merged(models, ("shards", "one"), tmp_path / "mixed")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": INDEX}), encoding="utf-8")
    expected = AutoModelForCausalLM.from_pretrained(folder).model.layers[1].mlp.up_proj.weight
    got = way(folder, server).read_layer(1)
    assert torch.equal(got["model.layers.0.mlp.up_proj.weight"], expected)


@pytest.mark.parametrize("stated", ["../other/model.safetensors", "missing.safetensors", "pytorch_model.bin", 3, ["a"]])
@pytest.mark.parametrize("way", WAYS)
def test_a_stated_file_that_is_not_here_is_refused(
    way: Callable[[Path, HubServer], Checkpoint],
    stated: object,
    models: dict[str, Path],
    tmp_path: Path,
    server: HubServer,
) -> None:
    folder = merged(models, ("bin", "one"), tmp_path / "mixed")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": stated}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="transformers_weights"):
        way(folder, server)


@pytest.mark.parametrize("way", WAYS)
def test_a_file_of_another_name_beside_legacy_weights_is_not_chosen_silently(
    way: Callable[[Path, HubServer], Checkpoint], models: dict[str, Path], tmp_path: Path, server: HubServer
) -> None:
    folder = merged(models, ("bin",), tmp_path / "mixed")
    shutil.copy(models["one"] / "model.safetensors", folder / "consolidated.safetensors")
    with pytest.raises(CheckpointError, match=r"consolidated\.safetensors and legacy"):
        way(folder, server)


def test_a_stale_index_is_said(caplog: pytest.LogCaptureFixture) -> None:
    found = weight_files(["model.safetensors", INDEX, "model-00001-of-00001.safetensors"], "folder")
    assert found is not None and found.files == ["model.safetensors"]
    assert "the first is read" in caplog.text
