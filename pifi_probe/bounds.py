"""Numbers of a configuration for which a library would fill the memory before anything could be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pifi_probe.errors import CorruptFileError

__all__ = ["MAX_LABELS", "MAX_LAYERS", "MAX_WIDTH", "refuse_absurd_entries"]

MAX_LAYERS = 1_000  # of any stack; Llama 3.1 405B has 126
MAX_LABELS = 100_000  # transformers makes a dictionary of that many names
MAX_EXPERTS = 10_000  # of one layer; DeepSeek-V3 has 256
MAX_WIDTH = 1 << 24  # of vectors, heads, vocabularies; the largest vocabularies have about a million tokens

_STACKS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
    "num_encoder_layers", "num_decoder_layers", "encoder_num_layers", "decoder_num_layers", "num_hidden_groups",
    "inner_group_num", "num_nextn_predict_layers", "mtp_num_hidden_layers",
)  # fmt: skip
_EXPERTS = (
    "num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts", "moe_num_experts",
    "num_experts_per_tok",
)  # fmt: skip
_WIDTHS = (
    "hidden_size", "d_model", "dim", "n_embd", "n_inner", "intermediate_size", "d_ff", "ffn_dim", "hidden_dim",
    "vocab_size", "d_kv", "d_head", "head_dim", "num_attention_heads", "n_head", "n_heads", "num_heads",
    "num_key_value_heads", "type_vocab_size", "embedding_size", "plugin_width", "encoder_ffn_dim", "decoder_ffn_dim",
    "encoder_attention_heads", "decoder_attention_heads", "moe_intermediate_size", "shared_expert_intermediate_size",
    "kv_lora_rank", "q_lora_rank", "word_embed_proj_dim",
)  # fmt: skip
_MOST: Mapping[str, int] = {
    "num_labels": MAX_LABELS,
    **dict.fromkeys(_STACKS, MAX_LAYERS),
    **dict.fromkeys(_EXPERTS, MAX_EXPERTS),
    **dict.fromkeys(_WIDTHS, MAX_WIDTH),
}


def refuse_absurd_entries(entries: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration, or one of its parts, in which a size is beyond any model.

    Raises
    ------
    CorruptFileError
        Naming the entry, its value and the bound.
    """
    for key, value in entries.items():
        if isinstance(value, Mapping):
            refuse_absurd_entries(value, where)
        elif isinstance(value, list):
            for part in value:
                if isinstance(part, Mapping):
                    refuse_absurd_entries(part, where)
        elif key in _MOST and isinstance(value, int | float) and not abs(value) <= _MOST[key]:
            raise CorruptFileError(
                f"the configuration says {key} = {value:,}, and {_MOST[key]:,} is the most that is read",
                where=where,
                next="download the model again",
            )
