"""Put the notebooks' own minutes into book/instructors.md: one row for each chapter of the table of contents.

python book/_scripts/timings.py
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

BOOK = Path(__file__).resolve().parent.parent
PAGE = BOOK / "instructors.md"
SOURCES = BOOK.parent / "notebooks" / "src"
_BLOCK = re.compile(r"(<!-- timings:begin -->\n).*?(<!-- timings:end -->)", re.DOTALL)
_TITLE = re.compile(r"^# # (.+)$", re.MULTILINE)
_TABLE = re.compile(r"^# \| Minutes.*\n# \|[-| :]+\n# \| *(.+?) *\| *(.+?) *\| *(.+?) *\|", re.MULTILINE)


def table() -> str:
    """Return the table."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))
    files = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    lines = ["| chapter | minutes | exercises | difficulty | needs first |", "|---|---|---|---|---|"]
    lines += [row(Path(file).name) for file in files if file.startswith("notebooks/")]
    return "\n".join(lines)


def row(name: str) -> str:
    """Return the row of the notebook `name`."""
    text = (SOURCES / f"{name}.py").read_text(encoding="utf-8")
    title, cells = _TITLE.search(text), _TABLE.search(text)
    assert title is not None and cells is not None, name
    exercises = len(re.findall(r'^# %%.*tags=\[.*"exercise".*\]', text, re.MULTILINE))
    needs = re.sub(r"\]\((\d\d[a-z]?_)", r"](../notebooks/\1", cells[3])
    return f"| [{title[1]}](../notebooks/{name}.ipynb) | {cells[1]} | {exercises} | {cells[2]} | {needs} |"


def updated(text: str) -> str:
    """Return the page with the table between its markers."""
    return _BLOCK.sub(lambda match: f"{match[1]}{table()}\n{match[2]}", text)


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
