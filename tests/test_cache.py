"""Cached features: addressed by content, resumed after a kill, shared by processes, and harmless when broken."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pifi_probe import files
from pifi_probe.cli import main
from pifi_probe.errors import FeatureError, SaveError
from pifi_probe.features import cache
from pifi_probe.features.cache import cache_entries, clear_cache
from pifi_probe.features.donor import llm_features
from pifi_probe.features.feature_set import Features
from pifi_probe.features.rows import scoring_rows
from pifi_probe.layers import stream as module
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.frozen import FrozenLayer
from tests import slm, tiny

N_LAYERS = 8
N_POINTS = N_LAYERS + 1
ROWS = scoring_rows(slm.tiny_task(), 16)


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PIFI_PROBE_FEATURES", str(tmp_path / "features"))
    return tmp_path / "features"


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tiny.tiny_checkpoint("llama", tmp_path_factory.mktemp("llm"), num_hidden_layers=N_LAYERS)
    slm.tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def reference(llm: str) -> NDArray[np.float32]:
    return stacked(llm_features(llm, ROWS, cache=False))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the layers that are read, in order."""
    indices: list[int] = []
    original = module.extract_from

    def spy(checkpoint: Checkpoint, index: int, **options: Any) -> FrozenLayer:
        indices.append(index)
        return original(checkpoint, index, **options)

    monkeypatch.setattr(module, "extract_from", spy)
    return indices


def stacked(features: Features) -> NDArray[np.float32]:
    return np.stack([features[point] for point in range(features.n_points)])


def copied(llm: str, folder: Path) -> str:
    return str(shutil.copytree(llm, folder))


# --- the address --------------------------------------------------------------------------------------------


def test_the_second_call_reads_no_layer(llm: str, read: list[int], reference: NDArray[np.float32]) -> None:
    first = llm_features(llm, ROWS)
    assert read == list(range(N_LAYERS))
    second = llm_features(llm, ROWS, batch_tokens=50, memory=0)
    assert read == list(range(N_LAYERS))
    assert np.array_equal(stacked(first), reference) and np.array_equal(stacked(second), reference)
    assert isinstance(second[0], np.memmap)


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": "last"},
        {"normalise": False},
        {"drop_first": False},
        {"max_tokens": 6},
        {"template": "the {text}"},
        {"rows": replace(ROWS, texts=(*ROWS.texts[:-1], "good"))},
        {"rows": ROWS.take(range(15, -1, -1))},
    ],
    ids=str,
)
def test_whatever_changes_the_features_changes_the_address(change: dict[str, Any], llm: str, read: list[int]) -> None:
    llm_features(llm, ROWS)
    other = {"rows": ROWS} | change
    llm_features(llm, **other)
    assert len(read) == 2 * N_LAYERS and len(cache_entries()) == 2


def test_labels_do_not_count(llm: str, read: list[int]) -> None:
    llm_features(llm, ROWS)
    flipped = replace(ROWS, labels=tuple(1 - label for label in ROWS.labels))
    assert llm_features(llm, flipped).labels.tolist() == list(flipped.labels)
    assert len(read) == N_LAYERS


def test_equal_files_elsewhere_have_the_same_features_and_changed_ones_in_place_others(
    llm: str, read: list[int], tmp_path: Path
) -> None:
    llm_features(llm, ROWS)
    copy = copied(llm, tmp_path / "copy")
    llm_features(copy, ROWS)
    assert len(read) == N_LAYERS
    shutil.copy(
        tiny.tiny_checkpoint("llama", tmp_path / "b", num_hidden_layers=N_LAYERS, seed=1) / "model.safetensors", copy
    )
    llm_features(copy, ROWS)
    assert len(read) == 2 * N_LAYERS


def test_another_tokenizer_is_another_address(llm: str, read: list[int], tmp_path: Path) -> None:
    llm_features(llm, ROWS)
    copy = copied(llm, tmp_path / "copy")
    tokenizer = slm.tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None
    tokenizer.save_pretrained(copy)
    llm_features(copy, ROWS)
    assert len(read) == 2 * N_LAYERS


def test_a_file_is_hashed_once_for_each_state_it_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    original = files.sha256_file

    def spy(path: Path) -> str:
        hashed.append(path)
        return original(path)

    monkeypatch.setattr(files, "sha256_file", spy)
    file = tmp_path / "x"
    for content in (b"one", b"three"):
        file.write_bytes(content)
        assert files.file_sha256(file) == files.file_sha256(file) == original(file)
    assert hashed == [file, file]


@pytest.mark.parametrize("how", ["written in place", "replaced"])
def test_other_contents_of_equal_size_and_time_are_hashed_anew(how: str, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"old")
    before, old = file.stat(), files.file_sha256(file)
    if how == "replaced":
        (tmp_path / "y").write_bytes(b"new")
        (tmp_path / "y").replace(file)
    else:
        file.write_bytes(b"new")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns and file.stat().st_size == before.st_size
    assert files.file_sha256(file) == hashlib.sha256(b"new").hexdigest() != old


# --- killed, and two at once --------------------------------------------------------------------------------

CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from pifi_probe.layers import stream as module
from pifi_probe.features.donor import llm_features
from tests.test_cache import ROWS, stacked
llm, log, out, stuck, budget = sys.argv[1:]
original = module.extract_from
def slow(checkpoint, index, **options):
    with open(log, "a") as file:
        file.write(f"{index}\\n")
    time.sleep(600 if index == int(stuck) else 0.1)
    return original(checkpoint, index, **options)
module.extract_from = slow
np.save(out, stacked(llm_features(llm, ROWS, memory=int(budget), batch_tokens=40)))
"""


@contextmanager
def child(llm: str, log: Path, out: Path, stuck: int, budget: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run `llm_features` in another process, which writes down each layer, and gets stuck before reading one."""
    command = [sys.executable, "-c", CHILD, llm, str(log), str(out), str(stuck), str(budget)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(log: Path, line: str) -> None:
    for _ in range(3000):
        if log.is_file() and line in log.read_text().split():
            return
        time.sleep(0.05)
    raise AssertionError(f"no {line} in {log}")


@pytest.mark.slow
@pytest.mark.parametrize("budget", [pytest.param(10**9, id="in memory"), pytest.param(0, id="on disk")])
def test_a_killed_process_is_gone_on_with_after_its_last_finished_layer(
    budget: int, llm: str, read: list[int], reference: NDArray[np.float32], root: Path, tmp_path: Path
) -> None:
    with child(llm, tmp_path / "log", tmp_path / "out.npy", 5, budget) as process:
        wait_for(tmp_path / "log", "5")
        process.kill()
        process.wait()
    assert cache_entries()[0].points_done == 6
    features = llm_features(llm, ROWS, batch_tokens=40, memory=budget)
    assert read == [5, 6, 7]
    np.testing.assert_allclose(stacked(features), reference, rtol=1e-4, atol=1e-5)
    assert not list(root.rglob("states*"))


@pytest.mark.slow
def test_two_processes_at_once_share_the_work_and_the_features(
    llm: str, reference: NDArray[np.float32], tmp_path: Path
) -> None:
    outs = [tmp_path / "a.npy", tmp_path / "b.npy"]
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(child(llm, tmp_path / "log", out, -1, 10**9)) for out in outs]
        assert [process.wait(timeout=300) for process in both] == [0, 0]
    assert (tmp_path / "log").read_text().split() == [str(i) for i in range(N_LAYERS)]
    first, second = (np.load(out) for out in outs)
    assert np.array_equal(first, second)
    np.testing.assert_allclose(first, reference, rtol=1e-4, atol=1e-5)


# --- broken -------------------------------------------------------------------------------------------------


def test_a_truncated_point_is_computed_again(llm: str, root: Path, reference: NDArray[np.float32]) -> None:
    llm_features(llm, ROWS)
    file = next(root.rglob("point-004.npy"))
    file.write_bytes(file.read_bytes()[:-8])
    assert np.array_equal(stacked(llm_features(llm, ROWS)), reference)


def test_an_interrupted_pass_that_lost_a_point_starts_anew(
    llm: str, root: Path, read: list[int], reference: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        original = cache.Entry.save
        patch.setattr(cache.Entry, "save", lambda self, p, x: stop() if p == 4 else original(self, p, x))
        llm_features(llm, ROWS)
    next(root.rglob("point-001.npy")).unlink()
    read.clear()
    assert np.array_equal(stacked(llm_features(llm, ROWS)), reference)
    assert read == list(range(N_LAYERS))


def test_a_cache_that_cannot_be_written_is_said_once_and_the_features_stay_in_memory(
    llm: str, root: Path, reference: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    root.write_text("in the way of the folder")
    features = llm_features(llm, ROWS)
    assert np.array_equal(stacked(features), reference)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "not cached" in caplog.text


@pytest.mark.parametrize("after", [0, 3])
def test_a_disk_that_fills_up_is_said_once_and_the_rest_stays_in_memory(
    after: int,
    llm: str,
    reference: NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    original, written = cache.atomic_write, 0

    @contextmanager
    def full(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
        nonlocal written
        written += 1
        if written > after:
            raise SaveError("could not write the file: No space left on device", where=str(path))
        with original(path, mode) as file:
            yield file

    monkeypatch.setattr(cache, "atomic_write", full)
    features = llm_features(llm, ROWS)
    assert np.array_equal(stacked(features), reference)
    assert caplog.text.count("No space left") == 1
    assert written == after + 1, "a full disk is not tried again for every layer"


def test_features_that_are_cleared_meanwhile_are_an_error_that_says_so(llm: str) -> None:
    features = llm_features(llm, ROWS)
    clear_cache()
    with pytest.raises(FeatureError, match="cannot be read.*compute them again"):
        features[2]


# --- list and clear -----------------------------------------------------------------------------------------


def test_entries_are_listed_the_last_used_first_and_cleared_by_name(llm: str, root: Path) -> None:
    old, new = (llm_features(llm, ROWS, pooling=how).info["features"] for how in ("mean", "last"))
    os.utime(root / old / "key.json", (1, 1))
    entries = cache_entries()
    assert [entry.name for entry in entries] == [new, old]
    assert [(entry.points_done, entry.n_points) for entry in entries] == [(N_POINTS, N_POINTS)] * 2
    assert entries[0].key["pooling"] == "last" and entries[0].key["model_name"] == llm
    assert entries[0].bytes > N_POINTS * 16 * tiny.WIDTH * 4
    assert clear_cache([old[:10]]) == entries[1].bytes
    assert [entry.name for entry in cache_entries()] == [new]
    assert clear_cache() == entries[0].bytes and cache_entries() == []
    with pytest.raises(FeatureError, match="no entry 'nosuch'"):
        clear_cache(["nosuch"])


def test_an_entry_that_is_being_written_stays(llm: str, caplog: pytest.LogCaptureFixture) -> None:
    llm_features(llm, ROWS)
    (entry,) = cache_entries()
    held = cache.Entry(entry.key, entry.name, N_POINTS, (16, tiny.WIDTH))
    with held.writing() as writable:
        assert writable and clear_cache() == 0
    assert "is writing these features" in caplog.text
    assert clear_cache() == entry.bytes


@pytest.mark.slow
def test_the_command_line_lists_and_clears(llm: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "list"]) == 0
    assert "no features in" in capsys.readouterr().out
    llm_features(llm, ROWS)
    assert main(["cache", "list"]) == 0
    assert f"{N_POINTS} of {N_POINTS}" in capsys.readouterr().out
    assert main(["cache", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["points_done"] == N_POINTS and listed["key"]["max_length"] == 64
    assert main(["cache", "clear", "nosuch"]) == 2
    assert main(["cache", "clear", listed["name"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"bytes": listed["bytes"]}
    assert cache_entries() == []
