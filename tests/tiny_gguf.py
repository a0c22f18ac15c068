"""Tiny GGUF files of many families, written as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel

from tests.tiny import tiny_model

# tiny family -> general.architecture, and the settings in which llama.cpp leaves no choice
_ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama_biased": ("llama", {"attention_bias": True, "mlp_bias": True, "rope_theta": 5e5}),
    "qwen2": ("qwen2", {"rope_theta": 1e6}),
    "qwen2_moe": ("qwen2moe", {}),
    "qwen3": ("qwen3", {}),
    "qwen3_moe": ("qwen3moe", {"mlp_only_layers": [], "norm_topk_prob": True}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 3.0, "tie_word_embeddings": True}),
    "gemma3_text": ("gemma3", {"query_pre_attn_scalar": 8, "layer_types": None}),
    "gpt2": ("gpt2", {"n_inner": 48}),
    "bloom": ("bloom", {}),
    "falcon": ("falcon", {}),
    "phi3": ("phi3", {}),
    "stablelm": ("stablelm", {"rope_theta": 5e4, "partial_rotary_factor": 0.5}),
    "starcoder2": ("starcoder2", {"rope_theta": 1e5, "sliding_window": None}),
    "nemotron": ("nemotron", {}),
}
FAMILIES = tuple(_ARCHITECTURES)


def tiny_gguf_model(family: str) -> PreTrainedModel:
    """Return the model that `tiny_gguf` writes."""
    settings = {"tie_word_embeddings": False} | _ARCHITECTURES[family][1]
    return tiny_model(family.removesuffix("_biased"), **settings)


def tiny_gguf(
    family: str,
    path: Path,
    tokens: Sequence[str] | None = None,
    *,
    split: int = 0,
    small_first: bool = False,
    **metadata: Any,
) -> Path:
    """Write ``tiny_gguf_model(family)`` as a float32 GGUF file; `metadata` adds keys of its architecture.

    With `split`, in parts of so many tensors, beside `path`; `small_first` keeps the first part free of tensors.
    """
    model = tiny_gguf_model(family)
    architecture = _ARCHITECTURES[family][0]
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split, small_first_shard=small_first)
    writer.add_license("apache-2.0")
    writer.add_token_list(tokens or [f"token {i}" for i in range(model.config.vocab_size)])
    _write_sizes(writer, model.config, architecture)
    for key, value in metadata.items():
        writer.add_key_value(f"{architecture}.{key}", value, _value_type(value))
    for name, tensor in _converted(model, architecture).items():
        writer.add_tensor(name, np.ascontiguousarray(tensor.numpy()))
    _finish(writer)
    return path


def write_tensors(path: Path, tensors: dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType]], **keys: Any) -> Path:
    """Write tensors as they are (bytes for quantised types) with a llama header; `keys` adds metadata."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in keys.items():
        writer.add_array(key, value) if isinstance(value, list) else writer.add_key_value(
            key, value, _value_type(value)
        )
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    _finish(writer)
    return path


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _value_type(value: Any) -> gguf.GGUFValueType:
    kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING"}
    return gguf.GGUFValueType[kinds[type(value)]]


def _write_sizes(writer: gguf.GGUFWriter, config: Any, architecture: str) -> None:
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(64)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1 if architecture == "falcon" else getattr(config, "num_key_value_heads", heads))
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or 48)
    if getattr(config, "head_dim", None):
        writer.add_key_length(head_dim)
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    if "rope_theta" in rope:
        writer.add_rope_freq_base(rope["rope_theta"])
        writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    for name in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"):
        if hasattr(config, name):
            rms = name == "rms_norm_eps"
            (writer.add_layer_norm_rms_eps if rms else writer.add_layer_norm_eps)(getattr(config, name))
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if hasattr(config, "num_experts"):
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        writer.add_expert_shared_feed_forward_length(getattr(config, "shared_expert_intermediate_size", 0))


def _converted(model: PreTrainedModel, architecture: str) -> dict[str, torch.Tensor]:
    """Return the weights under GGUF names, with the changes that the converter makes to values and layout."""
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    found: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        stem, _, suffix = name.rpartition(".")
        stem, suffix = (stem, f".{suffix}") if suffix in ("weight", "bias") else (name, "")
        if stem.endswith("experts.gate_up_proj"):
            layer = stem.split(".")[2]
            gate, up = tensor.chunk(2, dim=1)
            found[f"blk.{layer}.ffn_gate_exps.weight"], found[f"blk.{layer}.ffn_up_exps.weight"] = gate, up
            continue
        target = names.get_name(stem) or names.get_name(stem.removeprefix("transformer."))
        assert target is not None, name
        found[target + (suffix or ".weight")] = _change(tensor, target + suffix, model.config, architecture)
    return found


def _change(tensor: torch.Tensor, name: str, config: Any, architecture: str) -> torch.Tensor:
    heads = config.num_attention_heads
    if architecture == "llama" and ("attn_q." in name or "attn_k." in name):
        n = heads if "attn_q." in name else config.num_key_value_heads
        # rotary halves become neighbours
        return tensor.reshape(n, 2, tensor.shape[0] // n // 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
    if architecture in ("gemma2", "gemma3", "nemotron") and name.endswith("norm.weight"):
        return tensor + 1
    if architecture == "gpt2" and tensor.dim() == 2 and "embd" not in name and name != "output.weight":
        return tensor.T
    if architecture == "bloom" and "attn_qkv" in name:  # from heads of (q, k, v) to (q, k, v) of heads
        return tensor.reshape(heads, 3, -1, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)
    return tensor.squeeze(0) if name.endswith("ffn_gate_inp_shexp.weight") else tensor
