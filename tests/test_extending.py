"""What a user adds from outside: the code on the pages of book/extending, used from end to end."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import (
    CorruptFileError,
    EstimatorError,
    PifiProbeError,
    PlugInError,
    SearchError,
    TaskError,
    UnsupportedFamilyError,
    UnsupportedFormatError,
)
from pifi_probe.importing import IMPORT
from pifi_probe.kinds import KINDS, Columns, Kind, Layout, Metric, Origin, metric_named
from pifi_probe.kinds.parts.measures import ACCURACY
from pifi_probe.kinds.single import Classes
from pifi_probe.kinds.token_classification import Tags
from pifi_probe.layers.families import FAMILIES, Family
from pifi_probe.layers.formats import formats
from pifi_probe.layers.formats.registry import FORMATS
from pifi_probe.plugin.aligned import AlignedPlugIn
from pifi_probe.plugin.base import PiFiEncoderModel
from pifi_probe.plugin.config import WIRINGS
from pifi_probe.plugin.registry import HEADS
from pifi_probe.scoring.estimators import registry
from pifi_probe.selection.space import Space
from pifi_probe.selection.strategies import STRATEGIES, Base, make_strategy
from pifi_probe.training.describe import describe_model
from pifi_probe.training.result import TestResult
from tests import runs, slm
from tests.test_search import search
from tests.test_search import stub as stub
from tests.tiny import tiny_checkpoint

PAGES = Path(__file__).parents[1] / "book" / "extending"


def code_of(page: str) -> str:
    """Return the Python of a page, all its blocks one after another."""
    blocks = re.findall(r"```python\n(.*?)```", (PAGES / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    return "\n".join(blocks)


def run_page(page: str) -> dict[str, Any]:
    """Run a page's code and return its names."""
    names: dict[str, Any] = {"__name__": f"page_{page}"}
    exec(compile(code_of(page), f"{page}.md", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget afterwards what a test has registered."""
    monkeypatch.delenv(IMPORT, raising=False)
    registries: tuple[dict[str, Any], ...] = (KINDS, HEADS, WIRINGS, STRATEGIES, FAMILIES, FORMATS, registry.ESTIMATORS)
    kept = [dict(one) for one in registries]
    yield
    for one, before in zip(registries, kept, strict=True):
        one.clear()
        one.update(before)


def stars(folder: Path) -> Path:
    """Write texts with one to three stars."""
    path = folder / "stars.csv"
    lines, task = ["text,label"], slm.tiny_task(48)
    for split in task.splits.values():
        lines += [f"{text},{1 + 2 * label - (row % 3 == 0) * (2 * label - 1)}"
                  for row, (text, label) in enumerate(zip(split.texts, split.labels, strict=True))]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_page_fits_on_a_screen_and_its_code_runs() -> None:
    pages = sorted(path.stem for path in PAGES.glob("*.md"))
    assert pages == ["estimator", "family", "format", "head", "kind", "strategy", "wiring"]
    for page in pages:
        assert len((PAGES / f"{page}.md").read_text(encoding="utf-8").splitlines()) <= 60, page
        run_page(page)


def test_a_kind_from_outside_is_loaded_trained_compared_saved_and_loaded(parts: runs.Parts, tmp_path: Path) -> None:
    run_page("kind")
    task = pp.load_task(stars(tmp_path), kind="ordinal")
    assert task.kind == "ordinal" and task.label_names == ("1", "2", "3")
    real = parts.model(task=task)
    found = [pp.fine_tune(real, task, runs.RECIPE, out=tmp_path / "real", save_model=True)]
    found.append(pp.fine_tune(parts.model(task=task, control="vanilla"), task, runs.RECIPE))
    compared = pp.compare(found)
    assert compared.metric == "closeness"
    closeness = {run.label: run.tests[task.name].metrics["closeness"] for run in found}
    assert all(0 <= value <= 1 for value in closeness.values())
    (row,) = [row for row in compared.rows if row.difference is not None]
    assert row.difference == pytest.approx(closeness[found[0].label] - closeness[found[1].label])
    again = pp.RunResult.from_json(tmp_path / "real" / "result.json")
    assert again.tests[task.name].scores.keys() == {"closeness"}
    assert ">closeness</th>" in again._repr_html_() and f"{closeness[again.label]:.3f}" in again._repr_html_()
    model = type(real).from_pretrained(next((tmp_path / "real").rglob("model.safetensors")).parent)
    assert model.config.id2label == {0: "1", 1: "2", 2: "3"}
    KINDS.pop("ordinal")
    with pytest.raises(TaskError, match="unknown kind of task 'ordinal'.*import the module"):
        pp.compare(found)


def test_a_kind_from_outside_is_trained_on_the_command_line(
    parts: runs.Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "my_own_kind.py"
    own.write_text(code_of("kind"))
    options = ["--task", str(stars(tmp_path)), "--kind", "ordinal", "--slm", str(parts.slm), "--epochs", "1"]
    options += ["--layer", f"{parts.llm}[1]", "--out", str(tmp_path / "run")]
    assert main(["train", *options]) == 2
    assert "unknown kind of task 'ordinal'" in capsys.readouterr().err
    assert main(["--import", str(own), "train", *options]) == 0
    assert "closeness" in capsys.readouterr().out
    own.with_name("broken.py").write_text("1 / 0")
    assert main(["--import", str(own.with_name("broken.py")), "train", *options]) == 2
    said = capsys.readouterr().err
    assert "cannot be imported: ZeroDivisionError" in said and f"`python {own.with_name('broken.py')}`" in said


def test_a_file_of_ones_own_is_run_whatever_its_name_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python has a module `random`, and two folders may hold files of one name."""
    files = [tmp_path / folder / "random.py" for folder in "ab"]
    for file in files:
        file.parent.mkdir()
        file.write_text(f"import os\nos.environ['PIFI_OWN'] = os.environ.get('PIFI_OWN', '') + {file.parent.name!r}")
    monkeypatch.setenv("PIFI_OWN", "")
    monkeypatch.setenv(IMPORT, "")
    given = [part for file in files for part in ("--import", str(file))]
    for _ in range(2):
        assert main([*given, "info", "--help"]) == 0
    assert os.environ["PIFI_OWN"] == "ab"
    files[0].with_name("other.py").write_text("import os\nos.environ['PIFI_OWN'] = 'named in the environment'")
    monkeypatch.setenv(IMPORT, str(files[0].with_name("other.py")))
    assert main(["info", "--help"]) == 0
    assert os.environ["PIFI_OWN"] == "named in the environment"
    assert main(["--import", str(tmp_path / "gone.py"), "info", "--help"]) == 2
    assert "give a file that ends in .py" in capsys.readouterr().err


def test_a_head_from_outside_is_trained_saved_and_named_on_its_card(parts: runs.Parts, tmp_path: Path) -> None:
    own = run_page("head")["PiFiBounded"]
    task = pp.load_task(stars(tmp_path), kind="unsure")
    model = parts.model(task=task)
    assert type(model) is own
    result = pp.fine_tune(model, task, runs.RECIPE)
    assert "accuracy" in result.tests[task.name].metrics
    model.save_pretrained(tmp_path / "saved")
    assert "- text-classification" in (tmp_path / "saved" / "README.md").read_text()
    assert own.from_pretrained(tmp_path / "saved").head[0].weight.equal(model.head[0].weight)
    HEADS.pop("bounded")
    with pytest.raises(PlugInError, match="unknown head 'bounded'"):
        parts.model(task=task)


def test_a_kind_that_lacks_something_is_refused_where_it_is_registered() -> None:
    def refused(said: str, base: type = Classes, **values: Any) -> None:
        with pytest.raises(TaskError, match=said):
            pp.register_kind(type("Mine", (base,), {"name": "mine", "__module__": "elsewhere"} | values))

    refused(r"lacks encode\(\), labelled\(\), metrics\(\), predict\(\), quality\(\), scores\(\), wrong_label\(\)", Kind)
    refused("lacks name", name="")
    refused("lacks head", head="")
    refused("cannot name a kind of task", name="My Kind")
    refused("there is a kind of task 'single' already", name="single")
    refused("has a layout without a label", layout=Layout(("text",), ()))
    refused("items where the kind has none", layout=Layout(("text",), ("label",), items=("words",)))
    refused("no column for them", pair=True)
    refused(r"names a column for them", layout=Layout(("text",), ("label",), pair=("text2",)))
    refused("layout without a text, and no parse", layout=Layout((), ("label",)))
    refused("has layout='label', which is not a Layout", layout="label")
    refused("row_classes, and no classes", classes=False)
    refused("has measures='closeness', which is not a tuple of Metric", measures="closeness")
    refused("has measures=Metric.*, which is not a tuple of Metric", measures=Metric("closeness", 0, 1))
    refused("has measures=.*, which is not a tuple of Metric", measures=("closeness",))
    refused(
        "says of the metric 'nll' larger_is_better=True, and the kind '.*' says larger_is_better=False",
        measures=(Metric("closeness", 0, 1), Metric("nll", 0)),
    )
    refused(
        "says of the metric 'accuracy' high=100, and the kind '.*' says high=1", measures=(Metric("accuracy", 0, 100),)
    )
    refused("has shown='nearness', which is none of its measures", shown="nearness")
    refused("has targets='labels', which is not a tuple of texts", targets="labels")
    refused(r"has targets=\('label',\) without 'labels', which the loss\(\) of Classes reads", targets=("label",))
    refused("has name=5, which is not a text", name=5)
    refused("has head=5, which is not a text", head=5)
    refused("has shown=5, which is not a text", shown=5)
    refused("has pair='yes', which is not True, False or None", pair="yes")
    refused("has items=0, which is not True or False", items=0)
    refused("has classes='yes', which is not True or False", classes="yes")
    refused("has row_classes=None, which is not True or False", row_classes=None)
    refused(r"cannot be called as metrics\(self, split", metrics=lambda self, split: {})
    refused(r"cannot be called as metrics\(self, split.*: no signature", metrics=dict)
    refused("cannot be called as predict", predict=lambda self, model, split, tokenizer: [])
    with pytest.raises(TaskError, match="derived from Kind"):
        pp.register_kind(dict)  # type: ignore[type-var]


@pytest.mark.parametrize("role", ["text", "label", "pair", "items", "before", "start"])
def test_a_layout_whose_names_are_one_text_is_refused(role: str) -> None:
    names: dict[str, Any] = {"text": ("text",), "label": ("label",), role: "column"}
    with pytest.raises(TaskError, match=f"a layout has {role}='column', which is not a tuple of texts.*a comma makes"):
        Layout(**names)
    assert getattr(Layout(**names | {role: ["column"]}), role) == ("column",)
    with pytest.raises(TaskError, match="by_name='no', which is not True or False"):
        Layout(("text",), ("label",), by_name="no")  # type: ignore[arg-type]


def test_a_kind_that_is_run_again_gives_up_the_metrics_that_it_no_longer_names() -> None:
    def register(*measures: Metric) -> None:
        pp.register_kind(type("Mine", (Classes,), {"name": "mine", "__module__": "here", "measures": measures}))

    def shares() -> set[str]:
        return {one.name for kind in KINDS.values() for one in kind.measures if one.is_share}

    usual = shares()
    register(ACCURACY, Metric("distance", 0, 1))
    assert usual | {"distance"} == shares() and metric_named("distance").larger_is_better
    register(Metric("closeness", 0, 1))
    assert usual | {"closeness"} == shares() and not metric_named("distance").larger_is_better


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": 5}, "has name=5, which is not a text"),
        ({"name": "far", "low": "0"}, "has low='0', which is not a number"),
        ({"name": "far", "high": None}, "has high=None, which is not a number"),
        ({"name": "far", "low": 1, "high": 0}, "has low=1, which is not below high=0"),
        ({"name": "far", "larger_is_better": "no"}, "has larger_is_better='no', which is not True or False"),
        ({"name": "far", "unit": "points"}, "has unit='points', which are hundredths of a share"),
        ({"name": "far", "shown": 1}, "has shown=1, which is not True or False"),
    ],
)
def test_a_metric_that_contradicts_itself_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskError, match=f"a metric {said}"):
        Metric(**values)


def test_a_metric_from_outside_is_bounded_shown_and_ranked_as_its_kind_says() -> None:
    """A distance in steps of stars, of which less is better, next to a share of near answers."""
    measures = (Metric("steps", 0, 4, larger_is_better=False, unit="stars"), Metric("near", 0, 1))
    values = {"name": "mine", "__module__": "here", "measures": measures, "shown": "steps"}
    pp.register_kind(type("Mine", (Classes,), values))

    def run(control: str | None, seed: int, steps: float) -> pp.RunResult:
        made = runs.made_up(control=control, seed=seed)
        draws = steps + np.random.default_rng(seed).normal(0, 0.1, 40)
        rows = {"steps": draws, "near": np.full(40, 0.5)}
        found = {name: float(row.mean()) for name, row in rows.items()} | {"n": 40}
        test = TestResult.scored(runs.TASK, found, rows)
        epochs = [{name: one for name, one in epoch.items() if name == "epoch"} | found for epoch in made.epochs]
        return replace(made, task=made.task | {"kind": "mine"}, epochs=epochs, tests={runs.TASK.name: test})

    real, plain = [run(None, seed, 1.0) for seed in range(3)], [run("vanilla", seed, 2.0) for seed in range(3)]
    steps = pp.compare([*real, *plain])
    (row,) = [row for row in steps.rows if row.difference is not None]
    assert row.difference is not None and row.difference > 0.9 and row.mean == pytest.approx(1.0, abs=0.1)
    assert steps.unit == "stars" and row.verdict.startswith("better by 1.000 stars")
    near = pp.compare([*real, *plain], metric="near")
    assert near.unit == "points" and "50.0" in near._repr_html_()
    again = pp.RunResult.from_json(real[0].to_json())
    assert ">steps</th>" in again._repr_html_() and ">near</th>" in again._repr_html_()
    for name, value in (("steps", 4.5), ("steps", -1.0), ("near", 1.5)):
        wrong = json.loads(real[0].to_json())
        next(iter(wrong["tests"].values()))["metrics"][name] = value
        with pytest.raises(CorruptFileError, match=rf"{name} is {value}, which it cannot be"):
            pp.RunResult.from_json(json.dumps(wrong))


def test_a_kind_whose_rows_may_have_a_second_text_is_loaded_and_scored_with_and_without(
    parts: runs.Parts, tmp_path: Path
) -> None:
    layout = Layout(("opinion",), ("verdict",), pair=("reply",))
    pp.register_kind(type("Mine", (Classes,), {"name": "mine", "__module__": "here", "pair": None, "layout": layout}))
    split = slm.tiny_task(48).splits["train"]
    rows = [
        (f"{text} {number}", label) for number, (text, label) in enumerate(zip(split.texts, split.labels, strict=True))
    ]
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("\n".join(["opinion,verdict", *(f"{text},c{label}" for text, label in rows)]))
    two.write_text("\n".join(["opinion,reply,verdict", *(f"{text},it is,c{label}" for text, label in rows)]))
    for path in (one, two):
        task = pp.load_task(path)
        assert task.kind == "mine" and (task.splits["train"].pairs is not None) == (path == two)
        table = pp.probe(str(parts.llm), task, estimators="nearest_mean", n=None, progress=False)
        assert len(table.frame)


def test_targets_that_no_batch_has_and_a_text_that_no_column_holds_are_said(parts: runs.Parts, tmp_path: Path) -> None:
    loss, layout = Classes.loss, Layout(("text",), ("label",), by_name=True)
    values = {"name": "mine", "__module__": "here", "layout": layout, "targets": ("labels", "ages")}
    own = type("Mine", (Classes,), values | {"loss": lambda self, *args: loss(self, *args)})
    pp.register_kind(own)
    task = pp.load_task(stars(tmp_path), kind="mine")
    with pytest.raises(TaskError, match="batches of the kind 'mine' have .*, and its targets name 'ages'.*here.Mine"):
        pp.fine_tune(parts.model(task=task), task, runs.RECIPE)
    with pytest.raises(TaskError, match="the kind 'mine' reads no column of text .*line 2"):
        own.parse({"label": "1"}, Columns("mine", None, "label"), Origin("0", "line 2"))


def test_a_head_that_lacks_something_is_refused_where_it_is_registered() -> None:
    def refused(said: str, cls: Any, name: str = "mine", hub_tag: str = "x") -> None:
        with pytest.raises(PlugInError, match=said):
            pp.register_head(name, hub_tag=hub_tag)(cls)

    whole = pp.PiFiForSequenceClassification
    refused("is not a PiFi model.*book/extending/head.md shows how", dict)
    refused("no forward.*book/extending/head.md shows how", PiFiEncoderModel)
    refused("attention_mask", type("Deaf", (whole,), {"forward": lambda self, input_ids: None}))
    refused("has no hub_tag.*book/extending/head.md shows how", whole, hub_tag="")
    refused("has no hub_tag", whole, hub_tag=5)  # type: ignore[arg-type]
    refused("takes labels", type("Mute", (whole,), {"forward": lambda self, input_ids, attention_mask: None}))
    more = lambda self, input_ids, attention_mask, labels, ages: None  # noqa: E731
    refused("these alone .missing a required argument: 'ages'", type("More", (whole,), {"forward": more}))
    refused("no forward", type("None_", (whole,), {"forward": None}))
    refused("no forward", type("None_", (whole,), {"forward": dict}))
    for name in ("multiple-choice", "sequence-classification", "mine"):  # a refused name leaves the tag as it is
        refused("is the head 'sequence-classification' with the hub_tag 'text-classification'", whole, name, "zzz")
        assert whole.hub_tag == "text-classification"
    other = type("Other", (whole,), {})
    refused("already", other, name="multiple-choice", hub_tag="zzz")
    assert "hub_tag" not in vars(other)
    refused("already", type("Other", (whole,), {}), name="multiple-choice")


def test_a_page_that_is_run_again_replaces_its_own_kind_only() -> None:
    first, second = run_page("kind")["Ordinal"], run_page("kind")["Ordinal"]
    assert first is not second and KINDS["ordinal"] is second
    with pytest.raises(PifiProbeError, match="already"):
        pp.register_kind(type("Ordinal", (Classes,), {"name": "ordinal", "__module__": "elsewhere"}))


def test_a_wiring_from_outside_is_trained_and_loaded_without_it(parts: runs.Parts, tmp_path: Path) -> None:
    run_page("wiring")
    model = parts.model(wiring="gentle", target_rms=2.0)
    assert (model.config.wiring, model.config.pooling, model.config.lr_projection_factor) == ("gentle", "mean", 3.0)
    result = pp.fine_tune(model, runs.TASK, runs.RECIPE)
    assert result.model["wiring"] == "gentle" and result.lr_projection == pytest.approx(3 * runs.RECIPE.learning_rate)
    model.save_pretrained(tmp_path)
    WIRINGS.pop("gentle")
    assert pp.PiFiForSequenceClassification.from_pretrained(tmp_path).config.wiring == "gentle"
    with pytest.raises(PlugInError, match="unknown wiring 'gentle'"):
        parts.model(wiring="gentle")


def test_a_second_aligned_wiring_is_aligned_by_more_than_its_name(llm: str, tmp_path: Path) -> None:
    fitted: dict[str, Any] = {"feed": "sequence", "scale": "matched", "bypass": True, "interface": "fitted"}
    pp.register_wiring("late", pooling="cls", lr_projection_factor=2.0, **fitted)
    bert, task = str(slm.tiny_slm_folder(tmp_path / "bert")), slm.tiny_task(60)
    model = pp.plug_in(bert, f"{llm}[1:3]", task=task, wiring="late")
    assert isinstance(model.plugin, AlignedPlugIn) and model.config.aligned["read"] == "beside"
    assert (model.config.wiring, model.config.pooling, model.config.lr_projection_factor) == ("late", "cls", 2.0)
    assert describe_model(model)["label"] == f"late: {llm}[1] >> {llm}[2]"
    with pytest.raises(PlugInError, match="feed='pooled' does not go with an aligned chain"):
        pp.plug_in(bert, f"{llm}[1:3]", task=task, wiring="late", feed="pooled")
    with pytest.raises(PlugInError, match="has feed='pooled'.*use one of 'sequence'"):
        pp.register_wiring("later", pooling="cls", **fitted | {"feed": "pooled"})
    with pytest.raises(PlugInError, match="has interface='made'"):
        pp.register_wiring("later", pooling="cls", **fitted | {"interface": "made"})


def elsewhere(code: str) -> None:
    """Run code in a module of another name."""
    exec(code, {"__name__": "elsewhere", "pp": pp, "Family": Family})


def test_a_wiring_that_cannot_be_is_refused_where_it_is_registered() -> None:
    good: dict[str, Any] = {"feed": "pooled", "scale": "none", "bypass": False, "pooling": "cls"}
    pp.register_wiring("mine", **good)
    pp.register_wiring("mine", **good)  # the same once more
    for said, values in {
        "has feed='tokens'.*book/extending/wiring.md shows how": {"feed": "tokens"},
        "has scale='big'": {"scale": "big"},
        "has bypass=None": {"bypass": None},
        "has bypass=1": {"bypass": 1},
        "has pooling='max'": {"pooling": "max"},
        "lr_projection_factor=0.*book/extending/wiring.md shows how": {"lr_projection_factor": 0},
        "lr_projection_factor='10'": {"lr_projection_factor": "10"},
        "lr_projection_factor=True": {"lr_projection_factor": True},
        "there is a wiring 'matched' already": {"name": "matched"},
        "'custom' cannot name a wiring: .*modes are not those of a wiring": {"name": "custom"},
        "'paper' cannot name a wiring: it was the name of \"pifi\"": {"name": "paper"},
        "5 cannot name a wiring": {"name": 5},
    }.items():
        with pytest.raises(PlugInError, match=said):
            pp.register_wiring(**{"name": "mine"} | good | values)
    assert WIRINGS["mine"]["bypass"] is False and WIRINGS["matched"]["bypass"] is True


def test_a_wiring_and_a_family_that_are_run_again_replace_themselves_and_nothing_else() -> None:
    run_page("wiring")
    code = 'pp.register_wiring("gentle", feed="pooled", scale="none", bypass=True, pooling="mean")'
    with pytest.raises(PlugInError, match="there is a wiring 'gentle' already.*elsewhere.*choose another name"):
        elsewhere(code)
    exec(code, {"__name__": "page_wiring", "pp": pp})  # the corrected cell
    assert WIRINGS["gentle"]["scale"] == "none"
    run_page("family")
    code = 'pp.register_family("own_llama", Family(value=None))'
    with pytest.raises(UnsupportedFamilyError, match="there is a family 'own_llama' already.*elsewhere.*row as it is"):
        elsewhere(code)
    exec(code, {"__name__": "page_family", "pp": pp, "Family": Family})
    assert FAMILIES["own_llama"].value is None


def test_a_strategy_from_outside_searches(stub: Any) -> None:
    run_page("strategy")
    study = search(strategy="edges", confirm=False)
    seen = {(trial.candidate.spec, trial.fidelity) for trial in study.trials}
    assert {("llm[0]", "frozen"), ("llm[9]", "frozen")} <= seen
    assert len([one for one in seen if one[1] == "full"]) == 1
    assert study.best is not None and study.best.spec in ("llm[0]", "llm[9]")
    STRATEGIES.pop("edges")
    with pytest.raises(SearchError, match="unknown strategy 'edges'"):
        search(strategy="edges")


def test_a_strategy_that_lacks_something_is_refused_where_it_is_registered() -> None:
    def refused(said: str, **values: Any) -> None:
        with pytest.raises(SearchError, match=said):
            pp.register_strategy(
                type("Mine", (Base,), {"name": "mine", "plan": lambda self: [], "__module__": "elsewhere"} | values)
            )

    refused("lacks name", name="")
    refused(r"lacks plan\(\)", plan=Base.plan)
    refused("a fidelity 'top', which is none of", fidelity="top")
    refused("names a rung, which is called fidelity now", rung="frozen")
    refused("cannot be called as propose", propose=lambda self: None)
    refused("already", name="auto")
    refused("5 cannot name a strategy", name=5)
    start = Base.__init__
    refused(r"cannot be made as Mine\(space, seeds, seed=0\)", __init__=lambda self, space: start(self, space))
    refused(r"missing a required argument: 'ages'", __init__=lambda self, space, seeds, ages, seed=0: None)
    own = type("Mine", (Base,), {"name": "mine", "plan": lambda self: [], "__init__": lambda self, *args, **more: None})
    pp.register_strategy(own)
    with pytest.raises(SearchError, match=r"'mine' has no _failed once it is made: its __init__\(\) does not call"):
        make_strategy("mine", Space((("llm", 2),)))
    with pytest.raises(SearchError, match="derived from Base"):
        pp.register_strategy(dict)  # type: ignore[type-var]


def test_an_estimator_from_outside_is_in_the_table(parts: runs.Parts) -> None:
    run_page("estimator")
    table = pp.probe(str(parts.llm), runs.TASK, estimators="spread_ratio", n=24, progress=False)
    values = table.frame.loc[table.frame["estimator"] == "spread_ratio", "value"]
    assert len(values) > 1 and (values > 0).all()


def test_a_family_from_outside_gives_the_layer_of_its_model(tmp_path: Path) -> None:
    names = run_page("family")
    config = names["OwnConfig"](
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, vocab_size=11
    )
    torch.manual_seed(0)
    model = names["OwnForCausalLM"](config).eval()
    model.save_pretrained(tmp_path)
    layer = pp.extract(f"{tmp_path}[0]", device="cpu")
    with torch.no_grad():
        states = model(torch.tensor([[1, 2, 3, 4]]), output_hidden_states=True).hidden_states
        assert torch.allclose(layer(states[0]), states[1], atol=1e-6)
    FAMILIES.pop("own_llama")
    without_row = pp.extract(f"{tmp_path}[0]", device="cpu")  # its whole model is run first
    assert torch.equal(without_row(states[0]), layer(states[0]))


def test_a_family_that_cannot_be_is_refused_where_it_is_registered() -> None:
    for said, name, row in (
        ("a family is a Family", "gpt2", {}),
        ("no configuration of type", "own_unknown", Family()),
        ("not a way to store", "gpt2", Family(value="nowhere")),  # type: ignore[arg-type]
        ("there is a family 'gpt2' already", "gpt2", Family()),
        ("no configuration of type", 5, Family()),
        ("no configuration of type", ["gpt2"], Family()),
        ("has zeros='embed_positions', which is not a tuple", "gpt2", Family(zeros="embed_positions")),  # type: ignore[arg-type]
        ("has neutral='scale', which is not a mapping", "gpt2", Family(neutral="scale")),  # type: ignore[arg-type]
        ("has attention=None, which is not a text", "gpt2", Family(attention=None)),  # type: ignore[arg-type]
        ("has output=5, which is not a text", "gpt2", Family(output=5)),  # type: ignore[arg-type]
        ("has gated_mlp='no', which is not True or", "gpt2", Family(gated_mlp="no")),  # type: ignore[arg-type]
        ("has alibi=None, which is not True or", "gpt2", Family(alibi=None)),  # type: ignore[arg-type]
        ("is refused", "reformer", Family()),
    ):
        with pytest.raises(UnsupportedFamilyError, match=said):
            pp.register_family(name, row)  # type: ignore[arg-type]


def in_halves(folder: Path, factor: float) -> dict[str, torch.Tensor]:
    """Save a tiny Llama whose matrices in layers are stored as ``half`` and ``factor``; return its weights."""
    tiny_checkpoint("llama", folder)
    weights = load_file(folder / "model.safetensors")
    stored = {}
    for name, tensor in weights.items():
        if ".layers." in name and tensor.ndim == 2:
            stored[name.removesuffix("weight") + "half"] = tensor / factor
            stored[name.removesuffix("weight") + "factor"] = torch.tensor(factor)
        else:
            stored[name] = tensor
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return weights


def test_a_layer_is_read_from_a_checkpoint_in_a_format_from_outside(tmp_path: Path) -> None:
    weights = in_halves(tmp_path, 4.0)
    with pytest.raises(PifiProbeError):
        pp.extract(f"{tmp_path}[1]")
    own = run_page("format")["Halves"]
    layer = pp.extract(f"{tmp_path}[1]")
    held = {name.partition(".layers.0.")[2]: tensor for name, tensor in layer.state_dict().items()}
    assert torch.equal(held["mlp.up_proj.weight"], weights["model.layers.1.mlp.up_proj.weight"])
    assert isinstance(layer, pp.FrozenLayer) and layer.card.quantised == "halves"
    corrected = run_page("format")["Halves"]  # a cell that is run again
    assert [type(one) for one in formats() if one.name == "halves"] == [corrected] != [own]
    with pytest.raises(UnsupportedFormatError, match="there is a format 'halves' already"):
        pp.register_format(type("Halves", (corrected,), {"__module__": "elsewhere"}))


def test_a_decorator_with_or_without_its_brackets_says_how_it_is_written() -> None:
    def mine(features: Any) -> float:
        return 0.0

    class Own:
        pass

    for error, register, given, written in (
        (EstimatorError, pp.register_estimator, (mine,), "write @register_estimator(title="),
        (EstimatorError, pp.register_estimator, (), "write @register_estimator(title="),
        (PlugInError, pp.register_head, (Own,), 'write @register_head("NAME", hub_tag='),
        (TaskError, pp.register_kind, (), "write @register_kind"),
        (SearchError, pp.register_strategy, (), "write @register_strategy"),
        (UnsupportedFormatError, pp.register_format, (), "write @register_format"),
    ):
        with pytest.raises(error) as caught:
            register(*given)  # type: ignore[operator]
        assert written in caught.value.next and "argument" in caught.value.what
        assert not given or given[0].__name__ in caught.value.where


def test_a_kind_that_takes_its_words_away_from_what_reads_them_is_refused() -> None:
    with pytest.raises(TaskError, match="has items=False, and the encode.. of Tags reads a list of strings"):

        @pp.register_kind
        class Untold(Tags):
            name = "untold-tags"
            layout = Layout(("text",), ("tags",))
            items = False
