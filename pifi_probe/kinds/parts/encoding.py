"""From a split to token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from pifi_probe.errors import TokenizerError
from pifi_probe.kinds.parts.rows import Split

__all__ = ["EncodedSplit", "encode", "require_offsets"]


@dataclass(frozen=True)
class EncodedSplit(Dataset[dict[str, Any]]):
    """A split as token ids, tokenised once.

    Parameters
    ----------
    columns : mapping of str to list
        What the tokenizer gives: for each name, one list of ints per row, not padded.
    labels : tuple, length n
    """

    columns: Mapping[str, Sequence[Any]]
    labels: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.inputs(row) | {"labels": self.labels[row]}

    def inputs(self, row: int) -> dict[str, Any]:
        """Return one row without its label."""
        return {name: column[row] for name, column in self.columns.items()}

    def flat(self, row: int) -> dict[str, Any]:
        """Return one row as one text, for what reads texts only."""
        return self.inputs(row)

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each row."""
        return [len(ids) for ids in self.columns["input_ids"]]


def encode(split: Split, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> EncodedSplit:
    """Tokenise a split, each row cut off after `max_tokens` tokens.

    Parameters
    ----------
    split : Split
    tokenizer : PreTrainedTokenizerBase
    max_tokens : int
        Special tokens count; of a pair, the longer text is cut.

    Returns
    -------
    EncodedSplit
    """
    pairs = None if split.pairs is None else list(split.pairs)
    encoded = tokenizer(list(split.texts), pairs, truncation=True, max_length=max_tokens)
    return EncodedSplit(dict(encoded), split.labels)


def require_offsets(tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
    """Refuse a tokenizer that cannot say where in the text its tokens stand.

    Raises
    ------
    TokenizerError
        If it is not one of the `tokenizers` library.
    """
    if not tokenizer.is_fast:
        raise TokenizerError(
            f"a {kind} task needs the place of every token in its text; a {type(tokenizer).__name__} does not give it",
            where=tokenizer.name_or_path or type(tokenizer).__name__,
            next="take a model whose tokenizer is fast (with a tokenizer.json), such as BERT, DeBERTa-v3, T5 or BART",
        )
