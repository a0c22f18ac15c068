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
from pifi_probe.alignment.tokens import TokenStates, encode
from pifi_probe.errors import FeatureError
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.stream import Batch, stream
from pifi_probe.layers.tokenizer import donor_tokenizer
from pifi_probe.tasks.tokens import buckets, context_of

__all__ = ["fit_interfaces", "match_tokens"]

HELD_OUT = 0.1  # share of the texts on which R² is measured and the penalty is chosen
PENALTIES = np.logspace(-4, 0, 9)  # times the mean eigenvalue of the tokens' covariance
JUDGES = 64  # dimensions of the donor's by which the penalty is chosen
DONOR_TOKENS = 2048  # of one batch
Floats = NDArray[np.float64]


def match_tokens(ends: Sequence[int] | NDArray[np.int64], donor_ends: Sequence[int]) -> list[int]:
    """Return for each token of an encoder the donor's token whose state it is to predict, by character spans.

    It is the first of the donor's tokens that has read the whole of the encoder's token; of several tokens for one
    character, the last. The donor's first token is never meant: its state is that of an attention sink.

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

    cross: torch.Tensor  # (p + 1, d_llm)
    squares: torch.Tensor  # (d_llm,), of the targets, summed

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
    max_length: int = 200,
    change: Callable[[FrozenLayer], FrozenLayer] | None = None,
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
    max_length : int
        Tokens of the donor after which a text is cut.
    change : callable, optional
        What runs in place of each layer, for interfaces to the states of a twin; see `stream`.
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
    targets are divided by their own root mean square, since a few tokens with massive activations would else take
    the fit (R² .07 in place of .75 on the positive control). Normal equations are accumulated batch by batch, so
    memory does not grow with the number of texts. The penalty is the best of nine on a tenth of the texts, held out;
    `Interface.r2` is measured there, then all texts are fitted.
    """
    tokenizer = donor_tokenizer(checkpoint)
    plan = _plan(states, texts, tokenizer, min(max_length, context_of(checkpoint.config)), seed, model)
    wanted, width = sorted(set(entries)), int(checkpoint.config.hidden_size)
    p = 2 * states.tokens.shape[1] + 1
    grams = [torch.zeros(p, p, dtype=torch.float64) for _ in range(2)]  # fitted, held out
    sums = {entry: [_Sums.empty(p, width) for _ in range(2)] for entry in wanted}
    firsts = {entry: torch.zeros(width, dtype=torch.float64) for entry in wanted}
    sizes: dict[int, list[torch.Tensor]] = {entry: [] for entry in wanted}

    def visit(point: int, i: int, found: torch.Tensor) -> None:
        if point not in sums:
            return
        found = found.cpu()
        firsts[point] += found[:, 0].double().sum(0)
        for part, (own, rows, places) in enumerate(plan[i].matches):
            targets = found[rows, places]  # (tokens, d_llm)
            size = targets.square().mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
            features = _features(states, own)
            sums[point][part].add(features, targets / size)
            sizes[point].append(size[:, 0])
            if point == wanted[0]:
                grams[part].add_((features.T @ features).double())

    batches = [each.batch for each in plan]
    stream(checkpoint, batches, visit, model=model, until=wanted[-1], change=change, device=device, progress=progress)
    facts = {"texts": len(texts), "tokens": int(grams[0][-1, -1] + grams[1][-1, -1]), "labels": "none"} | dict(
        saw or {}
    )
    solved = _solve(grams, sums)
    return {
        entry: Interface(
            weight=weight[:-1].T.float().contiguous(),
            bias=weight[-1].float(),
            first=(firsts[entry] / len(texts)).float(),
            scale=float(torch.cat(sizes[entry]).median()),
            r2=r2,
            entry=entry,
            donor=model,
            slm=slm,
            penalty=penalty,
            saw=facts,
        )
        for entry, (weight, r2, penalty) in solved.items()
    }


@dataclass(frozen=True)
class _Part:
    """One batch of the donor's, and which tokens of the encoder meet which of its own, fitted and held out."""

    batch: Batch
    matches: tuple[tuple[NDArray[np.int64], torch.Tensor, torch.Tensor], ...]


def _plan(
    states: TokenStates,
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    seed: int,
    model: str,
) -> list[_Part]:
    coded = encode(tokenizer, texts, None, max_length)
    held = np.zeros(len(texts), dtype=bool)
    held[np.random.default_rng(seed).permutation(len(texts))[: max(1, round(HELD_OUT * len(texts)))]] = True
    parts, found = [], [0, 0]
    for rows in buckets([len(ids) for ids in coded.ids], DONOR_TOKENS):
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
        ids = [torch.tensor(coded.ids[row]) for row in rows]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=coded.pad)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in ids], batch_first=True)
        matches = []
        for side in range(2):
            index = torch.tensor(place[side], dtype=torch.long).reshape(-1, 2)
            matches.append((np.asarray(own[side], dtype=np.int64), index[:, 0], index[:, 1]))
            found[side] += len(index)
        parts.append(_Part(Batch(padded, mask), tuple(matches)))
    if min(found) < 2:
        raise FeatureError(
            f"{sum(found)} tokens of {len(texts)} texts can be paired between the two models: too few to align them",
            where=model,
            next="give more texts, or longer ones: those of a task's training split",
        )
    return parts


def _features(states: TokenStates, own: NDArray[np.int64]) -> torch.Tensor:
    """Return the tokens, those before them, and a constant: (tokens, 4 d_slm + 1); as `with_previous`."""
    here = torch.from_numpy(states.tokens[own])
    before = torch.from_numpy(states.tokens[own - 1])  # of token 0 the last one, which is masked
    first = torch.from_numpy(np.isin(own, states.starts))
    before = before.masked_fill(first[:, None], 0.0)
    return torch.cat([here, before, here.new_ones(len(own), 1)], dim=1)


def _solve(grams: list[torch.Tensor], sums: dict[int, list[_Sums]]) -> dict[int, tuple[torch.Tensor, float, float]]:
    """Return coefficients (p + 1, d_llm), held-out R² and penalty of every entry."""
    n = float(grams[0][-1, -1])
    mean = grams[0][:-1, -1] / n
    values, vectors = torch.linalg.eigh(grams[0][:-1, :-1] - n * torch.outer(mean, mean))
    values = values.clamp_min(0.0)
    unit = float(values.mean()) or 1.0
    solved = {}
    for entry, (fitted, held) in sums.items():
        target = fitted.cross[-1] / n
        rotated = vectors.T @ (fitted.cross[:-1] - n * torch.outer(mean, target))
        scores: dict[float, float] = {}
        for penalty in (*(float(one) for one in PENALTIES * unit), None):
            best = max(scores, key=lambda one: scores[one]) if penalty is None else penalty
            kept = slice(None) if penalty is None else slice(None, None, max(1, len(target) // JUDGES))
            slope = vectors @ (rotated[:, kept] / (values + best)[:, None])
            weight = torch.cat([slope, (target[kept] - mean @ slope)[None]])
            scores[best] = _r2(weight, target[kept], grams[1], held.cross[:, kept], held.squares[kept])
        solved[entry] = (_ridge(grams[0] + grams[1], fitted.cross + held.cross, best), scores[best], best)
    return solved


def _r2(
    weight: torch.Tensor, mean: torch.Tensor, gram: torch.Tensor, cross: torch.Tensor, squares: torch.Tensor
) -> float:
    """Return R² of coefficients (p + 1, columns) against the mean of the fitted targets, from normal equations."""
    lacking = squares.sum() - 2 * (weight * cross).sum() + (weight * (gram @ weight)).sum()
    total = squares.sum() - 2 * mean @ cross[-1] + gram[-1, -1] * mean.square().sum()
    return float(1 - lacking / total) if total > 0 else 0.0


def _ridge(gram: torch.Tensor, cross: torch.Tensor, penalty: float) -> torch.Tensor:
    """Solve the normal equations with a constant that is not penalised."""
    n = float(gram[-1, -1])
    mean, target = gram[:-1, -1] / n, cross[-1] / n
    centred = gram[:-1, :-1] - n * torch.outer(mean, mean) + penalty * torch.eye(len(mean), dtype=gram.dtype)
    slope = torch.cholesky_solve(cross[:-1] - n * torch.outer(mean, target), torch.linalg.cholesky(centred))
    return torch.cat([slope, (target - mean @ slope)[None]])
