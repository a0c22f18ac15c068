"""An encoder's states, token by token, with the place of every token in its text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pifi_probe.compat import quiet_transformers
from pifi_probe.encoders import has_token_types, room_of
from pifi_probe.errors import FeatureError, TokenizerError
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.tokenizer import donor_tokenizer
from pifi_probe.tasks.tokens import buckets
from pifi_probe.vocabulary import MAX_TOKENS

__all__ = [
    "Encoded",
    "TokenStates",
    "aligned_tokenizer",
    "apart",
    "check_places",
    "compact",
    "content_mask",
    "encode",
    "joined",
    "marked_first",
    "special_ids",
    "token_states",
    "with_previous",
]

BATCH_TOKENS = 4096


@dataclass(frozen=True)
class TokenStates:
    """The content tokens of N texts, text after text; special tokens are left out.

    Parameters
    ----------
    tokens : array of float32, shape (T, 2 d_slm)
        State of each token after the encoder's last layer, and before its first one.
    starts : array of int64, shape (N + 1,)
        Text n owns the tokens ``starts[n]:starts[n + 1]``, at least one.
    ends : array of int64, shape (T,)
        Character of the text (see `joined`) at which each token ends.
    pooled : array of float32, shape (N, 2 (L + 1) d_slm)
        What the encoder alone knows about each text: at every depth the mean over its content tokens and the first
        token ([CLS]; of a decoder, the last one).
    second : array of int64, shape (N,), optional
        Of pairs whose texts were read apart (`apart`): tokens of a row before its second text. The last of them is
        a line end between the two, with a state of zeros.
    """

    tokens: NDArray[np.float32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    pooled: NDArray[np.float32]
    second: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Content tokens of each text, (N,)."""
        return np.diff(self.starts)

    def padded(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens (rows, seq, 2 d_slm) of some texts and their mask (rows, seq), padded on the right."""
        parts = [torch.from_numpy(np.array(self.tokens[self.starts[row] : self.starts[row + 1]])) for row in rows]
        lengths = torch.tensor([len(part) for part in parts])
        states = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        return states, torch.arange(states.shape[1]) < lengths[:, None]

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> TokenStates:
        """Return the states of some texts."""
        spans = [np.arange(self.starts[row], self.starts[row + 1]) for row in rows]
        places = np.concatenate(spans)
        starts = np.concatenate([[0], np.cumsum([len(span) for span in spans])])
        chosen = np.asarray(rows)
        second = None if self.second is None else self.second[chosen]
        return TokenStates(self.tokens[places], starts, self.ends[places], self.pooled[chosen], second)


@dataclass(frozen=True)
class Encoded:
    """Texts as an encoder's token ids, each with the character at which it ends.

    Parameters
    ----------
    ids, types : list of list of int
        `types` is None where the tokenizer gives none.
    ends : list of list of int
        -1 for tokens without characters.
    special : frozenset of int
    pad : int
    """

    ids: list[list[int]]
    types: list[list[int]] | None
    ends: list[list[int]]
    special: frozenset[int]
    pad: int

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text, special ones included."""
        return [len(ids) for ids in self.ids]

    def padded(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return ids, mask and token types (rows, seq) of some texts, padded on the right."""
        types = None if self.types is None else _padded(self.types, rows, 0)
        mask = _padded([[1] * length for length in self.lengths], rows, 0)
        return _padded(self.ids, rows, self.pad), mask, types


def joined(texts: Sequence[str], pairs: Sequence[str] | None) -> list[str]:
    """Return one text a row: the two texts of a pair on a line each."""
    return list(texts) if pairs is None else [f"{a}\n{b}" for a, b in zip(texts, pairs, strict=True)]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids that stand for no characters of a text.

    An unknown word is one of its words; but where one token is unknown word, start and end (OPT, GPT-2), every
    character is known, and the token only marks start and end.
    """
    marks = {getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "cls", "sep")}
    return frozenset(tokenizer.all_special_ids) - ({tokenizer.unk_token_id} - marks)


def check_places(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise FeatureError if a tokenizer cannot say where its tokens lie."""
    if not tokenizer.is_fast:
        raise FeatureError(
            "this tokenizer does not say at which characters its tokens lie, so no other tokenizer can be aligned",
            where=type(tokenizer).__name__,
            next="use a model with a tokenizer.json (a fast tokenizer)",
        )


def aligned_tokenizer(donor: Checkpoint) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a donor that an encoder is to be aligned to; ``tokenizer=`` is the encoder's there.

    Raises
    ------
    TokenizerError
        If the donor has none that can be loaded and used.
    FeatureError
        If it cannot say where its tokens lie.
    """
    try:
        tokenizer = donor_tokenizer(donor)
    except TokenizerError as error:
        raise TokenizerError(
            f"an encoder cannot be aligned without the donor's tokenizer: {error.what}",
            where=error.where,
            next="put it next to the donor's weights (tokenizer.json and its settings); tokenizer= is the encoder's",
        ) from error
    check_places(tokenizer)
    return tokenizer


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], pairs: Sequence[str] | None, max_tokens: int
) -> Encoded:
    """Tokenise texts, or pairs read together, and give the character of `joined` at which every token ends.

    Raises
    ------
    FeatureError
        If the tokenizer cannot say where its tokens lie.
    """
    check_places(tokenizer)
    second = None if pairs is None else list(pairs)
    with quiet_transformers():  # it warns of long texts, which are cut here
        found = tokenizer(list(texts), second, truncation=True, max_length=max_tokens, return_offsets_mapping=True)
    ends = []
    for row, offsets in enumerate(found["offset_mapping"]):
        both = [texts[row]] if second is None else [texts[row], second[row]]
        ends.append(_ends(both, offsets, found.sequence_ids(row)))
    fill = (tokenizer.cls_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    only = next((i for i in fill if i is not None), 0)
    empty = [row for row, ids in enumerate(found["input_ids"]) if not ids]
    for row in empty:  # a text without any token
        found["input_ids"][row], ends[row] = [only], [-1]
    types = found.get("token_type_ids")
    if types is not None:
        types = [each or [0] for each in types]
    return Encoded(found["input_ids"], types, ends, special_ids(tokenizer), tokenizer.pad_token_id or 0)


def _ends(texts: Sequence[str], offsets: Sequence[tuple[int, int]], parts: Sequence[int | None]) -> list[int]:
    """Return the character of the joined text at which each token ends, -1 for tokens without characters.

    A tokenizer that composes characters, or drops accents, ends a token at the letter: the marks behind it, which no
    other token stands for, are read with it.
    """
    found, after = [-1] * len(offsets), [len(text) for text in texts]  # where the next token of each text begins
    for at in range(len(offsets) - 1, -1, -1):
        (start, end), part = offsets[at], parts[at]
        if part is None or end <= start:
            continue
        text, stop = texts[part], max(after[part], end)
        after[part] = min(after[part], start)
        while end < stop and _joins(text[end]):
            end += 1
        found[at] = end + (len(texts[0]) + 1 if part else 0)
    return found


def _joins(mark: str) -> bool:
    """Whether a character joins the one before it: marks, vowels and finals of Hangul, half-width sound marks."""
    return unicodedata.category(mark)[0] == "M" or "\u1160" <= mark <= "\u11ff" or mark in "\uff9e\uff9f"


def content_mask(
    input_ids: torch.Tensor, attention_mask: torch.Tensor, special: torch.Tensor | Sequence[int]
) -> torch.Tensor:
    """Mark the tokens that carry a text's characters; of a text without any, all its tokens.

    Parameters
    ----------
    input_ids, attention_mask : Tensor, (batch, seq)
    special : Tensor or sequence of int
        Ids that stand for no characters.

    Returns
    -------
    Tensor of bool, (batch, seq)
    """
    there = attention_mask.bool()
    ids = torch.as_tensor(special, device=input_ids.device, dtype=input_ids.dtype)
    content = there & (input_ids[..., None] != ids).all(-1)
    return content | (there & ~content.any(1, keepdim=True))


def compact(states: torch.Tensor, content: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Move the marked tokens of each row to its left end, in their order; return states and mask.

    States are (batch, seq, d), zero where a row has no more tokens; marks and mask are bool, (batch, seq).
    """
    order = marked_first(content)
    moved = states.gather(1, order[..., None].expand(-1, -1, states.shape[-1]))
    mask = torch.arange(content.shape[1], device=states.device) < content.sum(1)[:, None]
    return moved.masked_fill(~mask[..., None], 0.0), mask


def marked_first(marks: torch.Tensor) -> torch.Tensor:
    """Return the order (batch, seq) of places in which the marked ones come first, and the rest keeps its order.

    The keys are all different, so no stable sort is needed, which ONNX does not have.
    """
    n = marks.shape[1]
    keys = torch.arange(n, device=marks.device) - n * marks.long()
    return keys.argsort(dim=1)


def with_previous(states: torch.Tensor) -> torch.Tensor:
    """Put next to each token (batch, seq, d) the one before it, zero for the first: (batch, seq, 2 d)."""
    before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)
    return torch.cat([states, before], dim=-1)


@torch.no_grad()
def token_states(
    encoder: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    max_tokens: int = MAX_TOKENS,
    last_pools: bool = False,
    device: str | torch.device = "cpu",
) -> TokenStates:
    """Pass texts through an encoder and keep what an interface and a readout need.

    Parameters
    ----------
    encoder : PreTrainedModel
        The base model, without a head.
    tokenizer : PreTrainedTokenizerBase
        A fast one.
    texts, pairs : sequence of str, length N
        The two texts of a pair are read together.
    max_tokens : int
        Tokens after which a text is cut, special ones included.
    last_pools : bool
        For a decoder: pool the last token, which has seen the text, where an encoder's first one is pooled.
    device : str or torch.device

    Returns
    -------
    TokenStates

    Raises
    ------
    FeatureError
        If the tokenizer is not a fast one, or a state is NaN or infinite.
    """
    coded = encode(tokenizer, texts, pairs, min(max_tokens, room_of(encoder), tokenizer.model_max_length))
    encoder.eval().to(device)
    tokens: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(texts)
    ends: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(texts)
    pooled: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(texts)
    for rows in buckets(coded.lengths, BATCH_TOKENS):
        ids, mask, types = coded.padded(rows)
        extra = {}
        if types is not None and has_token_types(encoder.config):
            extra["token_type_ids"] = types.to(device)
        found = encoder(input_ids=ids.to(device), attention_mask=mask.to(device), output_hidden_states=True, **extra)
        depths = [*found.hidden_states[:-1], found.last_hidden_state]
        content = content_mask(ids, mask, sorted(coded.special)).to(device)
        share = content / content.sum(1, keepdim=True)
        edge = (mask.sum(1) - 1 if last_pools else torch.zeros(len(ids), dtype=torch.long)).to(device)
        each = torch.arange(len(ids), device=device)
        vectors = [part for h in depths for part in (torch.bmm(share[:, None], h)[:, 0], h[each, edge])]
        both = torch.cat([depths[-1], depths[0]], dim=-1).cpu().numpy()
        flat = torch.cat(vectors, dim=-1).float().cpu().numpy()
        kept = content.cpu().numpy()
        for place, row in enumerate(rows):
            tokens[row], pooled[row] = both[place][kept[place]], flat[place]
            ends[row] = np.asarray(coded.ends[row], dtype=np.int64)[kept[place][: len(coded.ends[row])]]
    starts = np.concatenate([[0], np.cumsum([len(part) for part in tokens])]).astype(np.int64)
    states = TokenStates(np.concatenate(tokens), starts, np.concatenate(ends), np.stack(pooled))
    if not (np.isfinite(states.pooled).all() and np.isfinite(states.tokens).all()):
        raise FeatureError(
            "the encoder's states hold NaN or infinite values",
            where=str(encoder.config.model_type),
            next="check the encoder's weights",
        )
    return states


def apart(first: TokenStates, second: TokenStates, texts: Sequence[str]) -> TokenStates:
    """Put the states of pairs whose texts an encoder has read one at a time behind one another.

    Between the two stands the line end of `joined`, with a state of zeros, so that no token of the second text sees
    one of the first before a layer lets it.

    Parameters
    ----------
    first, second : TokenStates, of N texts each
    texts : sequence of str, length N
        The first texts, whose lengths shift the characters of the second ones.

    Returns
    -------
    TokenStates
        ``pooled`` compares the two vectors of a pair: ``u, v, |u - v|, u v``, (N, 8 (L + 1) d_slm).
    """
    tokens, ends, starts, middle = [], [], [0], []
    line = np.zeros((1, first.tokens.shape[1]), np.float32)
    for row, text in enumerate(texts):
        a, b = (slice(each.starts[row], each.starts[row + 1]) for each in (first, second))
        shifted = np.where(second.ends[b] >= 0, second.ends[b] + len(text) + 1, -1)
        tokens += [first.tokens[a], line, second.tokens[b]]
        ends += [first.ends[a], np.array([len(text) + 1]), shifted]
        middle.append(a.stop - a.start + 1)
        starts.append(starts[-1] + middle[-1] + b.stop - b.start)
    u, v = first.pooled, second.pooled
    compared = np.concatenate([u, v, np.abs(u - v), u * v], axis=1)
    return TokenStates(np.concatenate(tokens), np.array(starts), np.concatenate(ends), compared, np.array(middle))


def _padded(values: Sequence[Sequence[int]], rows: Sequence[int], fill: int) -> torch.Tensor:
    parts = [torch.tensor(values[row]) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=fill)
