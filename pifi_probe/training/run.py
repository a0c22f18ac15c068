"""`fine_tune`: one run, from a plugged model and a task to a result."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import IntervalStrategy, PreTrainedTokenizerBase, TrainerCallback

from pifi_probe.compat import quiet_transformers
from pifi_probe.devices import device_of
from pifi_probe.encoders import refuse_longer
from pifi_probe.errors import PlugInError, RecipeError, TaskError
from pifi_probe.files import alone_in
from pifi_probe.kinds import KINDS, kind_of
from pifi_probe.kinds.parts.encoding import EncodedSplit
from pifi_probe.layers.tokenizer import GivenTokenizer, check_known, load_tokenizer
from pifi_probe.plugin.base import PiFiPreTrainedModel
from pifi_probe.plugin.build import model_class_of
from pifi_probe.plugin.tokenizer import tokenizer_for
from pifi_probe.provenance import PeakMemory, collect
from pifi_probe.slm import embedding_rows
from pifi_probe.tags import tags_of
from pifi_probe.tasks.shift import shift_view
from pifi_probe.tasks.task import SPLIT_NAMES, Split, Task
from pifi_probe.tasks.tokens import tokenizer_digest
from pifi_probe.training.callbacks import Interrupt, ProgressBar
from pifi_probe.training.describe import count_parameters, describe_model, layer_digests, start_digest
from pifi_probe.training.folder import RunFolder, temporary_run_folder
from pifi_probe.training.history import History, load_trained_state
from pifi_probe.training.recipe import Recipe
from pifi_probe.training.reporters import reporters
from pifi_probe.training.result import RunResult, TestResult
from pifi_probe.training.trainer import PiFiTrainer, lr_projection_of, training_arguments

__all__ = ["Run", "fine_tune"]

_CLASSES = "single_label_classification"  # transformers' problem_type, and what none means

logger = logging.getLogger(__name__)


def fine_tune(
    model: PiFiPreTrainedModel,
    task: Task,
    recipe: Recipe = Recipe(),  # noqa: B008  (frozen)
    *,
    also: Sequence[Task] = (),
    out: str | Path | None = None,
    resume: bool = False,
    save_model: bool = False,
    tokenizer: GivenTokenizer | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    report_to: str | Sequence[str] = (),
    tags: str | Sequence[str] = (),
) -> RunResult:
    """Train a model on a task, keep its best epoch, and test it once.

    The training split is trained on, the validation split chooses the epoch, and the test splits are read once,
    at the end. Afterwards `model` has the weights of the best epoch and is in evaluation mode.

    Parameters
    ----------
    model : PiFiPreTrainedModel
        From `plug_in`; trained in place.
    task : Task
        With a "train", a "validation" and a "test" split.
    recipe : Recipe
    also : sequence of Task
        Further test sets (domain shift). Texts that also occur in training or validation are left out.
    out : str or Path, optional
        A folder for ``result.json`` and, while it runs, its checkpoints. The result (and model) of an
        earlier run in it stay until this run has ended, which replaces them. None: nothing is kept, unless the
        run is interrupted.
    resume : bool
        Go on with what the same call has left in `out` before, and refuse what another one has; False uses none of it.
        From the last checkpoint a run comes to the numbers of an uninterrupted one. Of a run that had ended, the
        stored result is returned, and its weights are put into `model` if they were saved (`save_model`); a warning
        says where they were not, which is why this is not the default.
    save_model : bool
        Save the trained model into ``out/model``.
    tokenizer : str, Path or PreTrainedTokenizerBase, optional
        As in `plug_in`, if it was not given there.
    callbacks : sequence of TrainerCallback
        Called as transformers' Trainer does; ``on_evaluate`` gets the validation metrics of each epoch.
    report_to : str or sequence of str
        As in transformers: ``"tensorboard"`` (files in ``out/tensorboard``), ``"mlflow"``, ``"wandb"`` and others get
        the loss of every step and the validation metrics of every epoch. Nothing is reported by default, and no number
        of the result depends on it. Settings and tags of MLflow and W&B are read from their own environment variables
        (``MLFLOW_TAGS``, ``WANDB_TAGS``, ...), and a run of W&B stays open until ``wandb.finish()``, as under
        transformers' Trainer.
    tags : str or sequence of str
        Words of your own that the result keeps (``result.tags``); a continued or finished run gets further ones.

    Returns
    -------
    RunResult

    Raises
    ------
    TaskError
        If the task lacks a split or a further task does not fit.
    PlugInError
        If the model's classes are not the task's.
    PifiProbeError
        If a tag is not one short line of text.
    RecipeError
        If the machine cannot follow the recipe, a text is longer than the encoder's table of positions, or `out`
        holds another run that `resume` would mix in, or an ended one whose model can no longer be saved.
    TokenizerError
        If the encoder's tokenizer is missing or does not fit, or knows hardly any word of the training texts.
    TrainingDiverged
        If the loss or a gradient becomes NaN or infinite.
    RunInterrupted
        On Ctrl-C; the message says how to continue.
    SaveError
        If the disk is full, `out` cannot be written or another process uses it; the checkpoint before is intact.

    Examples
    --------
    >>> model = pp.plug_in("minilm-l6", "smollm2-135m[-1]", task=task)  # doctest: +SKIP
    >>> pp.fine_tune(model, task, pp.Recipe(seed=1), also=[pp.load_task("tweets")])  # doctest: +SKIP
    """
    if out is None and (resume or save_model):
        raise RecipeError("no folder was given", where="fine_tune(out=...)", next="name the folder of the run")
    if tokenizer is not None and isinstance(model, PiFiPreTrainedModel):
        model.tokenizer = load_tokenizer(tokenizer, n_rows=embedding_rows(model.encoder))
    tags = tags_of(tags)
    callbacks = [*callbacks, *reporters(report_to, None if out is None else Path(out), tags)]
    run = Run(model, task, recipe, tuple(also), tags)
    if out is None:
        with temporary_run_folder() as temporary:
            run.train(temporary, keep_checkpoints=False, callbacks=callbacks)
        return run.test().tagged(*tags)
    folder = RunFolder(Path(out))
    with alone_in(folder.path):
        stored = folder.stored_result(run.identity, run.fingerprints) if resume else None
        if stored is not None:
            restored = folder.restore_model(model)
            if restored:
                run.kind.settle(model, stored.epochs[stored.best_epoch])
            if save_model and not restored:
                raise RecipeError(
                    "the run had ended and its model was not saved, so there is none to save",
                    where=str(out),
                    next="train again without resume (resume=False), or into another folder; or do without the model",
                )
            if not restored:
                logger.warning(
                    "%s: the run had ended and its weights were not saved: the model is untrained; resume=False trains "
                    "it, and save_model=True keeps it",
                    out,
                )
            result = stored.tagged(*tags)
            if result != stored:
                result.to_json(folder.result_file)
            return result
        run.train(folder, resume=resume, callbacks=callbacks)
        try:
            result = run.test().tagged(*folder.tags)
        except KeyboardInterrupt as error:
            raise folder.interrupted() from error
        folder.end(result, model if save_model else None, run.tokenizer)
        return result


@dataclass
class Run:
    """One run, whose training and testing can be called apart.

    Parameters
    ----------
    model, task, recipe
        As in `fine_tune`.
    also : tuple of Task
        Further test sets.
    tags : tuple of str
        Noted in the run's folder; no part of its identity.
    """

    model: PiFiPreTrainedModel
    task: Task
    recipe: Recipe
    also: tuple[Task, ...] = ()
    tags: tuple[str, ...] = ()
    history: History = field(default_factory=History)

    def __post_init__(self) -> None:
        _check(self.model, self.task)
        self.device = device_of(self.recipe.device, self.recipe.precision)
        self.kind = kind_of(self.task)
        self.kind.weigh(self.recipe.class_weights, self.task.splits["train"].labels)
        self.views = {self.task.name: (self.task, "")}
        for other in self.also:
            view, report = shift_view(other, self.task)
            self.views[other.name] = (view, str(report) if report.n_dropped else "")
        if len(self.views) != 1 + len(self.also):
            raise TaskError("two test tasks have the same name", where=", ".join(task.name for task in self.also))
        self.tokenizer: PreTrainedTokenizerBase = tokenizer_for(self.model)
        check_known(self.tokenizer, self.task.splits["train"].texts, f"{self.task.name}, train")
        self.start = start_digest(self.model)
        self.tokenizer_sha256 = tokenizer_digest(self.tokenizer)
        self.digests_before = layer_digests(self.model)
        self.memory = PeakMemory()

    @property
    def fingerprints(self) -> dict[str, str]:
        """Name to fingerprint of the test sets."""
        return {name: view.fingerprint for name, (view, _) in self.views.items()}

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for a checkpoint to belong to this run."""
        return {
            "recipe": self.recipe.to_dict(),
            "task": {"name": self.task.name, "fingerprint": self.task.fingerprint},
            "model": self._described(),
            "start": self.start,
        }

    def _described(self) -> dict[str, Any]:
        return describe_model(self.model) | {"tokenizer": self.tokenizer_sha256}

    def train(
        self,
        folder: RunFolder,
        *,
        resume: bool = False,
        keep_checkpoints: bool = True,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        """Train, and put the weights of the best epoch into the model."""
        self._check_lengths()
        checkpoint = folder.begin({**self.identity, "tags": list(self.tags)}, resume=resume)
        interrupt, bar = (
            Interrupt(),
            ProgressBar(f"{describe_model(self.model)['label']}, seed {self.recipe.seed}", self.kind.shown),
        )
        with quiet_transformers(), PeakMemory() as memory:
            arguments = training_arguments(self.recipe, self.device, folder.checkpoints, keep_checkpoints)
            arguments.run_name = bar.label
            if any(_hears(callback) for callback in callbacks):
                arguments.logging_strategy, arguments.logging_steps = IntervalStrategy.STEPS, 1
            trainer = PiFiTrainer(
                self.model,
                self.recipe,
                arguments,
                self._encoded(self.task.splits["train"]),
                self._encoded(self.task.splits["validation"]),
                self.tokenizer,
                self.history,
                [bar, *callbacks, interrupt],
                self.kind,
                self.task.splits["validation"],
            )
            try:
                with interrupt.listening():
                    trainer.train(resume_from_checkpoint=checkpoint)
            except KeyboardInterrupt:
                interrupt.asked = True
            finally:
                bar.close()
        self.memory = memory
        if interrupt.asked:
            raise folder.interrupted()
        load_trained_state(self.model, self.history.best_state)
        self.kind.settle(self.model, self.history.epochs[self.history.best_epoch])
        self.model.eval()

    def test(self, tuned: dict[str, Any] | None = None) -> RunResult:
        """Read the test splits and return the result."""
        since = time.perf_counter()
        with quiet_transformers(), PeakMemory() as memory:
            tests = {name: self._tested(view, note) for name, (view, note) in self.views.items()}
        sizes = {name: len(self.task.splits[name]) for name in SPLIT_NAMES}
        return RunResult(
            model=self._described(),
            recipe=self.recipe,
            lr_projection=lr_projection_of(self.model, self.recipe),
            task={
                "name": self.task.name,
                "kind": self.task.kind,
                "fingerprint": self.task.fingerprint,
                "label_names": list(self.task.label_names),
                "language": self.task.language,
                "licence": self.task.licence,
                "sizes": sizes,
            },
            start=self.start,
            epochs=self.history.epochs,
            best_epoch=self.history.best_epoch,
            tests=tests,
            curves={name: curve for name, curve in self.history.steps.items() if any(curve)},
            parameters=count_parameters(self.model),
            layer_digests={"before": self.digests_before, "after": layer_digests(self.model)},
            seconds={"train": self.history.seconds, "test": time.perf_counter() - since},
            peak_memory={
                **self.memory.to_dict(),
                "rss_bytes": max(self.memory.rss_bytes, memory.rss_bytes),
                "cuda_bytes": max(self.memory.cuda_bytes or 0, memory.cuda_bytes or 0) or None,
            },
            provenance=collect(),
            tuned=tuned or {},
        )

    def _tested(self, view: Task, note: str) -> TestResult:
        split = view.splits["test"]
        found = self.kind.predict(self.model, self._encoded(split), self.tokenizer, precision=self.recipe.precision)
        if view.has_row_classes:
            return TestResult.of(view, found, self.task.splits["train"].labels, note)
        return TestResult.scored(view, self.kind.metrics(split, found), self.kind.scores(split, found), note)

    def _encoded(self, split: Split) -> EncodedSplit:
        return self.kind.encode(split, self.tokenizer, self.recipe.max_tokens)

    def _check_lengths(self) -> None:
        """Refuse texts beyond the encoder's table of positions; of the test splits only lengths are read."""
        splits = {f"{self.task.name}, {name}": self.task.splits[name] for name in ("train", "validation")}
        splits |= {f"{name}, test": view.splits["test"] for name, (view, _) in self.views.items()}
        longest = {where: functools.partial(self._longest, split) for where, split in splits.items()}
        refuse_longer(self.model.encoder, self.recipe.max_tokens, longest)

    def _longest(self, split: Split) -> int:
        return max(self._encoded(split).lengths)


def _hears(callback: TrainerCallback) -> bool:
    """Return whether a callback does anything with what Trainer logs."""
    return getattr(callback.on_log, "__func__", None) is not TrainerCallback.on_log


def _check(model: PiFiPreTrainedModel, task: Task) -> None:
    if not isinstance(model, PiFiPreTrainedModel) or model.config.folded:
        raise PlugInError(
            "this model cannot be trained as a PiFi run",
            where=type(model).__name__,
            next="make it with pp.plug_in",
        )
    missing = [name for name in SPLIT_NAMES if name not in task.splits]
    if missing:
        raise TaskError(
            f"the task has no {' and no '.join(missing)} split",
            where=task.name,
            next="load it with a share for validation and test: load_task(..., validation=0.1, test=0.2)",
        )
    wanted = model_class_of(task)
    problem = KINDS[task.kind].model_settings(task).get("problem_type")
    if type(model) is not wanted or (model.config.problem_type or _CLASSES) != (problem or _CLASSES):
        raise PlugInError(
            f"a {type(model).__name__} of other labels cannot be trained on a {task.kind} task"
            if type(model) is wanted
            else f"a {type(model).__name__} cannot be trained on a {task.kind} task, which needs {wanted.__name__}",
            where=task.name,
            next="plug in again with task= this task",
        )
    if not task.label_names:
        return
    classes = [model.config.id2label[index] for index in range(model.config.num_labels)]
    if classes != list(task.label_names):
        raise PlugInError(
            f"the model has the classes {', '.join(classes)}, the task {', '.join(task.label_names)}",
            where=task.name,
            next="plug in again with task= this task",
        )
