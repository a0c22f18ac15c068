"""Random checkpoints of Llama shape, written straight to safetensors files without a model in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

CHUNK = 16 * 2**20  # weights drawn and written at once
_BYTES = 2  # of a bfloat16


def llama_8b(n_layers: int, vocab_size: int = 128256) -> LlamaConfig:
    """Return the configuration of Llama-3.1-8B with another number of layers, and of tokens."""
    return LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_attention_heads=32,
        num_key_value_heads=8,
        num_hidden_layers=n_layers,
        vocab_size=vocab_size,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )


def llama_tiny(n_layers: int) -> LlamaConfig:
    """Return a configuration that is done in a moment, wide enough for folding to pay."""
    return LlamaConfig(
        hidden_size=256,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=n_layers,
        vocab_size=512,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )


def size_of(config: LlamaConfig) -> int:
    """Return the bytes of a checkpoint's weights."""
    return _BYTES * sum(shape.numel() for shape in _shapes(config).values())


def write_checkpoint(folder: Path, config: LlamaConfig, *, seed: int, max_shard: int = 2 * 10**9) -> Path:
    """Write a checkpoint with normal weights of standard deviation 0.02, in bfloat16.

    Parameters
    ----------
    folder : Path
        Made when missing.
    config : LlamaConfig
    seed : int
        Of the weights.
    max_shard : int
        Bytes in one file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    shapes, generator = _shapes(config), torch.Generator().manual_seed(seed)
    shards = list(_shards(shapes, max_shard))
    weight_map: dict[str, str] = {}
    for i, names in enumerate(shards, start=1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        with (folder / file).open("wb") as stream:
            _write_shard(stream, {name: shapes[name] for name in names}, generator)
            os.fsync(stream.fileno())  # only clean pages can be dropped from the page cache
    index = {"metadata": {"total_size": size_of(config)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def _shapes(config: LlamaConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _shards(shapes: dict[str, torch.Size], max_shard: int) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        n_bytes = _BYTES * shape.numel()
        if names and size + n_bytes > max_shard:
            yield names
            names, size = [], 0
        names.append(name)
        size += n_bytes
    yield names


def _write_shard(stream: IO[bytes], shapes: dict[str, torch.Size], generator: torch.Generator) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + _BYTES * shape.numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    stream.write(len(raw).to_bytes(8, "little") + raw)
    for shape in shapes.values():
        for left in range(shape.numel(), 0, -CHUNK):
            weights = torch.empty(min(left, CHUNK), dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
            stream.write(weights.view(torch.uint8).numpy().data)
    stream.flush()
