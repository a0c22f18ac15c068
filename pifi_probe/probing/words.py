"""Random words of a donor's own vocabulary, in sequences with and without repetition."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from pifi_probe.errors import FeatureError
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.tokenizer import donor_tokenizer

__all__ = ["Words", "draw_words", "once", "twice"]

FREQUENT = 4000  # tokenizers number their words by frequency; rare ones are poorly trained
STARTS = (
    "\u0120",
    "\u2581",
)  # of a token with a space before it, in byte-level BPE and in SentencePiece
LETTER = "a"  # a text that any tokenizer has tokens for
SHORTEST = 3  # letters of a word


@dataclass(frozen=True)
class Words:
    """Words as token ids.

    Parameters
    ----------
    ids : ndarray of int64, (n,)
        One token a word, all different.
    before : tuple of int
        What the tokenizer puts before a text, such as a begin-of-sequence token.
    how : str
        Which tokens these are.
    """

    ids: NDArray[np.int64]
    before: tuple[int, ...]
    how: str

    def __len__(self) -> int:
        return len(self.ids)

    def tokens(self, sequences: NDArray[np.int64]) -> torch.Tensor:
        """Return token ids (n, before + seq) of sequences of word numbers (n, seq)."""
        before = np.tile(np.asarray(self.before, dtype=np.int64), (len(sequences), 1))
        return torch.from_numpy(np.hstack([before, self.ids[sequences]]))


def draw_words(checkpoint: Checkpoint, n: int, seed: int) -> Words:
    """Draw words that are single tokens of the donor's vocabulary.

    Frequent words of letters that begin with a space, where the tokenizer has enough of them; else any tokens of
    letters; else, as without a tokenizer that can be loaded, any tokens but the special ones. The task needs only
    tokens that differ: what they mean does not matter.

    Parameters
    ----------
    checkpoint : Checkpoint
    n : int
        A smaller vocabulary gives fewer.
    seed : int
    """
    size = int(checkpoint.config.vocab_size)
    try:
        tokenizer = donor_tokenizer(checkpoint)
    except Exception:  # any: what is missing or damaged shows in many ways, and the words need no tokenizer
        return _any_tokens(checkpoint, n, seed)
    before, special = _before(tokenizer), set(tokenizer.all_special_ids)
    vocabulary = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i < size and i not in special)
    if len(vocabulary) < min(n, size // 2):  # transformers makes an empty tokenizer where a folder has none
        return _any_tokens(checkpoint, n, seed)
    words = [i for i, token in vocabulary if token.startswith(STARTS) and _is_word(token[1:])]
    if len(words) >= n:
        return Words(_drawn(words[: max(n, FREQUENT)], n, seed), before, "frequent words that are single tokens")
    letters = [i for i, token in vocabulary if token.strip("".join(STARTS) + "#").isalpha()]
    if len(letters) >= n:
        return Words(_drawn(letters[: max(n, FREQUENT)], n, seed), before, "frequent tokens of letters")
    return Words(_drawn([i for i, _ in vocabulary], n, seed), before, "any tokens but the special ones")


def _any_tokens(checkpoint: Checkpoint, n: int, seed: int) -> Words:
    size, bos = int(checkpoint.config.vocab_size), getattr(checkpoint.config, "bos_token_id", None)
    before = (bos,) if isinstance(bos, int) and 0 <= bos < size else ()
    ids = [i for i in range(size) if i not in before]
    return Words(_drawn(ids, n, seed), before, "any tokens: the donor has no tokenizer that can be loaded")


def _is_word(token: str) -> bool:
    return len(token) >= SHORTEST and token.isascii() and token.isalpha() and token.islower()


def _before(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the tokens that stand before every text; one that closes a text may be the same token."""
    starts = (tokenizer.bos_token_id, tokenizer.cls_token_id)
    return tuple(itertools.takewhile(lambda i: i in starts, tokenizer(LETTER)["input_ids"]))


def _drawn(ids: list[int], n: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(np.asarray(ids, dtype=np.int64))[:n]


def once(n_words: int, length: int, n: int, seed: int) -> NDArray[np.int64]:
    """Return (n, length) numbers of words, in random order and none twice in a sequence."""
    if length > n_words:
        raise FeatureError(
            f"a sequence of {length} different words needs more than {n_words} words",
            where="positive control",
            next="use a smaller length, or more words where the vocabulary has them",
        )
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n_words)[:length] for _ in range(n)])


def twice(n_words: int, length: int, n: int, seed: int) -> NDArray[np.int64]:
    """Return (n, 2 length): different words in random order, then the same again.

    In the second half every next word is the one that followed the same word in the first half.
    """
    first = once(n_words, length, n, seed)
    return np.hstack([first, first])
