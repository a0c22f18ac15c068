"""What a trained model costs in use: one text at a time, many at once, loading, energy; on a machine that is idle."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from pifi_probe.efficiency.measure import forward_of
from pifi_probe.errors import RecipeError

__all__ = ["file_costs", "joules", "offline", "others_busy", "refuse_busy", "single_stream"]

MOST_BUSY = 0.25  # of one core, by other processes
WARM_UP = 8  # texts, thrown away
_RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
Text = tuple[str, str | None]


def others_busy(seconds: float = 0.5) -> float:
    """Return how many cores other processes keep busy."""
    import psutil

    own, start = psutil.Process(), time.perf_counter()
    before = sum(own.cpu_times()[:2])
    share = psutil.cpu_percent(interval=seconds) / 100 * (psutil.cpu_count() or 1)
    return max(0.0, share - (sum(own.cpu_times()[:2]) - before) / (time.perf_counter() - start))


def refuse_busy() -> None:
    """Refuse to measure time where other processes take it.

    Raises
    ------
    RecipeError
        If they keep more than a quarter of a core busy.
    """
    busy = others_busy()
    if busy > MOST_BUSY:
        raise RecipeError(
            f"other processes keep {busy:.1f} cores busy: times would be theirs, too",
            where="this machine",
            next="end them, or try again later; finished training is kept in the folder that was named with out=",
        )


def single_stream(
    models: Mapping[str, nn.Module],
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    *,
    max_tokens: int,
    precision: str = "float32",
    most_seconds: float = 60.0,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Time one text after the other, the models taking turns at each text in an order that is drawn anew.

    Parameters
    ----------
    models : mapping of str to Module
    tokenizer : PreTrainedTokenizerBase
    texts : sequence of (text, second text or None)
    max_tokens : int
        Tokens of a text.
    most_seconds : float
        For each model; texts that do not fit are left out.

    Returns
    -------
    dict
        For each model ``first_s``, its first call of all; ``forward_s`` and ``whole_s``, for each text the seconds of
        the forward pass alone and with tokenisation. The first texts warm up and are not among them.
    """
    draw = random.Random(seed)
    order, ended = list(models), time.perf_counter() + most_seconds * len(models)
    found: dict[str, dict[str, Any]] = {name: {"first_s": None, "forward_s": [], "whole_s": []} for name in order}
    n_warm = min(WARM_UP, len(texts))
    for number, (text, second) in enumerate([*texts[:n_warm], *texts]):
        if time.perf_counter() > ended and number > 2 * n_warm:
            break
        draw.shuffle(order)
        for name in order:
            device = next(models[name].parameters()).device
            start = time.perf_counter()
            batch = tokenizer(text, second, truncation=True, max_length=max_tokens, return_tensors="pt").to(device)
            made = time.perf_counter()
            forward_of(models[name], batch, precision)()
            end, own = time.perf_counter(), found[name]
            if own["first_s"] is None:
                own["first_s"] = end - made
            if number >= n_warm:
                own["forward_s"].append(end - made)
                own["whole_s"].append(end - start)
    return found


def offline(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Text],
    *,
    batch_size: int,
    max_tokens: int,
    precision: str = "float32",
) -> dict[str, Any]:
    """Return ``texts_per_s`` of all texts in batches, tokenised within, and ``joules`` where they can be read."""
    device = next(model.parameters()).device
    ordered = sorted(texts, key=lambda one: len(one[0]) + len(one[1] or ""))
    before, start = joules(), time.perf_counter()
    for at in range(0, len(ordered), batch_size):
        firsts, seconds = zip(*ordered[at : at + batch_size], strict=True)
        pairs = None if None in seconds else list(seconds)
        options: dict[str, Any] = {"truncation": True, "max_length": max_tokens, "padding": True}
        batch = tokenizer(list(firsts), pairs, return_tensors="pt", **options).to(device)
        forward_of(model, batch, precision)()
    took, after = time.perf_counter() - start, joules()
    used = after - before if before is not None and after is not None and after >= before else None
    return {"texts_per_s": len(ordered) / took, "batch_size": batch_size, "joules": used}


def joules() -> float | None:
    """Return what the processor's counter of energy (RAPL) says, in joules; None where it cannot be read."""
    try:
        return int(_RAPL.read_text()) / 1e6
    except (OSError, ValueError):
        return None


def file_costs(model: nn.Module) -> dict[str, float]:
    """Write the weights as safetensors, and return ``bytes``, and seconds to load them ``cold_s`` and ``warm_s``.

    Cold means that the system was asked to forget the file's pages; where it cannot be, both are warm.
    """
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        save_file(state, file)
        del state
        _forget(file)
        load = _loading(model, file)
        return {"bytes": file.stat().st_size, "cold_s": load(), "warm_s": load()}


def _forget(file: Path) -> None:
    """Ask the system to drop a file's pages from memory."""
    with contextlib.suppress(AttributeError, OSError), file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _loading(model: nn.Module, file: Path) -> Callable[[], float]:
    own = model.state_dict()

    def load() -> float:
        start = time.perf_counter()
        with torch.no_grad():
            for name, tensor in load_file(file).items():
                own[name].copy_(tensor)
        return time.perf_counter() - start

    return load
