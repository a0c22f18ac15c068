"""The public API says one thing one way: order of arguments, names, defaults."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import pifi_probe as pp
from pifi_probe.cli import app, main
from pifi_probe.errors import LayerIndexError
from pifi_probe.layers.spec import layer_numbers
from pifi_probe.plugin.config import WIRINGS
from pifi_probe.selection.executors import EXECUTORS
from pifi_probe.selection.space import DESIGNS, Candidate, Space
from pifi_probe.training.describe import describe_model
from pifi_probe.training.key import RunKey
from pifi_probe.vocabulary import COMBINATIONS, CONTROLS, in_words_of_today
from tests import runs

FUNCTIONS = {name: getattr(pp, name) for name in pp.__all__ if inspect.isfunction(getattr(pp, name))}
BUILT_IN = tuple(WIRINGS)  # before a test registers another
ORDER = ("slm", "llm", "layer", "task")  # of what is given by position
METHODS: dict[str, Callable[..., Any]] = {
    f"{name}.{method}": member
    for name in pp.__all__
    if inspect.isclass(owner := getattr(pp, name)) and issubclass(owner, object)
    for method, member in vars(owner).items()
    if inspect.isfunction(member) and (not method.startswith("_") or method == "__init__")
}
EVERYTHING = FUNCTIONS | METHODS


def arguments(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_models_come_before_the_task(name: str) -> None:
    found = [one for one in arguments(FUNCTIONS[name]) if one in ORDER]
    assert found == [one for one in ORDER if one in found]


def test_classes_are_made_from_models_before_the_task() -> None:
    made: dict[str, Callable[..., Any]] = {
        **{name: one for name, one in METHODS.items() if name.endswith(".__init__")},
        "LayerBrowser": pp.widgets.LayerBrowser.__init__,
        "LayerSearch": pp.widgets.LayerSearch.__init__,
    }
    for name, one in made.items():
        found = [each.name for each in arguments(one).values() if each.name in ORDER and each.kind != each.KEYWORD_ONLY]
        assert found == [each for each in ORDER if each in found], name


@pytest.mark.parametrize("name", EVERYTHING)
def test_names_mean_one_thing(name: str) -> None:
    own = arguments(EVERYTHING[name])
    assert "max_length" not in own, "max_tokens of a text, max_layers of a combination"
    if "budget" in own:
        assert "Study" in name or name in ("search", "decide"), "a budget is what a search may spend"
    if "seeds" in own:
        assert not isinstance(own["seeds"].default, int), "seeds are listed; n_seeds are counted"
    for counted in ("memory", "max_tokens", "max_layers", "n_seeds"):
        assert counted not in own or not isinstance(own[counted].default, str | tuple)


@pytest.mark.parametrize("name", [name for name, one in FUNCTIONS.items() if "device" in arguments(one)])
def test_what_computes_finds_its_device_and_what_loads_stays_on_the_cpu(name: str) -> None:
    assert arguments(FUNCTIONS[name])["device"].default == ("cpu" if name == "extract" else "auto")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_opens_models_by_name_is_allowed_pickle_in_one_way(name: str) -> None:
    own = arguments(FUNCTIONS[name])
    if {"slm", "llm"} & set(own):
        assert "allow_pickle" in own, "each opens checkpoints, which may be legacy files"
    assert "allow_pickle" not in own or own["allow_pickle"].default is False


@pytest.mark.parametrize("name", FUNCTIONS)
def test_folders_counts_and_layers_are_called_alike(name: str) -> None:
    own = arguments(FUNCTIONS[name])
    assert "folder" not in own, "results go to out="
    assert "texts" not in own or name == "states", "texts are texts; max_texts counts them"
    assert "layers" not in own or own["layers"].default is None, "None is all of them, or the suggested chain"
    assert "margin" not in own or own["margin"].default == (1.0 if name == "decide" else None), "one point"


RESUME = (
    r"resume : bool Go on with what the same call has left in `(out|study)` before, and refuse what another one has; "
    r"False uses none of it\."
)


def test_resume_means_the_same_wherever_it_is_taken() -> None:
    taking = {name: one for name, one in EVERYTHING.items() if "resume" in arguments(one)}
    assert set(taking) == {"fine_tune", "search"}
    for name, one in taking.items():
        # a second search shows the study; a second run would hand back a model that may be untrained
        assert arguments(one)["resume"].default is (name == "search"), name
        assert re.search(RESUME, " ".join((one.__doc__ or "").split())), name
    (option,) = [one for one in command("train").params if one.name == "resume"]
    assert option.default is False


def commands() -> dict[str, Any]:
    assert main(["--version"]) == 0  # which registers the commands
    group: Any = typer.main.get_command(app)
    groups = {name: getattr(one, "commands", {"": one}) for name, one in group.commands.items()}
    return {f"{name} {part}".strip(): one for name, parts in groups.items() for part, one in parts.items()}


def command(name: str) -> Any:
    return commands()[name]


# what commands have besides the arguments of their functions: what is shown, what is kept, and one of several at a time
ONLY_TYPED = {"as_json", "table", "out", "csv", "html", "tagged", "runs", "model", "n_train", "per_class"}
ONLY_TYPED |= {"fraction", "design", "arms", "seconds"}
BEHIND = {
    "bench": ("benchmark", "cost_table", "plug_in"),
    "control": ("positive_control",),
    "probe": ("probe", "probe_plugin"),
    "train": ("fine_tune", "plug_in", "search"),  # with --arms it trains side by side, as a search does
}


def test_commands_take_what_their_functions_take() -> None:
    held = {*pp.Recipe.__dataclass_fields__, *pp.ProbeSettings.__dataclass_fields__, *arguments(pp.load_task)}
    seen = set()
    for name, one in commands().items():
        functions = [FUNCTIONS[other] for other in BEHIND.get(name, (name,)) if other in FUNCTIONS]
        taken = {argument for function in functions for argument in arguments(function)}
        if functions:
            seen.add(name)
            typed = {each.name for each in one.params} - {"help"}
            assert typed - taken - held <= ONLY_TYPED, name
            assert "allow_pickle" not in taken or "allow_pickle" in typed, name
    assert {"bench", "control", "decide", "headroom", "probe", "search", "states", "train", "verify"} <= seen


# options that a command leaves out, and why
LEFT_OUT = {
    ("extract", "device"),  # the layer is saved, wherever it was read
}


def test_commands_choose_device_and_tokens_where_their_functions_do() -> None:
    inside: dict[str, Any] = {"recipe": pp.Recipe, "settings": pp.ProbeSettings}
    offered: set[tuple[str, str]] = set()
    lacking: set[tuple[str, str]] = set()
    for name, one in commands().items():
        functions = [FUNCTIONS[other] for other in BEHIND.get(name, (name,)) if other in FUNCTIONS]
        taken = {argument for function in functions for argument in arguments(function)}
        taken |= {field for each in taken & set(inside) for field in inside[each].__dataclass_fields__}
        typed = {each.name for each in one.params}
        for option in {"device", "max_tokens"} & taken:
            (offered if option in typed else lacking).add((name, option))
    assert lacking <= LEFT_OUT
    names = ("decide", "headroom", "probe", "search", "train")
    both = {(name, option) for name in names for option in ("device", "max_tokens")}
    assert both | {("control", "device"), ("states", "max_tokens")} <= offered


def test_help_names_what_python_offers() -> None:
    offered = {"wiring": BUILT_IN, "control": CONTROLS, "combine": COMBINATIONS, "executor": EXECUTORS}
    seen = set()
    for one in commands().values():
        for each in (each for each in one.params if each.name in offered):
            seen.add(each.name)
            assert set(offered[each.name]) <= set(re.findall(r"[\w-]+", each.help or "")), (one.name, each.name)
    assert seen == set(offered)


def test_an_option_says_the_same_in_every_command() -> None:
    own = {  # where it is about something else
        ("--slm", "info"), ("--slm", "probe"), ("--text", "states"), ("--precision", "states"), ("--task", "bench"),
        ("--tokenizer", "probe"), ("--tokenizer", "states"), ("--wiring", "bench"), ("--n-train", "bench"),
        ("--margin", "decide"), ("--executor", "train"), ("--workers", "train"), ("--max-tokens", "states"),
    }  # fmt: skip
    said: dict[str, set[str]] = {}
    for name, one in commands().items():
        for each in one.params:
            if each.param_type_name == "option" and (each.opts[0], name) not in own:
                said.setdefault(each.opts[0], set()).add(each.help)
    shared = {
        *("--task", "--slm", "--text", "--label", "--kind", "--language", "--n-train", "--epochs", "--learning-rate"),
        *("--precision", "--device", "--tokenizer", "--executor", "--workers", "--margin", "--fraction", "--wiring"),
        *("--max-tokens", "--tag", "--allow-pickle", "--json"),
    }
    assert {option: texts for option, texts in said.items() if option in shared and len(texts) > 1} == {}
    assert shared <= set(said)


def test_every_command_reads_a_file_with_the_same_options() -> None:
    asking = {name: {each.opts[0] for each in one.params} for name, one in commands().items() if name != "demo"}
    asking = {name: options for name, options in asking.items() if "--task" in options}
    assert {"bench", "decide", "headroom", "probe", "search", "train"} <= set(asking)
    for name, options in asking.items():
        assert {"--text", "--label", "--kind", "--language"} <= options, name


def test_a_combination_has_the_same_names_in_python_on_the_command_line_in_results_and_in_a_search(
    parts: runs.Parts,
) -> None:
    assert ("single", *COMBINATIONS) == DESIGNS
    (option,) = [one for one in command("train").params if one.name == "combine"]
    assert ", ".join(COMBINATIONS) in (option.help or "")
    for design in COMBINATIONS:
        series = design in ("serial", "gated-serial")
        spec = (" >> " if series else " | ").join(f"{parts.llm}[{i}]" for i in (0, 1))
        model = pp.plug_in(str(parts.slm), spec, task=runs.TASK, combine=design)
        described = describe_model(model)
        assert model.config.combine == design
        assert RunKey.of(described, "task", {}).entries["combine"] == design
        candidate = Candidate((f"{parts.llm}[0]", f"{parts.llm}[1]"), design)
        assert candidate.spec == spec
        assert described["label"].endswith(candidate.label), (described["label"], candidate.label)


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        (None, range(12)),
        ("all", range(12)),
        (" ", range(12)),
        (3, [3]),
        ("-1", [11]),
        ("0-3,7,-1", [0, 1, 2, 3, 7, 11]),
        ("-3--1", [9, 10, 11]),
        ("9--1", [9, 10, 11]),
        ("0:10:3", [0, 3, 6, 9]),
        (" 4 , 4-5", [4, 5]),
        (range(0, 12, 6), [0, 6]),
        ([2, 2, -2], [2, 10]),
    ],
)
def test_lists_of_layers_are_read_in_one_way(layers: Any, found: Any) -> None:
    assert layer_numbers(layers, 12, "model") == tuple(found)


@pytest.mark.parametrize(
    "layers",
    [
        "first",
        "1,,2",
        "1:x",
        "3;4",
        "1:2:3:4",
        "5-2",
        "-1--3",
        "9--5",
        "0-12",
        "12",
        "20",
        "20-25",
        "-13",
        "-999999999-3",
        "1:1",
        [],
        [12],
        2.5,
    ],
)
def test_lists_of_layers_that_name_none_are_refused(layers: Any) -> None:
    with pytest.raises(LayerIndexError, match="next: "):
        layer_numbers(layers, 12, "model")


def test_a_recipe_of_an_older_record_is_the_same_recipe() -> None:
    new = pp.Recipe(max_tokens=64)
    old = {("max_length" if name == "max_tokens" else name): value for name, value in new.to_dict().items()}
    assert pp.Recipe.from_dict(old) == new
    assert RunKey.of({}, "task", old) == RunKey.of({}, "task", new.to_dict())


def test_the_word_paper_of_versions_before_is_read_and_told_of() -> None:
    with pytest.warns(DeprecationWarning, match='wiring="paper" is called "pifi" now'):
        assert pp.PluginProbeSettings(wiring="paper").wiring == "pifi"
    config = pp.PiFiConfig(wiring="paper", scale="paper", mask="paper")
    assert (config.wiring, config.scale, config.mask) == ("pifi", "none", "none")
    stored = {"wiring": "paper", "scale": "paper", "slm": "paper", "label": "custom: A[3] (paper, scale=paper)"}
    found = {"wiring": "pifi", "scale": "none", "slm": "paper", "label": "custom: A[3] (pifi, scale=none)"}
    assert in_words_of_today(stored) == found
    told = in_words_of_today({"verdict": "open: the interval holds zero; so far", "measured": 1.0})
    assert told == {"verdict": "open: the interval includes zero; so far", "measured": 1.0}
    assert RunKey.of(stored, "task", {}) == RunKey.of(found, "task", {})
    record = Space((("a", 3),), modes=((), (("scale", "none"),))).to_dict()
    assert Space.from_dict(json.loads(json.dumps(record).replace('"none"', '"paper"'))).to_dict() == record


def test_what_a_notebook_shows_as_a_table_says_words_in_a_terminal() -> None:
    """A dataclass with HTML of its own has a repr of its own, too: not all of its fields, nested."""
    shown = []
    for file in Path(pp.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(one) for one in node.decorator_list):
                own = {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
                if "_repr_html_" in own or "Result" in map(ast.unparse, node.bases):
                    shown.append(node.name)
                    assert "__repr__" in own, f"{node.name} of {file.name} would show all of its fields"
    assert {"Comparison", "Diagnosis", "Reproduction"} <= set(shown)
