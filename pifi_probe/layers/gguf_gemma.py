"""The configuration of a GGUF file of architecture gemma4: two kinds of layers, described for all layers at once.

Source: ``Gemma4Model`` of llama.cpp's converter (``conversion/gemma.py``) and its loader (``src/models/gemma4.cpp``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from pifi_probe.errors import PifiProbeError
from pifi_probe.layers.gguf_io import GGUFHeader, read_tensors

__all__ = ["gemma4_entries"]

_NEVER = 1e29  # what divides a frequency that is not used is larger than this


def gemma4_entries(
    header: GGUFHeader, metadata: Mapping[str, Any], refusal: Callable[[str], PifiProbeError]
) -> dict[str, Any]:
    """Return entries of the configuration under transformers' names.

    Parameters
    ----------
    header : GGUFHeader
        Of the file, for its tensors.
    metadata : Mapping
        Without the architecture before each key.
    refusal : callable
        Makes the error of a reason.

    Raises
    ------
    PifiProbeError
        What `refusal` makes, where layers differ in more than their kind or positions are scaled in another way.
    KeyError
        If a size is missing.
    """
    n_layers, shared = metadata["block_count"], metadata.get("attention.shared_kv_layers", 0)
    sliding = metadata["attention.sliding_window_pattern"]
    if not isinstance(sliding, list) or len(sliding) != n_layers or sliding[-1]:
        raise refusal(f"its {n_layers} layers are not said to be sliding or full, the last one full")
    full = [i for i in range(n_layers) if not sliding[i]]
    own_keys = [i for i in full if f"blk.{i}.attn_k.weight" in header.tensors]
    no_values = [i for i in own_keys if f"blk.{i}.attn_v.weight" not in header.tensors]
    if no_values and no_values != own_keys:
        raise refusal("some of its full layers have values of their own, and some do not")

    def same(key: str, layers: list[int]) -> int | None:
        """Return what `layers` have in common under a key, which may be a list of all layers; None of no layers."""
        value = metadata[key]
        found = {value[i] if isinstance(value, list) else value for i in layers}
        if len(found) > 1:
            raise refusal(f"layers of one kind differ in {key}, which is not read from GGUF")
        return found.pop() if found else None

    heads = same("attention.head_count_kv", [i for i in range(n_layers) if sliding[i]])
    heads_of_full = same("attention.head_count_kv", full)
    width = same("feed_forward_length", [*range(n_layers - shared)])
    width_of_shared = same("feed_forward_length", [*range(n_layers - shared, n_layers)]) or width
    if width_of_shared not in (width, 2 * (width or 0)):
        raise refusal("layers of one kind differ in feed_forward_length, which is not read from GGUF")
    experts = metadata.get("expert_count", 0)
    return {
        "layer_types": ["sliding_attention" if each else "full_attention" for each in sliding],
        "num_key_value_heads": heads or heads_of_full,
        "num_global_key_value_heads": heads_of_full,
        "attention_k_eq_v": bool(no_values),
        "head_dim": metadata["attention.key_length_swa"],
        "global_head_dim": metadata["attention.key_length"],
        "num_kv_shared_layers": shared,
        "intermediate_size": width,
        "use_double_wide_mlp": width_of_shared != width,
        "hidden_size_per_layer_input": metadata.get("embedding_length_per_layer_input", 0),
        "final_logit_softcapping": metadata.get("final_logit_softcapping"),
        "enable_moe_block": bool(experts),
        "num_experts": experts or None,
        "top_k_experts": metadata["expert_used_count"] if experts else None,
        "moe_intermediate_size": metadata["expert_feed_forward_length"] if experts else None,
        "rope_parameters": _rope(header, metadata, refusal),
    }


def _rope(
    header: GGUFHeader, metadata: Mapping[str, Any], refusal: Callable[[str], PifiProbeError]
) -> dict[str, dict[str, Any]]:
    """Return how each kind of layers rotates: a full one its first frequencies only, which the file has as divisors."""
    head_dim, head_dim_sliding = metadata["attention.key_length"], metadata["attention.key_length_swa"]
    if metadata.get("rope.dimension_count_swa", head_dim_sliding) != head_dim_sliding:
        raise refusal("its sliding layers rotate a part of a head, which is not read from GGUF")
    if metadata.get("rope.scaling.type", "none") != "none":
        raise refusal("its positions are scaled, which is not read from GGUF")
    if "rope_freqs.weight" not in header.tensors:
        raise refusal("the file does not say which frequencies its full layers use (rope_freqs.weight)")
    divisors = read_tensors([header.tensors["rope_freqs.weight"]])["rope_freqs.weight"].flatten()
    used = int((divisors == 1).sum())
    if 2 * len(divisors) != head_dim or not bool((divisors[:used] == 1).all() and (divisors[used:] > _NEVER).all()):
        raise refusal("the stored frequencies (rope_freqs.weight) are not among those that are known")
    return {
        "sliding_attention": {"rope_type": "default", "rope_theta": metadata["rope.freq_base_swa"]},
        "full_attention": {
            "rope_type": "proportional",
            "rope_theta": metadata["rope.freq_base"],
            "partial_rotary_factor": _factor(used, head_dim),
        },
    }


def _factor(used: int, head_dim: int) -> float:
    """Return the part of a head that is rotated, such that transformers counts `used` frequencies in it."""
    factor = 2 * used / head_dim
    return factor if int(factor * head_dim // 2) == used else math.nextafter(factor, 2.0)
