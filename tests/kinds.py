"""Tiny tasks of every kind, tiny encoder-decoders, and tiny models of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, EncoderDecoderModel, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pifi_probe.plugin.generation import with_decoder
from pifi_probe.tasks import Split, Task
from tests import slm

KINDS = ("single", "pair", "regression", "multiple-choice", "qa", "token-classification", "seq2seq", "multi-label")
SEQ2SEQ = ("t5", "mt5", "bart", "mbart", "marian", "pegasus", "encoder-decoder")

_TOKENS = {"pad_token_id": 0, "eos_token_id": 3, "bos_token_id": 2, "decoder_start_token_id": 2}
_T5 = {"d_model": slm.WIDTH, "d_kv": 6, "d_ff": 32, "num_layers": 2, "num_heads": 4}
_BART = {
    "d_model": slm.WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "forced_eos_token_id": None,
}


def tiny_seq2seq(family: str, seed: int = 0) -> PreTrainedModel:
    """Return a tiny random encoder-decoder of one of `SEQ2SEQ`."""
    torch.manual_seed(seed)
    if family == "encoder-decoder":
        model: PreTrainedModel = with_decoder(slm.tiny_slm("bert", seed), slm.tiny_tokenizer())
        assert isinstance(model, EncoderDecoderModel)
    else:
        sizes = _T5 if family in ("t5", "mt5") else _BART
        config = CONFIG_MAPPING[family](vocab_size=len(slm.WORDS) + len(slm.SPECIAL), **sizes, **_TOKENS)
        model = AutoModelForSeq2SeqLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3)
    model.tie_weights()
    return model.eval()


def tiny_seq2seq_folder(folder: Path, family: str, seed: int = 0) -> Path:
    """Save a tiny encoder-decoder and its tokenizer into `folder` and return it."""
    tiny_seq2seq(family, seed).save_pretrained(folder)
    slm.tiny_tokenizer().save_pretrained(folder)
    return folder


def task_of(kind: str, n: int = 24) -> Task:
    """Return a tiny task of a kind that the words alone decide."""
    base = slm.tiny_task(n)
    splits = {name: _split(kind, split) for name, split in base.splits.items()}
    classes = {
        "single": ("bad", "good"),
        "pair": ("bad", "good"),
        "token-classification": ("O", "B-WORD"),
        "multi-label": ("bad", "good", "film"),
    }
    names = classes.get(kind, ())
    return Task(name=f"tiny {kind}", kind=kind, label_names=names, language="en", splits=splits)


def _split(kind: str, split: Split) -> Split:
    texts, labels, extra = split.texts, split.labels, {}
    if kind == "pair":
        extra = {"pairs": tuple(f"it is {text.split()[3]}" for text in texts)}
    elif kind == "regression":
        labels = tuple(2.0 * label - 1 for label in labels)
    elif kind == "multiple-choice":
        sizes = [2 + row % 3 for row in range(len(texts))]
        labels = tuple(row % size for row, size in enumerate(sizes))
        items = (
            tuple(slm.GOOD[i % 4] if i == label else slm.BAD[i % 4] for i in range(size))
            for size, label in zip(sizes, labels, strict=True)
        )
        extra = {"items": tuple(items)}
    elif kind == "qa":
        words = [text.split()[3] for text in texts]
        labels = tuple(((text.index(word), word),) for text, word in zip(texts, words, strict=True))
        texts, extra = tuple("is it" for _ in texts), {"pairs": texts}
    elif kind == "token-classification":
        items = tuple(tuple(text.split()) for text in texts)
        labels = tuple(tuple(int(word in slm.GOOD + slm.BAD) for word in row) for row in items)
        extra = {"items": items}
    elif kind == "multi-label":
        silent = [row % 4 == 0 for row in range(len(texts))]  # some rows say nothing of a film, and some nothing at all
        labels = tuple(
            () if row % 12 == 0 else (label,) if silent[row] else (label, 2) for row, label in enumerate(labels)
        )
    elif kind == "seq2seq":
        labels = tuple("good" if label else "bad" for label in labels)
    arguments: dict[str, Any] = {"texts": texts, "labels": labels, "ids": split.ids, **extra}
    return Split(**arguments)
