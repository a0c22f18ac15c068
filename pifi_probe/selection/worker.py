"""Who runs a trial: enough to tell from another process whether it is still there, or that one cannot tell."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["LIVE_SESSIONS", "describe_worker", "is_gone"]

LIVE_SESSIONS: set[str] = set()  # of this process
_PROC = Path("/proc")


def describe_worker(session: str) -> dict[str, Any]:
    """Return what a trial says of the process that runs it.

    A number of a process means something in one place only: one host, since one start of it, and one namespace of
    process numbers, of which every container has its own.
    """
    pid = os.getpid()
    return {"host": platform.node(), "place": _place(), "pid": pid, "started": _started(pid), "session": session}


def is_gone(worker: Mapping[str, Any]) -> bool:
    """Return whether that process has certainly ended; False where it lives, or where one cannot tell from here."""
    import psutil

    place = _place()
    if not place or worker.get("place") != place or worker.get("host") != platform.node():
        return False
    pid, started = worker["pid"], _started(worker["pid"])
    if pid == os.getpid() and worker.get("started") == started:
        return worker["session"] not in LIVE_SESSIONS
    if not psutil.pid_exists(pid):
        return True
    return bool(started and worker.get("started")) and started != worker["started"]


@functools.cache
def _place() -> str:
    """Return start of the machine and namespace of process numbers; empty where they are not known."""
    if platform.system() != "Linux":
        import psutil

        return f"{platform.system()} {round(psutil.boot_time())}"
    try:
        if os.readlink(_PROC / "self") != str(os.getpid()):
            return ""  # these are the processes of another namespace
        return f"{(_PROC / 'sys/kernel/random/boot_id').read_text().strip()} {os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process was started, in words of this machine; empty where it is gone, ended or unknown."""
    import psutil

    if platform.system() != "Linux":
        try:
            return str(psutil.Process(pid).create_time())
        except psutil.Error:
            return ""
    try:
        state, *fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "ended" if state in "ZX" else fields[18]  # field 22: clock ticks since the machine was started
