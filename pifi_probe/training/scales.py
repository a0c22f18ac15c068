"""How large the plug-in's parts are next to one another, which tells a stable wiring from an unstable one."""

from __future__ import annotations

import torch
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from pifi_probe.encoders import pool
from pifi_probe.kinds.parts.encoding import EncodedSplit
from pifi_probe.plugin.aligned import AlignedPlugIn
from pifi_probe.plugin.base import PiFiPreTrainedModel
from pifi_probe.plugin.encoding import Tokens
from pifi_probe.plugin.plugin import PlugIn, rms

__all__ = ["plugin_scales"]

N_TEXTS = 16


@torch.no_grad()
def plugin_scales(
    model: PiFiPreTrainedModel, split: EncodedSplit, tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """Measure the plug-in on the first 16 texts of a split.

    Parameters
    ----------
    model : PiFiPreTrainedModel
    split : EncodedSplit
    tokenizer : PreTrainedTokenizerBase

    Returns
    -------
    dict
        ``branch_ratio``: median over tokens of ``||layer(x) - x|| / ||x||``, x the layer's input; only for
        models with a frozen (or unfrozen) layer; of the first branch in the combinations "unshared" and "gated"; of
        an aligned chain, divided by the number of its layers.
        ``output_ratio``: root mean square of what the plug-in adds or
        puts in place of h, over that of h. Empty without a plug-in.

    Notes
    -----
    Source: book/methods.md, Scale. In its own model a layer has a branch ratio of about 0.1 to 0.6.
    """
    plugin = model.plugin
    if not isinstance(plugin, PlugIn):
        return {}
    rows = [split.flat(row) for row in range(min(N_TEXTS, len(split)))]
    batch = DataCollatorWithPadding(tokenizer)(rows).to(model.device)
    was_training = model.training
    model.eval()
    if isinstance(plugin, AlignedPlugIn):
        seen = model.encode_deeply(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
        model.train(was_training)
        return _aligned_scales(plugin, seen)
    states, mask = model.encode(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
    if model.config.feed == "pooled":
        states = pool(states, mask, model.config.pooling)[:, None]  # (batch, 1, d_slm)
        mask = mask.new_ones(len(mask), 1)
    layer_mask = mask if model.config.feed == "sequence" else None
    added = plugin.through(states, layer_mask)
    model.train(was_training)
    tokens = mask.bool()
    scales = {"output_ratio": float(rms(added[tokens]) / rms(states[tokens]))}
    if len(plugin.layers):
        x = plugin.scale_in * plugin.L_in(states)  # (batch, seq, d_llm)
        y = plugin.core(x, layer_mask)
        x, y = x[tokens].float(), y[tokens].float()
        scales["branch_ratio"] = float(((y - x).norm(dim=-1) / x.norm(dim=-1)).median())
    return scales


def _aligned_scales(plugin: AlignedPlugIn, tokens: Tokens) -> dict[str, float]:
    """Return the branch ratio of a whole chain, and how large what is put back is; the first state is left out."""
    x, mask, _ = plugin.enter(tokens)
    y, there = plugin.core(x, mask)[:, 1:], mask[:, 1:].bool()
    x = x[:, 1:]
    scales = {}
    if plugin.read == "back":
        real = tokens.mask.bool()
        scales["output_ratio"] = float(rms((plugin.back(tokens) - tokens.states)[real]) / rms(tokens.states[real]))
    if len(plugin.layers):
        moved = (y - x)[there].float().norm(dim=-1) / x[there].float().norm(dim=-1)
        scales["branch_ratio"] = float(moved.median()) / len(plugin.layers)
    return scales
