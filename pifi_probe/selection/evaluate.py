"""`PiFiEvaluator`: runs a candidate on any rung of the ladder, from a training-free score to a full run.

=============  =====================================================================================
rung           what runs
=============  =====================================================================================
"estimator"    LogME of the encoder's vectors next to the layer's branch, with a random L_in; no training
"frozen"       projections and head on cached vectors of the encoder (`pifi_probe.probing.frozen_slm`)
"last-block"   the encoder's last blocks too, over cached activations of the lower ones
"short"        everything, one epoch
"full"         everything, as the recipe says
=============  =====================================================================================

For ``wiring="aligned"`` the first two are those of `pifi_probe.selection.aligned`.

All rungs of one seed share their random numbers between candidates: new weights, order of the data and dropout.
Candidates are compared by the negative log-likelihood on the validation split. "frozen" and "full" also record the
test split, which only the confirmation reads.
"""

from __future__ import annotations

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from pifi_probe.errors import RunInterrupted, SearchError
from pifi_probe.kinds.evaluating import predict_logits
from pifi_probe.kinds.metrics import per_example
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.probing.estimators import logme
from pifi_probe.probing.frozen_arms import CONTROLS as FROZEN_CONTROLS
from pifi_probe.probing.frozen_arms import Arm, make_tail
from pifi_probe.probing.frozen_slm import frozen_slm
from pifi_probe.probing.gains import beside
from pifi_probe.selection.aligned import AlignedRungs
from pifi_probe.selection.cached import truncate_encoder
from pifi_probe.selection.estimate import Measure
from pifi_probe.selection.one_shot import train_one_shot
from pifi_probe.selection.parts import FROZEN_EPOCHS, LAST_BLOCKS, Parts
from pifi_probe.selection.space import ONE_SHOT, Candidate
from pifi_probe.selection.trials import RUNGS, Outcome
from pifi_probe.tasks.task import Task
from pifi_probe.training.folder import RunFolder
from pifi_probe.training.recipe import Recipe
from pifi_probe.training.run import Run

__all__ = ["PiFiEvaluator"]

Stop = Callable[[], bool]
FROZEN_RATE = 1e-3
_TIMED = 5


@dataclass
class PiFiEvaluator:
    """Runs trials of a search.

    Parameters
    ----------
    parts : Parts
    plain : bool
        Only single layers in the wiring's own modes are compared. Otherwise the rung "frozen" trains every
        candidate as a whole model over cached activations, so that all are made alike.
    """

    parts: Parts
    plain: bool = True

    def check(self) -> Mapping[str, str]:
        """Load the encoder, open the donors, and return the digests of all."""
        return self.parts.load()

    def cost(self, candidate: Candidate, rung: str) -> float:
        """Return the cost in full runs, from the numbers of multiply-accumulates."""
        return self.parts.work.cost(rung, max(1, len(candidate.layers)))

    def measure(self) -> Measure:
        """Time a few steps of training."""
        return self.parts.measure()

    def evaluate(self, candidate: Candidate, rung: str, seed: int, stop: Stop) -> Outcome:
        """Run one trial.

        Raises
        ------
        RunInterrupted
            When `stop` says True; at the latest after the current training step.
        SearchError
            If there is no such rung, or it cannot run this candidate.
        PifiProbeError
            Whatever a run can raise.
        """
        aligned = self.parts.wiring == "aligned"
        rungs: dict[str, Callable[[Candidate, int, Stop], Outcome]] = {
            "estimator": self._estimator,
            "frozen": self._frozen if self._is_plain(candidate) or aligned else self._frozen_model,
            "last-block": self._last_block,
            "short": self._short,
            "full": self._full,
        }
        if rung not in rungs:
            raise SearchError(f"unknown rung {rung!r}", where="evaluate", next=f"use one of {', '.join(RUNGS)}")
        _leave_if(stop)
        since = time.perf_counter()
        one_shot = candidate.design == ONE_SHOT
        if aligned and (one_shot or rung == "last-block"):
            raise SearchError(
                f"{'one-shot training' if one_shot else 'the rung last-block'} does not know aligned chains",
                where=candidate.label,
                next='use strategy="span", "exhaustive" or "random"',
            )
        outcome = self._one_shot(candidate, seed, stop) if one_shot else rungs[rung](candidate, seed, stop)
        return replace(outcome, cost=self.cost(candidate, rung), seconds=time.perf_counter() - since)

    def _is_plain(self, candidate: Candidate) -> bool:
        known = candidate.control is None or candidate.control in FROZEN_CONTROLS
        return self.plain and known and len(candidate.layers) <= 1 and not candidate.modes

    # Rungs

    @functools.cached_property
    def _aligned(self) -> AlignedRungs:
        return AlignedRungs(self.parts)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process computes for itself."""
        return {"parts": self.parts, "plain": self.plain}

    def _estimator(self, candidate: Candidate, seed: int, stop: Stop) -> Outcome:
        if self.parts.wiring == "aligned":
            promise, added = self._aligned.promise(candidate)
            return Outcome(-promise, result={"headroom": added})
        if not self._is_plain(candidate):
            raise SearchError(
                "the training-free rung scores single layers only", where=candidate.label, next='begin at "frozen"'
            )
        train, _ = self.parts.vectors
        arm = self.parts.arm(candidate, seed)
        h = torch.from_numpy(train.h)
        plugin = make_tail(arm, h[:64], self.parts.task.n_labels, self.parts.wiring, seed).plugin
        if plugin is None:
            return Outcome(-logme(train.h, train.labels))
        with torch.no_grad():
            x = plugin.scale_in * plugin.L_in(h[:, None])  # (N, 1, d_llm)
            branch = torch.cat([plugin.core(rows, None) - rows for rows in x.split(512)])[:, 0]
        features = train.h if not branch.any() else beside(train.h, branch.numpy())
        return Outcome(-logme(features, train.labels))

    def _frozen(self, candidate: Candidate, seed: int, stop: Stop) -> Outcome:
        if self.parts.wiring == "aligned":
            return self._scored(candidate, "frozen", *self._aligned.frozen(candidate, seed))
        train, scored = self.parts.vectors
        arm = self.parts.arm(candidate, seed)
        (run,) = frozen_slm(
            [arm],
            train,
            scored,
            n_labels=self.parts.task.n_labels,
            wiring=self.parts.wiring,
            seeds=[seed],
            epochs=FROZEN_EPOCHS,
            learning_rate=FROZEN_RATE,
            device=self.parts.device,
            on_step=lambda: _leave_if(stop),
        )
        outcome = self._scored(candidate, "frozen", run.nll[0], run.correct[0])
        return replace(outcome, **self._size_of_arm(arm, seed))

    def _frozen_model(self, candidate: Candidate, seed: int, stop: Stop) -> Outcome:
        model = self.parts.model(candidate, seed)
        sizes = self._sizes(model)
        truncate_encoder(model, self.parts.lower(0), self.parts.batch(self.parts.frozen_task.splits["train"]))
        recipe = self.parts.recipe.replace(
            learning_rate=FROZEN_RATE, lr_projection=FROZEN_RATE, epochs=FROZEN_EPOCHS, seed=seed
        )
        self._train(model, self.parts.frozen_task, recipe, stop)
        rows = self.parts.rows
        found = [
            per_example(rows[name].labels, predict_logits(model, self.parts.encoded(rows[name]), self.parts.tokenizer))
            for name in ("validation", "test")
        ]
        nll, correct = (np.concatenate([one[name] for one in found]) for name in ("nll", "correct"))
        return replace(self._scored(candidate, "frozen", nll, correct), **sizes)

    def _last_block(self, candidate: Candidate, seed: int, stop: Stop) -> Outcome:
        model = self.parts.model(candidate, seed)
        sizes = self._sizes(model)
        truncate_encoder(model, self.parts.lower(LAST_BLOCKS), self.parts.batch(self.parts.task.splits["train"]))
        run = self._train(model, self.parts.task, self.parts.recipe.replace(seed=seed), stop)
        return replace(_validated(run, candidate, "last-block"), **sizes)

    def _short(self, candidate: Candidate, seed: int, stop: Stop) -> Outcome:
        model = self.parts.model(candidate, seed)
        sizes = self._sizes(model)
        run = self._train(model, self.parts.task, self.parts.recipe.replace(seed=seed, epochs=1), stop)
        return replace(_validated(run, candidate, "short"), **sizes)

    def _full(self, candidate: Candidate, seed: int, stop: Stop) -> Outcome:
        model = self.parts.model(candidate, seed)
        sizes = self._sizes(model)
        run = self._train(model, self.parts.task, self.parts.recipe.replace(seed=seed), stop)
        _leave_if(stop)
        result = run.test()
        validation = result.metrics["validation"]
        return Outcome(validation["nll"], validation["accuracy"], result=result.to_dict(), **sizes)

    def _one_shot(self, candidate: Candidate, seed: int, stop: Stop) -> Outcome:
        train, scored = self.parts.vectors
        arms = [self.parts.arm(Candidate((layer,), modes=candidate.modes), seed) for layer in candidate.layers]
        shares, logits = train_one_shot(
            arms,
            train,
            scored,
            n_labels=self.parts.task.n_labels,
            wiring=self.parts.wiring,
            seed=seed,
            epochs=FROZEN_EPOCHS,
            device=self.parts.device,
            stop=stop,
        )
        rows = per_example(scored.labels, logits)
        outcome = self._scored(candidate, "one-shot", rows["nll"], rows["correct"])
        weights = {layer: float(share) for layer, share in zip(candidate.layers, shares, strict=True)}
        return replace(outcome, result={**(outcome.result or {}), "weights": weights})

    # What they share

    def _train(self, model: PiFiForSequenceClassification, task: Task, recipe: Recipe, stop: Stop) -> Run:
        run = Run(model, task, recipe)
        with tempfile.TemporaryDirectory(prefix="pifi_probe_search_", ignore_cleanup_errors=True) as folder:
            run.train(RunFolder(Path(folder)), keep_checkpoints=False, callbacks=[_Leave(stop)])
        return run

    def _scored(self, candidate: Candidate, rung: str, nll: NDArray[Any], correct: NDArray[Any]) -> Outcome:
        """Return the outcome of validation rows, and record those of the test rows behind them."""
        n = len(self.parts.rows["validation"])
        test = {
            "correct": "".join("1" if good else "0" for good in correct[n:]),
            "nll": " ".join(f"{value:.5g}" for value in nll[n:]),
        }
        result = {"rung": rung, "label": candidate.label, "tests": {self.parts.task.name: test}}
        return Outcome(float(nll[:n].mean()), float(correct[:n].mean()), result=result)

    def _sizes(self, model: PiFiForSequenceClassification) -> dict[str, Any]:
        """Return milliseconds for one text, and bytes of the model."""
        batch = {name: tensor[:1] for name, tensor in self.parts.batch(self.parts.task.splits["validation"]).items()}
        with torch.no_grad():
            return {"latency": _milliseconds(lambda: model(**batch)), "bytes": _bytes(model)}

    def _size_of_arm(self, arm: Arm, seed: int) -> dict[str, Any]:
        train, _ = self.parts.vectors
        h = torch.from_numpy(train.h)
        tail = make_tail(arm, h[:64], self.parts.task.n_labels, self.parts.wiring, seed).eval()
        batch = self.parts.batch(self.parts.task.splits["validation"].take([0]))
        encoder = self.parts.encoder
        with torch.no_grad():
            spent = _milliseconds(lambda: (encoder(**batch), tail(h[:1])))
        return {"latency": spent, "bytes": _bytes(encoder) + _bytes(tail)}


class _Leave(TrainerCallback):
    """Leaves a run off after the step in which it is told to."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        _leave_if(self.stop)


def _leave_if(stop: Stop) -> None:
    if stop():
        raise RunInterrupted("told to stop", next="resume the study")


def _validated(run: Run, candidate: Candidate, rung: str) -> Outcome:
    """Return the outcome of a run that is not tested."""
    best = run.history.epochs[run.history.best_epoch]
    result = {"rung": rung, "label": candidate.label, "epochs": run.history.epochs}
    return Outcome(best["nll"], best["accuracy"], result=result)


def _milliseconds(call: Callable[[], object]) -> float:
    laps = []
    for _ in range(_TIMED):
        since = time.perf_counter()
        call()
        laps.append(1000 * (time.perf_counter() - since))
    return statistics.median(laps)


def _bytes(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())
