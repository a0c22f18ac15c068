"""`PiFiEvaluator`: runs a candidate at any fidelity, from a training-free score to a full run.

=============  =====================================================================================
fidelity       what runs
=============  =====================================================================================
"estimator"    LogME of the encoder's vectors next to the layer's branch, with a random L_in; no training
"frozen"       projections and head on cached vectors of the encoder (`pifi_probe.probing.frozen_slm`)
"last-block"   the encoder's last blocks too, over cached activations of the lower ones
"short"        everything, one epoch
"full"         everything, as the recipe says
=============  =====================================================================================

For ``wiring="aligned"`` the first two are those of `pifi_probe.selection.aligned`.

All fidelities of one seed share their random numbers between candidates: new weights, order of the data and dropout.
Candidates are compared by the negative log-likelihood on the validation split. "frozen" and "full" also record the
test split, which only the confirmation reads.
"""

from __future__ import annotations

import functools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from pifi_probe.devices import device_of
from pifi_probe.encoders import refuse_longer, within_positions
from pifi_probe.errors import RunInterrupted, SearchError, TaskError
from pifi_probe.features.rows import scoring_rows
from pifi_probe.kinds.parts.encoding import EncodedSplit, encode
from pifi_probe.kinds.parts.evaluating import predict_logits
from pifi_probe.kinds.parts.metrics import per_example
from pifi_probe.layers.content import content_of, weights_digest
from pifi_probe.layers.extract import extract
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.open import open_named
from pifi_probe.layers.residual import residual_rms
from pifi_probe.plugin.build import load_encoder, plug_in, tokenizer_for
from pifi_probe.plugin.config import WIRINGS, is_aligned
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.probing.encoder_vectors import slm_features
from pifi_probe.probing.frozen_arms import Arm, make_arm, make_tail
from pifi_probe.probing.frozen_slm import Vectors, frozen_slm
from pifi_probe.probing.one_shot import train_one_shot
from pifi_probe.scoring.estimators import logme
from pifi_probe.scoring.spectrum import beside
from pifi_probe.selection.aligned import AlignedRuns
from pifi_probe.selection.budget import Measure, Work
from pifi_probe.selection.cached import LowerStates, blocks_of, truncate_encoder
from pifi_probe.selection.space import Candidate
from pifi_probe.selection.trials import FIDELITIES, Outcome
from pifi_probe.tasks.task import SPLIT_NAMES, Split, Task
from pifi_probe.tasks.tokens import tokenizer_digest
from pifi_probe.training.folder import RunFolder
from pifi_probe.training.recipe import Recipe
from pifi_probe.training.run import Run
from pifi_probe.vocabulary import BASIC_CONTROLS

__all__ = ["FROZEN_EPOCHS", "LAST_BLOCKS", "Parts", "PiFiEvaluator"]

LAST_BLOCKS = 2  # of the encoder, trained at the fidelity "last-block"
FROZEN_ROWS = 2000  # of each split, at the fidelities "estimator" and "frozen"
FROZEN_EPOCHS = 3
_TIMED_STEPS = 3
_LAYERS_KEPT = 2
_ROWS_FOR_LENGTH = 200


@dataclass
class Parts:
    """Encoder, donors, task and recipe of a search.

    Parameters
    ----------
    task : Task
    slm : str
    llms : tuple of str
    wiring : {"pifi", "matched"}
    recipe : Recipe
        Its seed is replaced by each trial's.
    given_tokenizer : str
        Another one than the encoder's own; "" for its own.

    Raises
    ------
    TaskError
        If the task does not have one class a row, or lacks a split.
    """

    task: Task
    slm: str
    llms: tuple[str, ...]
    wiring: str
    recipe: Recipe
    given_tokenizer: str = ""

    def __post_init__(self) -> None:
        if not self.task.has_row_classes:
            raise TaskError(
                f"a search compares the NLL of one class a row, and this task is of kind {self.task.kind!r}",
                where=self.task.name,
                next="train the layers with fine_tune, and compare the runs with compare",
            )
        missing = [name for name in SPLIT_NAMES if name not in self.task.splits]
        if missing:
            raise TaskError(
                f"the task has no {' and no '.join(missing)} split",
                where=self.task.name,
                next="load it with a share for validation and test: load_task(..., validation=0.1, test=0.2)",
            )
        self._layers: dict[tuple[str, str], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is loaded: another process loads its own."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._layers = {}

    def load(self) -> dict[str, str]:
        """Load the encoder and open every donor, so that anything missing is found before a trial begins.

        Returns
        -------
        dict
            Name to digest of the encoder's weights, its tokenizer, and every donor.

        Raises
        ------
        RecipeError
            If a text is longer than the encoder has positions for, which no full run would take.
        """
        splits = {f"{self.task.name}, {name}": self.task.splits[name] for name in SPLIT_NAMES}
        longest = {where: functools.partial(self._longest, split) for where, split in splits.items()}
        refuse_longer(self.encoder, self.recipe.max_tokens, longest)
        found = {
            f"encoder {self.slm}": weights_digest(self.encoder),
            f"tokenizer of {self.slm}": tokenizer_digest(self.tokenizer),
        }
        return found | {f"donor {llm}": content_of(open_named(llm)) for llm in self.llms}

    @property
    def device(self) -> str:
        """Name of the device that the recipe asks for."""
        return device_of(self.recipe.device, self.recipe.precision).type

    @functools.cached_property
    def encoder(self) -> PreTrainedModel:
        """The small language model; `plug_in` copies it."""
        return load_encoder(self.slm)[0]

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Tokenizer of the encoder."""
        return tokenizer_for(self.model(Candidate((), control="vanilla"), 0))

    def layer(self, candidate: Candidate, dtype: str = "auto") -> Any:
        """Return the frozen layers of a candidate; for the control "linear" without one, a donor's last layer."""
        spec = candidate.spec or f"{self.llms[0]}[-1]"
        if (spec, dtype) not in self._layers:
            while len(self._layers) >= _LAYERS_KEPT:
                self._layers.pop(next(iter(self._layers)))
            self._layers[spec, dtype] = extract(spec, dtype=dtype)
        return self._layers[spec, dtype]

    def model(self, candidate: Candidate, seed: int) -> PiFiForSequenceClassification:
        """Plug a candidate in, with new weights from the seed."""
        options: dict[str, Any] = dict(candidate.modes)
        if len(candidate.layers) > 1:
            options["combine"] = candidate.design
        layer = None if candidate.control == "vanilla" else self.layer(candidate)
        model = plug_in(
            self.encoder,
            layer,
            task=self.task,
            wiring=self.wiring,
            control=candidate.control,
            seed=seed,
            tokenizer=self.given_tokenizer or None,
            **options,
        )
        model.config.slm = self.slm  # the copy only knows where it was loaded from
        return model

    def arm(self, candidate: Candidate, seed: int) -> Arm:
        """Return a single layer, or its control, for frozen-SLM training."""
        if candidate.control == "vanilla":
            return make_arm(None, "vanilla")
        layer = self.layer(candidate, "float32")
        assert isinstance(layer, FrozenLayer)
        bare = candidate.control == "linear" or WIRINGS[self.wiring]["scale"] == "none"
        target = 1.0 if bare else residual_rms(layer.card)
        return make_arm(layer, candidate.control, target_rms=target, seeds=[seed])

    @functools.cached_property
    def rows(self) -> dict[str, Split]:
        """The texts that the cheap fidelities use: "train", "validation" and, to be recorded only, "test"."""
        n = {name: min(FROZEN_ROWS, len(self.task.splits[name])) for name in SPLIT_NAMES}
        found = {name: scoring_rows(self.task, n[name], name) for name in ("train", "validation")}
        return found | {"test": self.task.subset(test=n["test"]).splits["test"]}

    @functools.cached_property
    def vectors(self) -> tuple[Vectors, Vectors]:
        """The encoder's vectors of the training rows, and of validation and test rows one after the other."""
        pooling = str(WIRINGS[self.wiring]["pooling"])
        h = {
            name: slm_features(
                self.slm,
                rows,
                pooling=pooling,
                max_tokens=self.recipe.max_tokens,
                device=self.recipe.device,
                tokenizer=self.given_tokenizer or None,
            )[0]
            for name, rows in self.rows.items()
        }
        labels = [label for name in ("validation", "test") for label in self.rows[name].labels]
        scored = np.concatenate([h["validation"], h["test"]])
        return Vectors(h["train"], self.rows["train"].labels), Vectors(scored, labels)

    @functools.cached_property
    def frozen_task(self) -> Task:
        """The cheap fidelities' rows as a task: a fifth of the training rows chooses the epoch."""
        train = replace(self.task, splits=self.rows)
        fit = train.subset(train=max(self.task.n_labels, round(0.8 * len(self.rows["train"])))).splits["train"]
        inside = set(fit.ids)
        held = self.rows["train"].take(row for row, one in enumerate(self.rows["train"].ids) if one not in inside)
        return replace(self.task, splits={"train": fit, "validation": held, "test": self.rows["test"]})

    def _longest(self, split: Split) -> int:
        return max(encode(split, self.tokenizer, self.recipe.max_tokens).lengths)

    def encoded(self, split: Split) -> EncodedSplit:
        """Tokenise rows as a run does."""
        return encode(split, self.tokenizer, within_positions(self.encoder, self.recipe.max_tokens))

    def lower(self, n_blocks: int) -> LowerStates:
        """Return cached activations below the last `n_blocks` blocks, of all texts that the fidelity uses."""
        return self._frozen_lower if n_blocks == 0 else self._last_block_lower

    @functools.cached_property
    def _frozen_lower(self) -> LowerStates:
        return self._states(0, [*self.frozen_task.splits.values(), self.rows["validation"]])

    @functools.cached_property
    def _last_block_lower(self) -> LowerStates:
        return self._states(LAST_BLOCKS, [self.task.splits["train"], self.task.splits["validation"]])

    def _states(self, n_blocks: int, splits: Sequence[Split]) -> LowerStates:
        encoded = [self.encoded(split) for split in splits]
        needed = 4 * int(self.encoder.config.hidden_size) * sum(sum(one.lengths) for one in encoded)
        if needed > psutil.virtual_memory().available / 2:
            raise TaskError(
                f"the encoder's activations would take {needed / 2**30:.1f} GiB of memory",
                where=self.task.name,
                next="use fewer texts: task.subset(train=...)",
            )
        encoder = self.encoder.to(self.device)
        return LowerStates(encoder, n_blocks, encoded, self.tokenizer)

    def batch(self, split: Split) -> dict[str, torch.Tensor]:
        """Return the first rows as one padded batch."""
        encoded = self.encoded(split.take(range(min(self.recipe.batch_size, len(split)))))
        collate: Callable[..., Any] = DataCollatorWithPadding(self.tokenizer)
        return dict(collate([encoded.inputs(row) for row in range(len(encoded))]).to(self.encoder.device))

    @functools.cached_property
    def work(self) -> Work:
        """The sizes that costs follow from."""
        config = open_named(self.llms[0]).config
        d_llm = int(config.hidden_size)
        inner = getattr(config, "intermediate_size", None) or 4 * d_llm
        d_slm = int(self.encoder.config.hidden_size)
        blocks = blocks_of(self.encoder)
        splits = self.task.splits
        sample = self.encoded(splits["train"].take(range(min(_ROWS_FOR_LENGTH, len(splits["train"])))))
        return Work(
            encoder=_weights(blocks),
            block=_weights(blocks) * min(LAST_BLOCKS, len(blocks)) / len(blocks),
            layer=2 * d_llm**2 + 3 * d_llm * int(inner),
            tail=2 * d_slm * d_llm + d_slm**2,
            tokens=float(np.mean(sample.lengths)),
            train=len(splits["train"]),
            validation=len(splits["validation"]),
            test=len(splits["test"]),
            frozen_train=len(self.rows["train"]),
            frozen_score=len(self.rows["validation"]) + len(self.rows["test"]),
            epochs=self.recipe.epochs,
            frozen_epochs=FROZEN_EPOCHS,
        )

    def measure(self) -> Measure:
        """Time a few training steps without a layer, which hardly counts, and add up what is kept in memory."""
        model = self.model(Candidate((), control="vanilla"), 0).to(self.device).train()
        batch = {name: tensor.to(self.device) for name, tensor in self.batch(self.task.splits["train"]).items()}
        optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
        laps = []
        for _ in range(_TIMED_STEPS):
            since = time.perf_counter()
            optimizer.zero_grad()
            model(**batch).logits.logsumexp(-1).mean().backward()
            optimizer.step()
            laps.append(time.perf_counter() - since)
        step = min(laps)
        n, work = self.recipe.batch_size, self.work
        scored = (work.epochs * work.validation + work.test) / n / 3
        seconds = step * (work.epochs * math.ceil(work.train / n) + scored)
        held = 3 * sum(p.nbytes for p in model.parameters())  # best weights, and room for the copy that is plugged in
        return Measure(seconds, psutil.Process().memory_info().rss + held)


def _weights(module: torch.nn.Module) -> float:
    return float(sum(p.numel() for p in module.parameters()))


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
        Only single layers in the wiring's own modes are compared. Otherwise the fidelity "frozen" trains every
        candidate as a whole model over cached activations, so that all are made alike.
    """

    parts: Parts
    plain: bool = True

    def check(self) -> Mapping[str, str]:
        """Load the encoder, open the donors, and return the digests of all."""
        return self.parts.load()

    def cost(self, candidate: Candidate, fidelity: str) -> float:
        """Return the cost in full runs, from the numbers of multiply-accumulates."""
        return self.parts.work.cost(fidelity, max(1, len(candidate.layers)))

    def measure(self) -> Measure:
        """Time a few steps of training."""
        return self.parts.measure()

    def evaluate(self, candidate: Candidate, fidelity: str, seed: int, stop: Stop) -> Outcome:
        """Run one trial.

        Raises
        ------
        RunInterrupted
            When `stop` says True; at the latest after the current training step.
        SearchError
            If there is no such fidelity, or it cannot run this candidate.
        PifiProbeError
            Whatever a run can raise.
        """
        aligned = is_aligned(self.parts.wiring)
        fidelities: dict[str, Callable[[Candidate, int, Stop], Outcome]] = {
            "estimator": self._estimator,
            "frozen": self._frozen if self._is_plain(candidate) or aligned else self._frozen_model,
            "last-block": self._last_block,
            "short": self._short,
            "full": self._full,
        }
        if fidelity not in fidelities:
            raise SearchError(
                f"unknown fidelity {fidelity!r}", where="evaluate", next=f"use one of {', '.join(FIDELITIES)}"
            )
        _leave_if(stop)
        since = time.perf_counter()
        one_shot = candidate.surveys
        if aligned and (one_shot or fidelity == "last-block"):
            raise SearchError(
                f"{'one-shot training' if one_shot else 'the fidelity last-block'} does not know aligned chains",
                where=candidate.label,
                next='use strategy="span", "exhaustive" or "random"',
            )
        outcome = self._one_shot(candidate, seed, stop) if one_shot else fidelities[fidelity](candidate, seed, stop)
        return replace(outcome, cost=self.cost(candidate, fidelity), seconds=time.perf_counter() - since)

    def _is_plain(self, candidate: Candidate) -> bool:
        known = candidate.control is None or candidate.control in BASIC_CONTROLS
        return self.plain and known and len(candidate.layers) <= 1 and not candidate.modes

    # Fidelities

    @functools.cached_property
    def _aligned(self) -> AlignedRuns:
        return AlignedRuns(self.parts)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process computes for itself."""
        return {"parts": self.parts, "plain": self.plain}

    def _estimator(self, candidate: Candidate, seed: int, stop: Stop) -> Outcome:
        if is_aligned(self.parts.wiring):
            promise, added = self._aligned.promise(candidate)
            return Outcome(-promise, result={"headroom": added})
        if not self._is_plain(candidate):
            raise SearchError(
                "the training-free fidelity scores single layers only", where=candidate.label, next='begin at "frozen"'
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
        if is_aligned(self.parts.wiring):
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

    def _scored(self, candidate: Candidate, fidelity: str, nll: NDArray[Any], correct: NDArray[Any]) -> Outcome:
        """Return the outcome of validation rows, and record those of the test rows behind them."""
        n = len(self.parts.rows["validation"])
        test = {
            "correct": "".join("1" if good else "0" for good in correct[n:]),
            "nll": " ".join(f"{value:.5g}" for value in nll[n:]),
        }
        result = {"fidelity": fidelity, "label": candidate.label, "tests": {self.parts.task.name: test}}
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
    """Stops a run after the step in which it is told to."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        _leave_if(self.stop)


def _leave_if(stop: Stop) -> None:
    if stop():
        raise RunInterrupted("told to stop", next="resume the study")


def _validated(run: Run, candidate: Candidate, fidelity: str) -> Outcome:
    """Return the outcome of a run that is not tested."""
    best = run.history.epochs[run.history.best_epoch]
    result = {"fidelity": fidelity, "label": candidate.label, "epochs": run.history.epochs}
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
