"""Altered tokenizers in the header of a GGUF file make a tokenizer that can be used, or end in one line."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from transformers.convert_slow_tokenizer import bytes_to_unicode

from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.tokenizer import donor_tokenizer
from tests.fuzzing import QUICK, fuzz, mutate_bytes, nasty
from tests.test_fuzz_headers import pack_value, text
from tests.tiny_gguf import tiny_gguf

MERGES = ["t h", "th e", "Ġ the", "i n", "Ġ f", "Ġ g"]
TOKENS = ["<end>", "<unk>", *bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in MERGES)]
PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *"▁abcdefghilmnorstuwy", "▁the", "▁good"]
KINDS: dict[str, list[tuple[str, int, Any]]] = {  # key, type id, value
    "bytes": [
        ("tokenizer.ggml.model", 8, "gpt2"),
        ("tokenizer.ggml.pre", 8, "gpt-2"),
        ("tokenizer.ggml.tokens", 9, (8, TOKENS)),
        ("tokenizer.ggml.token_type", 9, (5, [3, 3] + [1] * (len(TOKENS) - 2))),
        ("tokenizer.ggml.merges", 9, (8, MERGES)),
        ("tokenizer.ggml.bos_token_id", 4, 0),
        ("tokenizer.ggml.eos_token_id", 4, 0),
        ("tokenizer.ggml.unknown_token_id", 4, 1),
        ("tokenizer.ggml.add_bos_token", 7, True),
        ("tokenizer.chat_template", 8, "{{ messages }}"),
    ],
    "pieces": [
        ("tokenizer.ggml.model", 8, "llama"),
        ("tokenizer.ggml.tokens", 9, (8, PIECES)),
        ("tokenizer.ggml.scores", 9, (6, [-float(n) for n in range(len(PIECES))])),
        ("tokenizer.ggml.token_type", 9, (5, [2, 3, 3] + [6] * 256 + [1] * (len(PIECES) - 259))),
        ("tokenizer.ggml.bos_token_id", 4, 1),
        ("tokenizer.ggml.eos_token_id", 4, 2),
        ("tokenizer.ggml.unknown_token_id", 4, 0),
    ],
}


def altered(keys: list[tuple[str, int, Any]], draw: random.Random) -> list[tuple[str, int, Any]]:
    """Return the metadata of a tokenizer with one or two entries replaced, removed, doubled, cut or of other types."""
    keys = list(keys)
    for _ in range(draw.choice([1, 1, 2])):
        at = draw.randrange(len(keys))
        name, kind, value = keys[at]
        what = draw.randrange(8)
        if what == 0:
            keys[at] = (name, kind, nasty(draw))
        elif what == 1:
            keys[at] = (name, draw.randrange(13), value)
        elif what == 2 and len(keys) > 1:
            keys.pop(at)
        elif what == 3:
            keys[at] = (name + draw.choice(["x", "s"]), kind, value)
        elif isinstance(value, tuple) and value[1]:
            item, values = value
            values = list(values)
            place = draw.randrange(len(values))
            if what == 4:
                values = values[: draw.choice([0, 1, place])]
            elif what == 5:
                item = draw.randrange(13)
            elif what == 6:
                values[place] = values[draw.randrange(len(values))]  # twice
            else:
                values[place] = draw.choice(["", "a", "a b c", "\0", "\ud800", "é" * 99, -1, 7, 1 << 31, float("nan")])
            keys[at] = (name, 9, (item, values))
        else:
            near = (
                [0, 1, -1, 5, 1 << 20, (1 << 32) - 1] if isinstance(value, int) else ["", "bert", "t5", "no-bpe", "\0"]
            )
            keys[at] = (name, kind, draw.choice(near))
    return keys


def tokenizer_case(kind: str, folder: Path) -> Callable[[random.Random], None]:
    """Put an altered tokenizer into a whole file, and use it."""
    file = tiny_gguf("llama", folder / "model.gguf", TOKENS)
    raw = file.read_bytes()
    whole = gguf.GGUFReader(file)
    start, end = span(whole.fields["tokenizer.ggml.tokens"])
    header_end = span(whole.tensors[-1].field)[1]
    version, n_tensors, n_keys = struct.unpack("<IQQ", raw[4:24])

    def case(draw: random.Random) -> None:
        as_it_was = draw.random() < 0.05
        keys = KINDS[kind] if as_it_was else altered(KINDS[kind], draw)
        packed = b"".join(
            text(name) + struct.pack("<I", which & 0xFFFFFFFF) + pack_value(which, value) for name, which, value in keys
        )
        if not as_it_was and draw.random() < 0.2:
            packed = mutate_bytes(packed, draw)
        counts = struct.pack("<IQQ", version, n_tensors, n_keys - 1 + len(keys))
        header = raw[:4] + counts + raw[24:start] + packed + raw[end:header_end]
        file.write_bytes(header + b"\0" * (-len(header) % 32) + raw[whole.data_offset :])
        tokenizer = donor_tokenizer(open_checkpoint(str(file)))
        assert tokenizer(["the film is good", ""], padding=True)["input_ids"]

    return case


def span(field: gguf.ReaderField) -> tuple[int, int]:
    """Return where a part of a header begins and ends."""
    return field.offset, field.offset + sum(part.nbytes for part in field.parts)


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", KINDS)
def test_some_altered_tokenizers(kind: str, tmp_path: Path) -> None:
    fuzz(tokenizer_case(kind, tmp_path), QUICK // 8, accepted=(0.02, 0.9), ways=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_five_hundred_altered_tokenizers(kind: str, tmp_path: Path) -> None:
    fuzz(tokenizer_case(kind, tmp_path), 500, seed=1, accepted=(0.02, 0.9))
