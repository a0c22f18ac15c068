"""Plugged models as graphs: torch.export with dynamic shapes, torch.compile without breaks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.export import Dim

from tests.contract import CASES, Shelf, answer, batch_of


def shapes(name: str, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    length: Any
    rows, length, choices = (Dim(axis, max=60) for axis in ("rows", "length", "choices"))
    target = Dim("target", min=3, max=60)  # a target is shifted by one; graphs take sizes of 0 and 1 for constants
    if name.startswith(
        "aligned"
    ):  # a first state stands before the tokens; with named sizes no proof of 1 + n <= 2 + 2n
        length = Dim.AUTO
    found: dict[str, Any] = {}
    for key, value in batch.items():
        dims = [rows] if value.dim() == 1 else [rows, choices, length][: value.dim()]
        if value.is_floating_point():  # a number for each label, of which there are as many as the head has outputs
            dims = [rows]
        elif value.dim() == 2:
            dims = [rows, target if value.shape[1] != batch["input_ids"].shape[-1] else length]
        found[key] = dict(enumerate(dims))
    return found


QUICK = ("classes", "regression", "choices", "answers", "tags", "writing, T5", "mix", "unshared", "folded")
EXPORTS = [
    pytest.param(name, labels, id=f"{name}, {'with' if labels else 'without'} labels", marks=mark)
    for name in CASES
    for labels in (True, False)
    if labels
    or name in QUICK
    or name.startswith("aligned")
    or CASES[name].kind == "seq2seq"  # without labels a graph has its loss less
    for mark in [[] if labels and name in QUICK else [pytest.mark.slow]]
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "labels"), EXPORTS)
def test_an_exported_model_takes_any_batch_length_and_padding(name: str, labels: bool, shelf: Shelf) -> None:
    model = shelf.model(name)
    batch = batch_of(name, labels=labels)
    if not labels and CASES[name].kind == "seq2seq":
        batch["decoder_input_ids"] = torch.full((8, 5), 2)
    program = torch.export.export(model, (), kwargs=batch, dynamic_shapes=shapes(name, batch), strict=False).module()
    extra = torch.nn.functional.pad
    long = {
        k: extra(v, (4, 3)) if v.dim() > 1 and k not in ("labels", "decoder_input_ids") else v for k, v in batch.items()
    }
    if CASES[name].kind == "token-classification" and labels:
        long["labels"] = extra(batch["labels"], (4, 3), value=-100)
    if CASES[name].kind == "qa" and labels:
        long |= {k: v + 4 for k, v in batch.items() if k.endswith("positions")}
    few = {key: value[:3] for key, value in batch.items()}
    for rows in (batch, long, few):
        assert torch.allclose(answer(program, rows), answer(model, rows), atol=1e-4)
        if labels:
            assert torch.allclose(program(**rows).loss, model(**rows).loss, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "classes",
        "classes, matched",
        "classes, sequence",
        "choices",
        "answers",
        "aligned",
        "aligned, back",
        "tags",
        "gated",
    ],
)
def test_a_compiled_model_is_one_graph(name: str, shelf: Shelf) -> None:
    torch._dynamo.reset()  # a process compiles one function for a few models only
    model, batch = shelf.model(name), batch_of(name)
    expected = answer(model, batch)  # transformers hooks an encoder at its first call, behind a lock
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
    assert torch.allclose(answer(compiled, batch), expected, atol=1e-4)
    model(**batch).loss.backward()
    eager = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    compiled(**batch).loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == eager.keys() and any(name.startswith("head") for name in found)
    assert all(torch.allclose(found[name], eager[name], atol=1e-4) for name in found)
