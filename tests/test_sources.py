"""Byte sources: positioned reads that count what they read."""

from __future__ import annotations

import gc
import os
import threading
import warnings
from pathlib import Path

import pytest
import torch

from pifi_probe.errors import CheckpointError, CorruptFileError
from pifi_probe.layers import sources
from pifi_probe.layers.sources import FileSource, TensorInfo, read_raw
from tests.memory_source import MemorySource

CONTENT = bytes(range(256)) * 40


@pytest.fixture(params=["preadv", "seek"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileSource:
    """A file, read as on Linux and as where `os.preadv` does not exist."""
    if request.param == "seek":
        monkeypatch.delattr(os, "preadv", raising=False)
    elif not hasattr(os, "preadv"):
        pytest.skip("this system has no os.preadv")
    (tmp_path / "file").write_bytes(CONTENT)
    return FileSource(tmp_path / "file")


def test_a_read_returns_the_bytes_at_the_offset_and_counts_them(source: FileSource) -> None:
    assert source.size == len(CONTENT)
    assert source.read(100, 1000) == CONTENT[100:1100]
    assert source.read(source.size, 0) == b""
    assert source.bytes_read == 1000


def test_a_scattered_read_fills_buffers_of_any_size_one_after_the_other(
    source: FileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_PIECE", 700)  # many system calls, which end inside of buffers
    monkeypatch.setattr(sources, "_MOST_BUFFERS", 3)
    buffers = [bytearray(n) for n in (0, 1, 5, 0, 2000, 13, 300, 300, 300, 0)]
    source.read_scattered(7, [memoryview(buffer) for buffer in buffers])
    assert b"".join(buffers) == CONTENT[7 : 7 + 2919]
    assert source.bytes_read == 2919


@pytest.mark.parametrize(("offset", "length"), [(0, 10_241), (10_240, 1), (-1, 5), (5, -1), (0, 1 << 62)])
def test_a_read_beyond_the_end_is_refused_before_memory_is_taken(source: FileSource, offset: int, length: int) -> None:
    with pytest.raises(CorruptFileError, match="truncated"):
        source.read(offset, length)
    assert source.bytes_read == 0


def test_a_file_that_shrank_since_it_was_opened_is_truncated(source: FileSource) -> None:
    os.truncate(source.name, 50)
    with pytest.raises(CorruptFileError, match="truncated"):
        source.read(0, 100)


def test_a_closed_source_opens_its_file_again(source: FileSource) -> None:
    source.read(0, 1)
    source.close()
    source.close()
    assert source.read(3, 2) == CONTENT[3:5]


def test_threads_can_read_one_source_together(source: FileSource) -> None:
    wrong: list[int] = []

    def read(start: int) -> None:
        wrong.extend(i for i in range(start, 9000, 7) if source.read(i, 100) != CONTENT[i : i + 100])

    threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert source.bytes_read == 100 * sum(len(range(start, 9000, 7)) for start in range(4))


def test_a_missing_file_and_a_folder_are_no_sources(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(CheckpointError, match="missing"):
            FileSource(path)


def test_a_file_without_read_permission_is_an_error_that_says_so(
    source: FileSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, mode: str) -> None:
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(sources, "FileIO", refuse)
    with pytest.raises(CheckpointError, match="Permission denied.*permissions"):
        source.read(0, 1)


def test_adjacent_tensors_come_with_one_request_and_own_their_memory() -> None:
    class Counting(MemorySource):
        runs: list[int] = []

        def read_scattered(self, offset: int, buffers) -> None:  # type: ignore[no-untyped-def]
            self.runs.append(len(buffers))
            super().read_scattered(offset, buffers)

    source = Counting(CONTENT)
    ranges = {"c": (30, 10), "a": (0, 10), "b": (10, 20), "far": (100, 5), "empty": (40, 0)}
    infos = [TensorInfo(name, "U8", (n,), source, at, n) for name, (at, n) in ranges.items()]
    raw = read_raw(infos)
    assert source.runs == [4, 1]
    for name, (at, n) in ranges.items():
        assert bytes(raw[name].numpy()) == CONTENT[at : at + n]
        assert raw[name].untyped_storage().nbytes() == n


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the kernel's count is in /proc on Linux")
def test_bytes_read_agrees_with_the_kernels_count(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(5_000_000))
    source = FileSource(tmp_path / "file")
    info = TensorInfo("w", "U8", (3_000_000,), source, 1_000_000, 3_000_000)

    def kernel_count() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])  # rchar

    start = kernel_count()
    own = kernel_count() - start  # what reading the count itself costs
    start = kernel_count()
    read_raw([info])
    counted = kernel_count() - start - own
    assert source.bytes_read == 3_000_000
    assert abs(counted - source.bytes_read) < 1000


def test_empty_requests_need_no_read() -> None:
    source = MemorySource(b"")
    raw = read_raw([TensorInfo("none", "F32", (0,), source, 0, 0)])
    assert torch.equal(raw["none"], torch.empty(0, dtype=torch.uint8))


def test_a_file_that_nobody_needs_any_more_is_closed_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"abc")
    own = FileSource(tmp_path / "weights")
    assert own.read(0, 3) == b"abc"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        del own
        gc.collect()
    assert [one for one in seen if one.category is ResourceWarning] == []
