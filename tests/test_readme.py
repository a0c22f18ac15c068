"""The README says what is true: its numbers are the recorded ones, its names exist, its links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pifi_probe as pp

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
OVERVIEW = (ROOT / "book" / "overview.md").read_text(encoding="utf-8")


def tables() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("readme_tables")
    finally:
        sys.path.pop(0)


def test_the_tables_are_the_recorded_ones() -> None:
    module = tables()
    assert module.updated(README, module.ON_README) == README, "run make results"
    assert module.updated(OVERVIEW, ("demo", "selection", "efficiency")) == OVERVIEW, "run make results"
    record = json.loads(module.DEMO.read_text(encoding="utf-8"))
    assert len(record["runs"]) == 33 and record["provenance"]["versions"]["torch"]


def test_the_table_on_the_methods_page_is_the_recorded_one() -> None:
    module = tables()
    page = module.METHODS.read_text(encoding="utf-8")
    assert module.updated(page, module.ON_METHODS) == page and page.count("\n| 9, 3 |") > 5, "run make results"


def test_it_is_two_screens_long() -> None:
    assert len(README.splitlines()) <= 110 and len(README.split()) < 1_000


def test_the_time_of_the_demo_is_the_recorded_one() -> None:
    file = ROOT / "benchmarks" / "results" / "demo-default.json"
    took = re.findall(r"`make demo` took (\d+\.\d) minutes", README)
    recorded = [f"{json.loads(file.read_text(encoding='utf-8'))['seconds'] / 60:.1f}"] if file.exists() else []
    assert took == recorded, "what was not recorded is not said"
    fast = json.loads((ROOT / "benchmarks" / "results" / "demo-fast.json").read_text(encoding="utf-8"))
    assert fast["command"] == "pifi-probe demo --fast" and fast["seconds"] <= 120
    assert f"trains only the wirings, {fast['seconds'] / 60:.1f} minutes" in README


def test_the_time_of_a_step_is_the_recorded_one() -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "train_step.json").read_text(encoding="utf-8"))
    (ratio,) = (line["measured"] for line in record["targets"] if line["what"].endswith("step / vanilla step"))
    assert f"PiFi takes {ratio:.2f} times as long" in OVERVIEW


def test_in_no_recorded_table_are_layers_more_accurate_than_their_twins() -> None:
    claim = "not found to be more accurate than a layer of random weights in any comparison of several seeds"
    assert claim in " ".join(README.split())
    decided = json.loads((ROOT / "book" / "_studies" / "decided.json").read_text(encoding="utf-8"))["tables"]
    record = json.loads((ROOT / "benchmarks" / "results" / "layerbench.json").read_text(encoding="utf-8"))
    told = record["measurements"]["told"]
    steps = {own["test"] + name: own["effects"] for name, tests in decided.items() for own in tests}
    steps |= {one["table"]: one["steps"] for one in told}
    verdicts = {name: [step["verdict"] for step in own if step["name"] == "knowledge"] for name, own in steps.items()}
    assert all(verdicts.values()) and [name for name, own in verdicts.items() if "better" in own] == []


def test_every_table_has_its_place_and_more_than_a_heading() -> None:
    for name in tables().BLOCKS:
        page = README if name in tables().ON_README else OVERVIEW
        block = re.search(rf"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->", page, re.DOTALL)
        assert block is not None and block[1].count("\n|") > 3, name


@pytest.mark.slow  # like the results page: a new recording is written in with make results
def test_the_experiments_are_the_recorded_ones() -> None:
    assert tables().updated(OVERVIEW, ("experiments",)) == OVERVIEW, "run make results"


def test_the_python_example_parses_and_names_public_functions() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    used = {node.attr for block in blocks for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Attribute)}
    public = {name for name in used if hasattr(pp, name)}
    assert {
        "extract",
        "load_task",
        "plug_in",
        "fine_tune",
        "compare",
        "diagnose",
        "Recipe",
        "headroom",
        "probe_chain",
    } <= public


def test_links_to_files_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for target in re.findall(r'(?:srcset|src)="([^"]+)"', README):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"`((?:benchmarks|book|tests|pifi_probe|\.github)/[\w./-]+)`", README):
        assert (ROOT / target).exists(), target
