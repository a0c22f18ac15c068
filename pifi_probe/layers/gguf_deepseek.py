"""The configuration of a GGUF file of architecture deepseek2: DeepSeek V2 and V3, and what is built like them.

Source: ``DeepseekV2Model`` of llama.cpp's converter (``conversion/deepseek.py``) and its loader
(``src/models/deepseek2.cpp``). Since 2025 a file states the sizes of heads twice: those of the compressed keys, which
all heads share, and under ``_mla`` those of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pifi_probe.errors import PifiProbeError

__all__ = ["deepseek2_entries", "deepseek2_yarn"]

_SOFTMAX, _SIGMOID = 1, 2  # the router's function, as the file numbers it
# (layers, width, experts) -> (groups of experts, groups that a token chooses): what published configurations say, for
# the files of which the converter did not write it
_PUBLISHED: Mapping[tuple[int, int, int], tuple[int, int]] = {
    (27, 2048, 64): (1, 1),  # DeepSeek-V2-Lite, -Coder-V2-Lite, Moonlight
    (60, 5120, 160): (8, 3),  # DeepSeek-V2, -V2.5, -Coder-V2
    (61, 7168, 256): (8, 4),  # DeepSeek-V3, -V3.1, -R1
    (61, 7168, 384): (1, 1),  # Kimi K2
}
_KIMI, _KIMI_INSTRUCT_FACTOR = (61, 7168, 384), 32.0
_ENTRIES = (
    ("attention.kv_lora_rank", "kv_lora_rank"),
    ("expert_count", "n_routed_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_shared_count", "n_shared_experts"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("leading_dense_block_count", "first_k_dense_replace"),
)


def deepseek2_entries(
    metadata: Mapping[str, Any], *, has_bias: bool, refusal: Callable[[str], PifiProbeError]
) -> dict[str, Any]:
    """Return entries of the configuration, the type of the model among them, under transformers' names.

    Parameters
    ----------
    metadata : Mapping
        Without the architecture before each key.
    has_bias : bool
        Whether routers have a bias by which they choose.
    refusal : callable
        Makes the error of a reason.

    Raises
    ------
    PifiProbeError
        What `refusal` makes, where the file does not say enough, or says what transformers' model does not do.
    KeyError
        If a size is missing.
    """
    if metadata.get("attention.temperature_scale"):
        raise refusal("its queries are scaled by their position, which is not read from GGUF")
    rope = metadata["rope.dimension_count"]
    entries: dict[str, Any] = {
        "num_hidden_layers": metadata["block_count"] - metadata.get("nextn_predict_layers", 0),
        "num_key_value_heads": metadata["attention.head_count"],
        "head_dim": rope,
        "qk_rope_head_dim": rope,
        "qk_nope_head_dim": metadata.get("attention.key_length_mla", metadata["attention.key_length"]) - rope,
        "v_head_dim": metadata.get("attention.value_length_mla", metadata["attention.value_length"]),
        "q_lora_rank": metadata.get("attention.q_lora_rank"),  # without it, queries are one projection
    }
    if not metadata.get("expert_count"):
        return entries | {"model_type": "youtu", "kv_lora_rank": metadata["attention.kv_lora_rank"]}
    entries |= {entry: metadata[key] for key, entry in _ENTRIES}
    entries["routed_scaling_factor"] = metadata.get("expert_weights_scale", 1.0)
    entries["norm_topk_prob"] = metadata.get("expert_weights_norm", False)
    entries["n_group"], entries["topk_group"] = _groups(metadata, refusal)
    # Files older than the key are of V2, whose routers have no bias.
    function = metadata.get("expert_gating_func") or (_SIGMOID if has_bias else _SOFTMAX)
    if function == _SIGMOID:
        return entries | {"model_type": "deepseek_v3"}
    if function != _SOFTMAX or entries["norm_topk_prob"]:
        raise refusal("its router takes neither DeepSeek V2's nor V3's function, which is not read from GGUF")
    method = "group_limited_greedy" if entries["n_group"] > 1 else "greedy"
    return entries | {"model_type": "deepseek_v2", "topk_method": method}


def deepseek2_yarn(metadata: Mapping[str, Any], refusal: Callable[[str], PifiProbeError]) -> dict[str, float]:
    """Return how scaled positions change the size of scores, next to what YaRN needs in every model.

    The file has a tenth of ``mscale_all_dim``. llama.cpp computes as if ``mscale`` were the same, which it is in what
    is published.
    """
    entries: dict[str, float] = {}
    if "rope.scaling.yarn_beta_fast" not in metadata:
        entries = _beta_fast(metadata, refusal)
    all_dim = float(f"{10 * metadata.get('rope.scaling.yarn_log_multiplier', 0.0):.6g}")  # stored in float32
    return entries | ({"mscale": all_dim, "mscale_all_dim": all_dim} if all_dim else {})


def _beta_fast(metadata: Mapping[str, Any], refusal: Callable[[str], PifiProbeError]) -> dict[str, float]:
    """Return from where on positions are scaled: 32 turns, as in DeepSeek, or 1, as in Kimi K2 Instruct.

    K2 Thinking (1) and K2.5 (32) differ in nothing else that a file states.
    """
    sizes = _sizes(metadata)
    if sizes == _KIMI and metadata.get("rope.scaling.factor") == _KIMI_INSTRUCT_FACTOR:
        return {"beta_fast": 1.0}
    if sizes == _KIMI or sizes not in _PUBLISHED:
        raise refusal("the file does not say from where on positions are scaled (yarn_beta_fast)")
    return {}


def _groups(metadata: Mapping[str, Any], refusal: Callable[[str], PifiProbeError]) -> tuple[int, int]:
    """Return how many groups the experts form, and how many of them a token chooses from."""
    groups, used = metadata.get("expert_group_count"), metadata.get("expert_group_used_count")
    if groups and used:
        return groups, used
    if _sizes(metadata) not in _PUBLISHED:
        raise refusal("the file does not say how experts are grouped (expert_group_count, expert_group_used_count)")
    return _PUBLISHED[_sizes(metadata)]


def _sizes(metadata: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return what a published model is recognised by: layers, width, experts."""
    return metadata["block_count"], metadata["embedding_length"], metadata.get("expert_count", 0)
