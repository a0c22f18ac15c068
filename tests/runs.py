"""Tiny models to train, and results of runs that never took place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import pifi_probe as pp
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.tasks import Split, Task
from pifi_probe.training import Recipe, RunResult, TestResult
from tests import slm, tiny

TASK = slm.tiny_task(24)
RECIPE = Recipe(learning_rate=3e-3, batch_size=8, device="cpu")  # 3 steps an epoch


class Parts:
    """A tiny encoder and a tiny donor on disk, made into models on demand."""

    def __init__(self, folder: Path) -> None:
        self.llm = tiny.tiny_checkpoint("llama", folder / "llm")
        self.slm = slm.tiny_slm_folder(folder / "slm")
        slm.tiny_tokenizer().save_pretrained(self.llm)
        layer = pp.extract(f"{self.llm}[1]")
        assert isinstance(layer, FrozenLayer)
        self.layer = layer

    def model(self, seed: int = 0, task: Task = TASK, **options: Any) -> PiFiForSequenceClassification:
        if "matched" in (options.get("wiring"), options.get("scale")):
            options.setdefault("target_rms", 2.0)
        return pp.plug_in(str(self.slm), self.layer, task=task, seed=seed, **options)


def other_domain(name: str = "other") -> Task:
    """Return a test set of other texts with the same classes."""
    test = slm.tiny_task(16).splits["test"]
    texts = tuple(f"{text} {name}" for text in test.texts)
    return replace(TASK, name=name, splits={"test": replace(test, texts=texts)})


def made_up(
    arm: str = "pifi",
    *,
    control: str | None = None,
    seed: int = 0,
    accuracy: float = 0.7,
    n: int = 200,
    recipe: Recipe = RECIPE,
    **changes: Any,
) -> RunResult:
    """Return a result with this share of correct answers, spread over the examples by the seed."""
    rng = np.random.default_rng([seed, *map(ord, arm + (control or ""))])
    labels = np.arange(n) % 2
    correct = rng.permutation(np.arange(n) < round(accuracy * n))
    logits = np.where((labels == correct)[:, None], [0.0, 1.0], [1.0, 0.0])
    test = Split(
        texts=tuple(f"text {i}" for i in range(n)), labels=tuple(labels.tolist()), ids=tuple(map(str, range(n)))
    )
    view = replace(TASK, splits={"test": test})
    layer = {"spec": "llm[1]", "model": "llm", "revision": None, "index": 1, "variant": "real", "reduced": True}
    bare = control in ("vanilla", "linear")
    layers = [] if bare else [layer | {"sha256": "a" * 64, "variant": control or "real"}]
    shapes = {"encoder": 24, "layers": [32] * len(layers), "L_in": [32, 24], "L_out": [24, 32]}
    name = " ".join(part for part in (control, "" if bare else "llm[1]") if part)
    values = RunResult(
        model={
            "label": f"{arm}: {name}",
            "slm": "slm",
            "wiring": arm,
            "control": control,
            "pooling": "cls",
            "layers": layers,
            "shapes": {"encoder": 24} if control == "vanilla" else shapes,
        },
        recipe=recipe.replace(seed=seed),
        lr_projection=5e-5,
        task={"name": TASK.name, "fingerprint": "f", "sizes": {"train": 24, "validation": 12, "test": n}},
        start="s",
        epochs=[{"epoch": 0, "branch_ratio": 1.0}, {"epoch": 1, "accuracy": accuracy, "branch_ratio": 2.0}],
        best_epoch=1,
        tests={TASK.name: TestResult.of(view, logits, TASK.splits["train"].labels)},
        curves={"loss": [0.7, 0.6, 0.5], "grad_norm": [2.0, 3.0, 1.5]},
        parameters={"trainable": 10, "frozen": 5},
        layer_digests={moment: ["a" * 64] * len(layers) for moment in ("before", "after")},
        seconds={"train": 1.0, "test": 0.5},
        peak_memory={"rss_bytes": 1, "cuda_bytes": None},
    )
    return replace(values, **changes)
