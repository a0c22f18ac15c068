"""Tiny GGUF files of many families, written as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel

from tests import causal, tiny, tiny_gguf_qwen
from tests.tiny_gguf_own import MORE_TENSORS, OWN_PARTS, OWN_SIZES

_LATENT = {"head_dim": 4, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 10, "kv_lora_rank": 32}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "original_max_position_embeddings": 16}
_ROUTED = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 20}
# tiny family, "__" and a variant -> general.architecture, and the settings in which llama.cpp leaves no choice
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
    "granite": ("granite", {}),
    "ernie4_5": ("ernie4_5", {}),
    "gpt_oss": ("gpt-oss", {}),
    "lfm2": ("lfm2", {"block_auto_adjust_ff_dim": False, "norm_eps": 1e-3}),
    "minimax_m2": ("minimax-m2", {}),
    "gemma4_text": ("gemma4", {"sliding_window": 5}),
    "gemma4_text__routed": ("gemma4", _ROUTED | {"global_head_dim": 24}),
    "gemma4_text__values": ("gemma4", {"attention_k_eq_v": False, "num_global_key_value_heads": None}),
    "deepseek_v2": (
        "deepseek2",
        _LATENT
        | {
            "topk_method": "group_limited_greedy",
            "rope_parameters": _YARN
            | {"factor": 40.0, "mscale": 0.707, "mscale_all_dim": 0.707, "beta_fast": 32.0, "beta_slow": 1.0},
        },
    ),
    "deepseek_v2__lite": ("deepseek2", _LATENT | {"q_lora_rank": None, "n_group": 1, "n_shared_experts": 2}),
    "deepseek_v3": (
        "deepseek2",
        _LATENT
        | {
            "routed_scaling_factor": 2.5,
            "rope_parameters": _YARN
            | {"factor": 32.0, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 1.0, "beta_slow": 1.0},
        },
    ),
    "deepseek_v3__whole": ("deepseek2", _LATENT | {"written_whole": True}),  # as before 2025
    "glm4_moe_lite": ("deepseek2", _LATENT | {"n_group": 1, "mlp_layer_types": ["dense"] + 3 * ["sparse"]}),
    "youtu": ("deepseek2", _LATENT | {"tie_word_embeddings": True}),
    "glm4_moe": ("glm4moe", {"n_group": 1, "attention_bias": True, "use_qk_norm": True}),
    **tiny_gguf_qwen.ARCHITECTURES,
}
FAMILIES = tuple(_ARCHITECTURES)


def tiny_gguf_model(family: str) -> PreTrainedModel:
    """Return the model that `tiny_gguf` writes."""
    settings = {"tie_word_embeddings": False} | _ARCHITECTURES[family][1]
    family = family.partition("__")[0].removesuffix("_biased")
    if family in tiny.FAMILIES:
        return tiny.tiny_model(family, **settings)
    return causal.model_of(family, **settings)


def tiny_gguf(
    family: str,
    path: Path,
    tokens: Sequence[str] | None = None,
    *,
    split: int = 0,
    small_first: bool = False,
    quantised: bool = False,
    **metadata: Any,
) -> Path:
    """Write ``tiny_gguf_model(family)`` as a float32 GGUF file; `metadata` adds keys of its architecture.

    With `split`, in parts of so many tensors, next to `path`; `small_first` keeps the first part free of tensors.
    `quantised` stores matrices as Q8_0 where their rows allow it.
    """
    model = tiny_gguf_model(family)
    model.config.allow_global_per_layer_attribute_access = True
    architecture = _ARCHITECTURES[family][0]
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split, small_first_shard=small_first)
    writer.add_license("apache-2.0")
    writer.add_token_list(tokens or [f"token {i}" for i in range(model.config.vocab_size)])
    _write_sizes(writer, model.config, architecture)
    for key, value in metadata.items():
        writer.add_key_value(f"{architecture}.{key}", value, _value_type(value))
    for name, tensor in _converted(model, architecture).items():
        array = np.ascontiguousarray(tensor.numpy())
        if quantised and array.ndim > 1 and array.shape[-1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
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
    further = {"glm4moe": 1} | tiny_gguf_qwen.EXTRA_LAYERS  # that predict further tokens
    writer.add_block_count(config.num_hidden_layers + further.get(architecture, 0))
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(heads)
    kv_heads = 1 if architecture == "falcon" else getattr(config, "num_key_value_heads", heads)
    if architecture == "lfm2":
        kv_heads = [0 if kind == "conv" else kv_heads for kind in config.layer_types]
    writer.add_head_count_kv(kv_heads)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    writer.add_feed_forward_length(inner or 4 * config.hidden_size)
    if getattr(config, "head_dim", None):
        writer.add_key_length(head_dim)
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    if "rope_theta" in rope:
        writer.add_rope_freq_base(rope["rope_theta"])
        writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    for name in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon"):
        if hasattr(config, name):
            rms = name == "rms_norm_eps" or architecture == "lfm2"
            (writer.add_layer_norm_rms_eps if rms else writer.add_layer_norm_eps)(getattr(config, name))
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    _write_more_sizes(writer, config, architecture)
    if architecture in OWN_SIZES:
        OWN_SIZES[architecture](writer, config)
    if architecture.startswith("qwen") and hasattr(config, "num_experts"):
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        writer.add_expert_shared_feed_forward_length(getattr(config, "shared_expert_intermediate_size", 0))


def _write_more_sizes(writer: gguf.GGUFWriter, config: Any, architecture: str) -> None:
    if architecture == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    if architecture == "lfm2":
        writer.add_shortconv_l_cache(config.conv_L_cache)
    if architecture in ("gpt-oss", "minimax-m2"):
        writer.add_expert_count(config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.intermediate_size)
    if architecture == "gpt-oss":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
        writer.add_rope_scaling_orig_ctx_len(config.rope_parameters["original_max_position_embeddings"])
    if hasattr(config, "linear_num_key_heads"):
        tiny_gguf_qwen.write_sizes(writer, config, architecture)
    if architecture in ("minimax-m2", "glm4moe"):
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if architecture == "glm4moe":
        writer.add_nextn_predict_layers(config.num_nextn_predict_layers)
        writer.add_expert_count(config.n_routed_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        writer.add_expert_shared_count(config.n_shared_experts)
        writer.add_leading_dense_block_count(config.first_k_dense_replace)
        writer.add_expert_weights_scale(config.routed_scaling_factor)
        writer.add_expert_weights_norm(config.norm_topk_prob)


def _parts(name: str, tensor: torch.Tensor, architecture: str, config: Any) -> dict[str, torch.Tensor] | None:
    """Return what the converter makes of a weight that it splits or names by itself; None for any other."""
    layer, last = name.split(".")[2], name.rpartition(".")[2]
    if architecture in OWN_PARTS and (own := OWN_PARTS[architecture](name, layer, tensor, config)) is not None:
        return own
    block = f"blk.{layer}.ffn_"
    if last == "e_score_correction_bias":
        return {f"blk.{layer}.exp_probs_b.bias": tensor}
    if last == "sinks":
        return {f"blk.{layer}.attn_sinks.weight": tensor}
    if architecture == "gpt-oss" and ".experts." in name:
        kind = "bias" if last.endswith("_bias") else "weight"
        rows = tensor if kind == "bias" else tensor.transpose(1, 2)  # (experts, outputs, inputs)
        if last.startswith("down"):
            return {f"{block}down_exps.{kind}": rows}
        return {f"{block}gate_exps.{kind}": rows[:, ::2], f"{block}up_exps.{kind}": rows[:, 1::2]}
    if last == "gate_up_proj" and ".experts." in name:
        gate, up = tensor.chunk(2, dim=1)
        return {f"{block}gate_exps.weight": gate, f"{block}up_exps.weight": up}
    return None


def _converted(model: PreTrainedModel, architecture: str) -> dict[str, torch.Tensor]:
    """Return the weights under GGUF names, with the changes that the converter makes to values and layout."""
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    found: dict[str, torch.Tensor] = MORE_TENSORS[architecture](model.config) if architecture in MORE_TENSORS else {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        stem, _, suffix = name.rpartition(".")
        stem, suffix = (stem, f".{suffix}") if suffix in ("weight", "bias") else (name, "")
        if name.count(".") > 2 and (parts := _parts(name, tensor, architecture, model.config)) is not None:
            found |= parts
            continue
        if hasattr(model.config, "linear_num_key_heads"):
            parts = tiny_gguf_qwen.converted(name, tensor, model.config, architecture)
            if parts is not None:
                found |= parts
                continue
        target = names.get_name(stem) or names.get_name(stem.removeprefix("transformer."))
        assert target is not None, name
        found[target + (suffix or ".weight")] = _change(tensor, target + suffix, model.config, architecture)
    return found


def _change(tensor: torch.Tensor, name: str, config: Any, architecture: str) -> torch.Tensor:
    heads = config.num_attention_heads
    if name.endswith("shortconv.conv.weight"):
        return tensor.squeeze(1)
    if architecture in ("llama", "granite") and ("attn_q." in name or "attn_k." in name):
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
