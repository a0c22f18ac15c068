"""Foreign text where it could be more than text: a script, a model card, a spreadsheet, a terminal, a picture."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import sys
import types
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import pifi_probe as pp
from pifi_probe.cli import output
from pifi_probe.errors import PifiProbeError, SearchError
from pifi_probe.escaping import csv_text, keywords, literal, markdown_cell, one_line, printable
from pifi_probe.layers.frozen import FrozenLayer, LayerCard
from pifi_probe.reporting import plots
from pifi_probe.reporting.svg import to_svg
from pifi_probe.selection.export import _with_report, to_code
from pifi_probe.selection.settings import Settings
from pifi_probe.selection.space import Candidate
from pifi_probe.tasks import Split, Task
from pifi_probe.training import Recipe
from tests import slm, tiny

CONTROL = "\x1b]0;owned\x07\x1b[2J\r\x08\x7f\x9b31m\u202egpj.\u2066\u200e\ufeff"
NASTY = [
    '"""\nimport os; os.mkdir("owned")\n"""',
    "'''\nowned\n'''",
    r"C:\Users\new\x41\N{DIGIT ONE}",
    "line\nend\r\nand\x85more\u2028still",
    "{owned!r} %s %(x)s $HOME `id` $(id) ${x}",
    "\\",
    'ends in a quote"',
    "naïve 模型 \U0001f600 \ud800",
    CONTROL,
    "#!/bin/sh\n# -*- coding: utf-7 -*-\n+AG8-",
]


# --- generated code ---------------------------------------------------------------------------------------------


def settings_of(slm_name: str, task: Task, **recipe: Any) -> Settings:
    sizes = {name: len(split) for name, split in task.splits.items()}
    described = {"name": task.name, "fingerprint": task.fingerprint, "sizes": sizes}
    own = {**Recipe().to_dict(), **recipe}
    return Settings(described, slm_name, ["llm"], "matched", own, {}, {"name": "auto", "options": {}}, 3)


def run_script(code: str, monkeypatch: pytest.MonkeyPatch, folder: Path, task: Task) -> dict[str, Any]:
    """Run a script with a package that takes down what it is asked for, in an empty folder."""
    seen: dict[str, Any] = {}

    def keep(name: str, answer: object) -> Any:
        def called(*args: Any, **kwargs: Any) -> object:
            seen[name] = (args, kwargs)
            return answer

        return called

    stub = types.ModuleType("pifi_probe")
    parts = {"load_task": task, "plug_in": "model", "fine_tune": "result", "Recipe": "recipe"}
    for name, answer in parts.items():
        setattr(stub, name, keep(name, answer))
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pifi_probe", stub)
        exec(compile(code, "train.py", "exec"), {"__name__": "__main__"})
    assert sorted(folder.iterdir()) == before
    return seen


@pytest.mark.parametrize("nasty", NASTY)
def test_a_script_says_names_as_they_are_and_does_nothing_else(
    nasty: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = replace(slm.tiny_task(), name=nasty)
    monkeypatch.setattr("pifi_probe.tasks.load_task", lambda **_: task)
    source = {"name_or_path": nasty, "text": nasty, "label": "label"}
    chosen = Candidate((f"{nasty}[3]",), modes=(("feed", nasty),))
    code = to_code(settings_of(nasty, task, precision=nasty), chosen, source)
    code.encode("utf-8")
    assert len(code.splitlines()) == 10, "no name has opened a line of its own"
    (tmp_path / "empty").mkdir()
    seen = run_script(code, monkeypatch, tmp_path / "empty", task)
    assert seen["load_task"] == ((nasty,), {"text": nasty, "label": "label"})
    assert seen["plug_in"][0] == (nasty, f"{nasty}[3]")
    assert seen["plug_in"][1] == {"task": task, "wiring": "matched", "feed": nasty}
    assert seen["Recipe"][1]["precision"] == nasty


@pytest.mark.parametrize("where", ["modes", "recipe", "source"])
@pytest.mark.parametrize("name", ["x); import os; (y", "feed=1, x", "class", "", "a b", "é\n"])
def test_a_foreign_study_cannot_name_arguments_that_are_none(
    where: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = slm.tiny_task()
    monkeypatch.setattr("pifi_probe.tasks.load_task", lambda **_: task)
    modes = ((name, "x"),) if where == "modes" else ()
    recipe = {name: "x"} if where == "recipe" else {}
    source = {"name_or_path": "words", **({name: "x"} if where == "source" else {})}
    with pytest.raises(SearchError, match="no script can be written"):
        to_code(settings_of("slm", task, **recipe), Candidate(("llm[0]",), modes=modes), source)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_a_literal_is_the_value_or_none_at_all(value: Any) -> None:
    try:
        source = literal(value)
    except ValueError:
        assert re.search(r"nan|inf", repr(value))
        return
    assert ast.literal_eval(source) == value and len(source.splitlines()) == 1


def test_keywords_are_names_with_literals() -> None:
    assert keywords({"a": 1, "b": "x'"}) == 'a=1, b="x\'"'
    with pytest.raises(ValueError, match="cannot be written"):
        keywords({"a": object()})


# --- the model card ---------------------------------------------------------------------------------------------

CARD = [
    "mit\nbase_model: victim/model",
    "a: b",
    "- x\n---\n# owned",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "x | y | z",
    "[click](http://evil) ![i](http://evil/i.png) [r][1] [^1]",
    "`code` **bold** _em_ ~~s~~ $x^2$ &lt;b&gt;",
    "{a: [1, 2]} &anchor *alias !!python/object:os.system",
    CONTROL,
]


def front_of(text: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert match
    front = yaml.safe_load(match[1])
    assert isinstance(front, dict)
    return front


@pytest.mark.parametrize("nasty", CARD)
def test_a_card_holds_foreign_text_as_text(nasty: str, tmp_path: Path) -> None:
    layer = pp.extract(f"{tiny.tiny_checkpoint('llama', tmp_path / 'llm')}[0]")
    assert isinstance(layer, FrozenLayer)
    layer = layer.with_card(licence=nasty, model=nasty, family=nasty, revision=nasty)
    model = pp.plug_in(str(slm.tiny_slm_folder(tmp_path / "slm")), layer, task=slm.tiny_task())
    model.config.slm = nasty
    model.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    assert front_of(card) == {
        "library_name": "pifi_probe",
        "tags": ["pifi", "text-classification"],
        "license": one_line(nasty, 200),
    }
    assert_text_only(card)
    assert_text_only((tmp_path / "saved" / "NOTICE").read_text(encoding="utf-8"))


def assert_text_only(card: str) -> None:
    """Assert that a Markdown file has no HTML, link, image or control character, and whole tables."""
    body = card.partition("\n---\n")[2] or card
    assert "<" not in body and not re.search(r"(?<!\\)\](\(|\[|:)", body) and "\n# owned" not in body
    assert printable(card) == card
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in body.splitlines() if line.startswith("|")]
    assert len(set(cells)) <= 2


def test_the_statement_of_a_licence_is_text_too(tmp_path: Path) -> None:
    layer = pp.extract(f"{tiny.tiny_checkpoint('llama', tmp_path / 'llm')}[0]")
    model = pp.plug_in(str(slm.tiny_slm_folder(tmp_path / "slm")), layer, task=slm.tiny_task())
    model.licence_statement = "mine\ntags: [owned]"
    model.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    assert front_of(card)["license"] == "mine tags: [owned]" and front_of(card)["tags"][0] == "pifi"


@pytest.mark.parametrize("nasty", CARD)
def test_the_report_in_a_card_holds_foreign_text_as_text(nasty: str) -> None:
    class StubStudy:
        settings = replace(settings_of("slm", replace(slm.tiny_task(), name=nasty)), wiring=nasty)
        budget = nasty

        def leaderboard(self) -> pd.DataFrame:
            return pd.DataFrame([{"candidate": nasty, "fidelity": nasty, "phase": nasty, "seeds": 1, "nll": 0.5}])

    study: Any = StubStudy()
    result: Any = SimpleNamespace(answer=f"answer {nasty}", details=[f"verdict {nasty}"])
    assert_text_only(_with_report("---\na: 1\n---\n\n# model\n", study, result))


@given(st.text())
def test_text_for_markdown_is_one_line_without_markup(text: str) -> None:
    shown = markdown_cell(text)
    assert len(shown.splitlines()) <= 1 and "<" not in shown and not re.search(r"(?<!\\)(\\\\)*[|`]", shown)


# --- tables -----------------------------------------------------------------------------------------------------

FORMULAS = ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "\r=1", " =cmd|' /C calc'!A0", "=HYPERLINK(1)"]


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_cell_of_a_csv_is_a_formula(formula: str) -> None:
    frame = pd.DataFrame({"a": [formula, "x"], formula: [-1.5, 2.0]}, index=pd.Index([formula, "y"]))
    rows = list(csv.reader(io.StringIO(csv_text(frame, index=True))))
    texts = [cell for row in rows for cell in row if not re.fullmatch(r"-?[\d.]*", cell)]
    assert not [cell for cell in texts if cell.lstrip().startswith(("=", "+", "-", "@"))]
    assert rows[1][2] == "-1.5", "a number stays one"


# --- terminals --------------------------------------------------------------------------------------------------


def harmless(text: str) -> bool:
    return not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c\ufeff]", text)


@given(st.text())
def test_printable_text_has_no_command_and_keeps_what_is_language(text: str) -> None:
    assert harmless(printable(text).replace("\t", ""))
    assert printable("naïve 模型 नमस्ते می‌خواهم 👩‍👩‍👧 a\u00a0b\nc") == "naïve 模型 नमस्ते می‌خواهم 👩‍👩‍👧 a\u00a0b\nc"


@pytest.mark.parametrize("error", [PifiProbeError, *PifiProbeError.__subclasses__()])
def test_an_error_commands_no_terminal(error: type[PifiProbeError]) -> None:
    caught = error(f"what {CONTROL}", where=f"where {CONTROL}", next=f"next {CONTROL}")
    assert harmless(str(caught)) and len(str(caught).splitlines()) == 1
    assert harmless(repr(caught))


def test_a_repr_commands_no_terminal(tmp_path: Path) -> None:
    layer = pp.extract(f"{tiny.tiny_checkpoint('llama', tmp_path / 'llm')}[0]")
    assert isinstance(layer, FrozenLayer)
    named = layer.with_card(model=CONTROL, family=CONTROL, variant=CONTROL)
    split = Split(texts=("a",), labels=(0,), ids=("0",))
    shown = [
        named,
        named >> layer,
        named | layer,
        Task(CONTROL, "single", (CONTROL, "b"), CONTROL, {"test": split}),
        LayerCard(CONTROL, 0, 1, CONTROL, "float32", "F32"),
        Candidate((f"{CONTROL}[0]",)),
    ]
    for one in shown:
        assert harmless(repr(one)), type(one)


def test_what_the_command_line_prints_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_record(f"title {CONTROL}", {f"key {CONTROL}": f"[red]value[/red] {CONTROL}"})
    output.print_rows(f"title {CONTROL}", [{f"column {CONTROL}": f"[bold]x {CONTROL}"}])
    output.console().print(f"[blink]line {CONTROL}")
    output.print_json({f"key {CONTROL}": CONTROL})
    printed = capsys.readouterr().out
    assert harmless(printed)
    assert "[red]value[/red]" in printed and "[blink]line" in printed


def test_printed_json_is_still_the_value(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"naïve 模型": [CONTROL, "a\tb\nc", 1.5, None]}
    output.print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value and "naïve 模型" in printed


# --- pictures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nasty", [*NASTY[:7], CONTROL, "$\\frac{", "<b>&amp;</b>"])
def test_a_picture_shows_foreign_text_as_text(nasty: str) -> None:
    frame = pd.DataFrame({"depth": [0, 1, np.nan], "series": [nasty, nasty, "c"], "mean": [0.1, 0.2, 0.3]})
    figure = plots.depth_curve(frame, value_label=nasty)
    figure.axes[0].set_title(f"set by the caller {nasty}", parse_math=False)
    svg = to_svg(figure, nasty)
    root = ElementTree.fromstring(svg)
    assert harmless(svg) and not [node for node in root.iter() if node.tag.endswith(("script", "}b"))]
