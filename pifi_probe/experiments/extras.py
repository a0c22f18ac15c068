"""What an experiment measures besides its runs, as tables."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from pifi_probe.errors import AssetError, CheckpointError, CorruptFileError, HubError, RecipeError
from pifi_probe.experiments.plan import Arm, Experiment, Scale
from pifi_probe.experiments.runner import Runs
from pifi_probe.experiments.whole import WholeModel, load_whole
from pifi_probe.files import write_json
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.tokenizer import donor_tokenizer, load_tokenizer
from pifi_probe.reading import Refused, read_object, typed
from pifi_probe.stats import mean_interval
from pifi_probe.tasks import Split, Task, load_task

__all__ = ["EXTRAS", "Context", "keep_forgetting"]

PLAIN_TEXT, N_TEXTS = "news-editorials", 200
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Context:
    """What an extra measurement may use.

    Parameters
    ----------
    experiment, scale, runs
    folder : Path
        Of the experiment's results.
    """

    experiment: Experiment
    scale: Scale
    runs: Runs
    folder: Path

    @property
    def donors(self) -> list[str]:
        """The language models whose layers were run, once each."""
        runs = [run for own in self.runs.results.values() for seeds in own.values() for run in seeds]
        return list(dict.fromkeys(layer["model"] for run in runs for layer in run.model["layers"]))


def keep_forgetting(arm: Arm, model: Any, folder: Path) -> None:
    """Put a layer that was trained back into its language model and keep that model's loss on plain text.

    Writes ``forgetting.json`` into the run's folder: the loss of each text in nats per token, before and after.
    Arms whose layer stays frozen have nothing to forget.
    """
    if arm.control != "unfrozen":
        return
    (layer,) = model.frozen_layers
    whole, texts = _whole(layer.card.model), load_task(PLAIN_TEXT).splits["test"].texts[:N_TEXTS]
    with whole.with_layer(layer.cpu()):
        after = whole.text_losses(texts)
    before = whole.text_losses(texts)
    write_json(folder / "forgetting.json", {"before": before.tolist(), "after": after.tolist()})


@functools.lru_cache(maxsize=1)
def _whole(name: str) -> WholeModel:
    return load_whole(name)


@dataclass(frozen=True)
class _Forgetting:
    """Loss of each text in nats per token."""

    before: list[float]
    after: list[float]


def _read_forgetting(file: Path) -> _Forgetting:
    """Read what `keep_forgetting` wrote.

    Raises
    ------
    CorruptFileError
        If it holds anything else.
    """
    try:
        found = typed(_Forgetting, read_object(file))
        if len(found.before) != len(found.after) or not found.before:
            raise Refused(f"{len(found.before)} losses before, {len(found.after)} after")
        if not np.isfinite([found.before, found.after]).all():
            raise Refused("losses that are not finite")
    except Refused as error:
        raise CorruptFileError(
            f"the losses on plain text cannot be read: {error}",
            where=str(file),
            next=f"delete the run's folder {file.parent.name}, and run the experiment again",
        ) from error
    return found


def _forgetting(context: Context) -> Rows:
    """Table the change of the language model's loss on plain text, by block and arm."""
    rows = []
    for block, arms in context.runs.results.items():
        for arm, runs in arms.items():
            files = [context.folder / "runs" / f"{block}-{arm}-seed{run.seed}" / "forgetting.json" for run in runs]
            if not all(file.is_file() for file in files):
                continue
            kept = [_read_forgetting(file) for file in files]
            if len({len(one.before) for one in kept}) > 1:
                continue  # of different texts
            change = mean_interval(np.array([one.after for one in kept]) - np.array([one.before for one in kept]))
            rows.append(
                {
                    "block": block,
                    "arm": arm,
                    "loss before (nats/token)": float(np.mean(kept[0].before)),
                    "change with the tuned layer": change.mean,
                    "low": change.low,
                    "high": change.high,
                    "seeds": len(kept),
                    "texts": f"{len(kept[0].before)} of {PLAIN_TEXT}",
                }
            )
    return rows


def _fertility(context: Context) -> Rows:
    """Table how many tokens a text becomes, by language: few for a language that a tokenizer was made for."""
    rows = []
    for block, task in context.runs.tasks.items():
        texts = task.splits["test"].texts[:N_TEXTS]
        for model in (context.scale.blocks[block].slm, *context.donors):
            try:
                tokenizer = _tokenizer_of(model, donor=model in context.donors)
            except (OSError, ValueError, AssetError, HubError) as error:
                rows.append({"language": task.language, "model": model, "texts": 0, "note": str(error)[:200]})
                continue
            n_tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
            rows.append(
                {
                    "language": task.language,
                    "model": model,
                    "texts": len(texts),
                    "tokens per 100 characters": 100 * n_tokens / sum(map(len, texts)),
                    "tokens per 100 bytes": 100 * n_tokens / sum(len(text.encode()) for text in texts),
                }
            )
    return rows


def _tokenizer_of(model: str, donor: bool) -> PreTrainedTokenizerBase:
    return donor_tokenizer(open_checkpoint(model)) if donor else load_tokenizer(model)


def _label_priors(context: Context) -> Rows:
    """Table the classes' shares in training and in each test set, and the share of the most frequent one."""
    rows = []
    for block, arms in context.runs.results.items():
        run = next(iter(arms.values()))[0]
        for name, test in run.tests.items():
            if not test.train_prior:
                continue
            labels, prior = run.task["label_names"], test.metrics["label_prior"]
            rows.append(
                {
                    "block": block,
                    "test": name,
                    "shares in training": _shares(labels, test.train_prior),
                    "shares in the test": _shares(labels, prior),
                    "accuracy of the class frequent in training": prior[int(np.argmax(test.train_prior))],
                }
            )
    return rows


def _shares(labels: Sequence[str], shares: Sequence[float]) -> str:
    return ", ".join(f"{label} {share:.1%}" for label, share in zip(labels, shares, strict=True))


def _chance(context: Context) -> Rows:
    """Table what guessing would reach, and each language model alone, asked for the letter of its choice."""
    rows = []
    for block, task in context.runs.tasks.items():
        split = task.splits["test"]
        if split.items is None:
            raise RecipeError(
                f"a {task.kind} task has no choices to guess among",
                where=f"extras of {context.experiment.name}, block {block}",
                next='leave "chance and the LLM alone" out, or give the block a multiple-choice task',
            )
        chance = float(np.mean([1 / len(choices) for choices in split.items]))
        own = {"block": block, "questions": len(split)}
        rows.append({**own, "who": "guessing", "accuracy": chance, "low": None, "high": None})
        for donor in context.donors:
            file = context.folder / "alone" / f"{block}-{donor.replace('/', '--')}.json"
            found = mean_interval(_answers(file, donor, task, split)[None])
            whose = f"{donor} alone, without training"
            rows.append({**own, "who": whose, "accuracy": found.mean, "low": found.low, "high": found.high})
    return rows


def _answers(file: Path, donor: str, task: Task, split: Split) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return 1 where the language model alone is right, shape (n,); kept in a file."""
    with contextlib.suppress(CheckpointError):  # missing or damaged: asked again
        kept = read_object(file)
        correct = kept.get("correct")
        whole_file = isinstance(correct, list) and len(correct) == len(split) and all(one in (0, 1) for one in correct)
        if kept.get("fingerprint") == task.fingerprint and whole_file:
            return np.array(correct, dtype=np.float64)
    whole = _whole(donor)
    rows = zip(split.texts, split.items or [], split.labels, strict=True)
    correct = [int(whole.choose(text, choices) == label) for text, choices, label in rows]
    write_json(file, {"fingerprint": task.fingerprint, "correct": correct})
    return np.array(correct, dtype=np.float64)


EXTRAS: Mapping[str, Callable[[Context], Rows]] = MappingProxyType(
    {
        "forgetting": _forgetting,
        "tokenizer fertility": _fertility,
        "label priors": _label_priors,
        "chance and the LLM alone": _chance,
    }
)
