"""The models that the paper and its reference code name: where they are, how large, on what terms.

Names of this table stand wherever a model does: ``"llama-3.1-8b[-1]"``. Sizes are those of the hub's
configurations, so that a layer's cost is known before anything is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

__all__ = ["NAMED_MODELS", "NamedModel", "repo_of"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class NamedModel:
    """One row of the table.

    Parameters
    ----------
    repo : str
        Hub id.
    role : {"llm", "slm"}
        What the paper uses it as: donor of a layer, or the small model that is trained.
    family : str
        ``model_type``.
    layers, hidden_size : int
        Number of layers (of an encoder-decoder: of its encoder) and width.
    dtype : str
        Type of the stored weights.
    licence : str
        As the hub names it.
    gated : bool or None
        Whether access must be asked for; None where that has changed over time, and only the hub knows.
    config : Mapping
        Of donors: what else decides the size of a layer, in transformers' names.
    """

    repo: str
    role: str
    family: str
    layers: int
    hidden_size: int
    dtype: str
    licence: str
    gated: bool | None = False
    config: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)


_Sizes = tuple[int, int, int, int, int]  # layers, hidden, inner, heads, key-value heads


def _llm(
    repo: str,
    family: str,
    layers: int,
    hidden: int,
    inner: int,
    heads: int,
    kv_heads: int,
    licence: str,
    *,
    gated: bool | None = False,
    dtype: str = "bfloat16",
    **more: Any,
) -> NamedModel:
    sizes = {"intermediate_size": inner, "num_attention_heads": heads, "num_key_value_heads": kv_heads, **more}
    return NamedModel(repo, "llm", family, layers, hidden, dtype, licence, gated, sizes)


def _llama2(repo: str, layers: int, hidden: int, inner: int, heads: int, kv_heads: int) -> NamedModel:
    return _llm(repo, "llama", layers, hidden, inner, heads, kv_heads, "llama2", gated=True, dtype="float16")


def _llama3(repo: str, licence: str = "llama3", *, gated: bool = False, large: bool = False) -> NamedModel:
    sizes = (80, 8192, 28672, 64, 8) if large else (32, 4096, 14336, 32, 8)
    return _llm(repo, "llama", *sizes, licence, gated=gated)


def _mistral(repo: str) -> NamedModel:
    return _llm(repo, "mistral", 32, 4096, 14336, 32, 8, "apache-2.0", gated=None)


def _qwen2(repo: str, sizes: _Sizes, licence: str = "apache-2.0") -> NamedModel:
    return _llm(repo, "qwen2", *sizes, licence)


def _gemma2(repo: str, sizes: _Sizes) -> NamedModel:
    return _llm(repo, "gemma2", *sizes, "gemma", gated=True, dtype="float32", head_dim=256)


def _slm(repo: str, family: str, layers: int, hidden: int, licence: str, dtype: str = "float32") -> NamedModel:
    return NamedModel(repo, "slm", family, layers, hidden, dtype, licence)


NAMED_MODELS: Mapping[str, NamedModel] = MappingProxyType(
    {
        "llama-2-7b": _llama2("meta-llama/Llama-2-7b-hf", 32, 4096, 11008, 32, 32),
        "llama-2-7b-chat": _llama2("meta-llama/Llama-2-7b-chat-hf", 32, 4096, 11008, 32, 32),
        "llama-2-70b": _llama2("meta-llama/Llama-2-70b-hf", 80, 8192, 28672, 64, 8),
        "llama-3-8b": _llama3("meta-llama/Meta-Llama-3-8B", gated=True),
        "llama-3-8b-instruct": _llama3("meta-llama/Meta-Llama-3-8B-Instruct", gated=True),
        "llama-3-70b": _llama3("meta-llama/Meta-Llama-3-70B", gated=True, large=True),
        "llama-3.1-8b": _llama3("meta-llama/Llama-3.1-8B", "llama3.1", gated=True),
        "llama-3.1-8b-instruct": _llama3("meta-llama/Llama-3.1-8B-Instruct", "llama3.1", gated=True),
        "llama-3.1-70b": _llama3("meta-llama/Llama-3.1-70B", "llama3.1", gated=True, large=True),
        "llama-3.1-70b-instruct": _llama3("meta-llama/Llama-3.1-70B-Instruct", "llama3.1", gated=True, large=True),
        "llama-3-korean-8b": _llama3("beomi/Llama-3-Open-Ko-8B"),
        "llama-3-german-8b": _llama3("DiscoResearch/Llama3-German-8B"),
        "llama-3-chinese-8b": _llama3("hfl/llama-3-chinese-8b", "apache-2.0"),
        "mistral-7b-v0.1": _mistral("mistralai/Mistral-7B-v0.1"),
        "mistral-7b-v0.3": _mistral("mistralai/Mistral-7B-v0.3"),
        "qwen2-0.5b": _qwen2("Qwen/Qwen2-0.5B", (24, 896, 4864, 14, 2)),
        "qwen2-1.5b": _qwen2("Qwen/Qwen2-1.5B", (28, 1536, 8960, 12, 2)),
        "qwen2-7b": _qwen2("Qwen/Qwen2-7B", (28, 3584, 18944, 28, 4)),
        "qwen2-72b": _qwen2("Qwen/Qwen2-72B", (80, 8192, 29568, 64, 8), licence="tongyi-qianwen"),
        "gemma-2-2b": _gemma2("google/gemma-2-2b", (26, 2304, 9216, 8, 4)),
        "gemma-2-9b": _gemma2("google/gemma-2-9b", (42, 3584, 14336, 16, 8)),
        "falcon-7b": NamedModel(
            "tiiuae/falcon-7b",
            "llm",
            "falcon",
            32,
            4544,
            "bfloat16",
            "apache-2.0",
            config={"num_attention_heads": 71, "multi_query": True, "parallel_attn": True, "bias": False},
        ),
        "bert-base": _slm("google-bert/bert-base-uncased", "bert", 12, 768, "apache-2.0"),
        "bert-large": _slm("google-bert/bert-large-uncased", "bert", 24, 1024, "apache-2.0"),
        "roberta-base": _slm("FacebookAI/roberta-base", "roberta", 12, 768, "mit"),
        "roberta-large": _slm("FacebookAI/roberta-large", "roberta", 24, 1024, "mit"),
        "distilbert-base": _slm("distilbert/distilbert-base-uncased", "distilbert", 6, 768, "apache-2.0"),
        "albert-base": _slm("albert/albert-base-v2", "albert", 12, 768, "apache-2.0"),
        "electra-base": _slm("google/electra-base-discriminator", "electra", 12, 768, "apache-2.0"),
        "deberta-base": _slm("microsoft/deberta-base", "deberta", 12, 768, "mit"),
        "deberta-v3-base": _slm("microsoft/deberta-v3-base", "deberta-v2", 12, 768, "mit", "float16"),
        "modernbert-base": _slm("answerdotai/ModernBERT-base", "modernbert", 22, 768, "apache-2.0"),
        "mbert": _slm("google-bert/bert-base-multilingual-cased", "bert", 12, 768, "apache-2.0"),
        "xlm-r-base": _slm("FacebookAI/xlm-roberta-base", "xlm-roberta", 12, 768, "mit"),
        "kcbert-base": _slm("beomi/kcbert-base", "bert", 12, 768, "apache-2.0"),
        "mpnet": _slm("microsoft/mpnet-base", "mpnet", 12, 768, "mit"),
        "smollm-135m": _slm("HuggingFaceTB/SmolLM-135M", "llama", 30, 576, "apache-2.0", "bfloat16"),
        "t5-base": _slm("google-t5/t5-base", "t5", 12, 768, "apache-2.0"),
        "mt5-base": _slm("google/mt5-base", "mt5", 12, 768, "apache-2.0"),
        "bart-base": _slm("facebook/bart-base", "bart", 6, 768, "apache-2.0"),
        "mbart-large": _slm("facebook/mbart-large-cc25", "mbart", 12, 1024, "not stated"),
        "marian-en-de": _slm("Helsinki-NLP/opus-mt-en-de", "marian", 6, 512, "cc-by-4.0"),
    }
)


def repo_of(name: str) -> str:
    """Return the hub id of a named model, and any other name as it is."""
    return NAMED_MODELS[name].repo if name in NAMED_MODELS else name
