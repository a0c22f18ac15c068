"""Numbers, layers and options that mean nothing are refused by name, before anything is computed."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import FeatureError, LayerIndexError, PlugInError, TaskError
from pifi_probe.tasks.splitting import label_counts
from tests import slm, tiny

TASK = slm.tiny_task(40)
SMALL: dict[str, Any] = {"n_words": 30, "length": 6, "n_fit": 24, "n_test": 8, "progress": False}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIFI_PROBE_FEATURES", str(tmp_path / "features"))
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(slm.tiny_slm_folder(tmp_path_factory.mktemp("slm")))


@pytest.fixture
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "features.chain_parts.token_states",
        "features.headroom.llm_features",
        "probing.control.Stem",
        "probing.chain.extract_from",
    ):
        monkeypatch.setattr(f"pifi_probe.{name}", None)


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"twins": 1.5}, "twins=1.5"),
        ({"n_draws": 0}, "n_draws=0"),
        ({"n_draws": None}, "n_draws=None"),
        ({"n_train": 0}, "n_train=0"),
        ({"n_train": 10.5}, "n_train=10.5"),
        ({"n_test": None}, "n_test=None"),
        ({"n_align": -1}, "n_align=-1"),
        ({"max_tokens": 5.5}, "max_tokens=5.5"),
        ({"own_interfaces": True, "arms": ["real"]}, "own_interfaces=True is for twins"),
        ({"n_train": 3}, "too few for a readout"),
        ({"fractions": 0.5}, "fractions=0.5 is not a list"),
        ({"fractions": "10"}, "is not a list"),
        ({"fractions": [0]}, "0 labelled texts"),
        ({"fractions": [-0.5]}, "labelled texts"),
        ({"fractions": [1.5]}, "labelled texts"),
        ({"fractions": [float("nan")]}, "nan labelled texts"),
        ({"fractions": [10**9]}, "labelled texts"),
        ({"fractions": [True]}, "True labelled texts"),
        ({"fractions": ["8"]}, "'8' labelled texts"),
    ],
)
def test_numbers_that_no_chain_can_be_evaluated_with_are_refused(
    options: dict[str, Any], named: str, bert: str, llm: str
):
    with pytest.raises((PlugInError, TaskError), match=named):
        pp.probe_chain(bert, llm, TASK, "1-2", progress=False, **options)


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize(
    "layers", ["2-1", (2, 1), "0,2", "3", -4, (-1, 5), (0, 2), [0, 1.5], [True], [], "", 1.5, np.int64(3), [0, 5]]
)
def test_what_is_no_chain_of_the_model_is_refused(layers: Any, bert: str, llm: str):
    with pytest.raises(PlugInError, match="does not name a chain of layers"):
        pp.probe_chain(bert, llm, TASK, layers, progress=False)


def test_numbers_of_numpy_name_sizes():
    assert (
        label_counts(np.array([4, 8]), 40, 4, "t") == [4, 8] == label_counts([np.int64(4), np.float32(0.2)], 40, 4, "t")
    )


def test_numbers_of_numpy_and_lists_name_a_chain_as_others_do(bert: str, llm: str):
    numbers = {"seed": np.int64(0), "n_train": np.int32(30), "twins": np.int8(1), "arms": ["interface"]}
    expected = pp.probe_chain(bert, llm, TASK, (1, 2), n_train=30, arms=["interface"], progress=False)
    for layers in ([1, 2], "-2--1", (np.int64(1), np.int64(2)), np.array([1, 2]), range(1, 3)):
        found = pp.probe_chain(bert, llm, TASK, layers, progress=False, **numbers)  # type: ignore[arg-type]
        assert found.scores.equals(expected.scores) and found.info["layers"] == [1, 2] and found.to_json()
    one = pp.probe_chain(bert, llm, TASK, np.int64(1), arms=["interface"], progress=False)  # type: ignore[arg-type]
    assert one.info["layers"] == [1, 1]


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"n": 0}, "n=0"),
        ({"n": None}, "n=None"),
        ({"n": 3}, "too few for a readout"),
        ({"max_tokens": -1}, "max_tokens=-1"),
        ({"max_tokens": 1.5}, "max_tokens=1.5"),
    ],
)
def test_numbers_that_no_headroom_can_be_measured_with_are_refused(
    options: dict[str, Any], named: str, bert: str, llm: str
):
    with pytest.raises((FeatureError, TaskError), match=named):
        pp.headroom(bert, llm, TASK, progress=False, **options)


@pytest.mark.usefixtures("_nothing_runs")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"n_words": 1.5}, "n_words=1.5"),
        ({"n_words": -1}, "n_words=-1"),
        ({"length": 2.5}, "length=2.5"),
        ({"n_test": 2.5}, "n_test=2.5"),
        ({"n_fit": None}, "n_fit=None"),
        ({"foreign": True, "n_align": 1}, "n_align=1"),
        ({"foreign": True, "n_align": -1}, "n_align=-1"),
        ({"foreign": True, "layers": "0,2"}, "0 >> 2 is not a chain of neighbours"),
        ({"foreign": True, "layers": [2, 1]}, "2 >> 1 is not a chain of neighbours"),
        ({"layers": "2-1"}, "cannot read layers"),
        ({"layers": 3}, "no layer 3"),
        ({"layers": -4}, "no layer -4"),
    ],
)
def test_numbers_that_no_control_can_be_made_with_are_refused(options: dict[str, Any], named: str, llm: str):
    with pytest.raises((FeatureError, LayerIndexError), match=named):
        pp.positive_control(llm, **SMALL | options)


def test_another_tokenizer_has_a_control_of_its_own(tmp_path: Path):
    """The words are drawn from it."""
    llm = tiny.tiny_checkpoint("llama", tmp_path / "llm")
    slm.tiny_tokenizer().save_pretrained(llm)
    few = SMALL | {"n_words": 12}
    pp.positive_control(str(llm), 0, **few)
    first = pp.positive_control(str(llm), 1, **few)
    file = llm / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    for i, word in enumerate(slm.BAD):  # no words any more
        text = text.replace(f'"{word}"', f'"{i}"')
    file.write_text(text, encoding="utf-8")
    again = pp.positive_control(str(llm), 1, **few)
    assert again.rows == pp.positive_control(str(llm), 1, cache=False, **few).rows
    assert again.rows != first.rows


@pytest.mark.parametrize("control", ["linear", "mlp", "unfrozen", "vanilla"])
def test_an_interface_of_its_own_is_for_twins(control: str, bert: str, llm: str):
    build = functools.partial(pp.plug_in, bert, f"{llm}[1:3]", task=TASK, wiring="aligned", own_interface=True)
    with pytest.raises(PlugInError, match="own_interface=True is for twins"):
        build(control=control)
    real = build().config.aligned["digest"]  # the donor's own states are the layer's
    assert real == pp.plug_in(bert, f"{llm}[1:3]", task=TASK, wiring="aligned").config.aligned["digest"]
    assert build(control="random").config.aligned["digest"] != real


@pytest.mark.parametrize(
    "arguments",
    [
        ["control", "LLM", "--seed", "-1"],
        ["control", "LLM", "--layers", "2-1"],
        ["control", "LLM", "--layers", "7"],
        ["control", "LLM", "--layers", "0,2", "--foreign"],
        ["headroom", "--llm", "LLM", "--slm", "SLM", "--task", "CSV", "--seed", "-1"],
        ["headroom", "--llm", "LLM", "--slm", "SLM", "--task", "CSV", "-n", "0"],
        ["headroom", "--llm", "LLM", "--slm", "SLM", "--task", "CSV", "-n", "3"],
        ["headroom", "--llm", "LLM", "--slm", "SLM", "--task", "CSV", "--split", "test"],
    ],
)
def test_the_commands_refuse_them_in_one_line(
    arguments: list[str], bert: str, llm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = TASK.splits["train"]
    lines = [f"{text},{('bad', 'good')[label]}" for text, label in zip(rows.texts, rows.labels, strict=True)]
    (tmp_path / "words.csv").write_text("text,label\n" + "\n".join(lines), encoding="utf-8")
    names = {"LLM": llm, "SLM": bert, "CSV": str(tmp_path / "words.csv")}
    assert main([names.get(one, one) for one in arguments]) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out and "next:" in " ".join((said.err + said.out).split())
