"""A child process that is killed before its n-th operation on files, for every n."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

KILLED = 77
_CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree", "shutil.move"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def killed_at_every_step(work: Callable[[], Any], below: Path, prepare: Callable[[], Any]) -> Iterator[int]:
    """Run `work` in a child again and again, killed before its first, second, ... change to a file below a folder.

    `prepare` runs before each. Yields the number of the change after each kill; ends when a child came to its end.
    Only where processes can be forked: a child that imports everything anew takes too long.
    """
    context = multiprocessing.get_context("fork")
    step = 0
    while True:
        prepare()
        process = context.Process(target=_run, args=(work, str(below), step))
        process.start()
        process.join(120)
        assert not process.is_alive(), "the child hangs"
        if process.exitcode == 0:
            assert step > 0, "nothing was written"
            return
        assert process.exitcode == KILLED, f"the child failed by itself: {process.exitcode}"
        yield step
        step += 1


def _run(work: Callable[[], Any], below: str, allowed: int) -> None:
    left = [allowed]

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            changes = bool(flags & _WRITES) if isinstance(flags, int) else "r" not in str(mode)
        else:
            path, changes = arguments[0] if arguments else None, event in _CHANGES
        if changes and isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(below):
            if left[0] == 0:
                os._exit(KILLED)
            left[0] -= 1

    sys.addaudithook(count)
    work()
    os._exit(0)
