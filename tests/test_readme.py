"""The README says what is true: its numbers are the recorded ones, its names exist, its links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import pifi_probe as pp

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_demo_table_is_the_recorded_one() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from readme_tables import DEMO, updated
    finally:
        sys.path.pop(0)
    record = json.loads(DEMO.read_text(encoding="utf-8"))
    assert updated(README, record) == README, "run python benchmarks/readme_tables.py"
    assert len(record["runs"]) == 33 and record["provenance"]["versions"]["torch"]


def test_the_python_example_parses_and_names_public_functions() -> None:
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block is not None
    used = {node.attr for node in ast.walk(ast.parse(block[1])) if isinstance(node, ast.Attribute)}
    public = {name for name in used if hasattr(pp, name)}
    assert {"extract", "load_task", "plug_in", "fine_tune", "compare", "diagnose", "Recipe"} <= public


def test_links_to_files_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"`((?:benchmarks|book|tests|pifi_probe|\.github)/[\w./-]+)`", README):
        assert (ROOT / target).exists(), target
