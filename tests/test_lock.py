"""A folder that a run is in belongs to it: others are told so, and a killed process leaves no lock."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import SaveError
from pifi_probe.files import advice, alone_in, write_text
from pifi_probe.training import Recipe
from tests import slm, tiny

HOLD = """
import sys, time
from pathlib import Path
from pifi_probe.files import alone_in
with alone_in(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is in ``tmp_path / "run"``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    yield process
    process.kill()
    process.wait()


def plug(tmp_path: Path) -> pp.PiFiForSequenceClassification:
    return pp.plug_in(str(slm.tiny_slm_folder(tmp_path / "slm")), control="vanilla", task=slm.tiny_task())


def test_a_second_run_in_a_folder_is_told_so_and_changes_nothing(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    (tmp_path / "run" / "result.json").write_text("theirs")
    for resume in (False, True):
        with pytest.raises(
            SaveError, match=rf"another process is using this folder \(process {holder.pid} on"
        ) as caught:
            pp.fine_tune(plug(tmp_path), slm.tiny_task(), Recipe(epochs=1), out=tmp_path / "run", resume=resume)
        assert "space" not in str(caught.value) and "another folder" in caught.value.next
    assert (tmp_path / "run" / "result.json").read_text() == "theirs"
    pp.fine_tune(plug(tmp_path), slm.tiny_task(), Recipe(epochs=1), out=tmp_path / "other")  # as the error says


def test_the_lock_of_a_killed_process_is_free(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / "in_use.lock").exists(), "the kill has left the file"
    pp.fine_tune(plug(tmp_path), slm.tiny_task(), Recipe(epochs=1), out=tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result.json"]


def test_the_command_line_says_in_one_line_who_is_in_the_folder(
    holder: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tmp_path / "task.csv"
    task.write_text("text,label\n" + "".join(f"the film was {slm.WORDS[i % 8]} {i},{i % 8 < 4:d}\n" for i in range(60)))
    llm = tiny.tiny_checkpoint("llama", tmp_path / "llm")
    command = ["train", "--task", str(task), "--slm", str(slm.tiny_slm_folder(tmp_path / "slm"))]
    assert main([*command, "--layer", f"{llm}[0]", "-o", str(tmp_path / "run"), "--epochs", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: another process is using this folder") and str(holder.pid) in line


def test_a_thread_waits_for_no_other(tmp_path: Path) -> None:
    found: list[BaseException] = []

    def enter() -> None:
        try:
            with alone_in(tmp_path):
                pass
        except SaveError as error:
            found.append(error)

    with alone_in(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(60)
    assert len(found) == 1
    enter()
    assert len(found) == 1 and list(tmp_path.iterdir()) == []


def test_a_folder_that_stayed_empty_is_not_left(tmp_path: Path) -> None:
    with alone_in(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    with pytest.raises(KeyboardInterrupt), alone_in(tmp_path / "kept"):
        (tmp_path / "kept" / "file").touch()
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["file"]


def test_many_processes_are_never_in_a_folder_together(tmp_path: Path) -> None:
    code = """
import os, sys, time
from pathlib import Path
from pifi_probe.errors import SaveError
from pifi_probe.files import alone_in
folder = Path(sys.argv[1])
for _ in range(150):
    try:
        with alone_in(folder):
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))  # fails where somebody else is in
            os.unlink(folder / "inside")
    except SaveError:
        time.sleep(0.001)
"""
    tmp_path.joinpath("kept").touch()
    many = [subprocess.Popen([sys.executable, "-c", code, tmp_path], stderr=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate(timeout=120)[1] for process in many] == [b""] * 3


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "you may write to"),
        (errno.EROFS, "read-only"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.ENOENT, "leave the folder in place"),
        (errno.EIO, "check the disk"),
    ],
)
def test_the_advice_is_for_the_error_that_happened(number: int, words: str) -> None:
    error = OSError(number, os.strerror(number))
    assert words in advice(error, "go on") and advice(error, "go on").endswith(", then go on")
    wrapped = SaveError("x")
    wrapped.__cause__ = error
    assert words in advice(wrapped, "go on")


def test_the_words_of_a_full_disk_count_where_there_is_no_number() -> None:
    assert "free some space" in advice(RuntimeError("I/O error: No space left on device (os error 28)"), "go on")


@pytest.mark.skipif(os.name != "posix", reason="names of 255 bytes")
def test_a_name_that_is_too_long_says_so(tmp_path: Path) -> None:
    with pytest.raises(SaveError) as caught:
        write_text(tmp_path / ("x" * 300), "text")
    assert "choose a shorter name" in caught.value.next
    write_text(tmp_path / "x", "text")  # as the error says
