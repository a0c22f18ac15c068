"""Tiny random checkpoints of many families, for tests that need a real file and no real weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pifi_probe.compat import quiet_transformers

N_LAYERS = 3
WIDTH = 32
WINDOW = 7

_COMMON: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
_OWN_NAMES: dict[str, dict[str, Any]] = {  # families whose configuration has other names for these
    "gpt2": {"n_embd": WIDTH, "n_head": 4, "n_layer": N_LAYERS, "n_positions": 64},
    "gptj": {"n_embd": WIDTH, "n_head": 4, "n_layer": N_LAYERS, "n_positions": 64, "rotary_dim": 4},
    "mpt": {"d_model": WIDTH, "n_heads": 4, "n_layers": N_LAYERS, "max_seq_len": 64},
    "bloom": {"hidden_size": WIDTH, "n_head": 4, "n_layer": N_LAYERS},
    "opt": {
        "hidden_size": WIDTH,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "word_embed_proj_dim": WIDTH,
        "max_position_embeddings": 64,
    },
    "falcon": {"hidden_size": WIDTH, "num_hidden_layers": N_LAYERS, "num_attention_heads": 4},
}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
}
_EXTRA: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama_scaled": {
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "mistral": {"sliding_window": WINDOW},
    "mixtral": {"sliding_window": WINDOW, "num_local_experts": 4},
    "qwen2": {},
    "qwen2_window": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen2_moe": _EXPERTS,
    "qwen3": {},
    "qwen3_moe": _EXPERTS | {"mlp_only_layers": [1]},
    "qwen3_next": _EXPERTS
    | {
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "gemma": {},
    "gemma2": {"sliding_window": WINDOW, "query_pre_attn_scalar": 5},
    "gemma3_text": {
        "sliding_window": WINDOW,
        "query_pre_attn_scalar": 5,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "falcon": {},
    "falcon_new": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon_alibi": {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    "gpt2": {},
    "gpt2_scaled": {"scale_attn_by_inverse_layer_idx": True},
    "gpt_neox": {},
    "gpt_neox_serial": {"use_parallel_residual": False},
    "gptj": {},
    "opt": {},
    "bloom": {},
    "mpt": {},
    "phi": {},
    "phi3": {"sliding_window": WINDOW},
    "stablelm": {"use_qkv_bias": True},
    "stablelm_parallel": {"use_parallel_residual": True, "qk_layernorm": True},
    "olmo": {"clip_qkv": 0.5},
    "olmo2": {},
    "cohere": {"logit_scale": 0.3, "use_qk_norm": True},
    "cohere2": {"sliding_window": WINDOW, "logit_scale": 0.3},
    "granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "attention_multiplier": 0.2,
        "logits_scaling": 5.0,
    },
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "starcoder2": {"sliding_window": WINDOW},
    "deepseek_v3": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 24,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
        "n_shared_experts": 1,
    },
    "gpt_oss": {"sliding_window": WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
    "glm4": {},
    "nemotron": {},
}
# name of a tiny checkpoint -> model_type, where the two differ
_VARIANTS = {
    name: name.rsplit("_", 1)[0]
    for name in _EXTRA
    if name.endswith(("_scaled", "_window", "_new", "_alibi", "_serial"))
} | {"stablelm_parallel": "stablelm"}

FAMILIES: tuple[str, ...] = tuple(_EXTRA)


def tiny_config(family: str, **overrides: Any) -> PretrainedConfig:
    """Return a configuration of `family` (a key of `FAMILIES`) with 3 layers of width 32."""
    model_type = _VARIANTS.get(family, family)
    sizes = _COMMON if model_type not in _OWN_NAMES else {"vocab_size": 99} | _OWN_NAMES[model_type]
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return CONFIG_MAPPING[model_type](**sizes | tokens | _EXTRA[family] | overrides)


def tiny_model(family: str, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """Return a causal LM of `family` whose norms and biases are random too, in float32 and eval mode."""
    torch.manual_seed(seed)
    with quiet_transformers():
        model = AutoModelForCausalLM.from_config(tiny_config(family, **overrides), dtype=torch.float32)
    shake(model)
    return model.eval()


def shake(model: PreTrainedModel) -> None:
    """Make norms and biases random too."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *_stored_buffers(model)]:
            if tensor.dim() > 1:
                tensor.normal_(0.0, 1.5 / tensor.shape[-1] ** 0.5)
            elif tensor.is_floating_point() and "A_log" not in name:
                tensor.add_(torch.randn_like(tensor), alpha=0.2)
    model.tie_weights()


def _stored_buffers(model: PreTrainedModel) -> list[tuple[str, torch.Tensor]]:
    stored = model.state_dict().keys()
    return [(name, tensor) for name, tensor in model.named_buffers() if name in stored]


def tiny_checkpoint(family: str, folder: Path | str, *, max_shard_size: str = "5GB", **overrides: Any) -> Path:
    """Save ``tiny_model(family)`` into `folder` as safetensors and return the folder.

    A small `max_shard_size` (``"40KB"``) gives several shards and an index.
    """
    folder = Path(folder)
    with quiet_transformers():
        tiny_model(family, **overrides).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder
