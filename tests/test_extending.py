"""What a user adds from outside: the code on the pages of book/extending, used from end to end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pifi_probe as pp
from pifi_probe import ladder
from pifi_probe.cli import main
from pifi_probe.errors import PifiProbeError, PlugInError, TaskError
from pifi_probe.importing import IMPORT
from pifi_probe.kinds import KINDS, Kind, Layout
from pifi_probe.kinds.classes import Classes
from pifi_probe.plugin.base import PiFiEncoderModel
from pifi_probe.plugin.registry import HEADS
from tests import runs, slm

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
    registries = (KINDS, HEADS)
    kept = [dict(one) for one in registries]
    shares = set(ladder.SHARES)
    yield
    for one, before in zip(registries, kept, strict=True):
        one.clear()
        one.update(before)
    ladder.SHARES.intersection_update(shares)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> runs.Parts:
    return runs.Parts(tmp_path_factory.mktemp("parts"))


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
    assert {"kind", "head"} <= set(pages)
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
    assert "cannot be imported: ZeroDivisionError" in capsys.readouterr().err


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
    refused("row_classes, and no classes", classes=False)
    refused(r"cannot be called as metrics\(self, split", metrics=lambda self, split: {})
    refused("cannot be called as predict", predict=lambda self, model, split, tokenizer: [])
    with pytest.raises(TaskError, match="derived from Kind"):
        pp.register_kind(dict)  # type: ignore[type-var]


def test_a_head_that_lacks_something_is_refused_where_it_is_registered() -> None:
    def refused(said: str, cls: Any, name: str = "mine", hub_tag: str = "x") -> None:
        with pytest.raises(PlugInError, match=said):
            pp.register_head(name, hub_tag=hub_tag)(cls)

    whole = pp.PiFiForSequenceClassification
    refused("is not a PiFi model", dict)
    refused("no forward", PiFiEncoderModel)
    refused("attention_mask", type("Deaf", (whole,), {"forward": lambda self, input_ids: None}))
    refused("has no hub_tag", whole, hub_tag="")
    refused("already", type("Other", (whole,), {}), name="multiple-choice")


def test_a_page_that_is_run_again_replaces_its_own_kind_only() -> None:
    first, second = run_page("kind")["Ordinal"], run_page("kind")["Ordinal"]
    assert first is not second and KINDS["ordinal"] is second
    with pytest.raises(PifiProbeError, match="already"):
        pp.register_kind(type("Ordinal", (Classes,), {"name": "ordinal", "__module__": "elsewhere"}))
