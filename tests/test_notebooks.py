"""The notebooks: made from their sources, whole, honest, and with exercises that can be failed and passed.

That the outputs are what the code prints is shown by nbval, in `make test`.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import yaml
from nbformat import NotebookNode

ROOT = Path(__file__).parent.parent
IGNORE = "nbval-ignore-output"
LEDGER = "The evidence for and against the claims"
MOST_IGNORED = 0.15
MOST_SVG = 100_000  # characters
PARTS = (  # what every notebook holds, in this order
    r"^# \d\d[a-z]? ",
    r"\[Open in Colab\]",
    r"\*\*You will show that\*\*",
    r"\*\*After this notebook you can\*\*",
    r"\| Minutes on a CPU \| Difficulty \| You need first \| Downloads \|",
    r"^## 1\. ",
    r"\*\*Why\.\*\*",
    r"\$\$",
    r"\*\*Predict\.\*\*",
    r"\*\*Read\.\*\*",
    r"^## Exercises",
    r"^## What this does not show",
    rf"^## {LEDGER}",
    r"^## Quiz",
    r"^## Summary",
    r"\*\*Words:\*\* .*glossary\.md#",
    r"\*\*Next:\*\*",
)
RESULT = re.compile(
    r"\d+\.\d+ ?(%|points?|seconds|ms|MB|GB|million)|\d ?% ?(better|worse|more|less|accuracy)|\baccuracy of \d"
)


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks_script", ROOT / "scripts" / "notebooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = _script()
SOURCES = script.sources()
each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
NOTEBOOKS = {source: nbformat.read(script.target(source), as_version=4) for source in SOURCES}


def _code(book: NotebookNode, tag: str = "") -> list[NotebookNode]:
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    return [cell for cell in cells if not tag or tag in script.tags(cell)]


def _said(cell: NotebookNode) -> str:
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)


def test_there_are_sources() -> None:
    whole = [number for number in map(script.number, SOURCES) if number.isdigit()]
    assert whole == [f"{number:02d}" for number in range(len(whole))]
    between = [number for number in map(script.number, SOURCES) if not number.isdigit()]
    assert all(re.fullmatch(r"\d\d[b-z]", number) and number[:2] in whole for number in between)


def test_every_claim_says_what_else_it_could_be_and_how_it_stands() -> None:
    ledger = yaml.safe_load((ROOT / "notebooks" / "ledger.yaml").read_text(encoding="utf-8"))
    assert sorted(ledger) == sorted(map(script.number, SOURCES))
    for row in (row for rows in ledger.values() for row in rows):
        assert set(row) == {"claim", "evidence", "alternatives", "status"} and all(row.values())
        assert all(what and excluded for what, excluded in row["alternatives"].items())
        status = re.match(r"(observed|supported|kept|narrowed|rejected)\b", row["status"])
        assert status, f"{row['status']!r} does not begin with one of the five words"
        left = [what for what, excluded in row["alternatives"].items() if excluded.startswith("not excluded")]
        if left:
            assert status[1] in ("observed", "rejected"), f"{row['claim']}: {left} may explain it"
        else:
            assert status[1] != "observed", f"{row['claim']}: nothing else is left to explain it"
        assert not RESULT.search(str(row)), "numbers stay in the records"


@each_source
def test_a_ledger_has_five_columns_and_ends_in_one_of_five_words(source: Path) -> None:
    """As readers see it, in the notebook; and in cells that a phone can show next to each other."""
    text = "\n".join(cell.source for cell in NOTEBOOKS[source].cells if cell.cell_type == "markdown")
    lines = text.partition(f"## {LEDGER}")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0] == ["claim", "first evidence", "alternative explanation", "what excluded it", "status"]
    assert len(rows) > 2 and all(len(row) == 5 and row[2] and row[3] for row in rows)
    assert all(len(cell) <= 100 for row in rows for cell in row), "a cell is too long for a phone"
    claims = [row for row in rows[2:] if row[0]]
    assert claims[0] is rows[2] and all(row[1] for row in claims)
    for row in rows[2:]:
        assert bool(row[0]) == bool(row[4]), "a claim without its status"
        assert not row[4] or re.match(r"\*\*(observed|supported|kept|narrowed|rejected)\b", row[4]), row[4]


def test_the_five_words_are_explained_where_every_ledger_points() -> None:
    text = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    own = text.partition("## claim ledger\n")[2].partition("\n## ")[0]
    assert re.findall(r"\*(\w+)\*:", own) == ["Observed", "Supported", "Kept", "Narrowed", "Rejected"]


def test_the_book_has_the_chapters_in_their_order() -> None:
    toc = (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8")
    assert re.findall(r"file: notebooks/(\S+)", toc) == [source.stem for source in SOURCES]


@each_source
def test_a_notebook_is_not_stale(source: Path) -> None:
    assert script.why_stale(source) == "", "run `make notebooks`"


def test_changed_code_is_stale_and_changed_prose_is_not_run_again(tmp_path: Path) -> None:
    book = script.build(SOURCES[0])
    old = NOTEBOOKS[SOURCES[0]]
    assert script.same_code(book, old)
    book.cells[0].source += " More prose."
    assert script.same_code(book, old)
    next(cell for cell in book.cells if cell.cell_type == "code").source += "\nx = 1"
    assert not script.same_code(book, old)


@each_source
def test_every_part_of_the_template_is_there_in_order(source: Path) -> None:
    text = "\n".join(cell.source for cell in NOTEBOOKS[source].cells if cell.cell_type == "markdown")
    at = 0
    for part in PARTS:
        found = re.compile(part, re.MULTILINE).search(text, at)
        assert found, f"{part} is missing or out of order"
        at = found.start()


@each_source
def test_the_first_cells_start_the_notebook_and_show_the_block(source: Path) -> None:
    code = "\n".join(cell.source for cell in _code(NOTEBOOKS[source]))
    assert re.search(rf'checks\.start\(\s*"{script.number(source)}", seed=', code)
    assert "checks.pifi_block(" in code and f'checks.quiz("{script.number(source)}")' in code


@each_source
def test_guesses_come_before_what_is_measured_and_checkpoints_hold(source: Path) -> None:
    cells = NOTEBOOKS[source].cells
    guesses = [place for place, cell in enumerate(cells) if "guess" in script.tags(cell)]
    assert guesses
    for place in guesses:
        assert "**Predict.**" in cells[place - 1].source and cells[place].source.startswith("guess = None")
        assert any("guess" in cell.source for cell in cells[place + 1 : place + 5]), "the guess is never compared"
    checkpoints = [place for place, cell in enumerate(cells) if "**Checkpoint.**" in cell.source]
    assert checkpoints
    for place in checkpoints:
        assert re.search(r"\bassert\b|except", cells[place + 1].source + cells[place + 2].source)


@each_source
def test_an_untouched_stub_is_not_attempted_and_the_solution_passes(source: Path) -> None:
    stubs, solutions = _code(NOTEBOOKS[source], "exercise"), _code(NOTEBOOKS[source], "solution")
    assert 2 <= len(stubs) == len(solutions) <= 5
    for stub, solution in zip(stubs, solutions, strict=True):
        assert _said(stub).endswith("not attempted yet")
        assert _said(solution).endswith("passed")
        assert _said(stub).split(":")[0] == _said(solution).split(":")[0]


@each_source
def test_stub_and_solution_differ_only_where_they_should(source: Path) -> None:
    for stub, solution in zip(_code(NOTEBOOKS[source], "exercise"), _code(NOTEBOOKS[source], "solution"), strict=True):
        assert _outline(stub.source) == _outline(solution.source)


def _outline(code: str) -> list[str]:
    """Return what stub and solution share: names, signatures, and the call of the check."""
    outline = []
    for node in ast.parse(code).body:
        if isinstance(node, ast.FunctionDef):
            outline.append(f"{node.name}({ast.unparse(node.args)})")
        elif isinstance(node, ast.Assign):
            outline.append(ast.unparse(node.targets[0]))
        else:
            outline.append(ast.unparse(node))
    return outline


@each_source
def test_later_cells_do_not_need_an_exercise(source: Path) -> None:
    """The student copy runs through with nothing attempted."""
    cells = _code(NOTEBOOKS[source])
    answers = set()
    for cell in cells:
        tree = ast.parse(cell.source)
        if "exercise" in script.tags(cell):
            answers |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            answers |= {node.targets[0].id for node in tree.body if isinstance(node, ast.Assign)}  # type: ignore[attr-defined]
        elif "solution" not in script.tags(cell):
            used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            assert not used & answers, f"needs {used & answers}"


@each_source
def test_the_student_copy_has_the_solutions_in_drop_downs_and_no_outputs(source: Path) -> None:
    student = nbformat.read(script.student_target(source), as_version=4)
    full = NOTEBOOKS[source]
    for cell, whole in zip(student.cells, full.cells, strict=True):
        if "solution" in script.tags(whole):
            assert cell.cell_type == "markdown" and cell.source.startswith("<details><summary>Solution")
            assert whole.source in cell.source and "hide-cell" in script.tags(whole)
        else:
            assert cell.source.replace("](../../", "](../") == whole.source
            assert cell.cell_type == "markdown" or not cell.outputs


@each_source
def test_few_cells_are_ignored_each_for_a_stated_reason(source: Path) -> None:
    cells = _code(NOTEBOOKS[source])
    ignored = _code(NOTEBOOKS[source], IGNORE)
    assert len(ignored) <= MOST_IGNORED * len(cells)
    assert all(len(cell.metadata.get("reason", "")) > 10 for cell in ignored)
    assert not any(re.search(r"NBVAL_|nbval-skip", cell.source + str(script.tags(cell))) for cell in cells)


@each_source
def test_every_plot_has_alt_text_and_is_followed_by_a_number(source: Path) -> None:
    cells = _code(NOTEBOOKS[source])
    for cell, after in zip(cells, cells[1:], strict=False):
        drawn = [output["data"] for output in cell.outputs if "image/png" in output.get("data", {})]
        if cell.source.startswith("checks.pifi_block("):  # a drawing without a number, which brings its words itself
            assert all(f'aria-label="{one["text/plain"]}"' in one["image/svg+xml"] for one in drawn) and drawn
        elif drawn:
            assert len(cell.metadata["mystnb"]["image"]["alt"]) > 40
            assert re.search(r"\b(print|reveal|say)\(|\bassert\b", after.source) and _said(after)


@each_source
def test_every_cell_with_alt_text_shows_an_image(source: Path) -> None:
    """A figure unknown to pyplot is not shown by `plt.show()`, and nbval finds nothing wrong with no output twice."""
    for cell in _code(NOTEBOOKS[source]):
        if cell.metadata.get("mystnb", {}).get("image"):
            kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
            assert any(kind.startswith("image/") for kind in kinds), cell.source


@each_source
def test_every_figure_is_there_for_light_and_dark_pages_and_for_viewers_of_png_alone(source: Path) -> None:
    for cell in _code(NOTEBOOKS[source]):
        for output in cell.outputs:
            kinds = output.get("data", {})
            if "image/png" in kinds:
                svg = kinds["image/svg+xml"]
                assert svg.startswith('<svg fill="currentColor" class="pifi-plot"') and "<script" not in svg
                assert len(svg) < MOST_SVG and not re.search(r"<dc:date>|20\d\d-\d\d-\d\dT", svg)


@each_source
def test_a_line_that_alt_text_calls_dashed_is_drawn_so(source: Path) -> None:
    for cell in _code(NOTEBOOKS[source]):
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        assert "dashed" not in alt or "--" in cell.source, alt


@each_source
def test_a_live_number_is_asserted_where_it_is_printed(source: Path) -> None:
    """nbval does not compare what follows the sign for "about": an assertion does, in this cell or next to it."""
    cells = _code(NOTEBOOKS[source])
    for place, cell in enumerate(cells):
        live = "checks.reveal(" in cell.source and "live=False" not in cell.source
        if ("\u2248" in cell.source or live) and "hide-cell" not in script.tags(cell):
            near = "\n".join(one.source for one in cells[max(0, place - 1) : place + 2])
            assert "assert" in near, cell.source


@each_source
def test_a_reader_learns_the_answer_and_not_that_there_is_one(source: Path) -> None:
    for cell in _code(NOTEBOOKS[source]):
        lines = [line for output in cell.outputs for line in output.get("text", "").splitlines()]
        assert not [line for line in lines if re.search(r"[:\s](True|False)\W*$", line)]


@each_source
def test_no_result_is_typed_into_the_prose(source: Path) -> None:
    for cell in NOTEBOOKS[source].cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"```.*?```|\$\$.*?\$\$|\$[^$]*\$", "", cell.source, flags=re.DOTALL)
            assert not RESULT.search(prose), RESULT.search(prose)


@each_source
def test_no_prose_stands_in_a_code_cell(source: Path) -> None:
    """A source that lacks a `# %% [markdown]` turns a section into comments of the cell above it."""
    for cell in _code(NOTEBOOKS[source]):
        assert not re.search(r"^# (#+ |\*\*|\|)|^#$", cell.source, re.MULTILINE), cell.source


@each_source
def test_an_answer_has_no_minus_zero(source: Path) -> None:
    for cell in _code(NOTEBOOKS[source]):
        text = "".join(output.get("text", "") for output in cell.outputs)
        assert not re.search(r"(?<![\d.])-0\.?0*(?![\d.])", text), text


@each_source
def test_no_cell_failed_or_shows_a_place_on_somebodys_disk(source: Path) -> None:
    text = json.dumps([cell.outputs for cell in _code(NOTEBOOKS[source])])
    assert "Traceback" not in text
    assert not re.search(r"/(home|root|Users|tmp|work)/", text)


@each_source
def test_no_cell_warns_of_what_is_as_it_should_be(source: Path) -> None:
    outputs = [output for cell in _code(NOTEBOOKS[source]) for output in cell.outputs]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


@each_source
def test_what_a_cell_prints_is_one_piece(source: Path) -> None:
    for place, cell in enumerate(NOTEBOOKS[source].cells):
        kinds = [(output.output_type, output.get("name")) for output in cell.get("outputs", [])]
        assert not [one for one, after in pairwise(kinds) if one == after and one[0] == "stream"], place


def test_printed_pieces_are_joined_and_what_stands_between_them_is_not() -> None:
    def said(text: str, name: str = "stdout") -> NotebookNode:
        return nbformat.v4.new_output("stream", name=name, text=text)

    image = nbformat.v4.new_output("display_data", data={"text/plain": "a figure"})
    pieces = [said("one"), said(" line\n"), said("a warning", "stderr"), said("two\n"), image, said("three\n")]
    texts = [output.get("text") for output in script.joined(pieces)]
    assert texts == ["one line\n", "a warning", "two\n", None, "three\n"]


@each_source
def test_no_word_of_a_part_stands_alone_and_no_linter_is_spoken_to(source: Path) -> None:
    for cell in NOTEBOOKS[source].cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"\*\*(Why|Predict|Checkpoint|Read)\.\*\*\s*(\n\n|\Z)", cell.source), cell.source
        else:
            assert "# noqa" not in cell.source, cell.source


@each_source
def test_a_table_that_is_printed_fits_a_phone(source: Path) -> None:
    """Printed lines wrap, and then nobody can read a table; a frame that is shown is moved sideways."""
    for cell in _code(NOTEBOOKS[source]):
        if ".to_string(" in cell.source:
            assert max(map(len, _said(cell).splitlines())) <= 40, cell.source


@each_source
def test_links_lead_somewhere(source: Path) -> None:
    text = "\n".join(cell.source for cell in NOTEBOOKS[source].cells if cell.cell_type == "markdown")
    for link, anchor in re.findall(r"\]\((?!https?://)([^)#]+)(?:#([^)]*))?\)", text):
        file = (ROOT / "notebooks" / link).resolve()
        assert file.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}, (
                anchor
            )


@each_source
def test_every_quiz_question_has_one_right_answer_and_tells_why_others_are_wrong(source: Path) -> None:
    file = ROOT / "pifi_probe" / "checks" / "quizzes" / f"{script.number(source)}.json"
    questions = json.loads(file.read_text(encoding="utf-8"))
    assert 3 <= len(questions) <= 5
    for question in questions:
        assert sum(answer["correct"] for answer in question["answers"]) == 1
        assert all(answer["feedback"] for answer in question["answers"])


@each_source
def test_every_output_says_something_in_a_notebook_that_is_not_trusted(source: Path) -> None:
    """JupyterLab runs no script there, cleans HTML of SVG and styles, and takes PNG or plain text for others."""
    notebook = json.loads((ROOT / "notebooks" / f"{source.stem}.ipynb").read_text(encoding="utf-8"))
    seen = 0
    for cell in notebook["cells"]:
        shown = [one["data"] for one in cell.get("outputs", ()) if "data" in one]
        seen += len(shown)
        for data in shown:
            assert "image/png" in data or not re.match(r"<\S+ .*>$", "".join(data["text/plain"])), cell["source"]
            page = re.sub(r"(?s)<(style|script)\b.*?</\1>", "", "".join(data.get("text/html", "words")))
            assert "<svg" not in page, cell["source"]  # its letters would run together
            words = re.sub(r"<[^>]*>", "", page).strip()
            assert words or "A quiz of" in str(shown), cell["source"]
    assert seen > 5
