"""The configuration of a GGUF file: transformers' own tables, and what they leave out.

A GGUF file has no ``config.json``; its metadata say the same under llama.cpp's names. transformers' tables
miss some of them and then use one checkpoint's default for all, which would change the layer silently.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from reprlib import repr as short
from typing import Any

import torch
from transformers import PretrainedConfig

from pifi_probe.compat import gguf_config_table
from pifi_probe.errors import CheckpointError, PifiProbeError, UnsupportedFormatError
from pifi_probe.layers.gguf_deepseek import deepseek2_entries, deepseek2_yarn
from pifi_probe.layers.gguf_gemma import gemma4_entries
from pifi_probe.layers.gguf_io import ArrayInfo, GGUFHeader, read_tensors
from pifi_probe.layers.gguf_qwen import HYBRID, set_hybrid
from pifi_probe.pretrained import config_from_dict

__all__ = ["ARCHITECTURES", "gguf_config"]

# general.architecture -> model_type of transformers
ARCHITECTURES: Mapping[str, str] = {
    "bloom": "bloom",
    "deepseek2": "deepseek_v3",  # or deepseek_v2, or youtu
    "ernie4_5": "ernie4_5",
    "falcon": "falcon",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "glm4moe": "glm4_moe",
    "gpt-oss": "gpt_oss",
    "gpt2": "gpt2",
    "granite": "granite",
    "lfm2": "lfm2",
    "llama": "llama",
    "minimax-m2": "minimax_m2",
    "nemotron": "nemotron",
    "phi3": "phi3",
    "qwen2": "qwen2",
    "qwen2moe": "qwen2_moe",
    "qwen3": "qwen3",
    "qwen35": "qwen3_5_text",
    "qwen35moe": "qwen3_5_moe_text",
    "qwen3moe": "qwen3_moe",
    "qwen3next": "qwen3_next",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}
# model_type -> its name in transformers' table, or one whose table has the same keys
_TABLES = {
    "deepseek_v3": "llama",
    "ernie4_5": "llama",
    "gemma3_text": "gemma3",
    "gemma4_text": "gemma4",
    "glm4_moe": "qwen3_moe",
    "granite": "llama",
    "qwen3_5_moe_text": "qwen3_moe",
    "qwen3_5_text": "qwen3",
    "qwen3_next": "qwen3_moe",
}

# Keys that transformers' tables leave out for some architectures, and the entry each one sets where the
# architecture has it.
_MORE: Mapping[str, tuple[tuple[str, str], ...]] = {
    "bloom": (),
    "deepseek2": (),
    "ernie4_5": (("attention.key_length", "head_dim"),),
    "falcon": (("attention.layer_norm_epsilon", "layer_norm_epsilon"),),
    "gemma2": (("attn_logit_softcapping", "attn_logit_softcapping"),),
    "gemma3": (),
    "gemma4": (),
    "glm4moe": (
        ("expert_count", "n_routed_experts"),
        ("expert_feed_forward_length", "moe_intermediate_size"),
        ("expert_shared_count", "n_shared_experts"),
        ("leading_dense_block_count", "first_k_dense_replace"),
        ("expert_weights_scale", "routed_scaling_factor"),
        ("expert_weights_norm", "norm_topk_prob"),
        ("expert_group_count", "n_group"),
        ("expert_group_used_count", "topk_group"),
    ),
    "gpt-oss": (
        ("attention.key_length", "head_dim"),
        ("attention.sliding_window", "sliding_window"),
        ("expert_feed_forward_length", "intermediate_size"),
    ),
    "granite": (
        ("attention.scale", "attention_multiplier"),
        ("embedding_scale", "embedding_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("logit_scale", "logits_scaling"),
    ),
    "lfm2": (("attention.layer_norm_rms_epsilon", "norm_eps"),),
    "minimax-m2": (("expert_feed_forward_length", "intermediate_size"),),
    "gpt2": (("context_length", "n_positions"), ("feed_forward_length", "n_inner")),
    "llama": (("attention.key_length", "head_dim"),),
    "nemotron": (("attention.layer_norm_epsilon", "norm_eps"), ("attention.key_length", "head_dim")),
    "phi3": (("attention.sliding_window", "sliding_window"),),
    "qwen2": (),
    "qwen2moe": (
        ("expert_feed_forward_length", "moe_intermediate_size"),
        ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
    ),
    "qwen3": (("attention.key_length", "head_dim"),),
    "qwen3moe": (("expert_feed_forward_length", "moe_intermediate_size"),),
    "stablelm": (("rope.freq_base", "rope_theta"),),
    "starcoder2": (("rope.freq_base", "rope_theta"),),
    **HYBRID,
}
_PARTIAL_ROTARY = {"glm4moe", "nemotron", "phi3", "stablelm", *HYBRID}
_YARN = (
    ("rope.scaling.yarn_attn_factor", "attention_factor"),
    ("rope.scaling.yarn_beta_fast", "beta_fast"),
    ("rope.scaling.yarn_beta_slow", "beta_slow"),
)
_SIGMOID = 2  # the router's function, as the file numbers it
_WIDE_GEMMA = {
    46,
    62,
}  # layers of the 27B models, which scale attention by width / heads (as llama.cpp has it)
# Llama 3.1 and 3.2 store their scaled frequencies as a tensor: (factor, low, high, original context)
_LLAMA3_ROPE = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192))


def gguf_config(header: GGUFHeader, where: str) -> tuple[PretrainedConfig, dict[str, Any]]:
    """Return the transformers configuration of a GGUF file, and the entries it was made from.

    Raises
    ------
    UnsupportedFormatError
        If the architecture, or its scaling of positions, is not read from GGUF.
    CheckpointError
        If the metadata are incomplete or contradict themselves.
    """
    try:
        entries = _config_entries(header, where)
        return config_from_dict(entries), entries
    except PifiProbeError:
        raise
    except Exception as error:  # transformers validates with many kinds of exceptions
        missing = f"the key {error} is missing" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"the metadata make up no configuration: {missing}",
            where=where,
            next="download the file again, or use the safetensors checkpoint",
        ) from error


def _config_entries(header: GGUFHeader, where: str) -> dict[str, Any]:
    """Return the entries of the configuration, under transformers' names."""
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        supported = ", ".join(sorted(ARCHITECTURES))
        raise _unsupported(f"GGUF of architecture {short(architecture)} is not read ({supported} are)", where)
    metadata = {
        key.removeprefix(f"{architecture}."): value
        for key, value in header.metadata.items()
        if key.startswith(f"{architecture}.") and not isinstance(value, ArrayInfo)
    }
    model_type = ARCHITECTURES[architecture]
    if architecture == "llama" and header.metadata.get("general.name") == "mistral":  # as transformers does
        model_type = "mistral"
    table, entries = gguf_config_table(_TABLES.get(model_type, model_type))
    entries["model_type"] = model_type
    for key, entry in (*table.items(), *_MORE[architecture]):
        if key in metadata:
            entries[entry] = metadata[key]
    _require_sizes(metadata, where)
    if architecture == "lfm2":
        _set_kinds_of_lfm2(metadata, entries)
    if architecture in HYBRID:
        set_hybrid(architecture, header, metadata, entries, where)
    if architecture == "deepseek2":
        has_bias = _has_tensor(header, "exp_probs_b.bias")
        entries |= deepseek2_entries(metadata, has_bias=has_bias, refusal=partial(_unsupported, where=where))
    if architecture == "gemma4":
        entries |= gemma4_entries(header, metadata, partial(_unsupported, where=where))
    _refuse_lists(entries, where)
    if "attention.head_count_kv" in table:
        entries.setdefault(table["attention.head_count_kv"], metadata["attention.head_count"])
    entries["vocab_size"] = _vocabulary(header, metadata)
    for key, entry in (("bos", "bos"), ("eos", "eos"), ("padding", "pad")):
        entries[f"{entry}_token_id"] = header.metadata.get(f"tokenizer.ggml.{key}_token_id")
    entries["tie_word_embeddings"] = "output.weight" not in header.tensors
    _set_peculiarities(architecture, header, metadata, entries, where)
    scaling = None if "rope_parameters" in entries else _rope_scaling(header, metadata, entries, where)
    if scaling is not None:
        entries["rope_scaling"] = scaling
    return entries


def _require_sizes(metadata: Mapping[str, Any], where: str) -> None:
    """Check the sizes that everything else is computed from."""
    for key, most in (
        ("block_count", 10_000),
        ("embedding_length", 1 << 24),
        ("attention.head_count", 1 << 24),
    ):
        value = metadata.get(key)
        if type(value) is not int or not 0 < value <= most:
            raise CheckpointError(
                f"the metadata key {key!r} is missing or not a sensible number: {short(value)}",
                where=where,
                next="download the file again, or use the safetensors checkpoint",
            )


def _refuse_lists(entries: Mapping[str, Any], where: str) -> None:
    """Refuse values of which each layer has its own."""
    per_layer = sorted(key for key, value in entries.items() if isinstance(value, list) and key != "layer_types")
    if per_layer:
        raise _unsupported(f"the layers differ in {', '.join(per_layer)}, which is not read from GGUF", where)


def _vocabulary(header: GGUFHeader, metadata: Mapping[str, Any]) -> int:
    """Return the number of tokens: stated, or the length of the skipped list, or rows of the embedding."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if type(metadata.get("vocab_size")) is int:
        return int(metadata["vocab_size"])
    if isinstance(tokens, ArrayInfo):
        return tokens.length
    embedding = header.tensors.get("token_embd.weight")
    return len(tokens) if isinstance(tokens, list) else embedding.shape[0] if embedding else 1


def _set_peculiarities(
    architecture: str, header: GGUFHeader, metadata: Mapping[str, Any], entries: dict[str, Any], where: str
) -> None:
    """Set what follows from the tensors or from the architecture itself."""
    heads, width = metadata["attention.head_count"], metadata["embedding_length"]
    head_dim = metadata.get("attention.key_length", width // heads)
    if architecture == "falcon" and metadata.get("attention.head_count_kv") != 1:
        raise _unsupported("Falcon with several key-value heads is stored in another order, which is not read", where)
    if architecture == "stablelm":
        entries["use_qkv_bias"] = _has_tensor(header, "attn_q.bias")
        entries["use_parallel_residual"] = not _has_tensor(header, "ffn_norm.weight")
    if architecture == "llama":
        entries["attention_bias"] = _has_tensor(header, "attn_q.bias")
        entries["mlp_bias"] = _has_tensor(header, "ffn_down.bias")
    if architecture in ("gemma2", "gemma3"):
        entries["query_pre_attn_scalar"] = width // heads if metadata["block_count"] in _WIDE_GEMMA else head_dim
    if architecture in ("glm4moe", "minimax-m2") and metadata.get("expert_gating_func", _SIGMOID) != _SIGMOID:
        raise _unsupported("its router takes another function than a sigmoid, which is not read from GGUF", where)
    if architecture == "minimax-m2":
        entries.pop("scoring_func", None)  # a number in the file
    if architecture == "glm4moe":
        entries.pop("num_experts", None)
        entries["num_hidden_layers"] -= metadata.get("nextn_predict_layers", 0)  # which predict further tokens
        entries["attention_bias"] = _has_tensor(header, "attn_q.bias")
        entries["use_qk_norm"] = _has_tensor(header, "attn_q_norm.weight")
    if architecture == "lfm2":
        entries["block_auto_adjust_ff_dim"] = False  # the file has the adjusted width
        entries["conv_bias"] = _has_tensor(header, "shortconv.conv.bias")
    if architecture in _PARTIAL_ROTARY and "rope.dimension_count" in metadata:
        entries["partial_rotary_factor"] = metadata["rope.dimension_count"] / head_dim


def _set_kinds_of_lfm2(metadata: Mapping[str, Any], entries: dict[str, Any]) -> None:
    """Set the kind of each layer: one of convolutions has no heads for keys and values."""
    heads = metadata.get("attention.head_count_kv")
    if isinstance(heads, list) and len(set(heads) - {0}) == 1:
        entries["layer_types"] = ["full_attention" if n else "conv" for n in heads]
        entries["num_key_value_heads"] = max(heads)


def _has_tensor(header: GGUFHeader, rest: str) -> bool:
    return any(name.startswith("blk.") and name.endswith(f".{rest}") for name in header.tensors)


def _rope_scaling(
    header: GGUFHeader, metadata: Mapping[str, Any], entries: Mapping[str, Any], where: str
) -> dict[str, Any] | None:
    """Return how positions are scaled beyond the trained context, or None."""
    if "rope_factors_long.weight" in header.tensors:
        raise _unsupported("positions are scaled by stored long and short factors, which are not read from GGUF", where)
    if "rope_freqs.weight" in header.tensors:
        return _llama3_rope(header, entries, where)
    kind, factor = metadata.get("rope.scaling.type", "none"), metadata.get("rope.scaling.factor", 1.0)
    if "rope.scale_linear" in metadata:  # the key of older files
        kind, factor = "linear", metadata["rope.scale_linear"]
    if kind == "none" or factor in (0.0, 1.0):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = metadata.get("rope.scaling.original_context_length", metadata.get("context_length"))
        own: dict[str, Any] = {entry: metadata[key] for key, entry in _YARN if key in metadata}
        if entries["model_type"] == "gpt_oss":
            own["truncate"] = False  # the one that does not round
        if "kv_lora_rank" in entries:
            own |= deepseek2_yarn(metadata, partial(_unsupported, where=where))
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **own}
    raise _unsupported(f"positions are scaled by {kind!r}, which is not read from GGUF", where)


def _llama3_rope(header: GGUFHeader, entries: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Recognise the settings whose frequency divisors the file stores."""
    stored = read_tensors([header.tensors["rope_freqs.weight"]])["rope_freqs.weight"]
    for factor, low, high, original in _LLAMA3_ROPE:
        expected = _llama3_divisors(2 * stored.numel(), entries.get("rope_theta", 10000.0), factor, low, high, original)
        if torch.allclose(stored.flatten(), expected, rtol=1e-3):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise _unsupported("the stored frequencies (rope_freqs.weight) are not among those that are known", where)


def _llama3_divisors(
    dim: int, theta: float, factor: float, low: float, high: float, original: int
) -> torch.Tensor:  # (dim / 2,)
    """Return what Llama 3.1 divides each rotary frequency by (its published scaling rule)."""
    wavelength = 2 * math.pi * theta ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / factor + smooth)).float()


def _unsupported(what: str, where: str) -> UnsupportedFormatError:
    return UnsupportedFormatError(what, where=where, next="use the model's safetensors checkpoint instead")
