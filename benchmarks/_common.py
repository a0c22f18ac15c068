"""What the benchmarks share: interleaved timing, child processes, provenance, results and their tables."""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from pifi_probe.files import write_json, write_text
from pifi_probe.provenance import collect, shorten_paths

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE / "README.md"
_LOAD = os.getloadavg()[0]  # of the machine before this script adds to it


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the options that all benchmarks have; a request to stop now removes the temporary folders too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="tiny models: does the script work at all?")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, help="write the JSON here, and leave results/ and README.md alone")
    options.add_argument("--child", help=argparse.SUPPRESS)  # JSON: what to measure in this fresh process
    return options


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return median, quartiles and number of `values`."""
    values = sorted(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "q25": low, "q75": high, "n": len(values)}


def interleave(
    arms: Mapping[str, Callable[[], object]], rounds: int, *, seed: int, warmup: int = 2
) -> dict[str, list[float]]:
    """Time every arm once a round, in an order drawn anew each round, so that noise of the machine hits all alike.

    Returns
    -------
    dict
        Arm to its seconds, one for each round.
    """
    order, draw = list(arms), random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for i in range(-warmup, rounds):
        draw.shuffle(order)
        for name in order:
            start = time.perf_counter()
            arms[name]()
            if i >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Return the spread of the ratios within the rounds."""
    return spread(a / b for a, b in zip(numerator, denominator, strict=True))


def in_child(
    script: str,
    task: Mapping[str, Any],
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run `script` ``--child`` in a fresh interpreter; return the JSON of its last line, or why there is none."""
    command = [python, script, "--child", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"failed": shorten_paths(last)[:300]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Hold a recorded result while it is made; False where it is there already, or another process makes it now."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{file}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield not file.is_file()
    finally:
        lock.release()
        Path(f"{file}.lock").unlink(missing_ok=True)


def limit_memory(n_bytes: int) -> None:
    """Let this process fail, and not the machine, when it asks for more address space than this."""
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))


class Usage:
    """Time, peak memory and bytes read of this process from now on."""

    def __init__(self) -> None:
        self._io, self._rss = _io(), psutil.Process().memory_info().rss
        self._cpu, self._start = time.process_time(), time.perf_counter()

    def until_now(self) -> dict[str, float | None]:
        """Return ``seconds``, ``cpu_seconds``, ``peak_bytes`` above the start, and what the kernel counted.

        ``bytes_asked`` went through read calls, ``bytes_from_disk`` were fetched from storage for this process,
        memory-mapped pages and the system's read-ahead included. None where the system does not count them.
        """
        seconds, cpu = time.perf_counter() - self._start, time.process_time() - self._cpu
        now = _io()
        return {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "peak_bytes": _peak() - self._rss,
            "bytes_asked": now["rchar"] - self._io["rchar"] if now else None,
            "bytes_from_disk": now["read_bytes"] - self._io["read_bytes"] if now else None,
        }


def _peak() -> int:
    # Linux hands getrusage's record down from the parent process; VmHWM is this program's own.
    if status := _proc("status"):
        return 1024 * int(status["VmHWM"].split()[0])
    record = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return record if sys.platform == "darwin" else 1024 * record


def _io() -> dict[str, int]:
    return {key: int(value) for key, value in _proc("io").items()}


def _proc(name: str) -> dict[str, str]:
    """Return the fields of a file below /proc/self; empty where there is none."""
    try:
        lines = Path("/proc/self", name).read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split(":", 1) for line in lines)


def target(
    what: str, measured: float, *, most: float | None = None, least: float | None = None, unit: str = " x"
) -> dict[str, Any]:
    """Return one line of the table of targets; without a bound, of what is only told next to them."""
    if most is None and least is None:
        return {"what": what, "to reach": None, "measured": measured, "holds": None}
    holds = (most is None or measured <= most) and (least is None or measured >= least)
    bound = f"at most {most:g}{unit}" if most is not None else f"at least {least:g}{unit}"
    return {"what": what, "to reach": bound, "measured": measured, "holds": holds}


def record(
    name: str,
    options: argparse.Namespace,
    settings: Mapping[str, Any],
    measurements: Mapping[str, Any],
    tables: Mapping[str, Any],
) -> None:
    """Print a result; write it with its provenance unless it is a quick one; keep README.md in step.

    Parameters
    ----------
    name : str
        Of the file in ``results/``.
    options, settings
        Of this run.
    measurements
        All single values.
    tables
        What follows from them: ``targets`` (see `target`) and ``rows`` (the arms, a flat dict each).
    """
    made = collect(seed=options.seed, load_average=round(_LOAD, 2), settings=dict(settings))
    result = {"benchmark": name, **made, **tables, "measurements": measurements}
    print(markdown(result))
    if options.out is not None:
        write_json(options.out, result)
    elif not options.quick:
        write_json(RESULTS / f"{name}.json", result)
        write_text(README, filled(README.read_text(encoding="utf-8"), name, markdown(result)))


def filled(text: str, name: str, tables: str) -> str:
    """Return `text` with `tables` between the marks of the result `name`."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    head, rest = text.split(begin, 1)
    return f"{head}{begin}{tables}\n{end}{rest.split(end, 1)[1]}"


def markdown(result: Mapping[str, Any]) -> str:
    """Return a result's tables as README.md shows them."""
    machine, versions = result["machine"], result["versions"]
    made = (
        f"{result['date'][:10]}, `{result['command']}`, seed {result['seed']}, {machine['cpu']}, "
        f"{machine['threads']} threads, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"torch {versions['torch']}, transformers {versions['transformers']}"
    )
    return "\n\n".join([made, *(_table(rows) for rows in (result["targets"], result["rows"]) if rows)])


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[column]) for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, dict):
        return f"{_number(value['median'])} ({_number(value['q25'])} to {_number(value['q75'])})"
    if isinstance(value, (int, float)):
        return _number(value)
    return "" if value is None else str(value)


def _number(value: float) -> str:
    """Write a number with three digits, or four where it lies close to 1."""
    return f"{value:.3f}" if 0.9 <= abs(value) < 1.2 else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
