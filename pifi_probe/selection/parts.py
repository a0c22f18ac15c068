"""What the trials of a search share, loaded once in a process: encoder, layers, vectors, cached activations."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import psutil
import torch
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from pifi_probe.encoders import within_positions
from pifi_probe.errors import TaskError
from pifi_probe.kinds.encoding import EncodedSplit, encode
from pifi_probe.layers.checkpoint import open_named
from pifi_probe.layers.content import content_of, weights_digest
from pifi_probe.layers.extract import extract
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.residual import residual_rms
from pifi_probe.plugin.build import load_encoder, plug_in, tokenizer_for
from pifi_probe.plugin.config import WIRINGS
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.probing.features import slm_features
from pifi_probe.probing.frozen_arms import Arm, make_arm
from pifi_probe.probing.frozen_slm import Vectors
from pifi_probe.probing.rows import scoring_rows
from pifi_probe.selection.cached import LowerStates, blocks_of
from pifi_probe.selection.estimate import Measure, Work
from pifi_probe.selection.space import Candidate
from pifi_probe.tasks.task import SPLIT_NAMES, Split, Task
from pifi_probe.tasks.tokens import tokenizer_digest
from pifi_probe.training.devices import device_of
from pifi_probe.training.recipe import Recipe

__all__ = ["FROZEN_EPOCHS", "LAST_BLOCKS", "Parts"]

LAST_BLOCKS = 2  # of the encoder, trained on the rung "last-block"
FROZEN_ROWS = 2000  # of each split, on the rungs "estimator" and "frozen"
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
        If the task has no class a row, or lacks a split.
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
                next="train the layers with fine_tune, and put the runs beside each other with compare",
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
        """Load the encoder and open every donor, so that what is missing is known before a trial begins.

        Returns
        -------
        dict
            Name to digest of the encoder's weights, its tokenizer, and every donor.
        """
        found = {
            f"encoder {self.slm}": weights_digest(self.encoder),
            f"tokenizer of {self.slm}": tokenizer_digest(self.tokenizer),
        }
        return found | {f"donor {llm}": content_of(open_named(llm)) for llm in self.llms}

    @property
    def device(self) -> str:
        """Name of the device that the recipe asks for."""
        return device_of(self.recipe).type

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
        """The texts that the cheap rungs use: "train", "validation" and, to be recorded only, "test"."""
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
        """The cheap rungs' rows as a task: a fifth of the training rows chooses the epoch."""
        train = replace(self.task, splits=self.rows)
        fit = train.subset(train=max(self.task.n_labels, round(0.8 * len(self.rows["train"])))).splits["train"]
        inside = set(fit.ids)
        held = self.rows["train"].take(row for row, one in enumerate(self.rows["train"].ids) if one not in inside)
        return replace(self.task, splits={"train": fit, "validation": held, "test": self.rows["test"]})

    def encoded(self, split: Split) -> EncodedSplit:
        """Tokenise rows as a run does."""
        return encode(split, self.tokenizer, within_positions(self.encoder, self.recipe.max_tokens))

    def lower(self, n_blocks: int) -> LowerStates:
        """Return cached activations below the last `n_blocks` blocks, of all texts that the rung uses."""
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
