"""No tensor of the CPU meets those of the device: forward, loss and evaluation on the meta device; the check of a card.

The meta device has shapes and no numbers, and refuses a tensor of the CPU as a card does. Code of a forward pass that
asks for a number is told that it is being compiled, and so takes the branch that asks for none. Code of an evaluation
asks and is answered, see `Card`. What writes is asked for what its decoder reads: it needs a number for each token.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from pifi_probe.kinds import kind_of
from pifi_probe.training.scales import plugin_scales
from tests import kinds, slm
from tests.contract import CASES, Shelf, batch_of

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"
GROUPS = ("families", "models", "training", "storage", "probing", "memory", "costs", "large")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


def paths(name: str, shelf: Shelf) -> Iterator[torch.Tensor]:
    """Yield the losses of a model on the meta device: its own, and that of training and evaluation."""
    model = shelf.model(name).to("meta")
    batch = {key: value.to("meta") for key, value in batch_of(name).items()}
    yield model(**batch).loss
    work = kind_of(kinds.task_of(CASES[name].kind))
    targets = {key: batch.pop(key) for key in work.targets}
    yield work.loss(work.outputs(model, batch, targets), targets, 0.05)
    if CASES[name].kind == "single":
        work.weigh("balanced", kinds.task_of("single").splits["train"].labels)
        yield work.loss(work.outputs(model, batch, targets), targets, 0.05)


class Card(TorchFunctionMode):
    """Lets the meta device answer as a card does: numbers that are fetched are all zero, and a mask selects every row.

    What a card refuses is still refused: tensors of two devices together, and NumPy's view of what was not fetched.
    """

    FETCHING = ("cpu", "tolist", "item", "__float__", "__int__")

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, own = getattr(function, "__name__", ""), args[0] if args else None
        if isinstance(own, torch.Tensor) and own.is_meta:
            if name in self.FETCHING:
                return getattr(torch.zeros(own.shape, dtype=own.dtype), name)()
            if name == "__bool__":  # such as whether all numbers are finite
                return True
            if name == "__getitem__" and isinstance(args[1], torch.Tensor) and args[1].dtype == torch.bool:
                return own.flatten(0, args[1].dim() - 1)
        return function(*args, **(kwargs or {}))


def written(encoder_outputs: Any, attention_mask: torch.Tensor, **options: Any) -> torch.Tensor:
    """Take the place of transformers' loop over tokens; refuse what is not on the device."""
    states = encoder_outputs.last_hidden_state
    return (states[:, :3, 0] + attention_mask[:, :3]).long()


QUICK = ("classes", "classes, sequence both ways", "choices", "answers", "tags", "writing, BART", "gated", "aligned")
QUICK += ("pairs, mean", "regression", "labels")
EVERY = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)


@EVERY
def test_no_tensor_of_the_cpu_meets_what_evaluates_the_models(name: str, shelf: Shelf) -> None:
    model, tokenizer = shelf.model(name).to("meta"), slm.tiny_tokenizer()
    task = kinds.task_of(CASES[name].kind)
    work, split = kind_of(task), task.splits["test"]
    encoded = work.encode(split, tokenizer, 40)
    if CASES[name].kind == "seq2seq":
        model.seq2seq.generate = written
    with Card():
        work.predict(model, encoded, tokenizer, final=False)
        found = work.predict(model, encoded, tokenizer)
        scales = plugin_scales(model, encoded, tokenizer)
    assert work.metrics(split, found)["n"] == len(split)
    assert set(scales.values()) <= {0.0}


def test_what_was_not_fetched_is_no_array() -> None:
    there = torch.ones(2, 3, device="meta")
    with Card():
        assert there.sum(1).cpu().numpy().tolist() == there.sum(1).tolist() == [0.0, 0.0] and float(there.sum()) == 0
        assert there[there.bool()].shape == (6,)
        for mistake in (there.numpy, lambda: there + torch.ones(3)):
            with pytest.raises((TypeError, RuntimeError), match=r"Tensor\.cpu|device"):
                mistake()


@pytest.mark.usefixtures("compiling")
@EVERY
def test_no_tensor_of_the_cpu_meets_the_models(name: str, shelf: Shelf) -> None:
    for loss in paths(name, shelf):
        assert loss.is_meta
        loss.backward()


@pytest.mark.usefixtures("compiling")
def test_one_that_did_would_be_found(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    from pifi_probe.plugin import base

    def pool(states: torch.Tensor, mask: torch.Tensor, how: str) -> torch.Tensor:
        return states[:, 0] + torch.zeros(states.shape[-1])  # made without a device

    monkeypatch.setattr(base, "pool", pool)
    with pytest.raises(RuntimeError, match="device"):
        list(paths("classes", shelf))


def test_a_failing_check_is_a_row_and_the_others_go_on(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Some:
        def __getattr__(self, group: str) -> Any:
            if group == "training":
                raise RuntimeError("no kernel")
            return lambda: iter([{"check": group, "holds": group != "models"}])

    rows = script.run(Some(), float("inf"))
    assert [row["group"] for row in rows] == list(GROUPS)
    assert "no kernel" in rows[2]["error"]
    made = {"date": "2026-01-01", "machine": {"cpu": "a", "gpu": "a card"}, "versions": {"torch": "2"}}
    assert script.summary(rows, made) == (
        "| 2026-01-01 | a card | torch 2 | 6 of 8 | models: models; training: broke off |"
    )
    late = script.run(Some(), 0)
    assert {row["check"] for row in late if row["holds"] is None} == {"no time left"}


@pytest.mark.slow
def test_the_check_of_a_card_holds_on_the_cpu(tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", "--out", str(out)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert {row["group"] for row in found["rows"]} == set(GROUPS)
    assert all(row["holds"] for row in found["rows"])
    assert done.stdout.strip().splitlines()[-1].endswith("| none |")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch sees no CUDA device")
@pytest.mark.parametrize("group", GROUPS)
def test_a_card_gives_the_numbers_of_the_cpu(group: str, script: ModuleType, tmp_path: Path) -> None:
    rows = list(getattr(script.Check("cuda", False, tmp_path), group)())
    assert rows and [row for row in rows if row["holds"] is not True] == []
