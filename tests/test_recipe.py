"""A recipe says how a model is trained, and nothing that is not true."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from pifi_probe.errors import RecipeError
from pifi_probe.training import Recipe
from pifi_probe.training.key import RunKey


def test_the_defaults_are_those_of_the_paper_and_of_its_reference_code() -> None:
    values = Recipe().to_dict()
    assert values == {
        "learning_rate": 5e-5,
        "lr_projection": None,
        "lr_gate": 1e-2,
        "batch_size": 32,
        "epochs": 3,
        "max_tokens": 100,
        "label_smoothing": 0.05,
        "max_grad_norm": 5.0,
        "seed": 0,
        "precision": "float32",
        "device": "auto",
    }


def test_what_only_the_reference_code_states_is_marked() -> None:
    assert Recipe.__doc__ is not None
    sections = Recipe.__doc__.split(" : ")
    for name in ("max_tokens", "label_smoothing", "max_grad_norm"):
        text = next(after for before, after in zip(sections, sections[1:], strict=False) if before.endswith(name))
        assert "reference code only" in text


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(seed=7, lr_projection=1e-3, precision="bf16", device="cpu")])
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    again = Recipe.from_json(recipe.to_json())
    assert again == recipe and again.to_json() == recipe.to_json()


def test_equal_settings_are_written_alike_whatever_their_types() -> None:
    whole: Any = np.int64(1)
    assert Recipe(max_grad_norm=5, seed=whole).to_json() == Recipe(seed=1).to_json()
    assert Recipe(learning_rate=np.float64(1e-4)).to_json() == Recipe(learning_rate=1e-4).to_json()


def test_every_setting_makes_another_run() -> None:
    changes = {
        "learning_rate": 1e-4,
        "lr_projection": 1e-4,
        "lr_gate": 1e-3,
        "batch_size": 8,
        "epochs": 1,
        "max_tokens": 50,
        "label_smoothing": 0.0,
        "max_grad_norm": 1.0,
        "seed": 1,
        "precision": "bf16",
        "device": "cpu",
    }
    assert changes.keys() == Recipe().to_dict().keys()
    recipes = [Recipe(), *(Recipe().replace(**{name: value}) for name, value in changes.items())]
    keys = [RunKey.of({}, "task", one.to_dict()) for one in recipes]
    assert all(a != b for a, b in combinations(keys, 2)) and len(keys) == 12


def test_replace_leaves_the_original_as_it_was() -> None:
    recipe = Recipe()
    assert recipe.replace(seed=3).seed == 3 and recipe.seed == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"learning_rat": 1e-3}, "learning_rate"),
        ({"batchsize": 8}, "batch_size"),
        ({"precision": "float23"}, "float32"),
        ({"device": "cdua"}, "cuda"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest_one(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=f"did you mean '{says}'"):
        Recipe().replace(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"learning_rate": None},
        {"learning_rate": "5e-5"},
        {"lr_projection": -1e-3},
        {"lr_gate": 0},
        {"batch_size": 0},
        {"batch_size": 8.5},
        {"epochs": 0},
        {"epochs": True},
        {"max_tokens": 2},
        {"label_smoothing": 1.0},
        {"max_grad_norm": -1},
        {"seed": -1},
        {"seed": 2**32},
        {"precision": "fp8"},
    ],
)
def test_a_value_out_of_range_is_refused_in_one_line_that_names_it(wrong: dict[str, object]) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe(**wrong)  # type: ignore[arg-type]
    assert next(iter(wrong)) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"seed": "one"}'])
def test_bad_json_is_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        Recipe.from_json(text)


def test_class_weights_are_written_only_where_there_are_some() -> None:
    assert "class_weights" not in Recipe().to_dict()  # so runs of earlier versions stay the same runs
    assert Recipe(class_weights="none").to_json() == Recipe().to_json()
    weighted = Recipe(class_weights=(1, 3))
    assert weighted.class_weights == (1.0, 3.0) and weighted == Recipe(class_weights=np.array([1, 3]))  # type: ignore[arg-type]
    assert Recipe.from_json(weighted.to_json()) == weighted and weighted != Recipe()
    assert Recipe.from_json(Recipe(class_weights="balanced").to_json()).class_weights == "balanced"


@pytest.mark.parametrize(
    "wrong", ["balance", (1.0,), (1.0, 0.0), (1.0, float("nan")), (True, 1.0), 3.0, ("a", "b"), None]
)
def test_class_weights_that_make_no_sense_are_refused(wrong: Any) -> None:
    with pytest.raises(RecipeError, match="class_weights"):
        Recipe(class_weights=wrong)
