"""What a trained model costs in use: one text at a time, many at once, loading, energy; on a machine that is idle."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from pifi_probe.efficiency.arms import failures
from pifi_probe.efficiency.energy import counters, used
from pifi_probe.efficiency.measure import forward_of
from pifi_probe.errors import RecipeError

__all__ = ["file_costs", "offline", "others_busy", "refuse_busy", "single_stream"]

MOST_BUSY = 0.25  # of one core, by other processes
WARM_UP = 8  # texts, thrown away
Text = tuple[str, str | None]


def others_busy(seconds: float = 0.5) -> float:
    """Return how many cores other processes keep busy."""
    import psutil

    own, start = psutil.Process(), time.perf_counter()
    before = sum(own.cpu_times()[:2])
    share = psutil.cpu_percent(interval=seconds) / 100 * (psutil.cpu_count() or 1)
    return max(0.0, share - (sum(own.cpu_times()[:2]) - before) / (time.perf_counter() - start))


def refuse_busy() -> float:
    """Refuse to measure time where other processes take it.

    Returns
    -------
    float
        How many cores they keep busy.

    Raises
    ------
    RecipeError
        If they keep more than a quarter of a core busy.
    """
    busy = others_busy()
    if busy > MOST_BUSY:
        raise RecipeError(
            f"other processes keep {busy:.1f} cores busy: the times would include theirs",
            where="this machine",
            next="end them, or try again later (runs that have ended are kept), or allow it: allow_busy=True",
        )
    return busy


def single_stream(
    models: Mapping[str, nn.Module],
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
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
    tokenizers : mapping of str to PreTrainedTokenizerBase
        Of each model.
    texts : sequence of (text, second text or None)
    max_tokens : int
        Tokens of a text.
    most_seconds : float
        For each model; texts that do not fit are left out.

    Returns
    -------
    dict
        For each model ``first_s``, its first call of all; ``forward_s`` and ``whole_s``, for each text the seconds of
        the forward pass alone and with tokenisation. The first texts warm up and are not among them. A model that fails
        takes no further turn: ``failed`` says why.
    """
    draw = random.Random(seed)
    order, ended = list(models), time.perf_counter() + most_seconds * len(models)
    found: dict[str, dict[str, Any]] = {name: {"first_s": None, "forward_s": [], "whole_s": []} for name in order}
    n_warm = min(WARM_UP, len(texts))
    for number, text in enumerate([*texts[:n_warm], *texts]):
        if time.perf_counter() > ended and number > 2 * n_warm:
            break
        for name in _shuffled(order, draw):
            own = found[name]
            with _turn(order, name, own):
                start = time.perf_counter()
                batch = _batch(models[name], tokenizers[name], [text], max_tokens)
                made = time.perf_counter()
                forward_of(models[name], batch, precision)()
                end = time.perf_counter()
                if own["first_s"] is None:
                    own["first_s"] = end - made
                if number >= n_warm:
                    own["forward_s"].append(end - made)
                    own["whole_s"].append(end - start)
    return found


def offline(
    models: Mapping[str, nn.Module],
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
    texts: Sequence[Text],
    *,
    batch_size: int,
    max_tokens: int,
    precision: str = "float32",
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Time texts in batches, tokenised within, the models taking turns at each batch after one that warms up.

    Returns
    -------
    dict
        For each model ``texts_per_s``, ``batch_size``, ``n_texts``, the seconds of every batch ``batch_s``, and
        ``joules`` by counter where one can be read; or ``failed``.
    """
    draw, order = random.Random(seed), list(models)
    ordered = sorted(texts, key=lambda one: len(one[0]) + len(one[1] or ""))
    batches = [ordered[at : at + batch_size] for at in range(0, len(ordered), batch_size)]
    found: dict[str, dict[str, Any]] = {name: {"batch_s": [], "joules": {}} for name in order}
    for number, rows in enumerate([batches[-1], *batches]):
        for name in _shuffled(order, draw):
            own = found[name]
            with _turn(order, name, own):
                device = next(models[name].parameters()).device
                before, start = counters(device), time.perf_counter()
                forward_of(models[name], _batch(models[name], tokenizers[name], rows, max_tokens), precision)()
                took, energy = time.perf_counter() - start, used(before, counters(device))
                if number:
                    own["batch_s"].append(took)
                    own["joules"] = {
                        key: value + own["joules"].get(key, 0.0)
                        for key, value in energy.items()
                        if number == 1 or key in own["joules"]  # one reading missed: no sum
                    }
    for name in order:
        found[name] |= {"n_texts": len(texts), "batch_size": batch_size}
        found[name]["texts_per_s"] = len(texts) / sum(found[name]["batch_s"])
    return found


@contextlib.contextmanager
def _turn(order: list[str], name: str, own: dict[str, Any]) -> Iterator[None]:
    """Give a model its turn; one that fails has no further one."""
    failed: dict[str, str] = {}
    with failures(failed, name):
        yield
    if failed:
        order.remove(name)
        own.clear()
        own["failed"] = failed[name]


def _shuffled(order: Sequence[str], draw: random.Random) -> list[str]:
    return draw.sample(order, len(order))


def _batch(model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Text], max_tokens: int) -> Any:
    firsts, seconds = zip(*rows, strict=True)
    options: dict[str, Any] = {"truncation": True, "max_length": max_tokens, "padding": len(rows) > 1}
    batch = tokenizer(list(firsts), None if None in seconds else list(seconds), return_tensors="pt", **options)
    return batch.to(next(model.parameters()).device)


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
