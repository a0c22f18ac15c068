"""The safetensors reader: right, or an error of its own, whatever the bytes."""

from __future__ import annotations

import json
import struct
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pifi_probe.errors import CheckpointError, CorruptFileError, UnsupportedFormatError
from pifi_probe.layers.safetensors_io import read_header, read_tensors
from pifi_probe.layers.sources import FileSource
from tests.memory_source import MemorySource

EXAMPLES = settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=timedelta(seconds=5),
    suppress_health_check=list(HealthCheck),
)
TENSORS = {
    "model.layers.0.w": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "model.layers.0.b": torch.arange(5).to(torch.bfloat16),
    "odd": torch.arange(3, dtype=torch.uint8),
}
VALID = safetensors.torch.save(TENSORS, metadata={"format": "pt"})


def packed(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets} | more


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64,
]  # fmt: skip


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (3, 5)], ids=str)
def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    saved = {str(dtype): torch.rand(shape).mul(100).to(dtype) for dtype in DTYPES}
    safetensors.torch.save_file(saved, tmp_path / "x.safetensors")
    infos = read_header(FileSource(tmp_path / "x.safetensors"))
    read = read_tensors(infos.values())
    assert infos.keys() == saved.keys() == read.keys()
    for name, tensor in saved.items():
        assert infos[name].shape == shape
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_only_the_bytes_of_the_chosen_tensors_are_read() -> None:
    source = MemorySource(VALID)
    infos = read_header(source)
    header = source.bytes_read
    read_tensors([infos["model.layers.0.w"]])
    assert source.bytes_read - header == 48
    assert header == 8 + int.from_bytes(VALID[:8], "little")


def test_tensors_at_odd_offsets_are_read(tmp_path: Path) -> None:
    data = struct.pack("<B2f", 7, 1.5, -2.0)
    raw = packed({"byte": entry("U8", [1], [0, 1]), "w": entry("F32", [2], [1, 9])}, data)
    read = read_tensors(read_header(MemorySource(raw)).values())
    assert read["w"].tolist() == [1.5, -2.0]
    assert read["byte"].tolist() == [7]


def test_reading_takes_no_memory_beside_the_tensors(tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.zeros(4_000_000)}, tmp_path / "x.safetensors")
    source = FileSource(tmp_path / "x.safetensors")
    infos = read_header(source)
    tracemalloc.start()  # sees Python's and numpy's memory, not that of the 16 MB tensor
    tensors = read_tensors(infos.values())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert tensors["w"].nbytes == 16_000_000
    assert peak < 200_000


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"])
def test_float8_is_read_as_it_lies(dtype: str) -> None:
    source = MemorySource(packed({"w": entry(dtype, [2, 2], [0, 4])}, bytes([0, 56, 64, 184])))
    (found,) = read_tensors(read_header(source).values()).values()
    assert found.dtype.itemsize == 1
    assert found.shape == (2, 2)
    assert found.view(torch.uint8).flatten().tolist() == [0, 56, 64, 184]


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3"])
def test_weights_of_less_than_8_bits_are_reported_and_not_read(dtype: str) -> None:
    bits = {"F4": 4, "F6_E2M3": 6}[dtype]
    source = MemorySource(packed({"w": entry(dtype, [8], [0, bits])}, b"\0" * bits))
    infos = read_header(source)
    assert infos["w"].dtype == dtype
    with pytest.raises(UnsupportedFormatError, match=dtype):
        read_tensors(infos.values())


BAD = {
    "empty": (b"", "0 bytes"),
    "short": (b"1234567", "too few"),
    "header longer than the file": (packed(b"{}", length=500), "the file has"),
    "header longer than the format allows": (packed(b"{}", length=1 << 62), "more than"),
    "no JSON": (packed(b"{nonsense}"), "not valid JSON"),
    "no UTF-8": (packed(b'{"\xff\xfe": 1}'), "not valid JSON"),
    "deeply nested": (packed(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "not valid JSON"),
    "a list": (packed([1, 2]), "not a JSON object"),
    "a number with too many digits": (packed(b'{"a":' + b"1" * 5000 + b"}"), "not valid JSON"),
    "metadata of numbers": (packed({"__metadata__": {"a": 1}}), "__metadata__"),
    "duplicate name": (packed(b'{"a": 1, "a": 2}'), "'a' twice"),
    "entry is no object": (packed({"w": 3}), "'w' needs"),
    "entry with more": (packed({"w": entry(extra=1)}, b"\0" * 8), "nothing else"),
    "unknown dtype": (packed({"w": entry("F33")}, b"\0" * 8), "unknown dtype"),
    "dtype is a list": (packed({"w": entry([[1]])}, b"\0" * 8), "unknown dtype"),
    "negative shape": (packed({"w": entry(shape=[-2])}, b"\0" * 8), "bad shape"),
    "shape of bools": (packed({"w": entry(shape=[True, 2])}, b"\0" * 8), "bad shape"),
    "shape of floats": (packed({"w": entry(shape=[2.0])}, b"\0" * 8), "bad shape"),
    "too many dimensions": (packed({"w": entry(shape=[1] * 100 + [2])}, b"\0" * 8), "bad shape"),
    "huge shape": (packed({"w": entry(shape=[1 << 62] * 60)}, b"\0" * 8), "does not take"),
    "offsets in reverse": (packed({"w": entry(offsets=[8, 0])}, b"\0" * 8), "bad data_offsets"),
    "three offsets": (packed({"w": entry(offsets=[0, 4, 8])}, b"\0" * 8), "bad data_offsets"),
    "truncated data": (packed({"w": entry()}, b"\0" * 7), "truncated"),
    "size contradicts shape": (packed({"w": entry(shape=[3])}, b"\0" * 8), "does not take 8 bytes"),
    "overlap": (packed({"a": entry(), "b": entry(offsets=[4, 12])}, b"\0" * 12), "overlap"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_header_is_one_line_that_names_the_file_and_the_fault(case: str) -> None:
    data, message = BAD[case]
    with pytest.raises(CorruptFileError) as caught:
        read_header(MemorySource(data, "bad.safetensors"))
    line = str(caught.value)
    assert message in line and "bad.safetensors" in line and "\n" not in line and len(line) < 1000


def read_all(data: bytes) -> dict[str, torch.Tensor] | None:
    """Read everything; None for an error of our own. Any other exception, hang or large allocation fails."""
    source = MemorySource(data)
    tracemalloc.start()
    try:
        infos = read_header(source)
        assert sum(info.nbytes for info in infos.values()) <= len(data)
        return read_tensors(infos.values())
    except CheckpointError:
        return None
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 500_000 + 100 * len(data)
        assert all(length <= len(data) for _, length in source.requests)


def agrees_with_the_reference(data: bytes) -> None:
    ours = read_all(data)
    if ours is None:
        return
    try:
        theirs = safetensors.torch.load(data)
    except Exception:  # the reference is stricter about gaps
        return
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name].flatten().view(torch.uint8), tensor.flatten().view(torch.uint8))


@EXAMPLES
@given(st.binary(max_size=200))
def test_random_bytes_give_an_error_or_a_right_answer(data: bytes) -> None:
    agrees_with_the_reference(data)


@EXAMPLES
@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=4), st.integers(-40, 3))
def test_a_mutated_file_gives_an_error_or_a_right_answer(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(VALID)
    for at, value in changes:
        data[at] = value
    agrees_with_the_reference(bytes(data[:cut]) if cut < 0 else bytes(data) + b"\0" * cut)


numbers = st.one_of(st.integers(-2, 20), st.integers(), st.sampled_from([1 << 63, 1 << 64, 10**30]))
anything: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=4)), lambda inner: st.lists(inner, max_size=3)
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.one_of(st.sampled_from(["F32", "BF16", "U8", "F4", "F8_E4M3", "I64"]), anything),
        "shape": st.one_of(st.lists(st.integers(0, 4), max_size=3), st.lists(numbers, max_size=4), anything),
        "data_offsets": st.one_of(st.tuples(st.integers(0, 40), st.integers(0, 40)), anything),
    }
)


@EXAMPLES
@given(st.dictionaries(st.text(max_size=3), st.one_of(entries, anything), max_size=4), st.binary(max_size=48))
def test_a_random_header_gives_an_error_or_a_right_answer(header: dict[str, Any], data: bytes) -> None:
    agrees_with_the_reference(packed(header, data))
