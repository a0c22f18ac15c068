"""Qwen3-Next and Qwen3.5 in GGUF: what llama.cpp's converter does to linear attention, undone.

Sources: ``conversion/qwen.py`` (``Qwen3NextModel``, ``_LinearAttentionVReorderBase``) and ``src/models/qwen3next.cpp``,
``qwen35moe.cpp`` of llama.cpp; Ollama's converter writes the same values, with a few names of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from reprlib import repr as short
from typing import Any

import torch

from pifi_probe.errors import CheckpointError, UnsupportedFormatError
from pifi_probe.layers.gguf_io import GGUFHeader

__all__ = ["HYBRID", "restored", "set_hybrid"]

# general.architecture -> (GGUF key, entry of the configuration) beyond transformers' tables; all must be in the file
_LINEAR = (
    ("attention.key_length", "head_dim"),
    ("ssm.conv_kernel", "linear_conv_kernel_dim"),
    ("ssm.state_size", "linear_key_head_dim"),
    ("ssm.group_count", "linear_num_key_heads"),
    ("ssm.time_step_rank", "linear_num_value_heads"),
)
_ROUTED = (
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
)
HYBRID: Mapping[str, tuple[tuple[str, str], ...]] = {
    "qwen35": _LINEAR,
    "qwen35moe": _LINEAR + _ROUTED,
    "qwen3next": _LINEAR + _ROUTED,
}
_NORM = re.compile(r"(?<!\.ssm_)norm\.weight$")  # stored as weight + 1, all but that of linear attention
_ROWS = (
    "attn_gate.weight",
    "ssm_alpha.weight",
    "ssm_beta.weight",
    "ssm_a",
    "ssm_dt.bias",
)  # one or more per value head


def set_hybrid(
    architecture: str, header: GGUFHeader, metadata: Mapping[str, Any], entries: dict[str, Any], where: str
) -> None:
    """Set what transformers' tables do not say of a model of linear and full attention.

    Raises
    ------
    CheckpointError
        If a size is missing, or value heads cannot be shared out among key heads.
    UnsupportedFormatError
        If the file says that its value heads are in another order.
    """
    routed = ("expert_count", "expert_used_count") if architecture != "qwen35" else ()
    wanted = [key for key, _ in HYBRID[architecture]] + ["ssm.inner_size", "rope.dimension_count", *routed]
    for key in wanted:
        if type(metadata.get(key)) is not int or metadata[key] <= 0:
            _incomplete(
                f"the metadata key {key!r} is missing or not a positive number: {short(metadata.get(key))}", where
            )
    for key in ("rope.freq_base", "attention.layer_norm_rms_epsilon"):
        if key not in metadata:
            _incomplete(f"the metadata key {key!r} is missing", where)
    if metadata.get("ssm.v_head_reordered", True) is not True:
        raise UnsupportedFormatError(
            f"the value heads of linear attention are said to be in another order than {architecture} has",
            where=where,
            next="use the model's safetensors checkpoint instead",
        )
    inner, keys, values = (metadata[f"ssm.{name}"] for name in ("inner_size", "group_count", "time_step_rank"))
    if values % keys or inner % values:
        _incomplete(f"{keys} key heads, {values} value heads and {inner} channels do not go together", where)
    entries["linear_value_head_dim"] = inner // values
    last = metadata.get("nextn_predict_layers", 0)  # layers at the end, which predict further tokens
    if type(last) is not int or not 0 <= last < metadata["block_count"]:
        _incomplete(f"{short(last)} of {metadata['block_count']} layers are said to predict further tokens", where)
    count = metadata["block_count"] - last
    entries["num_hidden_layers"] = count
    entries["layer_types"] = [  # the tensors say it; the interval in the metadata is a guess of the converter
        "linear_attention" if f"blk.{i}.ssm_a" in header.tensors else "full_attention" for i in range(count)
    ]
    heads = entries.get("num_key_value_heads")
    if isinstance(heads, list) and len(set(heads) - {0}) == 1:  # zero for linear attention
        entries["num_key_value_heads"] = max(heads)
    entries["attention_bias"] = any(name.endswith(".attn_q.bias") for name in header.tensors)
    if architecture == "qwen3next":  # llama.cpp always normalises where the file says nothing
        entries["norm_topk_prob"] = bool(metadata.get("expert_weights_norm", metadata.get("norm_top_k_prob", True)))
    else:
        entries.pop("norm_topk_prob", None)


def restored(architecture: str, entries: Mapping[str, Any], stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors of one layer with transformers' values and layout, under GGUF names.

    Parameters
    ----------
    architecture : str
        ``general.architecture``; other than those of `HYBRID` are left alone.
    entries : Mapping
        Of the configuration, from `set_hybrid`.
    stored : dict
        ``"blk.0..."`` to float32 tensor, dequantised.

    Returns
    -------
    dict
        One tensor for each of transformers'.

    Raises
    ------
    LookupError, RuntimeError, ValueError
        If tensors are missing or have other shapes than the metadata state.
    """
    if architecture not in HYBRID:
        return stored
    n_keys, n_values = int(entries["linear_num_key_heads"]), int(entries["linear_num_value_heads"])
    key_rows = n_keys * int(entries["linear_key_head_dim"])
    linear = any(name.endswith(".ssm_a") for name in stored)
    # The converter puts value heads in the order in which ggml repeats key heads: (value of its key, key).
    tiled = architecture != "qwen3next" and n_keys != n_values
    found: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        name = f"{name}.bias" if name.endswith(".ssm_dt") else name  # as Ollama writes it
        last = name.split(".", 2)[-1]
        if _NORM.search(name):
            tensor = tensor - 1
        if last == "ssm_a":
            if not bool((tensor < 0).all()):
                raise ValueError(f"{name} holds numbers that are not negative")
            tensor = (-tensor.double()).log().to(tensor.dtype)
        if last == "ssm_conv1d.weight":
            tensor = tensor.reshape(tensor.shape[0], 1, -1)
        if last == "ffn_gate_inp_shexp.weight":
            tensor = tensor.reshape(1, -1)
        if tiled and last in _ROWS:
            tensor = _grouped(tensor, 0, n_keys, n_values)
        if tiled and last == "ssm_out.weight":
            tensor = _grouped(tensor, 1, n_keys, n_values)
        if tiled and (last == "ssm_conv1d.weight" or (last == "attn_qkv.weight" and linear)):
            queries_keys, values = tensor.tensor_split([2 * key_rows])
            tensor = torch.cat([queries_keys, _grouped(values, 0, n_keys, n_values)])
        found[name] = tensor
    if architecture == "qwen3next" and "blk.0.attn_gate.weight" in found:
        found["blk.0.ssm_in.weight"] = _interleaved(found, n_keys, key_rows)  # older files have it as it is
    if "blk.0.ffn_gate_exps.weight" in found or "blk.0.ffn_up_exps.weight" in found:
        halves = [_taken(found, f"blk.0.ffn_{part}_exps") for part in ("gate", "up")]
        found["blk.0.ffn_gate_up_exps.weight"] = torch.cat(halves, dim=1)
    return found


def _grouped(tensor: torch.Tensor, dim: int, n_keys: int, n_values: int) -> torch.Tensor:
    """Put value heads, in order (value of its key, key) along `dim`, next to the others of the same key."""
    heads = tensor.unflatten(dim, (n_values // n_keys, n_keys, -1))
    return heads.transpose(dim, dim + 1).flatten(dim, dim + 2)


def _interleaved(found: dict[str, torch.Tensor], n_keys: int, key_rows: int) -> torch.Tensor:
    """Return ``in_proj_qkvz``: for each key head its query, key, values and gates, rows (outputs, inputs)."""
    queries, keys, values = _taken(found, "blk.0.attn_qkv").tensor_split([key_rows, 2 * key_rows])
    parts = (queries, keys, values, _taken(found, "blk.0.attn_gate"))
    return torch.cat([part.unflatten(0, (n_keys, -1)) for part in parts], dim=1).flatten(0, 1)


def _taken(found: dict[str, torch.Tensor], stem: str) -> torch.Tensor:
    if f"{stem}.weight" not in found:
        raise LookupError(f"{stem} is missing")
    return found.pop(f"{stem}.weight")


def _incomplete(what: str, where: str) -> None:
    raise CheckpointError(what, where=where, next="download the file again, or use the safetensors checkpoint")
