"""An encoder called so that padding changes nothing, and what it says of every token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pifi_probe.alignment.tokens import marked_first
from pifi_probe.encoders import has_token_types, left_padding_positions, must_turn, parameters_of

__all__ = ["Tokens", "run_encoder"]


@dataclass(frozen=True)
class Tokens:
    """What an encoder says of a batch.

    Parameters
    ----------
    states : Tensor, (batch, seq, d_slm)
        After its last layer.
    mask : Tensor, (batch, seq)
    embeddings : Tensor, (batch, seq, d_slm)
        Before its first layer.
    input_ids : Tensor, (batch, seq), optional
        To know special tokens; without them all tokens count as content.
    """

    states: torch.Tensor
    mask: torch.Tensor
    embeddings: torch.Tensor
    input_ids: torch.Tensor | None


def run_encoder(
    encoder: nn.Module,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    token_type_ids: torch.Tensor | None = None,
    inputs_embeds: torch.Tensor | None = None,
    *,
    deeply: bool = False,
) -> Tokens:
    """Return an encoder's token vectors (batch, seq, d_slm) and the mask (batch, seq); padding changes nothing.

    With `deeply` also those before its first layer, which are otherwise the same as those after its last one.

    Encoders that count positions from the left end and take no others get left-padded rows turned round: their
    padding goes to the right, and the vectors come back in the order of the input.
    """
    tokens = input_ids if input_ids is not None else inputs_embeds
    assert tokens is not None, "input_ids or inputs_embeds"
    mask = attention_mask if attention_mask is not None else tokens.new_ones(tokens.shape[:2], dtype=torch.long)
    config: Any = encoder.config
    extra: dict[str, Any] = {"inputs_embeds": inputs_embeds}
    if token_type_ids is not None and has_token_types(config):
        extra["token_type_ids"] = token_type_ids
    order: torch.Tensor | None = None
    ids = input_ids
    positions = left_padding_positions(encoder, mask)
    if positions is not None:
        extra["position_ids"] = positions
    elif must_turn(encoder):
        order = marked_first(mask != 0)  # tokens first, in their order
        ids, mask = _turned(input_ids, order), mask.gather(1, order)
        extra = {name: _turned(value, order) for name, value in extra.items()}
    if getattr(config, "use_cache", None) and "use_cache" in parameters_of(type(encoder)):
        extra["use_cache"] = False
    if deeply:
        extra["output_hidden_states"] = True
    found = encoder(input_ids=ids, attention_mask=mask, **extra)
    states = found.last_hidden_state
    embeddings = found.hidden_states[0] if deeply else states
    if order is not None:
        back = order.argsort(dim=1)
        states, embeddings, mask = _turned(states, back), _turned(embeddings, back), mask.gather(1, back)
    return Tokens(states, mask, embeddings, input_ids)


def _turned(values: Any, order: torch.Tensor) -> Any:
    """Return (batch, seq, ...) with the tokens of each row in another order (batch, seq); None stays None."""
    if values is None:
        return None
    index = order if values.dim() == 2 else order[..., None].expand_as(values)
    return values.gather(1, index)
