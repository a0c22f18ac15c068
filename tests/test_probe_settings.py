"""Settings of a probe refuse a bad value when they are made, as a recipe does."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

import pifi_probe as pp
from pifi_probe.errors import EstimatorError, PifiProbeError, PlugInError, TaskError
from tests import slm

BOTH = (pp.ProbeSettings, pp.PluginProbeSettings)
NO_COUNTS: tuple[Any, ...] = (-1, 2.5, float("nan"), float("inf"), True, "5", None, 10**400)
NO_FLAGS: tuple[Any, ...] = (1, 0, "no", None)
NO_LISTS: tuple[Any, ...] = ("12", 12, None)
SHARED: dict[str, tuple[Any, ...]] = {
    "split": ("tset", "", None, ["train"]),
    "max_tokens": (*NO_COUNTS, 0),
    "n_permutations": NO_COUNTS,
    "n_folds": (*NO_COUNTS, 2),
    "precision": ("fp7", "float23", None),
    "device": ("cdua", "cpu0", None, 0),
    "batch_tokens": (*(one for one in NO_COUNTS if one is not None), 0),
    "memory": tuple(one for one in NO_COUNTS if one is not None),
    "cache": NO_FLAGS,
}
WRONG: dict[type[Any], dict[str, tuple[Any, ...]]] = {
    pp.ProbeSettings: SHARED
    | {
        "pooling": ("median", "mean+last", None),
        "normalise": NO_FLAGS,
        "drop_first": NO_FLAGS,
        "template": ("no place", 5),
        "fractions": NO_LISTS,
        "n_draws": (*NO_COUNTS, 0),
    },
    pp.PluginProbeSettings: SHARED
    | {
        "projections": (*NO_LISTS, [], ["best"], [["random"]], ["random", "random"], "random"),
        "n_draws": (*NO_COUNTS, 0),
        "trained": NO_FLAGS,
        "ntk": NO_FLAGS,
        "seeds": (*NO_LISTS, [], [0, 0], [-1], [0.5], [True], ["0"], [2**32]),
        "epochs": (*NO_COUNTS, 0),
        "warm_up": (-1, float("nan"), float("inf"), True, "1", None),
        "n_alignment": (*(one for one in NO_COUNTS if one is not None), 0),
    },
}
CASES = [(kind, name, value) for kind, names in WRONG.items() for name, values in names.items() for value in values]


@pytest.mark.parametrize("kind", BOTH)
def test_every_setting_is_checked(kind: type[Any]) -> None:
    assert {field.name for field in fields(kind)} == WRONG[kind].keys() | (
        {"wiring"} if kind is pp.PluginProbeSettings else set()
    )


@pytest.mark.parametrize(("kind", "name", "value"), CASES)
def test_a_bad_value_is_refused_in_one_line_that_names_it(kind: type[Any], name: str, value: Any) -> None:
    for make in (kind, kind().replace):
        with pytest.raises(EstimatorError) as caught:
            make(**{name: value})
        said = str(caught.value)
        assert name in said and f"where: {kind.__name__}, {name}" in said and "next: " in said and "\n" not in said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -5, True, "10", 10.5, None])
def test_fractions_are_numbers_of_texts(value: Any) -> None:
    with pytest.raises(TaskError, match="labelled texts were asked for") as caught:
        pp.ProbeSettings(fractions=[100, value])
    assert "where: ProbeSettings, fractions" in str(caught.value)


@pytest.mark.parametrize("kind", BOTH)
def test_the_test_split_is_refused_at_once(kind: type[Any]) -> None:
    with pytest.raises(TaskError, match="no longer be held out"):
        kind(split="test")


@pytest.mark.parametrize(("wiring", "says"), [("tight", "unknown"), ("aligned", "no pooled vector"), (None, "unknown")])
def test_a_wiring_without_a_pooled_vector_is_refused_at_once(wiring: Any, says: str) -> None:
    with pytest.raises(PlugInError, match=says):
        pp.PluginProbeSettings(wiring=wiring)


def test_a_misspelt_word_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(EstimatorError, match="did you mean 'float32'"):
        pp.ProbeSettings(precision="float23")
    with pytest.raises(EstimatorError, match="did you mean 'max_tokens'"):
        pp.ProbeSettings().replace(max_token=5)


def test_equal_settings_are_equal_whatever_their_types() -> None:
    whole: Any = np.int64(3)
    flag: Any = np.bool_(False)
    one = pp.ProbeSettings(n_draws=whole, n_folds=whole, cache=flag, fractions=np.array([10, 20]))  # type: ignore[arg-type]
    two = pp.ProbeSettings(n_draws=3, n_folds=3, cache=False, fractions=[10, 20])
    assert one == two and hash(one) == hash(two) and one.to_dict() == two.to_dict()
    assert pp.ProbeSettings(fractions=(100.0, 0.5)).fractions == (100, 0.5), "the command line gives floats"
    assert pp.PluginProbeSettings(seeds=range(3), projections=["random"]).to_dict()["seeds"] == [0, 1, 2]
    at: Any = torch.device("cpu")
    assert pp.ProbeSettings(device=at) == pp.ProbeSettings(device="cpu")
    assert pp.PluginProbeSettings(device="cuda:1").device == "cuda:1"


@pytest.mark.parametrize("given", [200, None, "train", {"n_folds": 3}, pp.Recipe(), pp.ProbeSettings, "the other's"])
def test_the_settings_of_a_probe_are_its_own(given: Any) -> None:
    task = slm.tiny_task()
    calls: list[tuple[str, Any, Any]] = [
        ("ProbeSettings", pp.PluginProbeSettings(), lambda what: pp.probe("no-such-model", task, what)),
        ("PluginProbeSettings", pp.ProbeSettings(), lambda what: pp.probe_plugin("no", "no-such-model", task, what)),
    ]
    for name, other, call in calls:
        with pytest.raises(EstimatorError, match=f"next: give pp.{name}") as caught:
            call(other if given == "the other's" else given)
        assert isinstance(caught.value, PifiProbeError) and "\n" not in str(caught.value)
        if given == "the other's":
            assert f"or call pp.{'probe_plugin' if name == 'ProbeSettings' else 'probe'}" in str(caught.value)
