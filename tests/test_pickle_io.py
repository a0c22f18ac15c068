"""Legacy pickle checkpoints: read on request, and never run."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from pifi_probe.errors import (
    CheckpointError,
    CorruptFileError,
    UnsupportedFormatError,
)
from pifi_probe.layers.open import open_checkpoint
from tests import tiny
from tests.folders import WEIGHT, refused, stored_tensors


@pytest.fixture
def legacy(llama: Path) -> Path:
    """The same checkpoint as two files of `torch.save`, with an index."""
    tensors = stored_tensors(llama)
    os.remove(llama / "model.safetensors")
    files = {name: f"pytorch_model-0000{1 + ('.1.' in name)}-of-00002.bin" for name in tensors}
    for file in set(files.values()):
        torch.save({name: tensor for name, tensor in tensors.items() if files[name] == file}, llama / file)
    (llama / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    return llama


def test_legacy_files_are_read_only_on_request(legacy: Path) -> None:
    refused(legacy, "allow_pickle=True", UnsupportedFormatError)
    checkpoint = open_checkpoint(str(legacy), allow_pickle=True)
    tensors = checkpoint.read_layer(1)
    expected = tiny.tiny_model("llama").model.layers[1].state_dict()
    assert checkpoint.format == "pickle"
    assert all(torch.equal(tensors[f"model.layers.0.{name}"], tensor) for name, tensor in expected.items())
    assert checkpoint.bytes_read == sum(tensor.nbytes for tensor in expected.values())
    assert checkpoint.tensors[WEIGHT].dtype == "F32"


def test_a_legacy_file_can_be_given_by_itself(legacy: Path) -> None:
    checkpoint = open_checkpoint(str(legacy / "pytorch_model-00002-of-00002.bin"), allow_pickle=True)
    assert len(checkpoint.read_layer(1)) == 9


def test_a_legacy_shard_that_is_missing_is_named(legacy: Path) -> None:
    os.remove(legacy / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(CheckpointError, match="pytorch_model-00001-of-00002.bin"):
        open_checkpoint(str(legacy), allow_pickle=True)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["code", "list", "numbers", "text", "truncated", "empty"])
def test_a_legacy_file_with_anything_but_tensors_is_refused_and_not_run(
    legacy: Path, kind: str, tmp_path: Path
) -> None:
    file = legacy / "pytorch_model-00002-of-00002.bin"
    whole = file.read_bytes()
    content = {"code": {"w": Evil(tmp_path / "ran")}, "list": [1], "numbers": {"w": 1}}.get(kind)
    if content is not None:
        torch.save(content, file)
    else:
        file.write_bytes({"text": b"hello", "truncated": whole[: len(whole) // 2], "empty": b""}[kind])
    with pytest.raises(CorruptFileError, match=file.name) as caught:
        open_checkpoint(str(legacy), allow_pickle=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_is_not_run(legacy: Path, tmp_path: Path) -> None:
    file = legacy / "pytorch_model-00002-of-00002.bin"
    file.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(CorruptFileError):
        open_checkpoint(str(legacy), allow_pickle=True)
    assert not (tmp_path / "ran").exists()
