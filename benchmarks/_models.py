"""The pairs of encoder and layer that are measured, and the paper's wiring as its reference code has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from _checkpoint import llama_8b, llama_tiny, write_checkpoint
from torch import nn
from transformers import AutoModel, BertConfig, BertModel, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import pifi_probe as pp
from pifi_probe.compat import quiet_transformers
from pifi_probe.tasks import Split, Task

BATCH, LENGTH = 32, 64
SMALL, LARGE, TINY = "MiniLM + SmolLM2", "BERT-base shape + Llama-3.1-8B shape", "tiny BERT + tiny Llama"


def write_donor(pair: str, folder: Path, seed: int) -> Path:
    """Write the one-layer checkpoint that `donor` needs; nothing for the embedded models."""
    if pair == SMALL:
        return folder
    return write_checkpoint(folder, llama_tiny(1) if pair == TINY else llama_8b(1, vocab_size=128), seed=seed)


def donor(pair: str, folder: Path) -> pp.FrozenLayer:
    """Return the last layer of the pair's language model, in float32."""
    layer = pp.extract("smollm2-135m[-1]" if pair == SMALL else f"{folder}[-1]", dtype="float32")
    assert isinstance(layer, pp.FrozenLayer)
    return layer


def encoder(pair: str, seed: int) -> PreTrainedModel:
    """Return the pair's encoder: the real MiniLM, or BERT with random weights."""
    if pair == SMALL:
        with quiet_transformers():
            return AutoModel.from_pretrained(pp.assets.path("minilm-l6"), add_pooling_layer=False)
    torch.manual_seed(seed)
    tiny = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return BertModel(BertConfig(**tiny if pair == TINY else {}), add_pooling_layer=False)


def plugged(pair: str, layer: pp.FrozenLayer | None, seed: int) -> pp.PiFiForSequenceClassification:
    """Return the pair's PiFi model in the paper's wiring; vanilla fine-tuning without a layer."""
    control = "vanilla" if layer is None else None
    return pp.plug_in(encoder(pair, seed), layer, task=_task(), control=control, seed=seed)


def _task() -> Task:
    split = Split(texts=("bad", "good"), labels=(0, 1), ids=("0", "1"))
    splits = {"train": split, "validation": split, "test": split}
    return Task(name="none", kind="single", label_names=("bad", "good"), language="en", splits=splits)


def batch_of(pair: str, n: int, seed: int) -> dict[str, torch.Tensor]:
    """Return `n` random texts of `LENGTH` tokens, and their labels."""
    length = 8 if pair == TINY else LENGTH
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(1000, 30000, (n, length), generator=generator),
        "attention_mask": torch.ones(n, length, dtype=torch.long),
        "labels": torch.randint(0, 2, (n,), generator=generator),
    }


class WholeLayer(nn.Module):
    """``L_out(layer(L_in h))`` with the whole layer, called on a sequence of one with positions and a mask.

    What the reference code of the paper does: https://github.com/NAMUORI00/PIFI-ILM, ``pifi/model.py``.
    """

    def __init__(self, layer: pp.FrozenLayer, d_slm: int) -> None:
        super().__init__()
        self.L_in = nn.Linear(d_slm, layer.hidden_size, bias=False)
        self.L_out = nn.Linear(layer.hidden_size, d_slm, bias=False)
        self.layer = layer.block
        self.rotary = LlamaRotaryEmbedding(layer.config)

    def forward(self, h: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Pass (batch, d_slm) to (batch, d_slm)."""
        states = self.L_in(h[:, None])  # (batch, 1, d_llm)
        positions = torch.arange(1)[None].expand(len(h), -1)
        output = self.layer(
            hidden_states=states,
            attention_mask=torch.ones(len(h), 1, 1, 1),
            position_ids=positions,
            position_embeddings=self.rotary(states, positions),
        )
        return self.L_out(output[:, 0])


def paper_wiring(pair: str, layer: pp.FrozenLayer, seed: int) -> pp.PiFiForSequenceClassification:
    """Return the vanilla model of the pair with the whole layer plugged in, as the reference code does."""
    model: Any = plugged(pair, None, seed)
    model.plugin = WholeLayer(layer, model.encoder.config.hidden_size)
    return model
