"""Weights, bytes and multiply-accumulates (MACs): measured while the model runs, and counted from its shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin.fold import FoldedPlugIn, n_macs
from pifi_probe.plugin.modeling import PiFiForSequenceClassification

__all__ = ["counted_macs", "held_bytes", "measured_macs", "random_batch"]

FIRST_TOKEN = 5  # below it most vocabularies hold special tokens


def random_batch(model: PiFiForSequenceClassification, batch: int, seq: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return random texts of one length, without padding.

    Parameters
    ----------
    model : PiFiForSequenceClassification
        Gives vocabulary and device.
    batch, seq : int
        Number of texts, and of tokens in each.
    seed : int
        Of the draw.

    Returns
    -------
    dict of Tensor
        ``input_ids`` and ``attention_mask``, both (batch, seq), int64, on the model's device.
    """
    generator = torch.Generator().manual_seed(seed)
    vocabulary = int(model.encoder.config.vocab_size)
    ids = torch.randint(min(FIRST_TOKEN, vocabulary - 1), vocabulary, (batch, seq), generator=generator)
    mask = torch.ones(batch, seq, dtype=torch.long)
    return {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}


def held_bytes(model: nn.Module) -> int:
    """Return the bytes of all weights and buffers; tensors that share their memory count once.

    Parameters
    ----------
    model : Module

    Returns
    -------
    int
    """
    held = {tensor.data_ptr(): tensor.nbytes for tensor in (*model.parameters(), *model.buffers())}
    return sum(held.values())


@torch.no_grad()
def measured_macs(model: PiFiForSequenceClassification, seq: int) -> int:
    """Return the MACs of one text as PyTorch counts them while the model runs.

    Attention is computed in its plain form for this, because the fused kernels of processors are not counted.

    Parameters
    ----------
    model : PiFiForSequenceClassification
        Runs in evaluation, and is left in the mode that it had.
    seq : int
        Tokens of the text.

    Returns
    -------
    int
    """
    training = model.training
    model.eval()
    try:
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model(**random_batch(model, 1, seq))
    finally:
        model.train(training)
    return counter.get_total_flops() // 2


def counted_macs(model: PiFiForSequenceClassification, seq: int) -> int:
    """Return the MACs of one text that follow from the shapes of the weights.

    One for each entry of a matrix that a token meets, and for each layer ``2 seq^2 width`` for the scores and the
    weighted sum of attention. What attention adds beyond that (DeBERTa's relative positions) is not counted.

    Parameters
    ----------
    model : PiFiForSequenceClassification
    seq : int
        Tokens of the text.

    Returns
    -------
    int
    """
    config = model.encoder.config
    encoder = seq * _matrices(model.encoder)
    encoder += int(config.num_hidden_layers) * _attention(config, seq)
    head = sum(p.numel() for p in model.head.parameters() if p.dim() == 2)
    return encoder + _plugin(model, seq) + head


def _plugin(model: PiFiForSequenceClassification, seq: int) -> int:
    plugin = model.plugin
    if plugin is None:
        return 0
    if isinstance(plugin, FoldedPlugIn) or model.config.feed == "pooled":
        return n_macs(plugin)
    layers = [layer for layer in plugin.layers if isinstance(layer, FrozenLayer)]
    return seq * n_macs(plugin) + sum(_attention(layer.config, seq) for layer in layers)


def _attention(config: Any, seq: int) -> int:
    heads = int(config.num_attention_heads)
    width = heads * int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return 2 * seq * seq * width


def _matrices(encoder: Any) -> int:
    """Count the entries of all matrices that multiply; embeddings are looked up, and IA3's vectors only scale."""
    config, total = encoder.config, 0
    groups = getattr(config, "num_hidden_groups", None)
    repeats = int(config.num_hidden_layers) // int(groups) if groups else 1  # ALBERT's layers share their weights
    for name, module in encoder.named_modules():
        if not isinstance(module, nn.Embedding):
            entries = sum(p.numel() for p in module.parameters(recurse=False) if p.dim() == 2 and min(p.shape) > 1)
            total += entries * (repeats if "layer_groups" in name else 1)
    return total
