"""The encoder cut in two: what the lower blocks give is computed once, and only the upper ones are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from pifi_probe.errors import PlugInError
from pifi_probe.kinds.parts.encoding import EncodedSplit
from pifi_probe.plugin.modeling import PiFiForSequenceClassification

__all__ = ["LowerStates", "blocks_of", "truncate_encoder"]

_BATCH = 64


def blocks_of(encoder: PreTrainedModel) -> nn.ModuleList:
    """Return the encoder's blocks.

    Raises
    ------
    PlugInError
        If the encoder has none.
    """
    found = [one for one in encoder.modules() if isinstance(one, nn.ModuleList)]
    if not found:
        raise PlugInError("the encoder has no list of blocks that could be cut", where=type(encoder).__name__)
    return max(found, key=lambda one: sum(p.numel() for p in one.parameters()))


class LowerStates:
    """The states between the lower and the `n_blocks` upper blocks of an encoder, for some texts.

    Parameters
    ----------
    encoder : PreTrainedModel
        In evaluation mode while they are computed: no dropout.
    n_blocks : int
        Blocks that stay; 0 keeps none, and the states are the last block's output. Not more than the encoder has.
    splits : sequence of EncodedSplit
    tokenizer : PreTrainedTokenizerBase

    Attributes
    ----------
    n_outputs : int
        What blocks of this family return: 0 for the states alone, else the length of the tuple they stand first in.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        n_blocks: int,
        splits: Sequence[EncodedSplit],
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.pad = int(tokenizer.pad_token_id)
        self.table: dict[bytes, torch.Tensor] = {}  # token ids -> (tokens, d_slm)
        self.n_outputs = 0
        blocks = blocks_of(encoder)
        self.n_blocks = min(n_blocks, len(blocks))
        if self.n_blocks == len(blocks):
            return
        caught: list[Any] = []
        last = blocks[len(blocks) - self.n_blocks - 1]
        handle = last.register_forward_hook(lambda module, args, output: caught.append(output))
        was_training = encoder.training
        encoder.eval()
        try:
            for split in splits:
                self._fill(encoder, split, tokenizer, caught)
        finally:
            handle.remove()
            encoder.train(was_training)

    @torch.no_grad()
    def _fill(
        self, encoder: PreTrainedModel, split: EncodedSplit, tokenizer: PreTrainedTokenizerBase, caught: list[Any]
    ) -> None:
        collate = DataCollatorWithPadding(tokenizer)
        order = sorted(range(len(split)), key=lambda row: split.lengths[row])
        for start in range(0, len(order), _BATCH):
            batch = collate([split.inputs(row) for row in order[start : start + _BATCH]]).to(encoder.device)
            caught.clear()
            encoder(**batch)
            self.n_outputs = len(caught[0]) if isinstance(caught[0], tuple) else 0
            states = caught[0][0] if self.n_outputs else caught[0]
            for ids, own in zip(batch["input_ids"].cpu(), states.cpu(), strict=True):
                kept = ids != self.pad
                self.table[_key(ids[kept])] = own[kept].clone()

    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the states of padded texts, (batch, seq, d_slm); zero at padding."""
        ids = input_ids.cpu()
        found = [(kept, self.table[_key(one[kept])]) for one, kept in zip(ids, ids != self.pad, strict=True)]
        states = found[0][1].new_zeros(*ids.shape, found[0][1].shape[-1])
        for place, (kept, own) in enumerate(found):
            states[place, kept] = own
        return states.to(input_ids.device)


def _key(ids: torch.Tensor) -> bytes:
    return ids.numpy().tobytes()


class _Stand(nn.Module):
    """Stands for a lower block: passes its input on, or, as the last of them, gives the stored states."""

    def __init__(self, block: nn.Module, states: Callable[[], torch.Tensor] | None, n_outputs: int) -> None:
        super().__init__()
        self.__dict__.update(block=block, states=states, n_outputs=n_outputs)  # the block is not part of the model

    def __getattr__(self, name: str) -> Any:
        """Return what the encoder asks its blocks, such as the type of their attention."""
        return getattr(self.__dict__["block"], name)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        states = hidden_states if self.states is None else self.states()
        return (states, *[None] * (self.n_outputs - 1)) if self.n_outputs else states


def truncate_encoder(model: PiFiForSequenceClassification, lower: LowerStates, probe: dict[str, torch.Tensor]) -> None:
    """Replace a model's lower blocks by stored states, and train no part of the encoder but the upper ones.

    Parameters
    ----------
    model : PiFiForSequenceClassification
        Changed in place; afterwards it takes only texts that `lower` knows.
    lower : LowerStates
    probe : dict of str to Tensor
        A batch of such texts, on which the model must give what it gave before.

    Raises
    ------
    PlugInError
        If it does not: encoders of this family cannot be cut.
    """
    model.eval()
    encoder = model.encoder
    blocks = blocks_of(encoder)
    n_lower = len(blocks) - lower.n_blocks
    seen: dict[str, torch.Tensor] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["input_ids"] = args[0] if args else kwargs["input_ids"]

    with torch.no_grad():
        before = model(**probe).logits
        encoder.requires_grad_(False)
        for place, block in enumerate(blocks):
            block.requires_grad_(place >= n_lower)
            if place < n_lower:
                last = place == n_lower - 1
                blocks[place] = _Stand(block, (lambda: lower(seen["input_ids"])) if last else None, lower.n_outputs)
        encoder.register_forward_pre_hook(note, with_kwargs=True)
        after = model(**probe).logits
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-3):
        raise PlugInError(
            "an encoder of this family cannot be cut into lower and upper blocks",
            where=encoder.config.model_type,
            next='use a strategy that does not train the last blocks alone, such as "auto" or "fast"',
        )
