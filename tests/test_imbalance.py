"""Rare classes: weights in the loss, the epoch that is kept, and draws of equally many rows."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

import pifi_probe as pp
from pifi_probe.kinds import kind_of
from pifi_probe.tasks import Split, Task
from tests import kinds

LABELS = (0,) * 12 + (1,) * 4 + (2,) * 2


def uneven() -> Task:
    split = Split(texts=tuple(f"text {n}" for n in range(18)), labels=LABELS, ids=tuple(f"row {n}" for n in range(18)))
    return Task("uneven", "single", ("a", "b", "c"), "en", {"train": split})


def test_balanced_weights_are_those_of_scikit_learn_and_enter_the_loss() -> None:
    work = kind_of(uneven())
    work.weigh("balanced", LABELS)
    weights = compute_class_weight("balanced", classes=np.arange(3), y=np.array(LABELS))
    logits = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.0, -1.0], [0.0, 0.0, 3.0]])
    labels = torch.tensor([0, 2, 1])
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none").numpy()
    want = (each * weights[labels]).sum() / weights[labels].sum()
    assert float(work.loss(SimpleNamespace(logits=logits), {"labels": labels}, 0.0)) == pytest.approx(want, rel=1e-6)
    plain = kind_of(uneven())
    plain.weigh("none", LABELS)
    assert float(plain.loss(SimpleNamespace(logits=logits), {"labels": labels}, 0.0)) == pytest.approx(each.mean())


def test_with_weights_the_epoch_with_the_best_macro_f1_is_kept() -> None:
    common, rare = {"accuracy": 0.9, "macro_f1": 0.47, "nll": 0.3}, {"accuracy": 0.8, "macro_f1": 0.7, "nll": 0.4}
    for weights, better, worse in (("none", common, rare), ("balanced", rare, common)):
        work = kind_of(uneven())
        work.weigh(weights, LABELS)
        assert work.quality(better | {"n": 100}) > work.quality(worse | {"n": 100})


def test_weights_that_do_not_fit_the_task_are_refused() -> None:
    with pytest.raises(pp.errors.RecipeError, match=r"2 class weights for 3 classes \(a, b, c\)"):
        kind_of(uneven()).weigh((1.0, 2.0), LABELS)
    for kind in ("regression", "qa", "seq2seq", "multiple-choice", "token-classification"):
        task = kinds.task_of(kind)
        with pytest.raises(pp.errors.RecipeError, match="has no class weights"):
            kind_of(task).weigh("balanced", task.splits["train"].labels)


def test_a_draw_by_class_is_even_nested_and_the_same_again() -> None:
    task = uneven()
    two, one = task.subset(per_class=2), task.subset(per_class=1)
    assert Counter(two.splits["train"].labels) == {0: 2, 1: 2, 2: 2}
    assert set(one.splits["train"].ids) < set(two.splits["train"].ids)
    assert two.fingerprint == task.subset(per_class=2).fingerprint != task.subset(per_class=2, seed=1).fingerprint
    with pytest.raises(pp.errors.TaskError, match="3 rows of every class were asked for, and c has 2"):
        task.subset(per_class=3)
    with pytest.raises(pp.errors.TaskError, match="together with train"):
        task.subset(train=9, per_class=2)
    with pytest.raises(pp.errors.TaskError, match="rows have one class"):
        kinds.task_of("regression").subset(per_class=2)
