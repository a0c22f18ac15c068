"""The grammar of layer specifications."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pifi_probe as pp
from pifi_probe.errors import LayerIndexError, SpecError
from pifi_probe.layers.spec import LayerSpec, Parallel, Serial, model_names, parse
from tests import slm


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smollm2-135m[-1]", LayerSpec("smollm2-135m", index=-1)),
        ("org/name@v1.0[3]", LayerSpec("org/name", index=3, revision="v1.0")),
        ("M[8:11]", LayerSpec("M", start=8, stop=11)),
        ("M[-2:]", LayerSpec("M", start=-2)),
        ("A[1] >> B[2]", Serial((LayerSpec("A", index=1), LayerSpec("B", index=2)))),
        ("A[1]|B[2]", Parallel((LayerSpec("A", index=1), LayerSpec("B", index=2)))),
        (
            "A[1] >> A[2] | B[3]",
            Parallel((Serial((LayerSpec("A", index=1), LayerSpec("A", index=2))), LayerSpec("B", index=3))),
        ),
        ("some folder/with [brackets].gguf[0]", LayerSpec("some folder/with [brackets].gguf", index=0)),
    ],
)
def test_a_specification_parses_and_prints_back(text: str, expected: object) -> None:
    parsed = parse(text)
    assert parsed == expected
    assert parse(str(parsed)) == parsed


def test_an_at_sign_in_an_existing_path_is_no_revision(tmp_path: Path) -> None:
    folder = tmp_path / "me@home"
    folder.mkdir()
    assert parse(f"{folder}[0]") == LayerSpec(str(folder), index=0)


@pytest.mark.parametrize(
    "text",
    ["", "model", "model[]", "model[a]", "[3]", "A[1] >>", "| A[1]", "@main[0]", "M@[0]", "a[٣]", f"M[{'1' * 5000}]"],
)
def test_what_is_no_specification_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(SpecError, match=r"next: write MODEL\[i\]"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("M[-1]", [29]), ("M[0]", [0]), ("M[8:11]", [8, 9, 10]), ("M[-2:]", [28, 29]), ("M[:1]", [0])],
)
def test_indices_count_as_in_python(text: str, expected: list[int]) -> None:
    spec = parse(text)
    assert isinstance(spec, LayerSpec)
    assert spec.indices(30) == expected


@pytest.mark.parametrize("text", ["M[30]", "M[-31]", "M[30:40]", "M[5:5]"])
def test_an_index_outside_of_the_model_is_an_error_that_says_the_range(text: str) -> None:
    spec = parse(text)
    assert isinstance(spec, LayerSpec)
    with pytest.raises(LayerIndexError, match="from 0 to 29"):
        spec.indices(30)


@pytest.mark.parametrize("llm", [None, 3, True, b"x", {}, [], ["a", 3], [None], [["a"]], Path("a"), {"a"}])
def test_what_is_no_name_of_models_is_one_line_at_every_door(llm: Any) -> None:
    doors: list[Callable[[], object]] = [
        lambda: model_names(llm),
        lambda: pp.widgets.LayerSearch(None, llm=llm, study=None),
        lambda: pp.plug_in("x", llm or 0, task=slm.tiny_task()),  # type: ignore[arg-type]
    ]
    for door in doors:
        with pytest.raises(SpecError, match=r"names no model|is not text"):
            door()


def test_one_model_or_several_are_named() -> None:
    assert model_names("a") == ["a"] and model_names(("a", "b")) == ["a", "b"]
