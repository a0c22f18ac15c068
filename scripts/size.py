"""Count the lines and files of every room, before the rooms were drawn anew and now, into book/architecture.md.

    python scripts/size.py            write the table between its markers
    python scripts/size.py --print    print it

Before is the commit that the new drawing began at; its files are read out of git.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "book" / "architecture.md"
BEFORE = "16c03c9"
BEGIN, END = "<!-- size: begin -->", "<!-- size: end -->"
Size = dict[str, Counter[str]]  # room -> {"files": ..., "lines": ...}


def room_of(path: str) -> str:
    """Return the room of a file of the package: its folder, or "(root)" for the small files next to them."""
    parts = path.split("/")
    if len(parts) > 2:
        return f"{parts[1]}/"
    return "assets/" if parts[1].startswith("assets") else "(root)"


def add(found: Size, path: str, lines: int) -> None:
    found.setdefault(room_of(path), Counter()).update(files=1, lines=lines)


def size_at(commit: str) -> Size:
    """Return the size of every room at a commit."""
    empty = subprocess.run(["git", "hash-object", "-t", "tree", "/dev/null"], **_TEXT).stdout.strip()
    listed = subprocess.run(["git", "diff", "--numstat", empty, commit, "--", "pifi_probe"], **_TEXT).stdout
    found: Size = {}
    for line in listed.splitlines():
        lines, _, path = line.split("\t")
        if path.endswith(".py"):
            add(found, path, int(lines))
    return found


def size_now(root: Path = ROOT) -> Size:
    """Return the size of every room in the working tree."""
    found: Size = {}
    for file in sorted((root / "pifi_probe").rglob("*.py")):
        add(found, file.relative_to(root).as_posix(), len(file.read_text(encoding="utf-8").splitlines()))
    return found


def table(before: Size, now: Size) -> str:
    """Return both as a Markdown table, the whole last."""
    rows = ["| room | files before | lines before | files now | lines now |", "|---|---:|---:|---:|---:|"]
    total = [sum(side.values(), Counter()) for side in (before, now)]
    cells = [(room, before.get(room, Counter()), now.get(room, Counter())) for room in sorted(before | now)]
    for room, old, new in [*cells, ("**all**", *total)]:
        rows.append(f"| {room} | {old['files']} | {old['lines']:,} | {new['files']} | {new['lines']:,} |")
    return "\n".join(rows)


def written(page: str, content: str) -> str:
    """Return a page with the content between the markers."""
    head, _, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise SystemExit(f"{PAGE.name} lacks the markers {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{content}\n{END}{tail}"


_TEXT: dict[str, Any] = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", dest="shown", help="print the table, write nothing")
    shown = parser.parse_args().shown
    content = table(size_at(BEFORE), size_now())
    if shown:
        print(content)
    else:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), content), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
