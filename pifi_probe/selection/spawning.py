"""Worker processes run the program's main file once more: find programs that are not written for it, and say so."""

from __future__ import annotations

import ast
import multiprocessing
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType

from pifi_probe.errors import SearchError

__all__ = ["WorkersCannotStart", "cannot_start", "refuse_in_worker", "refuse_unguarded"]

_GUARDS = {"__name__", "parent_process", "current_process"}
_ADVICE = (
    'put what the program does below  if __name__ == "__main__":  and leave only imports and definitions above, '
    'or use executor="local"'
)


class WorkersCannotStart(SearchError):
    """No worker process has come to its first trial."""


def cannot_start() -> WorkersCannotStart:
    """Return the error for workers that die before they begin."""
    return WorkersCannotStart(
        "the worker processes die while they start; their own message stands above", where="executor", next=_ADVICE
    )


def refuse_in_worker() -> None:
    """Refuse to search where a worker process reads the main file of its program.

    Raises
    ------
    WorkersCannotStart
        If this is such a process.
    """
    # set by multiprocessing itself while a new process imports the main file of the one that started it
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise WorkersCannotStart(
            "this worker process has run the whole program again, up to its search", where=_main_file(), next=_ADVICE
        )


def refuse_unguarded() -> None:
    """Refuse to start worker processes from a line that each of them would run, too.

    Raises
    ------
    WorkersCannotStart
        If the search was called from the top level of a script, outside of ``if __name__ == "__main__":``, or the
        script was read from standard input.
    """
    main, file = sys.modules.get("__main__"), _main_file()
    if file and getattr(main, "__spec__", None) is None and not Path(file).exists():  # "<stdin>"
        raise WorkersCannotStart(
            "the program has no file that worker processes could read",
            where=file,
            next='write it into a file, below  if __name__ == "__main__":  , or use executor="local"',
        )
    line = None if main is None else _top_line(main)
    if line is None or not _is_bare(Path(file), line):
        return
    raise WorkersCannotStart(
        "the search would start worker processes, and each would run this program from its beginning",
        where=f"{file}, line {line}",
        next=_ADVICE,
    )


def _main_file() -> str:
    return str(getattr(sys.modules.get("__main__"), "__file__", None) or "")


def _top_line(main: ModuleType) -> int | None:
    """Return the line of the main file's top level that is being run, in this thread or the main one."""
    own = sys._getframe()
    first = sys._current_frames().get(threading.main_thread().ident or 0)
    for frame in (*_outwards(own), *_outwards(first)):
        code = frame.f_code
        if code.co_name == "<module>" and frame.f_globals is vars(main) and code.co_filename == _main_file():
            return frame.f_lineno
    return None


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_bare(file: Path, line: int) -> bool:
    """Return whether no statement that asks which process this is stands around or before a line of the top level."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False  # an archive, an executable: the workers will show
    for node in tree.body:
        if node.lineno <= line and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            asked = [one.test for one in ast.walk(node) if isinstance(one, ast.If | ast.IfExp | ast.Assert)]
            names = {getattr(one, "id", getattr(one, "attr", None)) for test in asked for one in ast.walk(test)}
            if names & _GUARDS:
                return False
    return True
