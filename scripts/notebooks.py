"""Make the notebooks out of their sources: outputs, student copies, and the proof that nothing is stale.

A source, `notebooks/src/NN_name.py`, is a Jupytext percent script. It gives two notebooks:

notebooks/NN_name.ipynb          with outputs and with solutions that run, folded; the book and nbval read it
notebooks/student/NN_name.ipynb  without outputs, each solution in a drop-down; the Colab link opens it

    python scripts/notebooks.py            make what is stale; cells are run only where code changed
    python scripts/notebooks.py 03 04      make these, and run them
    python scripts/notebooks.py --all      make and run all
    python scripts/notebooks.py --check    say what is stale; exit code 1 if anything is
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]
TAG = f"v{PROJECT['version']}"
LEDGER = "The evidence for and against the claims"
LEDGER_COLUMNS = ("claim", "first evidence", "alternative explanation", "what excluded it", "status")
QUIZ = re.compile(r"^## Quiz", re.MULTILINE)
CELL_TIMEOUT = 300
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "PIFI_PROBE_FAST": "1"}
COLAB_CELL = f"""# @title For Colab: fetch the repository. Elsewhere this cell does nothing.
import os, subprocess, sys

if "google.colab" in sys.modules:  # elsewhere the repository is already here
    home = "/content/pifi_probe"
    subprocess.run(["git", "clone", "--depth", "1", "--branch", "{TAG}", "{REPOSITORY}", home], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", home, "jupyterquiz"], check=True)
    sys.path.insert(0, home)
    os.chdir(home + "/notebooks/student")"""


def sources() -> list[Path]:
    """Return the sources in order."""
    return sorted((NOTEBOOKS / "src").glob("[0-9][0-9]*_*.py"))


def number(source: Path) -> str:
    """Return a chapter's number, ``"03"``, or ``"00b"`` of one that was put between two others.

    Links, exercises, quizzes and records name chapters by number, so that a new one takes a letter and moves none.
    """
    return source.stem.split("_")[0]


def target(source: Path) -> Path:
    """Return the notebook that a source gives."""
    return NOTEBOOKS / f"{source.stem}.ipynb"


def student_target(source: Path) -> Path:
    """Return the student copy that a source gives."""
    return NOTEBOOKS / "student" / f"{source.stem}.ipynb"


def tags(cell: NotebookNode) -> list[str]:
    """Return a cell's tags."""
    return list(cell.metadata.get("tags", []))


def ledger(chapter: str) -> str:
    """Return a chapter's claims as a section, from `notebooks/ledger.yaml`; empty where it has none.

    One line an alternative, so that each stands next to what excluded it; claim, evidence and status on the first.
    """
    rows = yaml.safe_load((NOTEBOOKS / "ledger.yaml").read_text(encoding="utf-8")).get(chapter, [])
    if not rows:
        return ""
    lines = [LEDGER_COLUMNS, ["---"] * len(LEDGER_COLUMNS)]
    for row in rows:
        first = (row["claim"], row["evidence"], f"**{row['status']}**")
        for what, excluded in row["alternatives"].items():
            claim, evidence, status = first
            lines.append([claim, evidence, what, excluded, status])
            first = ("", "", "")
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    words = "How a claim stands is said in [five words](../book/glossary.md#claim-ledger)."
    return f"## {LEDGER}\n\n{words}\n\n{table}\n\n"


def build(source: Path) -> NotebookNode:
    """Return the full notebook of a source, without outputs."""
    parsed = jupytext.read(source, fmt="py:percent")
    cells = [_titled(parsed.cells[0], source), _colab_cell(), *map(_finished, parsed.cells[1:])]
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = QUIZ.sub(lambda quiz: ledger(number(source)) + quiz[0], cell.source)
    for place, cell in enumerate(cells):
        cell.id = f"cell-{place:02d}"
    book = nbformat.v4.new_notebook(cells=cells, metadata=copy.deepcopy(METADATA))
    book.metadata["pifi_probe"] = {"code_sha256": code_hash(book)}
    return book


def _titled(cell: NotebookNode, source: Path) -> NotebookNode:
    """Return the title cell with a link that opens the student copy in Colab."""
    place = REPOSITORY.removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{place}/blob/{TAG}/notebooks/student/{source.stem}.ipynb"
    title, _, rest = cell.source.partition("\n")
    return nbformat.v4.new_markdown_cell(f"{title}\n\n[Open in Colab]({link})\n\n{rest.strip()}")


def _colab_cell() -> NotebookNode:
    folded = {"cellView": "form", "jupyter": {"source_hidden": True}}  # in Colab, in JupyterLab
    return nbformat.v4.new_code_cell(COLAB_CELL, metadata={"tags": ["colab", "remove-cell"], **folded})


def _finished(cell: NotebookNode) -> NotebookNode:
    """Return a cell as notebooks hold it: solutions folded, alt text where the book looks for it."""
    metadata: dict[str, Any] = dict(cell.metadata)
    if "solution" in tags(cell):
        metadata["tags"] = [*tags(cell), "hide-cell"]
        metadata["jupyter"] = {"source_hidden": True}
        metadata["mystnb"] = {"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
    if alt := metadata.pop("alt", ""):
        metadata["mystnb"] = {"image": {"alt": alt}}
    if cell.cell_type == "markdown":
        return nbformat.v4.new_markdown_cell(cell.source, metadata=metadata)
    return nbformat.v4.new_code_cell(cell.source, metadata=metadata)


def student_copy(book: NotebookNode) -> NotebookNode:
    """Return the notebook without outputs, each solution as text in a drop-down."""
    student = copy.deepcopy(book)
    student.cells = [_folded(cell) if "solution" in tags(cell) else _emptied(cell) for cell in student.cells]
    student.metadata.pop("widgets", None)
    return student


def _folded(cell: NotebookNode) -> NotebookNode:
    text = f"<details><summary>Solution</summary>\n\n```python\n{cell.source}\n```\n\n</details>"
    return nbformat.v4.new_markdown_cell(text, id=cell.id, metadata={"tags": ["solution"]})


def _emptied(cell: NotebookNode) -> NotebookNode:
    if cell.cell_type == "code":
        cell.outputs, cell.execution_count = [], None
    else:
        cell.source = cell.source.replace("](../", "](../../")  # the copy lies one folder deeper
    return cell


def code_hash(book: NotebookNode) -> str:
    """Return the sha256 over the sources of the code cells."""
    code = [cell.source for cell in book.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()


def run(book: NotebookNode) -> None:
    """Run every cell and keep the outputs and the widgets' state."""
    os.environ.update(ENVIRONMENT)
    resources = {"metadata": {"path": str(NOTEBOOKS)}}
    NotebookClient(
        book, timeout=CELL_TIMEOUT, kernel_name="python3", resources=resources, record_timing=False
    ).execute()
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    book.metadata.update(copy.deepcopy(METADATA))


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return outputs in which printed text is one piece; the kernel sends it in several, wherever it was flushed."""
    whole: list[NotebookNode] = []
    for output in outputs:
        before = whole[-1] if whole else None
        if before is not None and output.output_type == before.output_type == "stream" and output.name == before.name:
            before.text += output.text
        else:
            whole.append(output)
    return whole


def with_outputs_of(book: NotebookNode, old: NotebookNode) -> None:
    """Take over the outputs of a notebook with the same code."""
    ran = [cell for cell in old.cells if cell.cell_type == "code"]
    for cell, before in zip((c for c in book.cells if c.cell_type == "code"), ran, strict=True):
        cell.outputs, cell.execution_count = joined(before.outputs), before.execution_count
    if "widgets" in old.metadata:
        book.metadata["widgets"] = old.metadata["widgets"]


def why_stale(source: Path) -> str:
    """Return why the notebooks of a source are stale; empty when they are not."""
    book = build(source)
    for file in (target(source), student_target(source)):
        if not file.exists():
            return f"{file.relative_to(ROOT)} does not exist"
    old = nbformat.read(target(source), as_version=4)
    if not same_code(book, old):
        return "the code is not the one its outputs were made with"
    if [_shown(cell) for cell in book.cells] != [_shown(cell) for cell in old.cells]:
        return "its text or its tags are not those of the source"
    if nbformat.writes(student_copy(old)).strip() != student_target(source).read_text(encoding="utf-8").strip():
        return "the student copy is not made from it"
    return ""


def same_code(book: NotebookNode, old: NotebookNode) -> bool:
    """Return True when `old` has the code of `book`, and its outputs were made with that code."""
    stored = old.metadata.get("pifi_probe", {}).get("code_sha256")
    return stored == code_hash(book) == code_hash(old)


def _shown(cell: NotebookNode) -> tuple[str, str, str]:
    return cell.cell_type, cell.source, json.dumps(cell.metadata, sort_keys=True)


def make(source: Path, again: bool) -> str:
    """Write the notebooks of a source; return what was done."""
    book = build(source)
    old = nbformat.read(target(source), as_version=4) if target(source).exists() else None
    if not again and old is not None and same_code(book, old):
        with_outputs_of(book, old)
        done = "kept its outputs"
    else:
        run(book)
        done = "ran"
    nbformat.validate(book)
    student_target(source).parent.mkdir(exist_ok=True)
    nbformat.write(book, target(source))
    nbformat.write(student_copy(book), student_target(source))
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", help="numbers of notebooks, such as 03")
    parser.add_argument("--all", action="store_true", help="make and run all")
    parser.add_argument("--check", action="store_true", help="only say what is stale")
    options = parser.parse_args()
    stale = 0
    for source in sources():
        if options.numbers and number(source) not in options.numbers:
            continue
        reason = why_stale(source)
        again = options.all or bool(options.numbers)
        if options.check:
            stale += bool(reason)
            print(f"{source.stem}: {'stale: ' + reason if reason else 'up to date'}")
        elif again or reason:
            print(f"{source.stem}: {make(source, again)}", flush=True)
    if stale:
        print("run `make notebooks`", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
