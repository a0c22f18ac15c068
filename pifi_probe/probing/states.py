"""The hidden states of any layers of a language model, written to disk with one layer in memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from pifi_probe.devices import device_of
from pifi_probe.encoders import context_of
from pifi_probe.errors import FeatureError, SaveError
from pifi_probe.features.donor import batch_tokens_on, pool_tokens
from pifi_probe.files import advice, alone_in, atomic_write, make_folder, write_json
from pifi_probe.folders import remove_folder
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.content import content_of
from pifi_probe.layers.detect import refuse_missing_state
from pifi_probe.layers.families import family_of
from pifi_probe.layers.open import open_named
from pifi_probe.layers.spec import layer_numbers
from pifi_probe.layers.states import finished_point
from pifi_probe.layers.stream import Batch, stream
from pifi_probe.layers.tokenizer import GivenTokenizer, donor_tokenizer
from pifi_probe.permissions import pickle_on_request
from pifi_probe.probing.state_arrays import (
    DESCRIPTION,
    OFFSETS,
    TOKEN_IDS,
    States,
    array_file,
    read_description,
    whole,
)
from pifi_probe.provenance import collect
from pifi_probe.tasks.tokens import Tokens, buckets, tokenise, tokenizer_digest
from pifi_probe.units import amount

__all__ = ["DTYPES", "STATE_POOLINGS", "states"]

STATE_POOLINGS = ("mean", "last", "none")
DTYPES = ("float32", "float16")
_VERSION = 1  # of how states are computed and laid out
_PASS = "pass"  # folder of the states from which a pass continues
_WHAT = {
    "model": "the contents of the model",
    "tokenizer": "the tokenizer",
    "texts": "the texts",
    "max_length": "the tokens after which texts are cut",
}


@pickle_on_request
def states(
    model: str,
    texts: Iterable[str],
    *,
    out: str | Path,
    layers: str | int | Iterable[int] | None = None,
    pooling: str | None = "mean",
    max_tokens: int | None = None,
    dtype: str = "float32",
    precision: str = "float32",
    device: str = "auto",
    batch_tokens: int | None = None,
    memory: int | None = None,
    tokenizer: GivenTokenizer | None = None,
    progress: bool = True,
    allow_pickle: bool = False,
) -> States:
    """Write the hidden states of texts at any layers of a language model, in one pass with one layer in memory.

    Parameters
    ----------
    model : str
        Hub id (``org/name`` or ``org/name@revision``), local folder, ``.gguf`` or ``.safetensors`` file, or embedded
        name; of any format that `extract` reads.
    texts : iterable of str
    out : str or Path
        Folder for the arrays. With the same inputs it is read, or a pass that was killed continues after its last
        finished layer; with other inputs it is refused.
    layers : int, iterable of int or str, optional
        Numbered as the depths of `probe`, from 0 to L for a model of L layers: layer i is the *input* of the model's
        layer i, so 0 is what the embeddings give, i + 1 is the output of layer i, and L, or -1, the output of the last
        layer. With the ``output_hidden_states`` of transformers, layer i is ``hidden_states[i]`` for i < L; its last
        entry has passed the final norm of the model, which layer L here has not. Layers from the largest one on are
        not read. As text: ``"8"``, ``"4-8,-1"``. None or "all": all L + 1.
    pooling : {"mean", "last", "none"} or None
        The mean over all tokens of a text, its last token, or (None or "none") every token: (T, d) for the T tokens of
        all texts, with the beginning of each text in ``offsets``. There is no ``"cls"``: the first token of a decoder
        sees nothing after it, and is the same for every text.
    max_tokens : int, optional
        Tokens after which a text is cut; how many were is in ``info["n_cut"]``. None: as many as the model takes.
    dtype : {"float32", "float16"}
        Of the arrays.
    precision : {"float32", "bf16"}
        Of the pass; ``"bf16"`` is mixed precision.
    device : str
        "auto", "cpu", "cuda", ...
    batch_tokens : int, optional
        Tokens of a batch, padding included; by default 2,048 on a CPU and 8,192 on a GPU.
    memory : int, optional
        Bytes of hidden states to hold in memory; by default a quarter of what is free.
    tokenizer : str, Path or PreTrainedTokenizerBase, optional
        Another one than the model's own.
    progress : bool
        Show layers done, time left and bytes read.
    allow_pickle : bool
        Read legacy ``.bin`` weights, too, with ``weights_only=True``.

    Returns
    -------
    States
        Arrays mapped from disk: (N, d), or (T, d) without pooling.

    Raises
    ------
    FeatureError
        If an option or a text is bad, the folder holds other states, memory is too small (with the number), or
        activations are NaN, infinite, or too large for float16.
    LayerIndexError
        If the model has no such layer.
    SaveError
        If the disk is too small (with the number) or cannot be written.
    PifiProbeError
        As `extract` for the model; as `probe` for its tokenizer and the device.

    Examples
    --------
    >>> found = states("smollm2-135m", ["One text.", "Another."], layers=[8, -1], out="states")  # doctest: +SKIP
    >>> found.array(8).shape  # doctest: +SKIP
    (2, 576)
    """
    given = _as_texts(texts)
    pooling = "none" if pooling is None else pooling
    _one_of(pooling, STATE_POOLINGS, "pooling")
    _one_of(dtype, DTYPES, "dtype")
    place = device_of(device, precision)
    at_once = batch_tokens_on(place, batch_tokens)
    if at_once < 1 or (max_tokens is not None and max_tokens < 1):
        raise FeatureError("max_tokens and batch_tokens are at least 1", where="states", next="leave them out")
    checkpoint = open_named(model)
    family_of(checkpoint.config)
    n_layers = int(checkpoint.config.num_hidden_layers)
    chosen = tuple(sorted(layer_numbers(layers, n_layers + 1, model)))
    for index in range(chosen[-1]):
        refuse_missing_state(checkpoint.config, index, model)
    own = donor_tokenizer(checkpoint, tokenizer)
    identity, context = tokenizer_digest(own), context_of(checkpoint.config)
    tokens = tokenise(own, given, context if max_tokens is None else min(max_tokens, context))
    n_tokens, width = sum(tokens.lengths), int(checkpoint.config.hidden_size)
    key = {
        "model": content_of(checkpoint),
        "tokenizer": identity,
        "texts": _digest(given),
        "layers": list(chosen),
        "pooling": pooling,
        "max_length": tokens.limit,
        "dtype": dtype,
        "precision": precision,
        "version": _VERSION,
    }
    info = {
        "model": model,
        "revision": checkpoint.revision,
        "n_layers": n_layers,
        "width": width,
        "n_texts": len(given),
        "n_tokens": n_tokens,
        "n_cut": tokens.n_cut,
    }
    folder = Path(out)
    _refuse_others(folder, key)
    shape = (n_tokens if pooling == "none" else len(given), width)
    with alone_in(folder):
        make_folder(folder)
        writer = _Writer(folder, chosen, shape, np.dtype(dtype), tokens, pooling)
        left = writer.begin()
        if not left:
            return States(folder)
        order = buckets(tokens.lengths, at_once)
        _refuse_small_disk(writer, len(left), order)
        _refuse_small_memory(checkpoint, chosen[-1], order, tokens, model)
        write_json(folder / DESCRIPTION, {**info, "key": key, "made": collect()})
        writer.describe()
        batches = [Batch(*tokens.padded(rows)) for rows in order]

        def visit(point: int, i: int, states: torch.Tensor) -> None:
            if point in chosen:
                writer.write(point, order[i], states, batches[i].attention_mask, last=i == len(order) - 1)

        stream(
            checkpoint,
            batches,
            visit,
            model=model,
            until=chosen[-1],
            folder=writer.pass_folder,
            memory=memory,
            precision=precision,
            device=place,
            progress=progress,
        )
        return States(folder)


@dataclass
class _Writer:
    """Fills the arrays, one layer after the other; a layer has its name when it is complete."""

    folder: Path
    layers: tuple[int, ...]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    tokens: Tokens
    pooling: str
    _open: np.memmap[Any, Any] | None = None

    @property
    def pass_folder(self) -> Path:
        return self.folder / _PASS

    def begin(self) -> list[int]:
        """Return the layers that are not complete; a pass that would not visit one of them any more is dropped."""
        missing = [each for each in self.layers if not whole(array_file(self.folder, each), self.shape, self.dtype)]
        done = finished_point(self.pass_folder)
        if self.pass_folder.exists() and (not missing or (done is not None and missing[0] <= done)):
            remove_folder(self.pass_folder)
        self._partial.unlink(missing_ok=True)
        return missing

    @property
    def _partial(self) -> Path:
        return self.folder / "layer.partial"

    @cached_property
    def offsets(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.concatenate([[0], np.cumsum(self.tokens.lengths)]).astype(np.int64)

    def describe(self) -> None:
        """Write where texts begin among the tokens, and which tokens these are."""
        if self.pooling != "none":
            return
        flat = np.fromiter((i for ids in self.tokens.ids for i in ids), dtype=np.int64, count=self.shape[0])
        for name, values in ((OFFSETS, self.offsets), (TOKEN_IDS, flat)):
            with atomic_write(self.folder / name, "wb") as file:
                np.save(file, values)

    def write(self, point: int, rows: list[int], states: torch.Tensor, mask: torch.Tensor, last: bool) -> None:
        """Take the states (batch, seq, d) of some texts at a layer; after the `last` ones it is complete."""
        try:
            if self._open is None:
                self._open = np.lib.format.open_memmap(self._partial, mode="w+", dtype=self.dtype, shape=self.shape)
                _fill_up(self._partial)
            if self.pooling == "none":
                starts = self.offsets
                for row, found in zip(rows, states.cpu(), strict=True):
                    length = self.tokens.lengths[row]
                    self._open[starts[row] : starts[row] + length] = self._fitting(found[:length], point)
            else:
                pooled = pool_tokens(states, mask.to(states.device), self.pooling, normalise=False, drop_first=False)
                self._open[rows] = self._fitting(pooled.cpu(), point)
            if last:
                self._open.flush()
                self._open = None
                self._partial.replace(array_file(self.folder, point))
        except OSError as error:
            raise SaveError(
                f"hidden states cannot be written: {error.strerror or error}",
                where=str(self.folder),
                next=advice(error, "run the same call again, which continues from here"),
            ) from error

    def _fitting(self, states: torch.Tensor, point: int) -> np.ndarray[Any, Any]:
        with np.errstate(over="ignore"):
            found = states.numpy().astype(self.dtype)
        if self.dtype == np.float16 and not np.isfinite(found).all():
            raise FeatureError(
                f"states of layer {point} reach {states.abs().max().item():.3g}, beyond float16",
                where=str(self.folder),
                next='use dtype="float32" and another folder',
            )
        return found


def _fill_up(file: Path) -> None:
    """Take the disk's space for a file now: a mapped file that finds none later ends the process."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)


def _as_texts(texts: Iterable[str]) -> list[str]:
    given = [] if isinstance(texts, str) else list(texts)
    if not given:
        what = "one text stands where several belong" if isinstance(texts, str) else "there are no texts"
        raise FeatureError(what, where="texts", next="give a list of texts")
    for i, text in enumerate(given):
        if not isinstance(text, str):
            raise FeatureError(f"text {i} is {text!r:.40}, which is not text", where="texts", next="leave it out")
    return given


def _digest(texts: list[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(json.dumps(text).encode() + b"\n")
    return digest.hexdigest()


def _refuse_others(folder: Path, key: Mapping[str, Any]) -> None:
    """Refuse a folder with other states than those that are asked for, or with other files."""
    if not (folder / DESCRIPTION).exists():
        found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        found = [name for name in found if not name.endswith(".lock")]
        if found:
            raise FeatureError(
                f"the folder holds other files, such as {found[0]}", where=str(folder), next="give a new folder"
            )
        return
    stored = read_description(folder)["key"]
    for name, value in key.items():
        if stored.get(name) != value:
            what = _WHAT.get(name, name)
            raise FeatureError(
                f"the folder holds states that differ in {what}: {_short(stored.get(name))} there, {_short(value)} "
                "asked for",
                where=str(folder),
                next="give another folder, delete this one, or read what it holds with pp.States(folder)",
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse_small_disk(writer: _Writer, n_left: int, order: list[list[int]]) -> None:
    """Refuse what the disk does not hold: the arrays that are left, and the states of two layers to continue from."""
    array = writer.shape[0] * writer.shape[1] * writer.dtype.itemsize
    padded = sum(_padded(rows, writer.tokens) for rows in order)
    needed = n_left * array + 2 * 4 * padded * writer.shape[1]
    kept = sum(file.stat().st_size for file in writer.pass_folder.glob("*")) if writer.pass_folder.exists() else 0
    free = shutil.disk_usage(writer.folder).free + kept
    if needed > free:
        raise SaveError(
            f"the states take {amount(needed, 'B')}, and {amount(free, 'B')} are free: {n_left} layers of "
            f"{writer.shape[0]:,} x {writer.shape[1]:,} {writer.dtype}",
            where=str(writer.folder),
            next='ask for fewer layers or texts, pooling="mean" or dtype="float16", or a folder on another disk',
        )


def _refuse_small_memory(
    checkpoint: Checkpoint, until: int, order: list[list[int]], tokens: Tokens, model: str
) -> None:
    """Refuse what the memory does not hold: the largest layer in float32, and a batch inside it."""
    config = checkpoint.config
    layer = max((4 * checkpoint.contents(index).weights for index in range(until)), default=0)
    largest = max(_padded(rows, tokens) for rows in order)
    inner = getattr(config, "intermediate_size", None)
    inner = inner if isinstance(inner, int) else 4 * int(config.hidden_size)
    batch = 4 * largest * (6 * int(config.hidden_size) + 3 * inner)  # states and what a layer computes between
    free = int(psutil.virtual_memory().available)
    if layer + batch > free:
        raise FeatureError(
            f"a layer takes {amount(layer, 'B')} in float32 and a batch of {largest:,} tokens about "
            f"{amount(batch, 'B')}, and {amount(free, 'B')} are free",
            where=model,
            next="use a smaller batch_tokens and max_tokens, a smaller model, or a machine with more memory",
        )


def _padded(rows: list[int], tokens: Tokens) -> int:
    return len(rows) * max(tokens.lengths[row] for row in rows)


def _one_of(value: str, known: tuple[str, ...], what: str) -> None:
    if value not in known:
        raise FeatureError(f"unknown {what} {value!r}", where="states", next=f"use one of {', '.join(known)}")
