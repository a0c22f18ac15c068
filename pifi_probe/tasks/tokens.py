"""From rows to token ids in batches of like length."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from pifi_probe.compat import quiet_transformers
from pifi_probe.errors import FeatureError
from pifi_probe.tasks.task import Split

__all__ = ["Tokens", "buckets", "fill_template", "tokenise", "tokenizer_digest"]

_LARGE_ENOUGH = 1024  # tokens of a batch
_ALIKE = 0.95  # of the length of the longest text


@dataclass(frozen=True)
class Tokens:
    """Rows as token ids.

    Parameters
    ----------
    ids : list of list of int
        For each row, not padded, never empty.
    types : list of list of int, optional
        Token types, where the tokenizer gives some.
    pad : int
        Token that fills batches up, on the right.
    limit : int
        Length at which rows were cut.
    n_cut : int
        How many were.
    """

    ids: list[list[int]]
    types: list[list[int]] | None
    pad: int
    limit: int
    n_cut: int

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(ids) for ids in self.ids]

    def padded(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids and mask (batch, seq) of some rows."""
        ids = _padded([self.ids[row] for row in rows], self.pad)
        mask = _padded([[1] * len(self.ids[row]) for row in rows], 0)
        return ids, mask

    def padded_types(self, rows: Sequence[int]) -> torch.Tensor | None:
        """Return token types (batch, seq) of some rows, if there are any."""
        return None if self.types is None else _padded([self.types[row] for row in rows], 0)


def tokenise(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], max_tokens: int, pairs: list[str] | None = None
) -> Tokens:
    """Tokenise texts, each cut after `max_tokens` tokens, or what the tokenizer says the model can take."""
    limit = min(max_tokens, tokenizer.model_max_length)
    with quiet_transformers():  # it warns of long texts, which are cut here
        encoded = tokenizer(texts, pairs, truncation=True, max_length=limit)
        full = [row for row, ids in enumerate(encoded["input_ids"]) if len(ids) == limit]
        again = tokenizer([texts[row] for row in full], pairs and [pairs[row] for row in full]) if full else {}
    n_cut = sum(len(ids) > limit for ids in again.get("input_ids", ()))
    only = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), 0)
    ids = [ids or [only] for ids in encoded["input_ids"]]  # a text without any token
    types = encoded.get("token_type_ids")
    return Tokens(ids, types, tokenizer.pad_token_id or 0, limit, n_cut)


def buckets(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group rows of like length, longest first.

    A batch has at most `batch_tokens` tokens, padding included (a longer row is a batch of its own), and ends early
    where the next row is much shorter and it is large enough to be computed at full speed: otherwise a tenth of the
    work would be padding.
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        longest, size = (lengths[groups[-1][0]], len(groups[-1])) if groups else (0, 0)
        full = (size + 1) * longest > batch_tokens
        if not groups or full or (size * longest >= _LARGE_ENOUGH and lengths[row] < _ALIKE * longest):
            groups.append([])
        groups[-1].append(row)
    return groups


def fill_template(rows: Split, template: str | None) -> tuple[list[str], str]:
    """Return the texts that a model is given, and the template they were made with.

    Parameters
    ----------
    rows : Split
    template : str, optional
        With ``{text}``, and for pairs ``{pair}``. None: the text; for pairs, one line each.

    Raises
    ------
    FeatureError
        If a placeholder is missing, or there are no pairs for ``{pair}``.
    """
    wanted = ["{text}"] if rows.pairs is None else ["{text}", "{pair}"]
    template = "\n".join(wanted) if template is None else template
    missing = [name for name in wanted if name not in template]
    if missing or (rows.pairs is None and "{pair}" in template):
        raise FeatureError(
            f"the template lacks {missing[0]}" if missing else "the template has {pair}, and the task has no pairs",
            where=f"template {template!r}",
            next=f"write a template with {' and '.join(wanted)}",
        )
    parts = re.split(r"(\{text\}|\{pair\})", template)
    values = ({"{text}": text, "{pair}": pair} for text, pair in zip(rows.texts, rows.pairs or rows.texts, strict=True))
    return ["".join(value.get(part, part) for part in parts) for value in values], template


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a sha256 over what a tokenizer does; padding and truncation, which every call sets again, are left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        state = json.dumps(sorted(tokenizer.get_vocab().items()))
    else:
        state = json.dumps(json.loads(backend.to_str()) | {"padding": None, "truncation": None})
    return hashlib.sha256(f"{type(tokenizer).__name__}\n{state}".encode()).hexdigest()


def _padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)
