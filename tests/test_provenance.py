"""A result says who made it, and says nothing about where the user keeps things."""

from __future__ import annotations

import datetime
import json
import mmap
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pifi_probe import provenance
from pifi_probe.provenance import PeakMemory, collect, shorten_paths


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home" / "ada"
    (folder / "work").mkdir(parents=True)
    monkeypatch.setattr(Path, "home", lambda: folder)
    monkeypatch.chdir(folder / "work")
    return folder


def test_a_record_says_versions_machine_date_and_what_was_added() -> None:
    record = collect(recipe={"seed": 3})
    json.dumps(record)
    assert record["recipe"] == {"seed": 3}
    assert {"pifi_probe", "python", "torch", "transformers", "tokenizers", "numpy", "scikit-learn"} <= set(
        record["versions"]
    )
    assert record["machine"]["cores"] >= 1
    assert record["machine"]["threads"] >= 1
    assert record["machine"]["cpu"]
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(record["date"])
    assert age < datetime.timedelta(minutes=1)


def test_a_command_line_holds_no_absolute_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [str(home / "work" / "out"), f"--task={home}/data/my.csv", "--llm", "/mnt/disk/m.gguf[-1]"]
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/pifi-probe", "train", *arguments])
    command = collect()["command"]
    assert command == "pifi-probe train out --task=~/data/my.csv --llm .../m.gguf[-1]"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/etc/x.json", ".../x.json"),
        ("a/b/c.csv --n=3 1/2", "a/b/c.csv --n=3 1/2"),
        ("owner/name[3] >> /data/b[2]", "owner/name[3] >> .../b[2]"),
        (r"C:\Users\ada\x.csv", ".../x.csv"),
        (r"--out=D:/runs/x", "--out=.../x"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("token hf_abcdefghijkl", "token hf_***"),
        ("'/a/b c'", "'.../b c'"),
        ("smollm2-135m[-1]|m[0:3]", "smollm2-135m[-1]|m[0:3]"),
    ],
)
def test_paths_are_shortened_and_all_else_stays(home: Path, text: str, short: str) -> None:
    assert shorten_paths(text) == short


def test_paths_below_home_start_with_a_tilde(home: Path) -> None:
    assert shorten_paths(f"{home} {home}/a {home}/work/b {home}/work") == "~ ~/a b ."


def test_the_commit_is_that_of_the_packages_own_checkout(tmp_path: Path) -> None:
    def git(*command: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *command], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    (package / "errors.py").write_text("")
    assert provenance._git(package) is None
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "somebody else's")
    assert provenance._git(package) is None, "an installed copy inside of another checkout is not that checkout"
    git("add", ".")
    git("commit", "-q", "-m", "ours")
    assert provenance._git(package) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (package / "errors.py").write_text("changed")
    assert provenance._git(package) == {"commit": git("rev-parse", "HEAD"), "dirty": True}


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance._git(Path(provenance.__file__).parent) is None


def _wait_for_a_sample(memory: PeakMemory, seconds: float = 20.0) -> None:
    """Give the sampling thread its turn: on a busy machine it may wait far longer than its 10 ms."""
    end = time.monotonic() + seconds
    while memory.rss_bytes - memory.start_bytes < 100_000_000 and time.monotonic() < end:
        time.sleep(0.01)


def test_peak_memory_sees_what_was_freed_again() -> None:
    with PeakMemory() as memory, mmap.mmap(-1, 120_000_000) as block:  # malloc could reuse what the process holds
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        _wait_for_a_sample(memory)
    assert 100_000_000 <= memory.rss_bytes - memory.start_bytes < 400_000_000
    with PeakMemory() as later:
        pass
    assert later.rss_bytes < memory.rss_bytes - 60_000_000, "an earlier peak must not count again"


def test_peak_memory_is_known_after_an_error() -> None:
    with pytest.raises(ValueError, match="x"), PeakMemory() as memory:
        raise ValueError("x")
    assert memory.rss_bytes >= memory.start_bytes > 0
