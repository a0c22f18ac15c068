"""What the whole model computes at every point of its residual stream, for comparison."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from pifi_probe.layers.shell import layers_of


@torch.no_grad()
def whole_states(model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[torch.Tensor]:
    """Return ``output_hidden_states`` (batch, seq, d) of all points; the last one as it is before the final norm."""
    last = layers_of(model.base_model)[-1]
    caught: list[torch.Tensor] = []
    handle = last.register_forward_hook(
        lambda module, args, output: caught.append(output[0] if isinstance(output, tuple) else output)
    )
    states = model(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False, output_hidden_states=True
    ).hidden_states
    handle.remove()
    return [*states[:-1], caught[0]]
