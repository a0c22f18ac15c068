"""Bad input to estimators, and the registry that users extend."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pifi_probe.errors import EstimatorError
from pifi_probe.scoring import estimators
from pifi_probe.scoring.estimators import Scored, as_labels, registry
from pifi_probe.scoring.spectrum import Spectrum
from tests.planted import call, sample

EVERY = estimators.names()

# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        ["bad", "good", "bad", "good"],
        [0.0, 1.0, 0.0, 1.0],
        [False, True, False, True],
        np.array([-1, 7, -1, 7]),
        pd.Series(["a", "b", "a", "b"]),
        torch.tensor([3, 9, 3, 9]),
        np.array(["x", "y", "x", "y"], dtype=object),
    ],
)
def test_labels_may_be_strings_whole_floats_booleans_or_any_whole_numbers(labels: Any) -> None:
    codes = as_labels(labels)
    assert codes.dtype == np.int64
    assert codes.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, None, 0], "label is missing.*row 2"),
        ([0.0, float("nan"), 1.0, 0.0], "label is missing.*row 1"),
        ([0.0, 1.0, 0.5, 0.0], "0.5 names no class.*row 2"),
        ([0, 1, float("inf"), 0], "inf names no class.*row 2"),
        ([0, 1, (2,), 0], "names no class.*row 2"),
        (["a", "b", 3, "a"], "another kind.*rows 2 and 0"),
        (["a", "a", "a", "a"], "every label is 'a'"),
        ([0, 1, 2, 3], "4 examples have 4 classes"),
        ([0, 1, 0], "3 labels for 4 examples"),
        ([], "0 labels for 4 examples"),
        ("abab", "labels are a str"),
        (3, "labels are a int"),
        (np.zeros((4, 2)), "shape"),
        (None, "needs labels"),
    ],
)
def test_unusable_labels_are_refused_with_the_row(labels: Any, message: str) -> None:
    with pytest.raises(EstimatorError, match=message):
        estimators.logme(np.eye(4), labels)


@pytest.mark.parametrize("name", ["ridge_accuracy", "ridge_mse", "knn", "nearest_mean", "logistic_nll"])
def test_a_class_with_one_example_is_refused_where_examples_are_left_out(name: str) -> None:
    with pytest.raises(EstimatorError, match="class 'rare' has 1 example.*row 3"):
        estimators.get(name)(np.eye(6), ["a", "b", "a", "rare", "b", "a"])


@pytest.mark.parametrize("name", ["logme", "hscore", "fisher_ratio", "hidden_state_variability"])
def test_a_class_with_one_example_is_taken_where_none_is_left_out(name: str) -> None:
    assert np.isfinite(estimators.get(name)(np.eye(6), ["a", "b", "a", "rare", "b", "a"]))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(name: str, bad: Any) -> None:
    data = sample()
    data.x[5, 6] = bad
    with pytest.raises(EstimatorError, match="row 5, column 6"):
        call(name, data)


def test_other_features_are_checked_too() -> None:
    data = sample()
    with pytest.raises(EstimatorError, match=r"pass other="):
        estimators.cka(data.x)
    with pytest.raises(EstimatorError, match="59 other features for 60 examples"):
        estimators.cka(data.x, other=data.z[:-1])
    with pytest.raises(EstimatorError, match="other features hold"):
        estimators.cka(data.x, other=data.z * np.nan)
    with pytest.raises(EstimatorError, match="at least four"):
        estimators.cka(data.x[:3], other=data.z[:3])


def test_the_spectrum_of_other_features_is_refused() -> None:
    data = sample()
    with pytest.raises(EstimatorError, match="the spectrum is of features"):
        estimators.logme(data.x, data.y, spectrum=Spectrum.of(data.z))


def test_an_unknown_option_is_refused_with_those_that_there_are() -> None:
    data = sample()
    with pytest.raises(EstimatorError, match="no option 'neighbours'.*its options are k"):
        estimators.knn(data.x, data.y, neighbours=3)


# --- the registry -----------------------------------------------------------------------------------------------------

FACTS: dict[str, Any] = {"title": "Spread", "unit": "", "range": "[0, inf)", "cost": "N D", "source": "this test"}


@pytest.fixture
def open_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ESTIMATORS", copy.copy(registry.ESTIMATORS))


def test_every_estimator_is_an_attribute_of_its_name() -> None:
    for name in estimators.names():
        assert getattr(estimators, name) is estimators.get(name)


@pytest.mark.parametrize("name", EVERY)
def test_every_docstring_says_shapes_range_direction_cost_and_source(name: str) -> None:
    for part in ("shape (N, D)", "Returns", "Range: ", "Direction: ", "Cost: ", "Source: "):
        assert part in str(estimators.get(name).__doc__)


def test_an_unknown_name_is_refused_with_those_that_are_near() -> None:
    with pytest.raises(EstimatorError, match="unknown estimator 'log_me'.*did you mean 'logme'"):
        estimators.get("log_me")
    with pytest.raises(EstimatorError, match="use one of ridge_accuracy|use one of"):
        estimators.get("zzz")


def test_estimators_are_chosen_by_name_list_or_group() -> None:
    assert [e.name for e in estimators.resolve("knn, logme,knn")] == ["knn", "logme"]
    assert [e.name for e in estimators.resolve(["hscore"])] == ["hscore"]
    assert [e.name for e in estimators.resolve("all")] == estimators.names()
    assert [e.name for e in estimators.resolve("default")] == estimators.names(default_only=True)
    empty: list[Any] = ["", []]
    for nothing in empty:
        with pytest.raises(EstimatorError, match="no estimator was named"):
            estimators.resolve(nothing)


def test_one_decorator_adds_an_estimator(open_registry: None) -> None:
    @estimators.estimator(**FACTS)
    def spread(features: np.ndarray, *, power: float = 1.0) -> float:
        """Standard deviation of all features."""
        return float(features.std() ** power)

    x = sample().x
    assert estimators.get("spread")(x, power=2) == pytest.approx(x.var())
    assert spread.family == "label-free"
    assert "Range: [0, inf)" in str(spread.__doc__)
    assert "spread" in estimators.names()
    assert "spread" not in estimators.names(default_only=True)


def test_an_estimator_gets_codes_spectrum_and_other_features_if_it_names_them(open_registry: None) -> None:
    @estimators.estimator(**FACTS)
    def everything(features: np.ndarray, labels: np.ndarray, *, other: np.ndarray, spectrum: Spectrum) -> Scored:
        """Everything that there is."""
        assert set(labels) == {0, 1}
        assert spectrum.n == len(other) == len(features)
        return Scored.mean(labels)

    assert everything.family == "pair"
    assert everything(np.eye(4), ["a", "b", "a", "b"], other=np.eye(4)) == 0.5


def test_a_name_is_taken_once_but_a_cell_may_run_again(open_registry: None) -> None:
    def define() -> Any:
        def mine(features: np.ndarray) -> float:
            """Nothing."""
            return 0.0

        return mine

    estimators.estimator(**FACTS)(define())
    estimators.estimator(**FACTS)(define())
    with pytest.raises(EstimatorError, match="there is an estimator 'mine' already"):
        estimators.estimator(**FACTS, name="mine")(lambda features: 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 5}, "5 cannot name an estimator"),
        ({"name": ""}, "'' cannot name"),
        ({"name": "my own"}, "'my own' cannot name"),
        ({"name": "all"}, "'all' cannot name an estimator: it stands for several"),
        ({"name": "knn"}, "there is an estimator 'knn' already.*choose another name="),
        ({"title": 5}, "has title=5, which is not a text"),
        ({"unit": None}, "has unit=None, which is not a text"),
        ({"range": (0, 1)}, "has range=.0, 1., which is not a text"),
        ({"cost": 5}, "has cost=5, which is not a text"),
        ({"source": 5}, "has source=5, which is not a text"),
        ({"larger_is_better": "no"}, "has larger_is_better='no', which is not True or False"),
        ({"in_default": 1}, "has in_default=1, which is not True or False"),
        ({"null": "yes"}, "has null='yes', which is not True or False"),
        ({"permuted": 5}, "has permuted=5, which is not callable"),
        ({"memory": 5}, "has memory=5, which is not callable"),
        ({"min_per_class": 0}, "has min_per_class=0, which is not a whole number"),
        ({"min_per_class": "2"}, "has min_per_class='2', which is not a whole number"),
    ],
)
def test_facts_of_the_wrong_type_are_refused_at_registration(
    open_registry: None, change: dict[str, Any], message: str
) -> None:
    def mine(features: np.ndarray) -> float:
        """Nothing."""
        return 0.0

    before = estimators.names()
    with pytest.raises(EstimatorError, match=message):
        estimators.register_estimator(**FACTS | change)(mine)
    assert estimators.names() == before


@pytest.mark.parametrize("what", [dict, 5, functools.partial(np.mean), None, iter, range(3).index])
def test_what_is_no_function_is_refused_at_registration(open_registry: None, what: Any) -> None:
    with pytest.raises(EstimatorError, match="an estimator is a function, and this is .*next: write one"):
        estimators.register_estimator(**FACTS)(what)


def no_docstring(features: np.ndarray) -> float:
    return 0.0


def wrong_first(x: np.ndarray) -> float:
    """Nothing."""
    return 0.0


def unknown_argument(features: np.ndarray, layers: int) -> float:
    """Nothing."""
    return 0.0


def any_arguments(features: np.ndarray, **options: int) -> float:
    """Nothing."""
    return 0.0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_docstring, "has no docstring"),
        (wrong_first, "does not take features"),
        (unknown_argument, "nobody would pass the argument 'layers'"),
        (any_arguments, "nobody would pass the argument 'options'"),
    ],
)
def test_a_function_that_could_not_be_called_is_refused_at_registration(
    open_registry: None, function: Any, message: str
) -> None:
    with pytest.raises(EstimatorError, match=message):
        estimators.estimator(**FACTS)(function)
    assert function.__name__ not in estimators.names()


def test_a_score_that_is_not_finite_is_an_error(open_registry: None) -> None:
    @estimators.estimator(**FACTS)
    def broken(features: np.ndarray) -> float:
        """Not a number."""
        return float("nan")

    with pytest.raises(EstimatorError, match="broken gave nan"):
        broken(np.eye(3))
