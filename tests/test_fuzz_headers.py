"""Forged headers of safetensors and GGUF files end in tensors or in one line, and never take more than they have."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pifi_probe.layers import gguf_io, safetensors_io
from pifi_probe.layers.gguf_checkpoint import GGUFCheckpoint
from pifi_probe.layers.pickle_io import load_state
from tests.fuzzing import QUICK, fuzz, mutate_bytes, mutate_json, nasty
from tests.memory_source import MemorySource
from tests.tiny_gguf import tiny_gguf

HEADERS: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "c": {"dtype": "U8", "shape": [0], "data_offsets": [32, 32]},
    "d": {"dtype": "F8_E4M3", "shape": [8, 1], "data_offsets": [32, 40]},
}
DATA = bytes(range(40))


def safetensors_case(draw: random.Random) -> None:
    header = mutate_json(HEADERS, draw) if draw.random() < 0.6 else HEADERS
    raw = json.dumps(header).encode("utf-8", errors="surrogatepass")
    length = len(raw) if draw.random() < 0.9 else draw.choice([0, 1, len(raw) + 1, 1 << 30, 1 << 63])
    data = length.to_bytes(8, "little") + raw + DATA
    if header is HEADERS or draw.random() < 0.2:
        data = mutate_bytes(data, draw, end=8 + len(raw))
    infos = safetensors_io.read_header(MemorySource(data, "fuzz.safetensors"))
    assert sum(info.nbytes for info in infos.values()) <= len(data)
    read = safetensors_io.read_tensors(info for info in infos.values() if info.dtype in safetensors_io._TORCH)
    assert all(tuple(read[name].shape) == infos[name].shape for name in read)


def text(value: str) -> bytes:
    raw = value.encode("utf-8", errors="surrogatepass")
    return struct.pack("<Q", len(raw)) + raw


KEYS: list[tuple[str, int, Any]] = [  # name, type id, value
    ("general.architecture", 8, "llama"),
    ("general.alignment", 4, 32),
    ("llama.block_count", 4, 1),
    ("llama.embedding_length", 4, 8),
    ("llama.attention.head_count", 4, 2),
    ("llama.feed_forward_length", 4, 16),
    ("llama.rope.freq_base", 6, 10000.0),
    ("tokenizer.ggml.tokens", 9, (8, ["a", "b", "c"])),
    ("tokenizer.ggml.scores", 9, (6, [0.0, -1.0, -2.0])),
    ("tokenizer.ggml.nested", 9, (9, [(4, [1, 2]), (8, ["x"])])),
    ("tokenizer.ggml.bos_token_id", 4, 1),
]
TENSORS: list[tuple[str, list[int], int, int]] = [  # name, shape, type, offset
    ("token_embd.weight", [8, 3], 0, 0),
    ("blk.0.attn_norm.weight", [8], 0, 96),
    ("blk.0.attn_q.weight", [32, 2], 8, 128),
]
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def pack_value(kind: int, value: Any) -> bytes:
    try:
        if kind == 8:
            return text(value if isinstance(value, str) else str(value))
        if kind == 9:
            item, values = value
            head = struct.pack("<IQ", item & 0xFFFFFFFF, len(values))
            return head + b"".join(pack_value(item, part) for part in values)
        return struct.pack("<" + _CODES.get(kind, "I"), value)
    except (struct.error, TypeError, ValueError, OverflowError):
        return b"\xff" * 4


def gguf_bytes(draw: random.Random, *, forged: bool) -> bytes:
    keys, tensors = list(KEYS), [list(tensor) for tensor in TENSORS]
    for _ in range(draw.choice([1, 1, 2]) if forged else 0):
        what, at = draw.randrange(7), draw.randrange(len(keys))
        name, kind, value = keys[at]
        if what == 0:
            keys[at] = (name, kind, nasty(draw))
        elif what == 1:
            keys[at] = (name, draw.randrange(14), value)
        elif what == 2:
            keys.pop(at)
        elif what == 3:
            keys.append(draw.choice(keys))
        elif what == 4 and isinstance(value, tuple) and len(value[1]) < 100:
            keys[at] = (name, 9, (draw.randrange(14), value[1] * draw.choice([1, 2000])))
        else:
            tensor = draw.choice(tensors)
            place = draw.randrange(4)
            tensor[place] = draw.choice(
                [
                    [draw.choice(["", "a" * 70, TENSORS[0][0], "\0"])],
                    [[], [1] * 9, [1 << 40, 1 << 40], [0], [7, 3]],
                    [1, 2, 8, 14, 30, 39, 1 << 20],
                    [0, 1, 31, 1 << 20, 1 << 62],
                ][place]
            )
    body = b"".join(text(name) + struct.pack("<I", kind & 0xFFFFFFFF) + pack_value(kind, v) for name, kind, v in keys)
    for name, shape, kind, offset in tensors:
        body += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    counts = (len(tensors), len(keys))
    if forged and draw.random() < 0.1:
        counts = draw.choice([(0, 0), (1 << 40, 3), (3, 1 << 40), (4, 9)])
    raw = b"GGUF" + struct.pack("<IQQ", draw.choice([2, 3, 3, 3]), *counts) + body
    return raw + b"\0" * (-len(raw) % 32) + bytes(range(256))


def gguf_case(draw: random.Random) -> None:
    forged = draw.random() < 0.6
    data = gguf_bytes(draw, forged=forged)
    if not forged or draw.random() < 0.2:
        data = mutate_bytes(data, draw, end=len(data) - 256)
    source = MemorySource(data, "fuzz.gguf")
    header = gguf_io.read_header(source)
    read = gguf_io.read_tensors(info for info in header.tensors.values() if info.dtype in ("F32", "F16", "Q8_0"))
    assert sum(tensor.numel() for tensor in read.values()) <= 8 * len(data)
    assert all(tuple(read[name].shape) == header.tensors[name].shape for name in read)
    if draw.random() < 0.2:
        GGUFCheckpoint(source, "fuzz.gguf").layer_names(0)


CASES: dict[str, Callable[[random.Random], None]] = {"safetensors": safetensors_case, "gguf": gguf_case}


@pytest.mark.parametrize("kind", CASES)
def test_some_forged_headers(kind: str) -> None:
    fuzz(CASES[kind], QUICK, accepted=(0.05, 0.8))


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_ten_thousand_forged_headers(kind: str) -> None:
    fuzz(CASES[kind], 10_000, seed=1, accepted=(0.05, 0.8))


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_gguf("llama", tmp_path_factory.mktemp("gguf") / "model.gguf").read_bytes()


def layer_case(data: bytes) -> Callable[[random.Random], None]:
    """Mutate the header of a whole model and read a layer out of it."""
    end = data.index(b"blk.0.") + 600

    def case(draw: random.Random) -> None:
        GGUFCheckpoint(MemorySource(mutate_bytes(data, draw, end=end), "fuzz.gguf"), "fuzz.gguf").read_layer(0)

    return case


def test_some_forged_gguf_models(gguf_file: bytes) -> None:
    fuzz(layer_case(gguf_file), QUICK // 2, accepted=(0.05, 0.8))


@pytest.mark.slow
def test_a_thousand_forged_gguf_models(gguf_file: bytes) -> None:
    fuzz(layer_case(gguf_file), 1000, seed=1, accepted=(0.05, 0.8))


def test_some_forged_pickles(tmp_path: Path) -> None:
    import torch

    torch.save({"a": torch.ones(3, 2), "b": torch.zeros(4)}, tmp_path / "whole.bin")
    data = (tmp_path / "whole.bin").read_bytes()

    def case(draw: random.Random) -> None:
        (tmp_path / "model.bin").write_bytes(mutate_bytes(data, draw))
        load_state(tmp_path / "model.bin")

    fuzz(case, QUICK, accepted=(0.02, 0.9), ways=2)
