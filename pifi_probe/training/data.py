"""From a split to padded batches, and from a model and batches to logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_pt_utils import get_length_grouped_indices

from pifi_probe.errors import TokenizerError
from pifi_probe.plugin.positions import n_positions
from pifi_probe.tasks.task import Split
from pifi_probe.training.devices import autocast

__all__ = ["EncodedSplit", "LengthGroupedOrder", "encode", "n_positions", "predict_logits", "require_offsets"]


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


def encode(split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> EncodedSplit:
    """Tokenise a split, each row cut off after `max_length` tokens.

    Parameters
    ----------
    split : Split
    tokenizer : PreTrainedTokenizerBase
    max_length : int
        Special tokens count; of a pair, the longer text is cut.

    Returns
    -------
    EncodedSplit
    """
    pairs = None if split.pairs is None else list(split.pairs)
    encoded = tokenizer(list(split.texts), pairs, truncation=True, max_length=max_length)
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


class LengthGroupedOrder(Sampler[int]):
    """Rows in random order with texts of similar length together, so that little is padding.

    The order depends on the seed and the epoch alone, so that a resumed run sees the same batches.
    """

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        seed = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(seed) >> 1)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


def predict_logits(
    model: PreTrainedModel,
    split: EncodedSplit,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int = 64,
    precision: str = "float32",
) -> NDArray[np.float32]:
    """Return the logits of all rows, in the order of the rows.

    Parameters
    ----------
    model : PreTrainedModel
        Left in the mode (training or evaluation) it was in.
    split : EncodedSplit
    tokenizer : PreTrainedTokenizerBase
        Pads the batches.
    batch_size : int
    precision : {"float32", "bf16"}

    Returns
    -------
    array of float32, shape (n, n_labels)
    """
    collate = DataCollatorWithPadding(tokenizer)
    order = np.argsort(split.lengths, kind="stable")  # neighbours of like length: little padding
    logits = np.empty((len(split), model.config.num_labels), dtype=np.float32)
    was_training = model.training
    model.eval()
    with torch.inference_mode(), autocast(precision, model.device):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = collate([split.inputs(int(row)) for row in rows]).to(model.device)
            logits[rows] = model(**batch).logits.float().cpu().numpy()
    model.train(was_training)
    return logits
