"""Every result is written and read again, refuses what it is not, and looks the same in terminal, notebook and page."""

from __future__ import annotations

import ast
import html
import importlib
import io
import json
import math
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import pifi_probe as pp
from pifi_probe.efficiency.cost_result import CostRow, CostTable
from pifi_probe.efficiency.result import ArmCost, Benchmark, Spread
from pifi_probe.errors import CorruptFileError
from pifi_probe.experiments.decide import Decision
from pifi_probe.experiments.doctor import Checkup
from pifi_probe.experiments.doctor import Finding as Look
from pifi_probe.experiments.findings import Finding
from pifi_probe.experiments.plan import load_experiment
from pifi_probe.experiments.reproduce import Reproduction
from pifi_probe.experiments.verify import Verified
from pifi_probe.features.headroom_table import Headroom
from pifi_probe.layers.control import ARMS, ControlRow, PositiveControl
from pifi_probe.probing.building import build_table
from pifi_probe.probing.chain_table import ChainTable, Reading, build_chain_table
from pifi_probe.probing.table import ProbeTable
from pifi_probe.reporting.result import Result
from pifi_probe.scoring.points import Measured
from pifi_probe.selection.budget import Spent
from pifi_probe.selection.conclude import Gain, LayerPosterior, SearchResult
from pifi_probe.selection.space import Candidate
from pifi_probe.stats import Interval
from pifi_probe.training import Comparison, RunResult
from pifi_probe.training.check import Check
from pifi_probe.training.compare import compare
from pifi_probe.training.diagnose import Diagnosis
from tests.runs import made_up

ROOT = Path(__file__).parents[1]
EVIL = "<b>[red]\x1b[2J"


def comparison() -> Comparison:
    runs = [made_up(seed=seed, accuracy=0.8) for seed in range(3)]
    return compare(
        [*runs, *(made_up(control=one, seed=s) for one in ("vanilla", "random", "shuffled") for s in range(3))]
    )


def probed() -> ProbeTable:
    measured = [Measured("logme", -0.1 * depth, depth, depth, note=EVIL) for depth in range(3)]
    return build_table("own-state", measured, {"n": 30, "llm": EVIL, "task": "b", "split": "train"}, provenance={})


def chained() -> ChainTable:
    labels = np.arange(8) % 2
    log_p = np.log(np.where(labels[:, None] == np.arange(2), 0.9, 0.1))
    readings = [
        Reading(arm, "alone" if arm == "encoder" else "with encoder", 8, 0, 0, "words", log_p, log_p, labels)
        for arm in ("encoder", "real")
    ]
    info = {
        "label_names": ["a", "b"],
        "seed": 0,
        "task": "words",
        "n_train": 8,
        "llm": "m",
        "slm": "e",
        "layers": [1, 2],
    }
    return build_chain_table(readings, {"words": labels}, info, {"date": "today"})


def searched() -> SearchResult:
    interval = Interval(0.02, 0.01, math.nan, 0.01, 3, 40, "made up")
    return SearchResult(
        chosen=Candidate(("smollm2-135m[3]",), modes=(("scale", "none"),)),
        default=False,
        fidelity="full",
        effect="layers differ",
        posterior=(LayerPosterior("smollm2-135m[3]", 0.1, 0.5, 0.1, 0.9),),
        expected_regret=None,
        gains=(Gain("vanilla", "the encoder", interval, 0.03, "better"),),
        confirm_fidelity="full",
        confirm_cost=6.0,
        confirm_seconds=60.0,
        spent=Spent(cost=1.5, trials=3, seconds=9.0),
        failed={"smollm2-135m[4]": EVIL},
    )


def decided(**changes: Any) -> Decision:
    found = comparison()
    effect = found.effects[0]
    looks = [{"seeds": 2, "level": 0.99, "mean": 0.1, "low": 0.0, "high": 0.2, "verdict": "undecided"}]
    return Decision("knowledge", effect, looks, found, 12.0, "seeds", Path("runs") / "decide", **changes)


def reproduced(**changes: Any) -> Reproduction:
    found = Finding("it helps", "section 4", 1.0, "points", 2.0, 1.0, 3.0, "shown")
    plan = load_experiment("layer-position")
    extras = {"cost": [{"arm": "a", "seconds": 1.5}]}
    return Reproduction(
        plan, "small", (found,), {"reviews": comparison()}, extras, {"b": "no file"}, Path("r"), 3.0, **changes
    )


SPREAD = Spread(0.1, 0.05, 0.2, 5)
MADE: dict[type[Result], Callable[[], Any]] = {
    RunResult: made_up,
    Comparison: comparison,
    Diagnosis: lambda: Diagnosis(EVIL, (Check("scale", "warn", "too small", {"ratio": math.nan}, "use matched"),)),
    ProbeTable: probed,
    ChainTable: chained,
    Headroom: lambda: Headroom(
        4.0, 1.0, 7.0, 1, (0, 1), (0, 1), 0.7, (0.6, 0.7), (0.7, 0.8), (1.0, 4.0), (-1.0, 1.0), (3.0, 7.0), (math.nan,)
    ),
    PositiveControl: lambda: PositiveControl(
        "donor", False, 3, (ControlRow((1,), {arm: (1, 2, 3) for arm in ARMS}, 4),),
        {"n_words": 8, "length": 4, "n_fit": 2, "n_test": 3, "seed": 0},
    ),
    SearchResult: searched,
    CostTable: lambda: CostTable("pair", "t", "cpu", "float32", 1, (CostRow("PiFi", quality=0.5), CostRow("b", EVIL))),
    Benchmark: lambda: Benchmark(
        "m", "t", "cpu", "float32", 32, (ArmCost("vanilla", 1, 2, 3, 4, 5, SPREAD, None, None, {"1 x 32": SPREAD}),), {}
    ),
    Decision: lambda: decided(fewer={100: decided()}, provenance={"date": "today"}),
    Reproduction: lambda: reproduced(fewer={100: reproduced()}),
    Checkup: lambda: Checkup((Look("Python", True, "3.11"), Look("memory", False, EVIL, "buy some"))),
    Verified: lambda: Verified("m", "r", "llama", "fp8", (0, 1), (math.inf, 1e-6), "itself", 12, {"versions": {}}),
}  # fmt: skip


def every_class(kind: type[Result] = Result) -> Iterator[type[Result]]:
    for one in kind.__subclasses__():
        if one.__module__.startswith("pifi_probe"):
            yield one
        yield from every_class(one)


def modules() -> list[str]:
    found = [one.name for one in pkgutil.walk_packages(pp.__path__, "pifi_probe.") if not one.name.endswith("__main__")]
    return [name for name in found if name != "pifi_probe.plugin.sentence_module"]  # made by sentence-transformers


def test_every_result_is_tried_here() -> None:
    for name in modules():
        importlib.import_module(name)
    assert set(every_class()) == set(MADE)


# has HTML or JSON of its own and is no result: a frozen layer, settings, a study, pictures, and what a widget shows
OTHERS = {"FrozenLayer", "Markup", "Recipe", "Study"}


def test_nobody_else_writes_json_or_html() -> None:
    own = {}
    for file in Path(pp.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name != "Result":
                methods = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
                if found := methods & {"to_json", "from_json", "_repr_html_", "to_rich", "to_html"}:
                    own[node.name] = found
    # these two leave out what is large, and then write as all do
    assert own.pop("ProbeTable") == own.pop("ChainTable") == {"to_json"}
    assert own.pop("Table") == {"to_rich", "to_html"}
    assert set(own) == OTHERS


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
class TestEvery:
    def test_comes_back_from_its_text_and_its_file(self, kind: type[Result], tmp_path: Path) -> None:
        made = MADE[kind]()
        text = made.to_json(tmp_path / "sub" / "it.json")
        values = json.loads(text, parse_constant=refuse)
        assert values["result"] == kind.__name__ and isinstance(values["version"], int)
        for again in (
            kind.from_json(text),
            kind.from_json(tmp_path / "sub" / "it.json"),
            kind.from_dict(made.to_dict()),
        ):
            assert type(again) is kind and json.loads(again.to_json()) == values
            for one in fields(kind):  # type: ignore[arg-type]
                value = getattr(again, one.name)
                assert type(value) is type(getattr(made, one.name)), one.name

    def test_refuses_what_it_is_not_in_one_line(self, kind: type[Result], tmp_path: Path) -> None:
        other = MADE[Verified if kind is Checkup else Checkup]().to_json()
        version = json.dumps(MADE[kind]().to_dict() | {"version": 99}, default=str)
        (tmp_path / "broken.json").write_bytes(b"\xff{")
        wrong = [
            other,
            version,
            "{",
            "{}",
            '{"rows": 3, "tests": [1]}',
            tmp_path / "broken.json",
            tmp_path,
            tmp_path / "no",
        ]
        for source in wrong:
            with pytest.raises(CorruptFileError, match=f"this is not {kind.noun}: ") as caught:
                kind.from_json(source)
            assert "\n" not in str(caught.value) and caught.value.where and kind.__name__ in caught.value.next
        with pytest.raises(CorruptFileError, match=f"this is not {kind.noun}: "):
            kind.from_dict([])  # type: ignore[arg-type]

    def test_shows_the_same_cells_in_terminal_notebook_and_page(self, kind: type[Result]) -> None:
        made = MADE[kind]()
        page, tables = made._repr_html_(), made.tables()
        out = io.StringIO()
        Console(file=out, width=2000, markup=False, no_color=True).print(made.to_rich())
        assert tables and "<b>" not in page and "\x1b" not in page + out.getvalue()
        cells = [html.unescape(one) for one in re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", page)]
        fitted = [table.to_rich() for table in tables]
        assert cells == [cell for one in fitted for row in (one.headings, *one.rows) for cell in row]
        words = set(out.getvalue().split())  # a heading may take several lines
        told = {one.headings[place] for one in fitted for place in one.below}  # without a heading
        assert {word for cell in cells if cell not in told for word in cell.split()} <= words
        assert all(
            html.escape(" ".join(text.split())) in " ".join(page.split()) for text in made.said() if EVIL not in text
        )
        assert repr(made) and "<pifi_probe" not in repr(made)


def test_numbers_that_json_does_not_have_are_null_and_come_back_as_nan() -> None:
    found = MADE[Verified]()
    assert json.loads(found.to_json())["errors"] == [None, 1e-6]
    assert math.isnan(Verified.from_json(found.to_json()).errors[0])
    again = SearchResult.from_json(searched().to_json())
    assert math.isnan(again.gains[0].interval.high) and again.expected_regret is None
    row = CostTable.from_json(MADE[CostTable]().to_json()).rows[0]
    assert row.low is None, "what was not measured stays None"


def test_a_file_that_says_nan_is_read_as_one_that_says_null() -> None:
    run = MADE[RunResult]().to_dict()
    run["provenance"] = {"note": float("nan"), "other": float("inf")}
    read = RunResult.from_json(json.dumps(run))
    assert read.provenance == {"note": None, "other": None}
    assert RunResult.from_json(read.to_json()) == read


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        (RunResult, "truth/*/layer-00-seed0.json"),
        (RunResult, "experiments/*/runs/*-seed0/result.json"),
        (Reproduction, "experiments/*/summary.json"),
        (ProbeTable, "probes/*.json"),
        (ChainTable, "aligned/germeval.json"),
    ],
)
def test_what_was_recorded_before_is_still_read(kind: type[Result], pattern: str) -> None:
    files = sorted((ROOT / "book" / "_studies").glob(pattern))
    assert files, "there are records"
    for file in files:
        found = kind.from_json(file)
        assert repr(found) and found._repr_html_()
        assert "max_length" not in getattr(found, "info", {}), "max_tokens, as the option is called"
        assert kind.from_json(found.to_json()).to_json() == found.to_json()


def test_a_run_in_a_nested_result_is_a_run() -> None:
    again = Decision.from_json(replace(decided(), fewer={7: decided()}).to_json())
    assert again.fewer[7].comparison == comparison() and again.folder == Path("runs/decide")
