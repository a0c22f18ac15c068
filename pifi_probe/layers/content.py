"""What a checkpoint or a model holds, as a digest: the address of everything that was computed from it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from transformers import PreTrainedModel

from pifi_probe.files import file_sha256
from pifi_probe.layers.checkpoint import Checkpoint, local_path
from pifi_probe.layers.configs import NUMBER_FILES

__all__ = ["content_of", "weights_digest"]


def content_of(checkpoint: Checkpoint) -> str:
    """Return ``"repo@commit"``, or a digest over the contents of the local files that make up the checkpoint."""
    path = local_path(checkpoint)
    if path is None:
        return checkpoint.identity
    folder = path if path.is_dir() else path.parent
    files = {Path(info.source.name) for info in checkpoint.tensors.values()}
    if checkpoint.format == "gguf":
        files.add(path)  # of several parts the first may hold no tensor
    else:
        beside = (folder / name for name in ("config.json", *NUMBER_FILES))
        files.update(file for file in beside if file.is_file())
    lines = "\n".join(f"{file.name} {file_sha256(file)}" for file in sorted(files))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def weights_digest(model: PreTrainedModel) -> str:
    """Return a digest over the configuration and the weights of a model in memory."""
    digest = hashlib.sha256(model.config.to_json_string().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
