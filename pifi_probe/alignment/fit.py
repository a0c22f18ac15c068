"""Fitting interfaces: one ridge regression from an encoder's tokens to a donor's states, on texts without labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from pifi_probe.alignment.interface import Interface
from pifi_probe.alignment.tokens import TokenStates, aligned_tokenizer, encode
from pifi_probe.encoders import context_of
from pifi_probe.errors import FeatureError
from pifi_probe.layers.adapter import Adapter
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.stream import Batch, stream
from pifi_probe.tasks.tokens import buckets

__all__ = ["fit_interfaces", "interface_fits", "match_tokens"]

HELD_OUT = 0.1  # share of the texts on which R² is measured and the penalty is chosen
PENALTIES = np.logspace(-4, 0, 9)  # times the mean eigenvalue of the tokens' covariance
LEAST = 1e-4  # of the mean square of a feature, which stands in for the mean eigenvalue where that is smaller
ROUNDING = 1e-6  # share of their squares below which states do not vary: products are summed in float32
JUDGES = 64  # dimensions of the donor's by which the penalty is chosen
DONOR_TOKENS = 2048  # of one batch


def match_tokens(ends: Sequence[int] | NDArray[np.int64], donor_ends: Sequence[int]) -> list[int]:
    """Return for each token of an encoder the donor's token whose state it is to predict, by character spans.

    It is the first of the donor's tokens that has read the whole of the encoder's token; of several tokens for one
    character, the last. The donor's first token is never the target: its state is that of an attention sink.

    Parameters
    ----------
    ends, donor_ends : sequence of int
        Character at which each token ends; -1 for tokens without characters.

    Returns
    -------
    list of int, one per token of the encoder
        -1 where there is none.
    """
    donor = np.asarray(donor_ends, dtype=np.int64)
    reach = np.maximum.accumulate(donor) if len(donor) else donor  # ends ascend; special tokens keep the last one
    real = np.flatnonzero(donor >= 0)
    matches = []
    for end in ends:
        first = int(np.searchsorted(reach, end)) if end >= 0 else len(donor)
        if first >= len(donor):
            matches.append(-1)
            continue
        same = real[(donor[real] == reach[first]) & (real >= first)]
        found = int(same[-1]) if len(same) else -1
        matches.append(found if found > 0 else -1)
    return matches


@dataclass
class _Sums:
    """Normal equations of some tokens; the features end with a constant 1."""

    cross: torch.Tensor  # (p + 1, d), of the dimensions that are kept
    squares: torch.Tensor  # (d,), of the targets, summed

    @classmethod
    def empty(cls, p: int, width: int) -> _Sums:
        return cls(torch.zeros(p, width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64))

    def add(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        self.cross += (features.T @ targets).double()
        self.squares += targets.double().square().sum(0)


def fit_interfaces(
    states: TokenStates,
    texts: Sequence[str],
    checkpoint: Checkpoint,
    entries: Sequence[int],
    *,
    model: str,
    slm: str = "",
    max_tokens: int = 200,
    change: Callable[[FrozenLayer], FrozenLayer] | None = None,
    adapter: Adapter | None = None,
    saw: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> dict[int, Interface]:
    """Fit interfaces to several entries of a donor in one pass over its layers, up to the last entry.

    Parameters
    ----------
    states : TokenStates
        The encoder's, of the same texts.
    texts : sequence of str
        As `joined` makes them; no labels are needed.
    checkpoint : Checkpoint
        The donor's; one of its layers is in memory at a time, and layers from the last entry on are not read.
    entries : sequence of int
        Layers before which a chain is to begin, 0 to L.
    model, slm : str
        Names, for messages and for `Interface`.
    max_tokens : int
        Tokens of the donor after which a text is cut.
    change : callable, optional
        What runs in place of each layer, for interfaces to the states of a twin; see `stream`.
    adapter : Adapter, optional
        Merged into the donor's layers.
    saw : mapping, optional
        Where the texts come from, for `Interface.saw`.
    seed : int
        Of the texts that are held out.
    device : str or torch.device
        Where the donor computes.
    progress : bool

    Returns
    -------
    dict of int to Interface

    Raises
    ------
    FeatureError
        If a tokenizer cannot say where its tokens lie, no token of one model meets one of the other, or a state is
        NaN or infinite.

    Notes
    -----
    ``min_W sum |W [f, 1] - y / rms(y)|² + penalty |W|²`` over all matched tokens, the constant not penalised. The
    targets are divided by their own root mean square, since otherwise a few tokens with massive activations would
    dominate the fit (R² .07 in place of .75 on the positive control). Normal equations are accumulated batch by batch,
    so memory does not grow with the number of texts. The penalty is the best of nine on a tenth of the texts, held
    out; `Interface.r2` is measured there, then all texts are fitted.
    """
    every = slice(None)
    found = _summed(
        states, texts, checkpoint, entries, model, max_tokens, change, seed, device, progress, every, adapter
    )
    facts = {"texts": len(texts), "tokens": found.tokens, "labels": "none"} | dict(saw or {})
    made = {}
    for entry, (_, penalty, r2) in _penalties(found, whole=True).items():
        fitted, held = found.sums[entry]
        weight = _ridge(found.grams[0] + found.grams[1], fitted.cross + held.cross, penalty)
        made[entry] = Interface(
            weight=weight[:-1].T.float().contiguous(),
            bias=weight[-1].float(),
            first=(found.firsts[entry] / len(texts)).float(),
            scale=float(torch.cat(found.sizes[entry]).median()),
            r2=r2,
            entry=entry,
            donor=model,
            slm=slm,
            penalty=penalty,
            saw=facts,
        )
    return made


def interface_fits(
    states: TokenStates,
    texts: Sequence[str],
    checkpoint: Checkpoint,
    entries: Sequence[int],
    *,
    model: str,
    max_tokens: int = 200,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> dict[int, float]:
    """Return the held-out R² of an interface to each entry, over `JUDGES` of its dimensions, and make no interface.

    Parameters and errors are those of `fit_interfaces`, whose `Interface.r2` is measured over all dimensions.
    """
    judged = _judges(int(checkpoint.config.hidden_size))  # of 32 layers of 4,096 numbers all would take 3 GB
    found = _summed(states, texts, checkpoint, entries, model, max_tokens, None, seed, device, progress, judged)
    return {entry: r2 for entry, (r2, *_) in _penalties(found, whole=False).items()}


def _judges(width: int) -> slice:
    """Return the dimensions of the donor's by which a penalty is chosen."""
    return slice(None, None, max(1, width // JUDGES))


@dataclass(frozen=True)
class _Summed:
    """What a pass over the donor's layers leaves of its tokens."""

    grams: list[torch.Tensor]  # (p + 1, p + 1), of the features of the tokens to fit, and of those held out
    sums: dict[int, list[_Sums]]
    firsts: dict[int, torch.Tensor]  # (d_llm,), of the first states, summed
    sizes: dict[int, list[torch.Tensor]]  # root mean square of every target

    @property
    def tokens(self) -> int:
        return int(self.grams[0][-1, -1] + self.grams[1][-1, -1])


def _summed(
    states: TokenStates,
    texts: Sequence[str],
    checkpoint: Checkpoint,
    entries: Sequence[int],
    model: str,
    max_tokens: int,
    change: Callable[[FrozenLayer], FrozenLayer] | None,
    seed: int,
    device: str | torch.device,
    progress: bool,
    kept: slice,
    adapter: Adapter | None = None,
) -> _Summed:
    tokenizer = aligned_tokenizer(checkpoint)
    tokenizer.truncation_side = "right"  # a text that lost its beginning would meet tokens that had not read it
    plan = _plan(states, texts, tokenizer, min(max_tokens, context_of(checkpoint.config)), seed, model)
    wanted, width = sorted(set(entries)), int(checkpoint.config.hidden_size)
    n_kept = len(range(*kept.indices(width)))  # dimensions whose moments are summed
    p = 2 * states.tokens.shape[1] + 1
    made = _Summed(
        grams=[torch.zeros(p, p, dtype=torch.float64) for _ in range(2)],
        sums={entry: [_Sums.empty(p, n_kept) for _ in range(2)] for entry in wanted},
        firsts={entry: torch.zeros(width, dtype=torch.float64) for entry in wanted},
        sizes={entry: [] for entry in wanted},
    )

    def visit(point: int, i: int, found: torch.Tensor) -> None:
        if point not in made.sums:
            return
        found = found.cpu()
        made.firsts[point].add_(found[:, 0].double().sum(0))
        for part, (own, rows, places) in enumerate(plan[i].matches):
            targets = found[rows, places]  # (tokens, d_llm)
            size = targets.square().mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
            features = _features(states, own)
            made.sums[point][part].add(features, (targets / size)[:, kept])
            made.sizes[point].append(size[:, 0])
            if point == wanted[0]:
                made.grams[part].add_((features.T @ features).double())

    batches = [each.batch for each in plan]
    how: Any = {"change": change, "adapter": adapter, "device": device, "progress": progress}
    stream(checkpoint, batches, visit, model=model, until=wanted[-1], **how)
    return made


@dataclass(frozen=True)
class _Part:
    """One batch of the donor's, and which tokens of the encoder meet which of its own, fitted and held out."""

    batch: Batch
    matches: tuple[tuple[NDArray[np.int64], torch.Tensor, torch.Tensor], ...]


def _plan(
    states: TokenStates,
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    seed: int,
    model: str,
) -> list[_Part]:
    coded = encode(tokenizer, texts, None, max_tokens)
    held = np.zeros(len(texts), dtype=bool)
    held[np.random.default_rng(seed).permutation(len(texts))[: max(1, round(HELD_OUT * len(texts)))]] = True
    parts, found = [], [0, 0]
    for rows in buckets(coded.lengths, DONOR_TOKENS):
        own: list[list[int]] = [[], []]
        place: list[list[tuple[int, int]]] = [[], []]
        for at, row in enumerate(rows):
            span = range(int(states.starts[row]), int(states.starts[row + 1]))
            for token, match in zip(
                span, match_tokens(states.ends[span.start : span.stop], coded.ends[row]), strict=True
            ):
                if match >= 0:
                    own[int(held[row])].append(token)
                    place[int(held[row])].append((at, match))
        ids, mask, _ = coded.padded(rows)
        matches = []
        for side in range(2):
            index = torch.tensor(place[side], dtype=torch.long).reshape(-1, 2)
            matches.append((np.asarray(own[side], dtype=np.int64), index[:, 0], index[:, 1]))
            found[side] += len(index)
        parts.append(_Part(Batch(ids, mask), tuple(matches)))
    if min(found) < 2:
        raise FeatureError(
            f"{sum(found)} tokens of {len(texts)} texts can be paired between the two models, too few to align them",
            where=model,
            next="give more texts, or longer ones: those of a task's training split; max_tokens cuts them",
        )
    return parts


def _features(states: TokenStates, own: NDArray[np.int64]) -> torch.Tensor:
    """Return the tokens, those before them, and a constant: (tokens, 4 d_slm + 1); as `with_previous`."""
    here = torch.from_numpy(states.tokens[own])
    before = torch.from_numpy(states.tokens[own - 1])  # of token 0 the last one, which is masked
    first = torch.from_numpy(np.isin(own, states.starts))
    before = before.masked_fill(first[:, None], 0.0)
    return torch.cat([here, before, here.new_ones(len(own), 1)], dim=1)


def _penalties(found: _Summed, *, whole: bool) -> dict[int, tuple[float, float, float]]:
    """Return for every entry: R² on held-out tokens over `JUDGES` dimensions, the penalty that gives it, and R² whole.

    In the axes of the fitted tokens' covariance, V diag(v) V', a ridge regression is one division: W = V (V' C) / (v +
    penalty). The held-out moments are turned to the same axes once. R² over all dimensions is NaN where nobody asks.
    """
    fitted, held = found.grams
    n, n_held = float(fitted[-1, -1]), float(held[-1, -1])
    mean = fitted[:-1, -1] / n
    values, vectors = torch.linalg.eigh(fitted[:-1, :-1] - n * torch.outer(mean, mean))
    values = values.clamp_min(0.0)
    # Tokens of texts that are all alike hardly vary: a penalty below the rounding of their squares would damp nothing.
    unit = max(float(values.mean()), LEAST * float(fitted.diagonal()[:-1].mean())) or 1.0
    turned = vectors.T @ held[:-1, :-1] @ vectors
    ones, base = vectors.T @ held[:-1, -1], vectors.T @ mean  # sums of held-out features, means of fitted ones

    def r2(sums: list[_Sums], kept: slice, penalties: Sequence[float]) -> list[float]:
        cross, held_cross = (each.cross[:, kept] for each in sums)
        target, last = cross[-1] / n, held_cross[-1]
        rotated = vectors.T @ (cross[:-1] - n * torch.outer(mean, target))
        meets, squares = vectors.T @ held_cross[:-1], sums[1].squares[kept].sum()
        total = float(squares - 2 * target @ last + n_held * target.square().sum())
        scores = []
        for penalty in penalties:
            slope = rotated / (values + penalty)[:, None]
            constant = target - base @ slope
            # sum |y - W'f - b|² over the held-out tokens, from their moments
            lacking = squares - 2 * ((slope * meets).sum() + constant @ last) + n_held * constant.square().sum()
            lacking += (slope * (turned @ slope)).sum() + 2 * constant @ (ones @ slope)
            scores.append(1 - float(lacking) / total if total > ROUNDING * float(squares) else 0.0)
        return scores

    penalties, best = [float(one) for one in PENALTIES * unit], {}
    for entry, sums in found.sums.items():
        scores = r2(sums, _judges(sums[0].cross.shape[1]), penalties)
        at = len(scores) - 1 - int(np.argmax(scores[::-1]))  # of equal ones the strongest
        [all_of_it] = r2(sums, slice(None), [penalties[at]]) if whole else [float("nan")]
        best[entry] = (scores[at], penalties[at], all_of_it)
    return best


def _ridge(gram: torch.Tensor, cross: torch.Tensor, penalty: float) -> torch.Tensor:
    """Solve the normal equations with a constant that is not penalised."""
    n = float(gram[-1, -1])
    mean, target = gram[:-1, -1] / n, cross[-1] / n
    centred = gram[:-1, :-1] - n * torch.outer(mean, mean) + penalty * torch.eye(len(mean), dtype=gram.dtype)
    wanted = cross[:-1] - n * torch.outer(mean, target)
    factor, failed = torch.linalg.cholesky_ex(centred)
    if failed:  # by rounding, the variance of some features is below zero
        values, vectors = torch.linalg.eigh(centred)
        slope = vectors @ ((vectors.T @ wanted) / values.clamp_min(penalty)[:, None])
    else:
        slope = torch.cholesky_solve(wanted, factor)
    return torch.cat([slope, (target - mean @ slope)[None]])
