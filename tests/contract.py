"""The cases of the contract with transformers: every head, every control, every combination, both feeds."""

from __future__ import annotations

import copy
import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import pifi_probe as pp
from pifi_probe.kinds import kind_of
from pifi_probe.plugin.base import PiFiPreTrainedModel
from tests import kinds, slm, tiny

ROWS = 8


@dataclass(frozen=True)
class Case:
    """A plugged model: the kind of its task, its layers, and what else `plug_in` is told."""

    kind: str = "single"
    layers: str = "[1]"
    options: dict[str, Any] = field(default_factory=dict)
    family: str = "bert"
    fold: str = ""


CASES: dict[str, Case] = {
    "classes": Case(),
    "classes, sequence": Case(options={"feed": "sequence"}),
    "classes, sequence both ways": Case(options={"feed": "sequence", "mask": "bidirectional"}),
    "classes, matched": Case(options={"wiring": "matched", "target_rms": 2.0}),
    "pairs, mean": Case("pair", options={"pooling": "mean"}),
    "regression": Case("regression"),
    "labels": Case("multi-label", options={"pooling": "mean"}),
    "choices": Case("multiple-choice"),
    "choices, sequence": Case("multiple-choice", options={"feed": "sequence"}),
    "answers": Case("qa"),
    "tags": Case("token-classification"),
    "tags, matched": Case("token-classification", options={"wiring": "matched", "target_rms": 2.0}),
    "writing, new decoder": Case("seq2seq", family="encoder-decoder"),
    "writing, T5": Case("seq2seq", family="t5"),
    "writing, BART": Case("seq2seq", family="bart"),
    **{
        f"control {name}": Case(options={"control": name})
        for name in ("vanilla", "linear", "mlp", "random", "shuffled")
    },
    "control unfrozen": Case(options={"control": "unfrozen"}),
    "control unfrozen, tags": Case("token-classification", options={"control": "unfrozen"}),
    "serial": Case(layers="[0] >> [1]"),
    "gated-serial": Case(layers="[0] >> [1]", options={"combine": "gated-serial", "feed": "sequence"}),
    "mix": Case(layers="[0] | [1]", options={"combine": "mix"}),
    "mix, tags": Case("token-classification", "[0] | [1]", {"combine": "mix"}),
    "unshared": Case(layers="[0] | [1]", options={"combine": "unshared", "feed": "sequence"}),
    "gated": Case(layers="[0] | [1]", options={"combine": "gated", "wiring": "matched", "target_rms": 2.0}),
    "aligned": Case(layers="[1:3]", options={"wiring": "aligned"}),
    "aligned, tags": Case("token-classification", "[1:3]", {"wiring": "aligned"}),
    "aligned, back": Case(layers="[1:3]", options={"wiring": "aligned", "read": "back"}),
    "folded": Case(fold="z"),
    "folded, grouped": Case(fold="grouped"),
}
PLUGGED = tuple(name for name, case in CASES.items() if not case.fold and "vanilla" not in name)
WITH_LAYER = tuple(name for name in PLUGGED if CASES[name].options.get("control") not in ("linear", "mlp", "unfrozen"))


class Shelf:
    """Tiny donors and small language models on disk, without dropout; models of the cases on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.llm = tiny.tiny_checkpoint("llama", folder / "llm")
        slm.tiny_tokenizer().save_pretrained(self.llm)
        self.caches = {name: str(folder / "cache") for name in ("PIFI_PROBE_FEATURES", "PIFI_PROBE_CACHE")}

    @functools.cache  # noqa: B019
    def slm(self, family: str) -> Path:
        path = self.folder / family
        if family in kinds.SEQ2SEQ:
            kinds.tiny_seq2seq_folder(path, family)
        else:
            slm.tiny_slm_folder(path, family)
        config = path / "config.json"
        config.write_text(json.dumps(_without_dropout(json.loads(config.read_text(encoding="utf-8")))))
        return path

    def model(self, name: str) -> PiFiPreTrainedModel:
        return copy.deepcopy(self._made(name))

    @functools.cache  # noqa: B019
    def _made(self, name: str) -> PiFiPreTrainedModel:
        case = CASES[name]
        layers = case.layers.replace("[", f"{self.llm}[")
        small, task = str(self.slm(case.family)), kinds.task_of(case.kind)
        with mock.patch.dict(os.environ, self.caches):
            model = pp.plug_in(small, layers, task=task, seed=3, **case.options)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            if case.options and model.plugin is not None:  # zero starts would hide the layer
                for parameter in (p for n, p in model.plugin.named_parameters() if not n.startswith("layers.")):
                    if not parameter.any():
                        parameter.normal_(0.0, 0.1)
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        return model.fold(case.fold) if case.fold else model


def _without_dropout(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: 0.0 if "drop" in key else _without_dropout(value) for key, value in config.items()}
    return config


@functools.cache
def _rows(kind: str) -> dict[str, torch.Tensor]:
    task, tokenizer = kinds.task_of(kind), slm.tiny_tokenizer()
    work = kind_of(task)
    rows = work.encode(task.splits["train"].take(range(ROWS)), tokenizer, 40)
    return dict(work.collate(tokenizer)([rows[row] for row in range(ROWS)]))


def batch_of(name: str, labels: bool = True) -> dict[str, torch.Tensor]:
    """Return eight rows of the task of a case; rows of unlike length, choices of unlike number."""
    kind = CASES[name].kind
    targets = kind_of(kinds.task_of(kind)).targets
    return {key: value.clone() for key, value in _rows(kind).items() if labels or key not in targets}


def answer(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return all numbers that a model gives for a batch, as one vector."""
    with torch.no_grad():
        out = model(**batch)
    names = [name for name in ("logits", "start_logits", "end_logits") if name in out]
    numbers: torch.Tensor = torch.cat([out[name].float().flatten() for name in names])
    return numbers[numbers > torch.finfo(torch.float16).min / 2]  # the lowest number stands for none


def same(again: Any, model: Any, name: str) -> bool:
    """Whether a model that was loaded is the one that was saved: weights bit for bit, numbers to rounding.

    Where weights lie in memory decides on some processors how they are multiplied, and so on the last bit.
    """
    stored, kept = again.state_dict(), model.state_dict()
    weights = stored.keys() == kept.keys() and all(torch.equal(stored[key], kept[key]) for key in kept)
    return weights and torch.allclose(
        answer(again, batch_of(name)), answer(model, batch_of(name)), rtol=1e-5, atol=1e-6
    )


def gradients(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the gradient of the loss for each weight that has one."""
    model.zero_grad()
    model(**batch).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def frozen_state(model: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of the frozen layers."""
    return {f"{i}.{n}": t.clone() for i, layer in enumerate(model.frozen_layers) for n, t in layer.tensors()}


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 1e-4) -> bool:
    """Return True when two sets of tensors have the same names and nearly the same numbers."""
    near: Callable[..., bool] = functools.partial(torch.allclose, atol=tolerance, rtol=tolerance)
    return one.keys() == other.keys() and all(near(tensor, other[name]) for name, tensor in one.items())
