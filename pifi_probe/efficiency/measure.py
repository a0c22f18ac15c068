"""Time and memory of models that take turns."""

from __future__ import annotations

import random
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pifi_probe.devices import autocast
from pifi_probe.efficiency.counts import held_bytes
from pifi_probe.kinds import Kind
from pifi_probe.training.recipe import Recipe

__all__ = ["Moments", "forward_of", "interleaved", "peak_bytes", "step_of"]

Call = Callable[[], None]
Moments = defaultdict[torch.Tensor, Any]  # Adam's state, by weight
MEMORY_STEPS = 2  # the second one meets Adam's moments


def step_of(
    model: nn.Module,
    batch: Mapping[str, torch.Tensor],
    kind: Kind,
    recipe: Recipe,
    moments: Moments | None = None,
) -> Call:
    """Return one optimiser step as a function: forward, loss, backward, clipping and Adam, as `fine_tune` does.

    Models that share weights and take turns may share `moments` too, so that each weight has them once.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    device = next(model.parameters()).device
    adam = torch.optim.Adam(trained, lr=recipe.learning_rate, fused=device.type in ("cpu", "cuda"))
    if moments is not None:
        adam.state = moments
    inputs = {name: value for name, value in batch.items() if name not in kind.targets}
    targets = {name: value for name, value in batch.items() if name in kind.targets}

    def run() -> None:
        model.train()
        for parameter in model.parameters():  # arms share the encoder, and one of them may not train it
            parameter.grad = None
        with autocast(recipe.precision, device):
            outputs = kind.outputs(model, inputs, targets)
        kind.loss(outputs, targets, recipe.label_smoothing).backward()
        if recipe.max_grad_norm:
            nn.utils.clip_grad_norm_(trained, recipe.max_grad_norm)
        adam.step()
        adam.zero_grad()
        _wait(device)

    return run


def forward_of(model: nn.Module, batch: Mapping[str, torch.Tensor], precision: str) -> Call:
    """Return one forward pass as a function."""
    device = next(model.parameters()).device

    def run() -> None:
        model.eval()
        with torch.inference_mode(), autocast(precision, device):
            model(**batch)
        _wait(device)

    return run


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def interleaved(
    calls: Mapping[str, Call], rounds: int, *, most_seconds: float, seed: int = 0
) -> dict[str, list[float]]:
    """Time every call once a round, in an order drawn afresh each round, after a warm-up.

    Parameters
    ----------
    calls : mapping of str to callable
    rounds : int
        At most so many; fewer, but three at least, where `most_seconds` would not be enough.
    most_seconds : float
        For all rounds together. When not even one round fits, nothing is timed.
    seed : int
        Of the orders.

    Returns
    -------
    dict of str to list of float
        Seconds by round; empty when nothing was timed.
    """
    since = time.perf_counter()
    for call in calls.values():
        call()
        if time.perf_counter() - since > most_seconds:
            return {}
    one = time.perf_counter() - since
    order, draw = list(calls), random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(max(3, min(rounds, int(most_seconds / max(one, 1e-9))))):
        draw.shuffle(order)
        for name in order:
            start = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_bytes(model: nn.Module, make_step: Callable[[], Call]) -> int:
    """Return the most bytes of tensors that training holds at one time: weights, gradients, moments, activations.

    On the CPU every tensor that an operation makes is followed until it is freed; what an operation needs within
    itself is not seen. On CUDA it is the allocator's own record.

    Parameters
    ----------
    model : Module
    make_step : callable
        Makes a fresh optimiser and returns its step.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        start = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step = make_step()
        for _ in range(MEMORY_STEPS):
            step()
        return held_bytes(model) + torch.cuda.max_memory_allocated() - start
    step, held = make_step(), _Held()
    with held:
        for _ in range(MEMORY_STEPS):
            step()
    return held_bytes(model) + held.peak


class _Held(TorchDispatchMode):
    """Follows the storages that operations make within the block."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor) and id(leaf.untyped_storage()) not in before:
                self._follow(leaf.untyped_storage())
        return output

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known[storage] = None
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, n_bytes: int) -> None:
        self.now -= n_bytes
