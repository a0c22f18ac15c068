"""What llama.cpp's converter does for one architecture alone: keys, and weights that it splits, joins or computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gguf
import torch

Parts = dict[str, torch.Tensor]


def _gemma4_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    full = config.per_layer_config["full_attention"]
    sliding = [kind == "sliding_attention" for kind in config.layer_types]
    writer.add_shared_kv_layers(config.num_kv_shared_layers)
    writer.add_embedding_length_per_layer_input(config.hidden_size_per_layer_input)
    writer.add_sliding_window_pattern(sliding)
    for kind, head_dim in (("", full.head_dim), ("_swa", config.head_dim)):
        for what in ("key_length", "value_length"):
            getattr(writer, f"add_{what}{kind}")(head_dim)
        getattr(writer, f"add_rope_dimension_count{kind}")(head_dim)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["full_attention"]["rope_theta"])
    writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
    if config.attention_k_eq_v:
        writer.add_head_count_kv([config.num_key_value_heads if one else full.num_key_value_heads for one in sliding])
    if config.enable_moe_block:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.top_k_experts)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)


def _gemma4_parts(name: str, layer: str, tensor: torch.Tensor, config: Any) -> Parts | None:
    names = {
        "router.scale": "ffn_gate_inp.scale",
        "router.per_expert_scale": "ffn_down_exps.scale",
        "experts.gate_up_proj": "ffn_gate_up_exps.weight",
    }
    found = next((target for own, target in names.items() if name.endswith(own)), None)
    return {f"blk.{layer}.{found}": tensor} if found else None


def _gemma4_more(config: Any) -> Parts:
    """Return what divides the frequencies of full layers: one, or so much that the rest does not rotate."""
    head_dim = config.per_layer_config["full_attention"].head_dim
    used = int(head_dim * config.rope_parameters["full_attention"]["partial_rotary_factor"] / 2)
    return {"rope_freqs.weight": torch.tensor([1.0] * used + [1e30] * (head_dim // 2 - used))}


def _deepseek2_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    rope, rank = config.qk_rope_head_dim, config.kv_lora_rank
    whole = getattr(config, "written_whole", False)
    head_dim = config.qk_nope_head_dim + rope
    writer.add_head_count_kv(config.num_attention_heads if whole else 1)
    writer.add_key_length(head_dim if whole else rank + rope)
    writer.add_value_length(config.v_head_dim if whole else rank)
    if not whole:
        writer.add_key_length_mla(head_dim)
        writer.add_value_length_mla(config.v_head_dim)
    writer.add_rope_dimension_count(rope)
    writer.add_kv_lora_rank(rank)
    if config.q_lora_rank is not None:
        writer.add_q_lora_rank(config.q_lora_rank)
    positions = config.rope_parameters
    if positions["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(positions["factor"])
        writer.add_rope_scaling_orig_ctx_len(positions["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(positions["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(positions["beta_slow"])
        writer.add_rope_scaling_yarn_log_mul(0.1 * positions["mscale_all_dim"])
    if config.model_type == "youtu":
        writer.add_leading_dense_block_count(config.num_hidden_layers)
        writer.add_expert_feed_forward_length(config.intermediate_size)
        writer.add_expert_shared_count(0)
        return
    kinds = getattr(config, "mlp_layer_types", None)
    writer.add_leading_dense_block_count(kinds.count("dense") if kinds else config.first_k_dense_replace)
    writer.add_expert_count(config.n_routed_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_shared_count(config.n_shared_experts)
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    writer.add_expert_group_count(config.n_group)
    writer.add_expert_group_used_count(config.topk_group)
    if config.norm_topk_prob:
        writer.add_expert_weights_norm(True)
    if config.model_type == "deepseek_v3":
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if config.model_type == "glm4_moe_lite":  # does not say its router's function, and has a layer more
        writer.add_block_count(config.num_hidden_layers + 1)
        writer.add_nextn_predict_layers(1)


def _deepseek2_parts(name: str, layer: str, tensor: torch.Tensor, config: Any) -> Parts | None:
    if not name.endswith("kv_b_proj.weight") or getattr(config, "written_whole", False):
        return None
    heads = tensor.view(config.num_attention_heads, -1, config.kv_lora_rank)
    keys, values = heads.split([config.qk_nope_head_dim, config.v_head_dim], dim=1)
    return {f"blk.{layer}.attn_k_b.weight": keys.transpose(1, 2), f"blk.{layer}.attn_v_b.weight": values}


OWN_SIZES: Mapping[str, Callable[[gguf.GGUFWriter, Any], None]] = {
    "deepseek2": _deepseek2_sizes,
    "gemma4": _gemma4_sizes,
}
OWN_PARTS: Mapping[str, Callable[[str, str, torch.Tensor, Any], Parts | None]] = {
    "deepseek2": _deepseek2_parts,
    "gemma4": _gemma4_parts,
}
MORE_TENSORS: Mapping[str, Callable[[Any], Parts]] = {"gemma4": _gemma4_more}
