"""Tests of searches in worker processes, called from real scripts: guarded ones work, others are told what to write."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pifi_probe.errors import SearchError
from pifi_probe.selection.executors import Ray, _is_bare, make_executor
from tests.search_stub import ROOT

HEAD = """
import pathlib
from pifi_probe.selection.store import Store
from pifi_probe.selection.executors import make_executor
from tests.search_stub import StubEvaluator, runner

with open({log!r}, "a") as file:
    file.write("the script ran\\n")

def main():
    engine = runner(Store.open({study!r}), "2 trials", StubEvaluator(0.0), executor=make_executor("processes", 2))
    print(engine.run(), flush=True)
"""
GUARDED = '\nif __name__ == "__main__":\n    main()\n'
EARLY_EXIT = '\nimport sys\nif __name__ != "__main__":\n    sys.exit("no worker of mine")\nmain()\n'
THREAD = "\nimport threading\nthread = threading.Thread(target=main)\nthread.start()\nthread.join()\n"


def script(folder: Path, body: str, *options: str, stdin: bool = False) -> subprocess.CompletedProcess[str]:
    log, study, file = (folder / name for name in ("log", "s.db", "program.py"))
    file.write_text(HEAD.format(log=str(log), study=str(study)) + body)
    command = [sys.executable, *options, *([] if stdin else [str(file)])]
    return subprocess.run(
        command,
        input=file.read_text() if stdin else None,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("body", ["\nmain()\n", THREAD, "\ntry:\n    main()\nfinally:\n    pass\n"])
def test_a_plain_script_is_told_what_to_write_before_a_process_starts(tmp_path: Path, body: str) -> None:
    done = script(tmp_path, body)
    assert 'if __name__ == "__main__":' in done.stderr and "program.py, line" in done.stderr
    assert "finished" not in done.stdout
    assert (tmp_path / "log").read_text().splitlines() == ["the script ran"], "a worker ran it again"
    if "Thread" not in body:
        assert done.returncode == 1


def test_a_guarded_script_finishes(tmp_path: Path) -> None:
    done = script(tmp_path, GUARDED)
    assert (done.returncode, done.stdout.strip()) == (0, "finished"), done.stderr


def test_a_script_whose_guard_the_workers_do_not_pass_ends_with_one_error(tmp_path: Path) -> None:
    done = script(tmp_path, EARLY_EXIT)
    assert done.returncode == 1
    assert "WorkersCannotStart: the worker processes die while they start" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr


def test_a_worker_that_comes_to_the_search_itself_says_so_and_ends(tmp_path: Path) -> None:
    unseen = '\nimport multiprocessing\nif __name__ == "a guard of something else":\n    pass\nmain()\n'
    done = script(tmp_path, unseen)
    assert done.returncode == 1
    assert "has run the whole program again" in done.stderr
    assert "WorkersCannotStart: the worker processes die while they start" in done.stderr
    assert len((tmp_path / "log").read_text().splitlines()) <= 1 + 2, "workers were started again and again"


def test_a_program_from_standard_input_is_told_to_be_a_file(tmp_path: Path) -> None:
    done = script(tmp_path, GUARDED, "-", stdin=True)
    assert done.returncode == 1
    assert "no file that worker processes could read | where: <stdin> | next: write it into a file" in done.stderr


def test_a_test_runner_and_a_notebook_are_no_such_script() -> None:
    make_executor("processes", 1).close()


@pytest.mark.parametrize(
    ("text", "line", "bare"),
    [
        ("import os\nsearch()\n", 2, True),
        ("if True:\n    search()\n", 2, True),
        ("def f():\n    if __name__ == '__main__': pass\nsearch()\n", 3, True),
        ("search()\nif __name__ == '__main__':\n    pass\n", 1, True),
        ("if __name__ == '__main__':\n    search()\n", 2, False),
        ("try:\n    if '__main__' == __name__:\n        search()\nfinally:\n    pass\n", 3, False),
        ("if multiprocessing.parent_process() is None:\n    search()\n", 2, False),
        ("assert __name__ == '__main__'\nsearch()\n", 2, False),
        ("not Python at all (", 1, False),
    ],
)
def test_a_guard_is_seen_in_the_source(tmp_path: Path, text: str, line: int, bare: bool) -> None:
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(text))
    assert _is_bare(file, line) is bare
    assert not _is_bare(tmp_path / "missing.py", 1)


def test_ray_is_loaded_only_by_who_asks_for_it_and_its_absence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = "import sys, pifi_probe.selection.executors; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    monkeypatch.setitem(sys.modules, "ray", None)
    for ask in (lambda: make_executor("ray", 1), lambda: Ray(1, "auto")):
        with pytest.raises(SearchError, match=r"ray is not installed.*pip install 'pifi-probe\[ray\]'"):
            ask()
