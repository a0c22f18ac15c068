"""A quiet progress bar, and a Ctrl-C that stops a run after the current step, never within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pifi_probe.escaping import one_line
from pifi_probe.progress import bar_options

__all__ = ["Interrupt", "ProgressBar"]


class ProgressBar(TrainerCallback):
    """One bar per run, in a terminal or a notebook, which leaves nothing behind when the run ends.

    Parameters
    ----------
    label : str
        Shown before the bar.
    metric : str
        The validation metric that is shown after an epoch.
    """

    def __init__(self, label: str, metric: str = "accuracy") -> None:
        self.label, self.metric = label, metric
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar, unless the output is a file or a pipe, or ``TQDM_DISABLE`` is set."""
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=one_line(self.label),
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {remaining} left{postfix}",  # all of it in 80 columns
            **bar_options(),
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance by one step."""
        self.bar.update()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the metric on the validation split."""
        if metrics:
            self.bar.set_postfix_str(f"{self.metric} {metrics[f'eval_{self.metric}']:.3f}")

    def close(self) -> None:
        """Remove the bar, however the run ended."""
        if self.bar is not None:
            self.bar.close()


class Interrupt(TrainerCallback):
    """Turns the first Ctrl-C into a checkpoint and a clean stop after the current step.

    An exception in the middle of an optimiser step would leave half-updated weights. A second Ctrl-C stops at
    once. In threads other than the main one, where Python allows no signal handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGINT within the block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop, unless the epoch has just ended: then its validation comes first."""
        if self.asked and not _epoch_is_over(args, state):
            control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save and stop after a whole epoch; leave out the validation of a part of one."""
        if self.asked:
            control.should_training_stop = True
            control.should_evaluate = control.should_save = _epoch_is_over(args, state)


def _epoch_is_over(args: TrainingArguments, state: TrainerState) -> bool:
    return state.global_step % round(state.max_steps / args.num_train_epochs) == 0
