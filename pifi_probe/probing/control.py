"""The positive control: repeated random words, where the weights of a few layers matter beyond doubt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pifi_probe.checked import whole_number, whole_numbers
from pifi_probe.encoders import context_of
from pifi_probe.errors import CheckpointError, FeatureError, LayerIndexError
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.content import content_of
from pifi_probe.layers.control import ARMS, ControlRow, PositiveControl, control_path
from pifi_probe.layers.detect import refuse_missing_states
from pifi_probe.layers.extract import extract_from, pick_device
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.open import open_named
from pifi_probe.layers.spec import layer_numbers
from pifi_probe.layers.stem import Stem
from pifi_probe.layers.variants import make_variant
from pifi_probe.permissions import pickle_on_request
from pifi_probe.probing.words import Words, draw_words, once, twice
from pifi_probe.progress import bar_options
from pifi_probe.provenance import collect
from pifi_probe.vocabulary import TWINS

__all__ = ["positive_control"]

WIDTH = 384  # numbers in the foreign code of a word, as many as a small encoder has
PENALTY = 0.01  # of both ridges, as a share of the mean variance of a feature
BATCH_TOKENS = 2048
FEWEST = 8  # words


@dataclass(frozen=True)
class _Settings:
    """What the numbers depend on, apart from the donor."""

    n_words: int
    length: int
    n_fit: int
    n_test: int
    n_align: int  # 0: there is no interface
    seed: int
    words: str


@pickle_on_request
def positive_control(
    llm: str,
    layers: str | int | Sequence[int] | None = None,
    *,
    foreign: bool = False,
    n_words: int = 200,
    length: int = 20,
    n_fit: int = 128,
    n_test: int = 64,
    n_align: int = 256,
    seed: int = 0,
    device: str = "auto",
    cache: bool = True,
    progress: bool = True,
    allow_pickle: bool = False,
) -> PositiveControl:
    """Measure on repeated random words what a layer's weights do that its twins do not.

    A sequence holds `length` different words in random order, then the same again. In its second half the next word
    is the one that followed the same word before: only a model that can look back and copy knows it. A linear
    readout predicts it from each state: before the layer, behind it, behind its shuffled and its random twin, and
    behind the layer when it is given one token at a time.

    Parameters
    ----------
    llm : str
        Hub id (``org/name`` or ``org/name@revision``), local folder or file, or embedded name. One layer is in memory
        at a time, and its twin.
    layers : str, int or sequence of int, optional
        ``"17"``, ``"16-19"``, ``"0,17-18"``, or numbers. None: all. With `foreign`, the layers of one chain, in
        series; None: the layer with the largest effect on the donor's own states, behind its neighbour below; these
        are measured first.
    foreign : bool
        Not the donor's own states enter, but an arbitrary code of each word (384 random numbers) next to that of the
        word before, through one linear map: a ridge regression to the donor's states at the entry, each divided by
        its root mean square, fitted on sequences without any repetition.
    n_words, length : int
        Words to choose from, and different words in a sequence. A smaller vocabulary or context takes fewer.
    n_fit, n_test : int
        Sequences that the readout is fitted on, and others that it is tested on.
    n_align : int
        Sequences without repetition that the interface is fitted on; only with `foreign`.
    seed : int
        Of words, sequences, twins and code.
    device : str
        "auto", "cpu", "cuda", ...
    cache : bool
        Keep what was measured of each layer (``PIFI_PROBE_CACHE``), and continue from there.
    progress : bool
    allow_pickle : bool
        Read legacy ``.bin`` weights, too, with ``weights_only=True``; see `plug_in`.

    Returns
    -------
    PositiveControl
        Its `answer` says what was found; ``control[18]`` is the row of a layer.

    Raises
    ------
    LayerIndexError
        If the model has no such layer, or, with `foreign`, these are not neighbours in their order.
    FeatureError
        If the vocabulary is too small, states are NaN or infinite, or a number is not whole or too small.
    CheckpointError, CorruptFileError, ModelNotFoundError, UnsupportedFamilyError, HubError
        As for `pifi_probe.extract`.

    Notes
    -----
    Accuracy of a guess is 1 / `n_words`. Intervals are over test sequences. The readout is a ridge regression from
    states, each divided by its root mean square, to the 200 words. Matching and copying of this kind is what
    induction heads do (Olsson et al. 2022, arXiv 2209.11895).

    Examples
    --------
    >>> control = positive_control("smollm2-135m")  # doctest: +SKIP
    >>> control.peak.name, control.passed  # doctest: +SKIP
    ('18', True)
    """
    sizes = {"n_words": n_words, "length": length, "n_fit": n_fit, "n_test": n_test}
    n_words, length, n_fit, n_test = whole_numbers(FeatureError, "positive_control", 0, **sizes)
    n_align = whole_number("n_align", n_align, 2 if foreign else 0, FeatureError, "positive_control")
    seed = whole_number("seed", seed, 0, FeatureError, "positive_control")
    checkpoint = open_named(llm)
    wanted = layer_numbers(layers, int(checkpoint.config.num_hidden_layers), llm)
    if foreign and layers is None:
        own = positive_control(
            llm,
            n_words=n_words,
            length=length,
            n_fit=n_fit,
            n_test=n_test,
            seed=seed,
            device=device,
            cache=cache,
            progress=progress,
        )
        peak = own.peak.layers[0]
        wanted = (peak - 1, peak) if peak else (peak,)
    if foreign and wanted != tuple(range(wanted[0], wanted[0] + len(wanted))):
        raise LayerIndexError(
            f"{' >> '.join(map(str, wanted))} is not a chain of neighbours",
            where=f"positive control of {llm} with a foreign code",
            next='name neighbours in their order, such as "0-1"',
        )
    refuse_missing_states(checkpoint.config, max(wanted) + 1, llm)
    words = draw_words(checkpoint, n_words, seed)
    how = _settings(checkpoint, words, length, n_fit, n_test, n_align if foreign else 0, seed, llm)
    work = _Work(llm, checkpoint, words, how, pick_device(device), progress)
    asked = asdict(how) | {"tokens": words.ids.tolist(), "before": list(words.before)}  # another tokenizer's are others
    path = control_path(content_of(checkpoint), asked, foreign) if cache else None
    known = _known(path) if path else None
    rows = {row.layers: row for row in known.rows} if known else {}
    info = dict(known.info) if known else {}
    parts = [wanted] if foreign else [(index,) for index in wanted]
    missing = [part for part in parts if part not in rows]

    def control(keep: Sequence[tuple[int, ...]]) -> PositiveControl:
        own = {key: value for key, value in info.items() if key in {rows[part].name for part in keep}}
        chosen = tuple(rows[part] for part in keep)
        return PositiveControl(llm, foreign, work.n_layers, chosen, asdict(how), own, collect())

    if not missing and known is not None:
        return control(parts)
    for row, found in work.foreign(wanted) if foreign else work.own([part[0] for part in missing]):
        rows[row.layers] = row
        info |= found
        if path is not None:
            control(sorted(rows)).to_json(path)  # after each layer: a call that was stopped continues from here
    return control(parts)


def _known(path: Path) -> PositiveControl | None:
    try:
        return PositiveControl.from_json(path)
    except CheckpointError:  # missing or damaged: measured anew
        return None


def _settings(
    checkpoint: Checkpoint, words: Words, length: int, n_fit: int, n_test: int, n_align: int, seed: int, llm: str
) -> _Settings:
    room = (context_of(checkpoint.config) - len(words.before) - 1) // 2
    fitting = min(length, len(words) // 2, room)
    if len(words) < FEWEST or fitting < 2 or n_fit < 1 or n_test < 2:
        raise FeatureError(
            f"{len(words)} words, {fitting} in a sequence, {n_fit} + {n_test} sequences are too few",
            where=f"positive control of {llm}",
            next=f"take at least {FEWEST} words, length=2, n_fit=1, n_test=2; a smaller vocabulary cannot be used",
        )
    return _Settings(len(words), fitting, n_fit, n_test, n_align, seed, words.how)


class _Work:
    """One donor, its words and sequences."""

    def __init__(
        self, llm: str, checkpoint: Checkpoint, words: Words, how: _Settings, device: torch.device, progress: bool
    ) -> None:
        self.llm, self.checkpoint, self.words, self.how = llm, checkpoint, words, how
        self.device, self.progress = device, progress
        self.n_layers = int(checkpoint.config.num_hidden_layers)
        self.sequences = twice(how.n_words, how.length, how.n_fit + how.n_test, how.seed + 1)

    def own(self, wanted: Sequence[int]) -> Iterator[tuple[ControlRow, dict[str, Any]]]:
        """Yield the row of each wanted layer; the states pass once through all layers up to the last of them."""
        states = self._embedded(self.words.tokens(self.sequences))
        before: NDArray[np.int64] | None = None  # what can be read there
        for index in self._bar(range(max(wanted) + 1)):
            layer = self._layer(index)
            output = self._through([layer], states)
            behind = None
            if index in wanted:
                found = {"none": self._read(states) if before is None else before, "real": self._read(output)}
                behind = found["real"]
                for kind in TWINS:
                    found[kind] = self._read(self._through([self._twin(layer, kind)], states))
                found["one token"] = self._read(self._one_by_one([layer], states))
                yield self._row((index,), found), {}
            states, before = output, behind

    def foreign(self, chain: Sequence[int]) -> Iterator[tuple[ControlRow, dict[str, Any]]]:
        """Yield the row of a chain behind an aligned interface, and how well the interface fits."""
        interface, first, fit = self._aligned(chain[0])
        states = torch.cat([first.expand(len(self.sequences), 1, -1), interface(self.sequences)], dim=1)
        layers = [self._layer(index) for index in self._bar(chain)]
        found = {"none": self._read(states), "real": self._read(self._through(layers, states))}
        for kind in TWINS:
            found[kind] = self._read(self._through([self._twin(layer, kind) for layer in layers], states))
        found["one token"] = self._read(self._one_by_one(layers, states))
        row = self._row(tuple(chain), found)
        yield row, {row.name: fit}

    def _aligned(self, entry: int) -> tuple[_Interface, torch.Tensor, dict[str, float]]:
        """Fit L_in on sequences without repetition; nothing in them shows how to match or to copy."""
        how = self.how
        plain = once(how.n_words, 2 * how.length, how.n_align, how.seed + 2)
        states = self._embedded(self.words.tokens(plain))
        for index in self._bar(range(entry)):
            states = self._through([self._layer(index)], states)
        first = states[:, :1].mean(0, keepdim=True)  # (1, 1, d): of the sink, which every layer expects in front
        kept = states[:, max(1, len(self.words.before)) :]  # all words, but for one that is itself the first token
        plain_from = 2 * how.length - kept.shape[1]
        size = _rms(kept)  # a few massive activations would take the fit
        code = torch.randn(how.n_words, WIDTH, generator=torch.Generator().manual_seed(how.seed + 3))
        features = _features(code, plain)[:, plain_from:]
        cut = how.n_align - max(1, how.n_align // 10)
        x, y = (part[:cut].flatten(0, 1) for part in (features, kept / size))
        weights = _ridge(x, y)
        x, y = (part[cut:].flatten(0, 1) for part in (features, kept / size))
        rest = (y - _with_one(x) @ weights).square().sum() / (y - y.mean(0)).square().sum()
        scale = float(size.median())
        return _Interface(code, weights, scale), first, {"r2": float(1 - rest), "scale": scale}

    def _embedded(self, ids: torch.Tensor) -> torch.Tensor:
        return Stem(self.checkpoint, [ids])(ids, torch.ones_like(ids))

    def _layer(self, index: int) -> FrozenLayer:
        return extract_from(self.checkpoint, index, model=self.llm, dtype="float32", device=self.device, digest=False)

    def _twin(self, layer: FrozenLayer, kind: str) -> FrozenLayer:
        return make_variant(layer, kind, single_token=False, seed=1000 * self.how.seed + layer.card.index)

    @torch.no_grad()
    def _through(self, layers: Sequence[FrozenLayer], states: torch.Tensor) -> torch.Tensor:
        """Return what layers in series make of states (n, seq, d); all positions are tokens."""
        parts = []
        for part in states.split(max(1, BATCH_TOKENS // states.shape[1])):
            moved, mask = part.to(self.device), torch.ones(part.shape[:2], dtype=torch.long, device=self.device)
            for layer in layers:
                moved = layer(moved, mask)
            parts.append(moved.cpu())
        output = torch.cat(parts)
        if not torch.isfinite(output).all():
            raise FeatureError(
                f"the output of layer {layers[-1].card.index} ({layers[-1].card.variant}) holds NaN or infinite values",
                where=self.llm,
                next="check the checkpoint with another program",
            )
        return output

    def _one_by_one(self, layers: Sequence[FrozenLayer], states: torch.Tensor) -> torch.Tensor:
        """Return the same for the positions that are read, each token a sequence of its own."""
        read = self._readable(states)
        return self._through(layers, read.reshape(-1, 1, read.shape[-1])).reshape(read.shape)

    def _readable(self, states: torch.Tensor) -> torch.Tensor:
        """Return the second half but its last word, behind which nothing follows: (n, length - 1, d)."""
        return states[:, -self.how.length : -1]

    def _read(self, states: torch.Tensor) -> NDArray[np.int64]:
        """Return how many next words of each test sequence a ridge readout predicts."""
        n_fit = self.how.n_fit
        if states.shape[1] > self.how.length - 1:
            states = self._readable(states)
        states = states / _rms(states)
        target = torch.from_numpy(self.sequences[:, self.how.length + 1 :])  # (n, length - 1)
        words = torch.nn.functional.one_hot(target[:n_fit].flatten(), self.how.n_words).float()
        weights = _ridge(states[:n_fit].flatten(0, 1), words)
        guessed = (_with_one(states[n_fit:]) @ weights).argmax(-1)
        counts: NDArray[np.int64] = (guessed == target[n_fit:]).sum(1).numpy()
        return counts

    def _row(self, layers: tuple[int, ...], found: dict[str, NDArray[np.int64]]) -> ControlRow:
        correct = {arm: tuple(int(count) for count in found[arm]) for arm in ARMS}
        return ControlRow(layers, correct, self.how.length - 1)

    def _bar(self, items: Sequence[int]) -> Iterator[int]:
        yield from tqdm(items, desc=f"control of {self.llm}", unit="layer", leave=False, **bar_options(self.progress))


@dataclass(frozen=True)
class _Interface:
    """L_in: code of a word, of the one before, and 1, to the donor's states."""

    code: torch.Tensor  # (n_words, WIDTH)
    weights: torch.Tensor  # (2 WIDTH + 1, d)
    scale: float

    def __call__(self, sequences: NDArray[np.int64]) -> torch.Tensor:
        return self.scale * (_with_one(_features(self.code, sequences)) @ self.weights)


def _features(code: torch.Tensor, sequences: NDArray[np.int64]) -> torch.Tensor:
    """Return (n, seq, 2 WIDTH): the code of each word and of the one before, zeros before the first."""
    own = code[torch.from_numpy(sequences)]
    return torch.cat([own, torch.nn.functional.pad(own[:, :-1], (0, 0, 1, 0))], dim=-1)


def _rms(states: torch.Tensor) -> torch.Tensor:
    return states.square().mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(states.dtype).tiny)


def _with_one(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(x, (0, 1), value=1.0)


def _ridge(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return weights (d + 1, k) of a ridge regression with a free constant, which is the last row.

    Parameters
    ----------
    x, y : Tensor, (n, d) and (n, k)
    """
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    n, d = x.shape
    penalty = PENALTY * x.square().sum() / d
    if n >= d:
        weights = torch.linalg.solve(x.T @ x + penalty * torch.eye(d), x.T @ y)
    else:  # fewer rows than columns: the same by the small matrix
        weights = x.T @ torch.linalg.solve(x @ x.T + penalty * torch.eye(n), y)
    return torch.cat([weights, (mean_y - mean_x @ weights)[None]])
