"""A sample of texts through a whole language model, with one layer in memory."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm.auto import tqdm

from pifi_probe.errors import FeatureError
from pifi_probe.escaping import one_line
from pifi_probe.layers.adapter import Adapter
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.content import content_of
from pifi_probe.layers.extract import extract_from, pick_device
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.states import StateStore
from pifi_probe.layers.stem import Stem
from pifi_probe.progress import bar_options

__all__ = ["Batch", "stream"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Texts as token ids, padded on either side.

    Parameters
    ----------
    input_ids : Tensor, (batch, seq), int64
    attention_mask : Tensor, (batch, seq)
        1 for tokens, 0 for padding.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor


@torch.no_grad()
def stream(
    checkpoint: Checkpoint,
    batches: Sequence[Batch],
    visit: Callable[[int, int, torch.Tensor], None],
    *,
    model: str,
    until: int | None = None,
    change: Callable[[FrozenLayer], FrozenLayer] | None = None,
    adapter: Adapter | None = None,
    folder: Path | None = None,
    memory: int | None = None,
    precision: str = "float32",
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> None:
    """Pass all batches through all layers, or the first of them, reading each layer once and holding one at a time.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of its tensors, the layers and the embeddings of the batches' tokens are read; the language-model head never.
    batches : sequence of Batch
    visit : callable
        ``visit(point, batch, states)`` is called for every point of the residual stream and every batch, points
        ascending and batches in order. Point p from 0 to L is the input of layer p; point L is the output of the
        last layer, before the final norm. `states` is float32 (batch, seq, d_llm) on `device`; at padded positions
        it means nothing.
    model : str
        Name of the model, for messages.
    until : int, optional
        The last point that is visited; layers from it on are not read. None: L, the end of the model.
    change : callable, optional
        Turns each layer into the one that runs in its place, such as its shuffled twin.
    adapter : Adapter, optional
        Merged into each layer, before `change`; the caller gives no `folder` with it.
    folder : Path, optional
        States of the last finished point are kept here until the pass is complete. The same call in another process
        continues from there and visits only the points that are left; the caller gives every checkpoint a folder of
        its own.
    memory : int, optional
        Bytes that the states of all batches may take in memory; larger ones live in files. None: a quarter of the
        available memory. One batch and its activations come on top.
    precision : {"float32", "bf16"}
        ``"bf16"``: automatic mixed precision; the residual stream stays in float32.
    device : str or torch.device
        Where the layers compute. When its memory is too small for a batch, the batch is halved, with a warning.
    progress : bool
        Show layers done, time left and bytes read, in a terminal or a notebook.

    Raises
    ------
    FeatureError
        If activations are NaN or infinite (the layer is named), or one text or layer is too large for the device.
    CheckpointError, CorruptFileError, UnsupportedFamilyError, HubError
        As for `pifi_probe.extract`.
    SaveError
        If the states neither fit the memory nor the disk.
    """
    n_layers, width = int(checkpoint.config.num_hidden_layers), int(checkpoint.config.hidden_size)
    n_layers = n_layers if until is None else min(until, n_layers)
    shapes = [(*batch.input_ids.shape, width) for batch in batches]
    fits = 4 * sum(rows * seq * width for rows, seq, _ in shapes) <= _allowed(memory)
    runner = _Runner(model, pick_device(device), precision)
    with contextlib.ExitStack() as stack:
        key = _key(checkpoint.identity if folder is None else content_of(checkpoint), batches, precision)
        if folder is None and not fits:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pifi-states-")))
        store = StateStore(shapes, key=key, folder=folder, in_memory=fits)
        stack.callback(store.close)
        done, label = store.resume(), one_line(model)
        bar = stack.enter_context(
            tqdm(
                total=n_layers,
                initial=done or 0,
                desc=label,
                unit="layer",
                leave=False,
                **bar_options(progress),
            )
        )
        if done is None:
            stem = Stem(checkpoint, [batch.input_ids for batch in batches])
            for i, batch in enumerate(batches):
                states = stem(batch.input_ids, batch.attention_mask)
                states = _checked(states, batch, "the embeddings hold", model)
                visit(0, i, states.to(runner.device))
                store.write(i, states)
            del stem
            store.finish(0)
        for index in range(done or 0, n_layers):
            bar.set_postfix_str(f"{checkpoint.bytes_read / 1e6:,.0f} MB read")
            layer = runner.load(checkpoint, index, adapter)
            layer = layer if change is None else change(layer)
            for i, batch in enumerate(batches):
                states = runner(layer, store.read(i), batch.attention_mask)
                states = _checked(states, batch, f"the output of layer {index} holds", f"{model}[{index}]")
                visit(index + 1, i, states)
                if index + 1 < n_layers:
                    store.write(i, states.cpu())
            del layer, states  # before the next layer is read
            if index + 1 < n_layers:
                store.finish(index + 1)
            bar.update()
        store.remove()


def _allowed(memory: int | None) -> int:
    return int(psutil.virtual_memory().available) // 4 if memory is None else memory


def _key(donor: str, batches: Sequence[Batch], precision: str) -> str:
    """Return a digest of what the states depend on."""
    digest = hashlib.sha256(json.dumps([donor, precision]).encode())
    for batch in batches:
        for tensor in (batch.input_ids, batch.attention_mask):
            digest.update(f"{tuple(tensor.shape)}".encode())
            digest.update(tensor.long().contiguous().numpy().data)
    return digest.hexdigest()


class _Runner:
    """Loads layers and calls them, with fewer texts at once after the device ran out of memory."""

    def __init__(self, model: str, device: torch.device, precision: str) -> None:
        self.model, self.device = model, device
        self._bf16 = precision == "bf16"
        self._most_tokens: int | None = None  # in one call

    def load(self, checkpoint: Checkpoint, index: int, adapter: Adapter | None = None) -> FrozenLayer:
        """Read one layer; nobody asks for its digest."""
        how: Any = {"dtype": "float32", "device": self.device, "digest": False, "adapter": adapter}
        try:
            return extract_from(checkpoint, index, model=self.model, **how)
        except torch.OutOfMemoryError as error:
            raise self._too_small(f"layer {index}") from error

    def __call__(self, layer: FrozenLayer, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the layer's output (batch, seq, d_llm), float32, on the device."""
        parts: list[torch.Tensor] = []
        seq, done = states.shape[1], 0
        while done < len(states):
            rows = len(states) if self._most_tokens is None else max(1, self._most_tokens // seq)
            part = slice(done, done + rows)
            try:
                parts.append(self._call(layer, states[part].to(self.device), mask[part].to(self.device)))
                done += rows
                continue
            except torch.OutOfMemoryError as error:
                rows = min(rows, len(states) - done)
                if rows == 1:
                    raise self._too_small(f"one text of {seq} tokens") from error
            self._halve(rows, seq)  # here, where the failed call no longer holds its tensors
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _call(self, layer: FrozenLayer, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            output: torch.Tensor = layer(states, mask)
            return output

    def _halve(self, rows: int, seq: int) -> None:
        self._most_tokens = rows // 2 * seq
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        _log.warning("%s is out of memory: continuing with %d texts of %d tokens at once", self.device, rows // 2, seq)

    def _too_small(self, what: str) -> FeatureError:
        return FeatureError(
            f"{what} does not fit into the memory of {self.device}",
            where=self.model,
            next='use device="cpu", a device with more memory, or a smaller max_tokens',
        )


def _checked(states: torch.Tensor, batch: Batch, what: str, where: str) -> torch.Tensor:
    """Return the states when they are finite at every token; what stands at padded positions may be anything."""
    low, high = torch.aminmax(states)  # hands NaN on
    if torch.isfinite(low) and torch.isfinite(high):
        return states
    padded = ~batch.attention_mask.bool().to(states.device)
    states = states.masked_fill(padded[..., None], 0.0)
    if not torch.isfinite(states).all():
        raise FeatureError(
            f"{what} NaN or infinite values",
            where=where,
            next='use precision="float32", or check the checkpoint with another program',
        )
    return states
