"""Checkpoint folders made, damaged and refused, for the tests of the readers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pifi_probe.errors import CheckpointError, PifiProbeError
from pifi_probe.layers.extract import extract_from
from pifi_probe.layers.open import open_checkpoint

INDEX = "model.safetensors.index.json"
WEIGHT = "model.layers.1.mlp.up_proj.weight"


def stored_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Everything that a folder's safetensors files hold, by the reference reader."""
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found |= safetensors.torch.load_file(path)
    return found


def rewrite(folder: Path, change: Mapping[str, torch.Tensor | None]) -> Path:
    """Replace, add or (None) remove tensors of a folder's only safetensors file."""
    tensors = {**stored_tensors(folder), **change}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    safetensors.torch.save_file(kept, folder / "model.safetensors")
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path, message: str, kind: type[PifiProbeError] = CheckpointError) -> None:
    """Assert that opening the folder and extracting layer 1 is one line with `message`."""
    with pytest.raises(kind) as caught:
        extract_from(open_checkpoint(str(folder)), 1, model=str(folder))
    line = str(caught.value)
    assert message in line and "next:" in line and "where:" in line and "\n" not in line
