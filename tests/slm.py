"""Tiny random small language models with a tokenizer, and a tiny task they can be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pifi_probe.tasks import Split, Task

GOOD, BAD = ["good", "fine", "great", "happy"], ["bad", "poor", "awful", "sad"]
NOUNS, REST = ["film", "plot", "cast", "music"], ["the", "a", "was", "is", "very", "not", "it"]
WORDS = GOOD + BAD + NOUNS + REST
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WIDTH = 24

_BERT: dict[str, Any] = {
    "vocab_size": len(WORDS) + len(SPECIAL),
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_OTHER: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "mpnet": {},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
        "share_att_key": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
    },
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
}
_OWN: dict[str, dict[str, Any]] = {
    "distilbert": {
        "dim": WIDTH,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 32,
        "max_position_embeddings": 64,
    },
    "gpt2": {"n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "llama": {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
    },
}
ENCODERS = (*_OTHER, "distilbert")
DECODERS = ("gpt2", "llama")


def tiny_slm(family: str, seed: int = 0) -> PreTrainedModel:
    """Return a tiny random base model of a small-language-model family."""
    common = {"vocab_size": _BERT["vocab_size"], "pad_token_id": 0}
    values = common | _OWN[family] if family in _OWN else _BERT | _OTHER[family]
    torch.manual_seed(seed)
    model = AutoModel.from_config(CONFIG_MAPPING[family](**values))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3)
    return model.eval()


def tiny_tokenizer(padding_side: str = "right") -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer over `WORDS`."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side=padding_side, **names)


def tiny_slm_folder(folder: Path, family: str = "bert", seed: int = 0) -> Path:
    """Save a tiny model and its tokenizer into `folder` and return it."""
    tiny_slm(family, seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def logits(
    model: Any, texts: Sequence[str] = ("the film was good", "the plot was very very awful and sad not happy", "good")
) -> torch.Tensor:
    """Return what a plugged classifier says of texts, (n, n_labels)."""
    with torch.no_grad():
        answer: torch.Tensor = model(**tiny_tokenizer()(list(texts), padding=True, return_tensors="pt")).logits
    return answer


def tiny_task(n: int = 48, name: str = "words") -> Task:
    """Return a two-class task that the words alone decide."""
    splits, start = {}, 0
    for split, size in {"train": n, "validation": n // 2, "test": n}.items():
        rows = range(start, start + size)
        texts = tuple(f"the {WORDS[8 + row % 4]} was {WORDS[row % 8]} {' very' * (row % 5)} {row}" for row in rows)
        labels = tuple(int(row % 8 < 4) for row in rows)
        splits[split] = Split(texts=texts, labels=labels, ids=tuple(str(row) for row in rows))
        start += size
    return Task(name=name, kind="single", label_names=("bad", "good"), language="en", splits=splits)
