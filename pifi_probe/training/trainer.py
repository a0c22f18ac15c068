"""transformers' Trainer with what a PiFi run adds: groups of learning rates, curves, small checkpoints."""

from __future__ import annotations

import math
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    IntervalStrategy,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerControl,
    TrainingArguments,
)

from pifi_probe.devices import autocast
from pifi_probe.errors import PifiProbeError, SaveError, TaskError, TrainingDiverged
from pifi_probe.files import advice
from pifi_probe.kinds import Kind
from pifi_probe.kinds.parts.encoding import EncodedSplit
from pifi_probe.plugin.base import PiFiPreTrainedModel
from pifi_probe.plugin.combine import GATES
from pifi_probe.registry import home_of
from pifi_probe.tasks.task import Split
from pifi_probe.training.data import LengthGroupedOrder
from pifi_probe.training.history import History, load_trained_state, trained_state
from pifi_probe.training.recipe import Recipe
from pifi_probe.training.scales import plugin_scales

__all__ = ["PiFiTrainer", "lr_projection_of", "training_arguments"]

_DECODER = re.compile(r"^seq2seq\.(model\.)?(decoder|lm_head|enc_to_dec_proj)\b")


def lr_projection_of(model: PiFiPreTrainedModel, recipe: Recipe) -> float:
    """Return the learning rate of L_in and L_out: the recipe's, or the wiring's multiple of the encoder's."""
    if recipe.lr_projection is not None:
        return recipe.lr_projection
    return recipe.learning_rate * float(model.config.lr_projection_factor)


def training_arguments(recipe: Recipe, device: torch.device, folder: Path, keep_checkpoints: bool) -> TrainingArguments:
    """Return the recipe as Trainer's arguments; every one that matters is named, since its defaults differ."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=recipe.max_grad_norm or math.inf,
        label_smoothing_factor=recipe.label_smoothing,
        seed=recipe.seed,
        data_seed=recipe.seed,
        use_cpu=device.type == "cpu",
        bf16=False,  # autocast is entered in compute_loss, which leaves model.forward unwrapped
        fp16=False,
        eval_strategy="epoch",
        save_strategy="epoch" if keep_checkpoints else "no",
        save_total_limit=1,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_drop_last=False,
        dataloader_pin_memory=device.type == "cuda",
        skip_memory_metrics=True,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # a second GPU would change the batch size, and so the recipe
    return arguments


class PiFiTrainer(Trainer):
    """Trainer of one run.

    Parameters
    ----------
    model : PiFiPreTrainedModel
    recipe : Recipe
    arguments : TrainingArguments
        From `training_arguments`.
    train, validation : EncodedSplit
    tokenizer : PreTrainedTokenizerBase
    history : History
        Filled while training.
    callbacks : list of TrainerCallback
    kind : Kind
        Of the task's kind.
    held : Split
        The validation split as text.

    Notes
    -----
    Underscored methods are Trainer's own (transformers 5.23): it has no public hook for clipping, for the order
    of the data and for checkpoints.
    """

    control: TrainerControl

    def __init__(
        self,
        model: PiFiPreTrainedModel,
        recipe: Recipe,
        arguments: TrainingArguments,
        train: EncodedSplit,
        validation: EncodedSplit,
        tokenizer: PreTrainedTokenizerBase,
        history: History,
        callbacks: list[Any],
        kind: Kind,
        held: Split,
    ) -> None:
        self.recipe, self.tokenizer, self.history = recipe, tokenizer, history
        self.kind, self.held = kind, held
        self.parts = trainable_parts(model)
        with warnings.catch_warnings():  # the kind smooths labels, and not transformers, which cannot smooth all
            warnings.filterwarnings("ignore", message="Label smoothing is not compatible")
            super().__init__(
                model=model,
                args=arguments,
                train_dataset=train,
                eval_dataset=validation,
                data_collator=kind.collate(tokenizer),
                callbacks=callbacks,
            )
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make Adam without weight decay over what is trained, with rates of their own for projections and gates."""
        rates = {"projections": lr_projection_of(self.model, self.recipe), "gates": self.recipe.lr_gate}
        groups = [
            {"params": members, "lr": rates.get(part, self.recipe.learning_rate)}
            for part, members in self.parts.items()
            if members
        ]
        self.optimizer = torch.optim.Adam(groups, fused=self.args.device.type in ("cpu", "cuda"))
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedOrder:
        return LengthGroupedOrder(self.train_dataset.lengths, self.recipe.batch_size, self.recipe.seed)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the loss of the task's kind, in float32.

        Raises
        ------
        TaskError
            If batches lack what the kind names as targets.
        """
        if absent := [name for name in self.kind.targets if name not in inputs]:
            raise TaskError(
                f"batches of the kind {self.kind.name!r} have {', '.join(inputs)}, and its targets name {absent[0]!r}",
                where=f"{home_of(type(self.kind))}.targets",
                next="name in targets what encode() and collate() give",
            )
        targets = {name: inputs.pop(name) for name in self.kind.targets}
        with autocast(self.recipe.precision, inputs["input_ids"].device):
            outputs = self.kind.outputs(model, inputs, targets)
        loss = self.kind.loss(outputs, targets, self.args.label_smoothing_factor)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Train on one batch and record its loss.

        Raises
        ------
        TrainingDiverged
            If the loss is NaN or infinite.
        """
        loss = super().training_step(*args, **kwargs)
        self._record("loss", float(loss))
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor:
        """Record the norm of every part's gradients and clip all of them together, in one pass over each."""
        squares = 0.0
        for part, members in self.parts.items():
            gradients = [p.grad for p in members if p.grad is not None]
            norm = float(nn.utils.get_total_norm(gradients)) if gradients else 0.0
            self.history.steps[f"grad_{part}"].append(norm)
            squares += norm**2
        total = math.sqrt(squares)
        self._record("grad_norm", total)
        if total > self.args.max_grad_norm:
            trained = [p for members in self.parts.values() for p in members]
            nn.utils.clip_grads_with_norm_(trained, self.args.max_grad_norm, torch.tensor(total))
        return torch.tensor(total)

    def _record(self, curve: str, value: float) -> None:
        if not math.isfinite(value):
            rate = lr_projection_of(self.model, self.recipe)
            what = "loss" if curve == "loss" else "norm of the gradients"
            raise TrainingDiverged(
                f"the {what} became {value} at step {self.state.global_step + 1}",
                where=f"seed {self.recipe.seed}, learning rate of L_in and L_out {rate:g}",
                next=_instead(self.model, rate),
            )
        self.history.steps[curve].append(value)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the validation split, record it, and return ``eval_accuracy`` and the other metrics."""
        precision = self.recipe.precision
        found = self.kind.predict(self.model, self.eval_dataset, self.tokenizer, precision=precision, final=False)
        metrics = self.kind.metrics(self.held, found)
        record = {"epoch": len(self.history.epochs), **metrics, **self._scales()}
        self.history.end_epoch(self.model, record, self.kind.quality(metrics))
        values = {f"eval_{name}": value for name, value in metrics.items() if isinstance(value, float)}
        if self.args.logging_strategy != IntervalStrategy.NO:  # somebody hears it
            self.log(dict(values))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, values)
        return values

    def _scales(self) -> dict[str, float]:
        return plugin_scales(self.model, self.eval_dataset, self.tokenizer)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Record the untrained plug-in's scale, then train; see ``Trainer.train``."""
        self.history.epochs.append({"epoch": 0, **self._scales()})
        self.history.lap()
        output = super().train(*args, **kwargs)
        self.history.lap()
        return output

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is trained into a checkpoint; never the frozen layer."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained_state(self.model), folder / "model.safetensors")
        self.history.save(folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint whole or not at all.

        Raises
        ------
        SaveError
            If the disk is full or the folder cannot be written; the checkpoint before it is intact.
        """
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:  # safetensors and torch raise types of their own for a full disk
            shutil.rmtree(folder, ignore_errors=True)
            raise SaveError(
                f"could not write the checkpoint: {error.what if isinstance(error, PifiProbeError) else error}",
                where=str(folder.parent),
                next=advice(error, "run the same command with resume=True"),
            ) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        load_trained_state(self.model, load_file(folder / "model.safetensors"))
        self.history.load(folder)


def _instead(model: PiFiPreTrainedModel, rate: float) -> str:
    """Return what else to try where a run with this learning rate of L_in and L_out has diverged."""
    for layer in model.frozen_layers:
        if layer.dtype == torch.float16:  # its largest number is 65,504, whatever the learning rate
            return (
                f'plug in pp.extract({layer.card.spec!r}, dtype="float32"), which cannot overflow as float16 does, '
                f"or lower the learning rate, for example lr_projection={rate / 10:g}"
            )
    lower = f"lower it, for example lr_projection={rate / 10:g}"
    return lower if model.config.scale == "matched" else f'{lower}, or plug in with scale="matched"'


def trainable_parts(model: PiFiPreTrainedModel) -> dict[str, list[nn.Parameter]]:
    """Return the trainable weights by part; "layer" is one that is trained on purpose, "gates" are a combination's."""
    parts: dict[str, list[nn.Parameter]] = {"encoder": [], "projections": [], "gates": [], "head": [], "layer": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts[_part_of(name)].append(parameter)
    return parts


def _part_of(name: str) -> str:
    if name.startswith(GATES):
        return "gates"
    if name.startswith("plugin."):
        return "layer" if name.startswith("plugin.layers.") else "projections"
    return "head" if name.startswith("head.") or _DECODER.search(name) else "encoder"
