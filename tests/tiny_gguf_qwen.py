"""What llama.cpp's converter does to Qwen3-Next and Qwen3.5, written anew: index by index, head by head."""

from __future__ import annotations

from typing import Any

import gguf
import torch

# Numbers of heads whose reordering is not its own inverse, unlike that of two times two.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_next": ("qwen3next", {"linear_num_value_heads": 6}),
    "qwen3_5_text": (
        "qwen35",
        {"partial_rotary_factor": 0.5, "linear_num_value_heads": 6, "linear_value_head_dim": 4},
    ),
    "qwen3_5_moe_text": ("qwen35moe", {"linear_num_key_heads": 4, "linear_num_value_heads": 8}),
}
EXTRA_LAYERS = {"qwen35": 1}  # that predict further tokens


def write_sizes(writer: gguf.GGUFWriter, config: Any, architecture: str) -> None:
    """Write what these architectures have besides the sizes of all."""
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_ssm_state_size(config.linear_key_head_dim)
    writer.add_ssm_group_count(config.linear_num_key_heads)
    writer.add_ssm_time_step_rank(config.linear_num_value_heads)
    writer.add_ssm_inner_size(config.linear_value_head_dim * config.linear_num_value_heads)
    writer.add_full_attention_interval(4)  # the default, whatever kinds the layers have
    if extra := EXTRA_LAYERS.get(architecture):
        writer.add_nextn_predict_layers(extra)


def converted(name: str, tensor: torch.Tensor, config: Any, architecture: str) -> dict[str, torch.Tensor] | None:
    """Return what becomes of one weight; None where only its name changes."""
    if name == "model.norm.weight":
        return {"output_norm.weight": tensor + 1}
    if not name.startswith("model.layers."):
        return None
    block, last = f"blk.{name.split('.')[2]}", name.split(".", 3)[-1]
    reorders = architecture != "qwen3next"
    rows, wide = (_value_rows(config, n, reorders) for n in (1, config.linear_value_head_dim))
    keys = 2 * config.linear_num_key_heads * config.linear_key_head_dim
    match last:
        case "linear_attn.A_log":
            return {f"{block}.ssm_a": -tensor.exp()[rows]}
        case "linear_attn.dt_bias":
            return {f"{block}.ssm_dt.bias": tensor[rows]}
        case "linear_attn.in_proj_a.weight":
            return {f"{block}.ssm_alpha.weight": tensor[rows]}
        case "linear_attn.in_proj_b.weight":
            return {f"{block}.ssm_beta.weight": tensor[rows]}
        case "linear_attn.in_proj_z.weight":
            return {f"{block}.attn_gate.weight": tensor[wide]}
        case "linear_attn.in_proj_qkv.weight":
            return {f"{block}.attn_qkv.weight": torch.cat([tensor[:keys], tensor[keys:][wide]])}
        case "linear_attn.conv1d.weight":
            kernel = tensor.squeeze()
            return {f"{block}.ssm_conv1d.weight": torch.cat([kernel[:keys], kernel[keys:][wide]])}
        case "linear_attn.out_proj.weight":
            return {f"{block}.ssm_out.weight": tensor[:, wide]}
        case "linear_attn.in_proj_qkvz.weight":
            return {f"{block}.{key}.weight": value for key, value in _split(tensor, config).items()}
        case "input_layernorm.weight":
            return {f"{block}.attn_norm.weight": tensor + 1}
        case "post_attention_layernorm.weight":
            return {f"{block}.post_attention_norm.weight": tensor + 1}
        case "self_attn.q_norm.weight" | "self_attn.k_norm.weight":
            return {f"{block}.attn_{last.removeprefix('self_attn.')}": tensor + 1}
    return None


def _value_rows(config: Any, head_dim: int, reorders: bool) -> list[int]:
    """Return which row lies where: reordered value heads go by their number within a key head first."""
    if not reorders:
        return [*range(config.linear_num_value_heads * head_dim)]
    of_key = config.linear_num_value_heads // config.linear_num_key_heads
    heads = [key * of_key + value for value in range(of_key) for key in range(config.linear_num_key_heads)]
    return [head * head_dim + i for head in heads for i in range(head_dim)]


def _split(tensor: torch.Tensor, config: Any) -> dict[str, torch.Tensor]:
    """Take ``in_proj_qkvz`` apart: all queries, all keys, all values; and the gates by themselves."""
    of_key = config.linear_num_value_heads // config.linear_num_key_heads * config.linear_value_head_dim
    sizes = [config.linear_key_head_dim] * 2 + [of_key] * 2
    heads = [head.split(sizes) for head in tensor.chunk(config.linear_num_key_heads)]
    q, k, v, z = (torch.cat([head[i] for head in heads]) for i in range(4))
    return {"attn_qkv": torch.cat([q, k, v]), "attn_gate": z}
