"""The donor by a probe: the language model up to its best point and a linear head, without any encoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from pifi_probe.files import write_json
from pifi_probe.kinds import kind_of
from pifi_probe.layers.content import content_of
from pifi_probe.layers.open import open_named
from pifi_probe.layers.spec import LayerSpec, parse
from pifi_probe.layers.tokenizer import donor_tokenizer
from pifi_probe.probing.probe import probe
from pifi_probe.probing.probe_model import ProbeForSequenceClassification
from pifi_probe.probing.settings import ProbeSettings
from pifi_probe.provenance import PeakMemory
from pifi_probe.reading import read_json, typed
from pifi_probe.tasks.shift import shift_view
from pifi_probe.tasks.task import Task
from pifi_probe.training.recipe import Recipe
from pifi_probe.training.result import TestResult

__all__ = ["Reference", "probed"]

Served = tuple[nn.Module, PreTrainedTokenizerBase]


class Reference(nn.Module):
    """A probe whose donor counts: its parameters are those of everything that a call runs.

    Parameters
    ----------
    probe : ProbeForSequenceClassification
    """

    def __init__(self, probe: ProbeForSequenceClassification) -> None:
        super().__init__()
        self._probe = (probe,)  # in a tuple: its head is among the parts
        self.parts = probe.parts()

    def forward(self, **batch: Any) -> Any:
        """Classify a batch of the donor's tokens."""
        return self._probe[0](**batch)


def _donor_of(layer: str) -> str:
    """Return the model, with its revision, that the first layer is of."""
    spec: Any = parse(layer)
    while not isinstance(spec, LayerSpec):
        spec = spec.parts[0]
    return spec.donor


def probed(
    layer: str, task: Task, recipe: Recipe, also: Sequence[Task], folder: Path
) -> tuple[dict[str, TestResult], dict[str, Any], Callable[[], Served]]:
    """Probe the donor on all training rows, and test its best point once; what a folder holds is not made again.

    Returns
    -------
    tests : dict of str to TestResult
        The task's own test first.
    facts : dict
        ``point``, ``seconds``, ``trained`` and ``peak_memory``.
    load : callable
        Returns the model and its tokenizer.
    """
    donor, file, kind = _donor_of(layer), folder / "probe.json", kind_of(task)
    views = {task.name: (task, "")}
    for other in also:
        view, report = shift_view(other, task)
        views[other.name] = (view, str(report) if report.n_dropped else "")
    tested = {name: view.fingerprint for name, (view, _) in views.items()}
    wanted = {"donor": content_of(open_named(donor)), "task": task.fingerprint, "tests": tested}
    wanted |= {name: getattr(recipe, name) for name in ("max_tokens", "seed", "device", "precision")}

    def load() -> Served:
        model = ProbeForSequenceClassification.from_pretrained(
            folder / "model", allow_external=True, trust_remote_code=False
        ).to(recipe.device)
        return Reference(model).eval(), donor_tokenizer(model.checkpoint())

    stored = read_json(file) if file.is_file() else {}
    if stored.get("of") == wanted:
        return {name: typed(TestResult, values) for name, values in stored["tests"].items()}, stored["facts"], load
    since = time.perf_counter()
    with PeakMemory() as memory:
        settings = ProbeSettings(
            max_tokens=recipe.max_tokens, n_permutations=0, precision=recipe.precision, device=recipe.device
        )
        options: dict[str, Any] = {"n": len(task.splits["train"]), "seed": recipe.seed, "progress": False}
        table = probe(donor, task, settings, estimators=["logistic_nll"], **options)
        model = table.to_model(task=task, llm=donor).to(recipe.device)
    seconds, tokenizer = time.perf_counter() - since, donor_tokenizer(model.checkpoint())
    labels = task.splits["train"].labels
    tests = {}
    for name, (view, note) in views.items():
        encoded = kind.encode(view.splits["test"], tokenizer, recipe.max_tokens)
        logits = kind.predict(model, encoded, tokenizer, precision=recipe.precision)
        tests[name] = TestResult.of(view, logits, labels, note)
    facts = {
        "point": model.config.point,
        "seconds": seconds,
        "trained": sum(p.numel() for p in model.head.parameters()),
        "peak_memory": memory.to_dict(),
    }
    model.save_pretrained(folder / "model")
    write_json(file, {"of": wanted, "facts": facts, "tests": {name: asdict(test) for name, test in tests.items()}})
    return tests, facts, load
