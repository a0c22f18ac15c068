"""A tiny model of every causal type that transformers knows, dense and routed layers of more than one each."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pifi_probe.compat import quiet_transformers
from tests import tiny

N_LAYERS = 4

_SIZES: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
                            "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24,
                            "n_shared_experts": 1, "num_shared_experts": 1, "n_group": 2, "topk_group": 1}  # fmt: skip
_LATENT: dict[str, Any] = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
                           "v_head_dim": 8, "num_key_value_heads": 4}  # fmt: skip
_MAMBA2: dict[str, Any] = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1,
                           "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 8,
                           "mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1}  # fmt: skip
_LINEAR: dict[str, Any] = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
                           "linear_value_head_dim": 8}  # fmt: skip
_SLIDING = {"sliding_window": tiny.WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]}  # fmt: skip
_HYBRID = {"layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"]}

ALSO = ("mistral4",)  # decoders that transformers keeps for models with vision only

# What a type needs besides the sizes that all have.
_DENSE_FIRST = {"mlp_layer_types": ["dense", "sparse", "sparse", "dense"]}
_MOE_LATENT = _EXPERTS | _LATENT | _DENSE_FIRST
_INDEXER = {"index_topk": 64, "index_head_dim": 16, "index_n_heads": 2}
EXTRA: dict[str, dict[str, Any]] = {
    "afmoe": _EXPERTS | _SLIDING | {"num_dense_layers": 2, "mup_enabled": True},
    "aria_text": _EXPERTS | {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    "axk1": _MOE_LATENT,
    "axk2": _MOE_LATENT
    | {"index_topk": 64, "index_head_dim": 16, "index_n_heads": 2, "n_group": None, "topk_group": None},
    "bailing_hybrid": _EXPERTS | _LATENT | _HYBRID | _DENSE_FIRST,
    "bamba": _MAMBA2 | {"attn_layer_indices": [1, 2]},
    "beam": _EXPERTS | _SLIDING | _DENSE_FIRST,
    "cohere2_moe": _EXPERTS | _SLIDING,
    "cohere_compass_text": _SLIDING
    | {"rope_parameters": {kind: {"rope_type": "default", "rope_theta": 1e4} for kind in _SLIDING["layer_types"]}},
    "cwm": _SLIDING,
    "dbrx": {
        "d_model": 32,
        "n_heads": 4,
        "n_layers": N_LAYERS,
        "max_seq_len": 64,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": _EXPERTS | _LATENT | {"first_k_dense_replace": 2},
    "deepseek_v32": _EXPERTS
    | _LATENT
    | {"first_k_dense_replace": 2, "index_topk": 64, "index_head_dim": 16, "index_n_heads": 2},
    "doge": {"keep_window_size": 64, "num_experts": 4},
    "dots1": _EXPERTS | _SLIDING | {"first_k_dense_replace": 2},
    "dots3_note_text": _MOE_LATENT
    | _INDEXER
    | {"shared_experts_intermediate_size": 24, "sliding_window_size": tiny.WINDOW}
    | {f"swa_{name}": size for name, size in (_LATENT | {"num_attention_heads": 4, "head_dim": 16}).items()},
    "ernie4_5_moe": {
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_intermediate_size": 24,
        "moe_num_shared_experts": 1,
        "moe_layer_start_index": 1,
        "moe_layer_interval": 2,
    },
    "exaone4": _SLIDING,
    "exaone_moe": _EXPERTS | _SLIDING | {"first_k_dense_replace": 2},
    "falcon_h1": _MAMBA2 | {"mamba_d_ssm": 64, "embedding_multiplier": 3.0, "key_multiplier": 0.5},
    "falcon_mamba": {"state_size": 8},
    "flex_olmo": _EXPERTS,
    "flint": _EXPERTS | _SLIDING | {"mlp_only_layers": [0, 2]},
    **dict.fromkeys(
        ("gemma4_text", "gemma4_unified_text"),
        _SLIDING
        | {
            "hidden_size_per_layer_input": 0,
            "global_head_dim": 16,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
        },
    ),
    "glm4_moe": _EXPERTS | {"first_k_dense_replace": 2},
    "glm4_moe_lite": _MOE_LATENT | {"first_k_dense_replace": 2},
    "glm_moe_dsa": _MOE_LATENT | _INDEXER,
    "gpt_bigcode": {"n_embd": 32, "n_head": 4, "n_layer": N_LAYERS, "n_positions": 64},
    "gpt-sw3": {"n_embd": 32, "n_head": 4, "n_layer": N_LAYERS, "n_positions": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": tiny.WINDOW},
    "gpt_neox_japanese": {"intermediate_multiple_size": 2},
    "codegen": {"n_embd": 32, "n_head": 4, "n_layer": N_LAYERS, "n_positions": 64, "rotary_dim": 4},
    "openai-gpt": {"n_embd": 32, "n_head": 4, "n_layer": N_LAYERS, "n_positions": 64},
    "granite_swa": _SLIDING | {"embedding_multiplier": 3.0, "residual_multiplier": 0.4},
    "granitemoe": _EXPERTS | {"embedding_multiplier": 3.0, "residual_multiplier": 0.4},
    "granitemoe_swa": _EXPERTS | _SLIDING | {"embedding_multiplier": 3.0, "residual_multiplier": 0.4},
    "granitemoeshared": _EXPERTS
    | {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "shared_intermediate_size": 24},
    "granitemoehybrid": _EXPERTS
    | _MAMBA2
    | {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "shared_intermediate_size": 24,
        "layer_types": ["mamba", "attention", "mamba", "attention"],
    },
    "hunyuan_v1_moe": _EXPERTS | {"moe_topk": 2, "num_shared_expert": 1},
    "hy_v3": _EXPERTS | _DENSE_FIRST,
    "hyperclovax": {"embedding_multiplier": 3.0, "residual_multiplier": 0.4},
    "inkling_text": _EXPERTS
    | _DENSE_FIRST
    | {
        "layer_types": _SLIDING["layer_types"],
        "sliding_window_size": tiny.WINDOW,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 8,
        "d_rel": 4,
        "rel_extent": 16,
    },
    "jamba": {"num_experts": 4, "mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1},
    "jetmoe": {"kv_channels": 8, "num_local_experts": 4},
    "kimi_linear": _EXPERTS
    | _LATENT
    | _HYBRID
    | _DENSE_FIRST
    | {"q_lora_rank": None, "linear_head_dim": 8, "linear_num_heads": 4},
    "kolibri1": _EXPERTS | _SLIDING,
    "laguna": _EXPERTS | _SLIDING | _DENSE_FIRST | {"num_attention_heads_per_layer": [4, 2, 4, 2]},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "block_multiple_of": 16},
    "lfm2_moe": _EXPERTS | {"layer_types": ["conv", "full_attention", "conv", "full_attention"], "num_dense_layers": 2},
    "lfm3": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "llama4_text": _EXPERTS
    | {
        "num_experts_per_tok": 1,
        "intermediate_size_mlp": 48,
        "interleave_moe_layer_step": 2,
        "attention_chunk_size": tiny.WINDOW,
        "no_rope_layers": [1, 0, 1, 0],
        "floor_scale": 4,
    },
    "longcat_flash": _LATENT
    | {
        "num_layers": 2,
        "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 24,
        "n_routed_experts": 4,
        "zero_expert_num": 2,
        "moe_topk": 2,
    },
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "mellum": _EXPERTS | _SLIDING,
    "mimo_v2_flash": _EXPERTS | _SLIDING | _DENSE_FIRST | {"v_head_dim": 8},
    "minicpm3": _LATENT,
    "minimax": {
        "num_local_experts": 4,
        "block_size": 8,
        "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
    },
    "minimax_m2": _EXPERTS | {"rotary_dim": 4},
    "minimax_m3_vl_text": _EXPERTS
    | _DENSE_FIRST
    | {
        "dense_intermediate_size": 48,
        "shared_intermediate_size": 24,
        "rotary_dim": 4,
        "index_n_heads": 2,
        "index_head_dim": 8,
        "index_block_size": 4,
    },
    "ministral": _SLIDING,
    "mistral4": _MOE_LATENT | {"first_k_dense_replace": 2, "head_dim": 16},
    "moshi": {"ffn_dim": 48},
    "nemotron_h": _EXPERTS
    | _MAMBA2
    | {
        "layers_block_type": ["mamba", "attention", "moe", "mlp"],
        "moe_shared_expert_intermediate_size": 24,
        "chunk_size": 8,
    },
    "olmo3": _SLIDING,
    "olmo_hybrid": _HYBRID | _LINEAR,
    "olmoe": _EXPERTS,
    "persimmon": {},
    "phimoe": _EXPERTS,
    "phi4_multimodal": {
        "audio_config": {"hidden_size": 16, "num_blocks": 1, "intermediate_size": 16, "num_attention_heads": 2},
        "vision_config": {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "num_attention_heads": 2},
    },
    "qwen3_5_text": _HYBRID | _LINEAR,
    "qwen3_5_moe_text": _EXPERTS | _HYBRID | _LINEAR,
    "recurrent_gemma": {"attention_window_size": tiny.WINDOW, "num_hidden_layers": 3},
    "solar_open": _EXPERTS,
    "vaultgemma": _SLIDING,
    "xglm": {"d_model": 32, "attention_heads": 4, "ffn_dim": 48, "num_layers": N_LAYERS},
    "youtu": _LATENT,
    "zamba": {"mamba_d_state": 8, "num_key_value_heads": 4, "num_hidden_layers": 6},
    "zamba2": {"mamba_d_state": 8, "n_mamba_heads": 8, "num_key_value_heads": 4, "adapter_rank": 4},
    "zaya": _EXPERTS | {"num_experts_per_tok": 1, "router_hidden_size": 16},
    # Types that are refused, for what their models show of the reason.
    "deepseek_v4": _EXPERTS
    | _INDEXER
    | {"q_lora_rank": 16, "num_key_value_heads": 1, "head_dim": 16, "o_groups": 2, "o_lora_rank": 8, "hc_mult": 2}
    | {"index_topk": 8, "sliding_window": tiny.WINDOW},
    "gemma3n_text": _SLIDING
    | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 99, "laurel_rank": 4, "altup_num_inputs": 2}
    | {"num_kv_shared_layers": 2, "activation_sparsity_pattern": [0.0] * N_LAYERS},
    "hy_v4": _MOE_LATENT | _INDEXER | {"hc_mult": 2},
    "inkling2_text": _EXPERTS
    | {"layer_types": ["hybrid_sliding", "hybrid"] * 2, "sliding_window_size": tiny.WINDOW, "d_rel": 4}
    | {"swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8, "rel_extent": 16}
    | {"n_layers_per_attn_res_block": 2, "unpadded_vocab_size": 99},
    "qwen4_exp_text": _EXPERTS
    | _LINEAR
    | {"layer_types": ["linear_attention", "indexed_attention"] * 2, "hc_count": 2, "hc_lowrank": 8}
    | {"ple_layer_ids": [3], "ngram_size": 2, "heads_per_ngram": 2, "ngram_vocab_size_base": 64}
    | {"make_ngram_vocab_size_divisible_by": 8, "split_ngram_parts": 1}
    | {f"indexer_{key}": size for key, size in zip(("n_heads", "kv_heads", "head_dim"), (2, 1, 8), strict=True)}
    | {"indexer_budget": 16, "indexer_compress_ratio": 4},
}


def causal_types() -> list[str]:
    """Return transformers' own list of causal models."""
    return [*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *ALSO]


def config_of(model_type: str, **overrides: Any) -> PretrainedConfig:
    """Return a small configuration of a type."""
    if model_type in tiny.FAMILIES:
        return tiny.tiny_config(model_type, **overrides)
    with quiet_transformers():
        return CONFIG_MAPPING[model_type](**_SIZES | EXTRA.get(model_type, {}) | overrides)


def model_of(model_type: str, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """Return an untrained model of a type, norms and biases random too, in float32 and eval mode."""
    torch.manual_seed(seed)
    with quiet_transformers():
        auto = AutoModel if model_type in ALSO else AutoModelForCausalLM
        model = auto.from_config(config_of(model_type, **overrides), dtype=torch.float32)
    tiny.shake(model)
    return model.eval()
