"""What happens during a run, step by step and epoch by epoch, and the best weights so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from pifi_probe.files import write_json
from pifi_probe.reading import read_object

__all__ = ["History", "load_trained_state", "trained_state"]

MAX_VALUES = 3_000_000  # of a stored history: curves of 400,000 steps
STEP_CURVES = ("loss", "grad_norm", "grad_encoder", "grad_projections", "grad_gates", "grad_head", "grad_layer")


@dataclass
class History:
    """Curves of a run, and its best weights.

    Parameters
    ----------
    steps : dict of str to list of float
        One entry per optimiser step: the smoothed training loss, and the norms of the gradients before
        clipping, of everything and by part.
    epochs : list of dict
        One entry per epoch, the first before training: ``epoch``, validation metrics (not for the first) and
        the scale of the plug-in.
    best_epoch : int
        0 while there is none.
    best_score : float
    best_state : dict of str to Tensor
        Copies of the trained weights at `best_epoch`, on the CPU.
    seconds : float
        Wall time of training so far, with what was spent before a resume.
    """

    steps: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STEP_CURVES})
    epochs: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = float("-inf")
    best_state: dict[str, torch.Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    _since: float | None = None

    def lap(self) -> None:
        """Start the clock, or add the time since the last lap."""
        now = time.perf_counter()
        if self._since is not None:
            self.seconds += now - self._since
        self._since = now

    def end_epoch(self, model: PreTrainedModel, record: dict[str, Any], score: float) -> None:
        """Add an epoch's record, and keep the weights when its validation `score` is the best so far."""
        self.epochs.append(record)
        if score > self.best_score:
            self.best_score, self.best_epoch = score, record["epoch"]
            self.best_state = trained_state(model)

    def save(self, folder: Path) -> None:
        """Write everything into a checkpoint's folder."""
        self.lap()
        save_file(self.best_state, folder / "best.safetensors")
        values = {name: getattr(self, name) for name in ("steps", "epochs", "best_epoch", "best_score", "seconds")}
        write_json(folder / "history.json", values)

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote."""
        for name, value in read_object(folder / "history.json", most_values=MAX_VALUES).items():
            setattr(self, name, value)
        self.best_state = load_file(folder / "best.safetensors")


def trained_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return copies, on the CPU, of the weights that are trained and of the buffers; frozen layers are left out."""
    stored = model.state_dict().keys()
    state = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    state |= {name: tensor for name, tensor in model.named_buffers() if name in stored}
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}


def load_trained_state(model: PreTrainedModel, state: dict[str, torch.Tensor]) -> None:
    """Put back what `trained_state` returned."""
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)
