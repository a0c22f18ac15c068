"""Store the arrays that notebooks/build_your_own compares with: what the library gives for a tiny random layer.

    python -m tests.make_own_pifi

writes notebooks/build_your_own/arrays.npz. Right values come from transformers and `pifi_probe`, never from the
solution; the mistakes that the steps recognise are made here, too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from scipy.stats import norm
from transformers import LlamaConfig, LlamaForCausalLM

import pifi_probe as pp
from pifi_probe.alignment.fit import _ridge
from pifi_probe.plugin.config import PiFiConfig
from pifi_probe.plugin.plugin import PlugIn
from pifi_probe.stats import mean_interval, paired_difference

FILE = Path(__file__).parents[1] / "notebooks" / "build_your_own" / "arrays.npz"
D_SLM, D_LLM, INDEX, TARGET = 6, 16, 1, 2.5


def checkpoint(folder: Path) -> Path:
    """Write a Llama of 11 layers: matrices in bfloat16, gains in float32."""
    config = LlamaConfig(
        vocab_size=5, hidden_size=D_LLM, intermediate_size=24, num_hidden_layers=11, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, rms_norm_eps=0.1, initializer_range=0.3, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data = 1 + 0.3 * torch.randn(weight.shape)
        else:
            weight.data = weight.data.bfloat16()
    model.save_pretrained(folder)
    return folder


def layer_arrays(folder: Path, generator: torch.Generator) -> dict[str, Any]:
    raw = (folder / "model.safetensors").read_bytes()
    infos = safetensors.torch.load(raw)
    own = [tensor for name, tensor in infos.items() if name.startswith(f"model.layers.{INDEX}.")]
    found: dict[str, Any] = {
        "checkpoint": np.frombuffer(raw, np.uint8),
        "header_bytes": int.from_bytes(raw[:8], "little"),
        "layer_bytes": sum(tensor.numel() * tensor.element_size() for tensor in own),
    }
    layer = pp.extract(f"{folder}[{INDEX}]", dtype="float32")
    found |= {f"layer.{name}": tensor.numpy() for name, tensor in layer.tensors()}
    x = torch.randn(5, D_LLM, generator=generator)
    block: Any = layer.block
    attention, gain = block.self_attn, block.input_layernorm.weight
    rotary = (torch.ones(1, 1, 4), torch.zeros(1, 1, 4))  # position 0 turns nothing
    found |= {"x": x, "attention": attention(x[:, None], position_embeddings=rotary, attention_mask=None)[0][:, 0]}
    heads = (x @ attention.v_proj.weight.T).unflatten(-1, (2, 4))
    found["attention_tiled"] = heads.repeat(1, 2, 1).flatten(-2) @ attention.o_proj.weight.T
    normed = x * (x.square().mean(-1, keepdim=True) + 0.1).rsqrt() * gain
    found["attention_normed"] = attention(normed[:, None], position_embeddings=rotary, attention_mask=None)[0][:, 0]
    found["y"] = layer(x[:, None])[:, 0]

    def whole(residual: float = 1.0, outside: bool = False, gains: bool = True) -> torch.Tensor:
        def normed(v: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            square = v.square().mean(-1, keepdim=True)
            root = square.sqrt() + 0.1 if outside else (square + 0.1).sqrt()
            return v / root * (weight if gains else 1.0)

        n = normed(x, gain)
        m = residual * x + attention(n[:, None], position_embeddings=rotary, attention_mask=None)[0][:, 0]
        return m + block.mlp(normed(m, block.post_attention_layernorm.weight))

    assert torch.allclose(whole(), found["y"], atol=1e-5)
    found |= {"layer_no_residual": whole(residual=0.0), "layer_eps_outside": whole(outside=True)}
    found["layer_no_gain"] = whole(gains=False)

    plugin = PlugIn([layer], D_SLM, D_LLM, PiFiConfig(scale="matched"))
    for part in (plugin.L_in, plugin.L_out):
        part.weight.data = 0.4 * torch.randn(part.weight.shape, generator=generator)
    h = torch.randn(5, D_SLM, generator=generator)
    found |= {"h": h, "W_in": plugin.L_in.weight, "W_out": plugin.L_out.weight, "out": plugin(h)}
    found |= {f"out_{factor:g}": plugin(factor * h) for factor in (0.1, 1.0, 10.0)}
    found["scale_out_unscaled"] = h.square().mean().sqrt() / plugin(h).square().mean().sqrt()
    plugin.calibrate(h, None, TARGET)
    found |= {"target_rms": TARGET, "scale_in": plugin.scale_in, "scale_out": plugin.scale_out}
    return found


def interface_arrays(rng: np.random.Generator) -> dict[str, Any]:
    tokens = rng.normal(size=(60, 8)) + 1.0
    states = np.tanh(tokens @ rng.normal(size=(8, 5))) + 0.3 * rng.normal(size=(60, 5)) + 0.5
    states *= np.exp(rng.normal(size=(60, 1)))  # lengths differ
    penalty = 15.0
    sizes = np.sqrt(np.square(states).mean(1, keepdims=True))

    def fitted(y: Any, penalty: float) -> Any:
        f = torch.from_numpy(np.concatenate([tokens, np.ones((60, 1))], axis=1))
        return _ridge(f.T @ f, f.T @ torch.from_numpy(y), penalty).numpy()

    right = fitted(states / sizes, penalty)
    f = np.concatenate([tokens, np.ones((60, 1))], axis=1)
    all_penalised = np.linalg.solve(f.T @ f + penalty * np.eye(9), f.T @ (states / sizes))
    return {
        "tokens": tokens, "states": states, "penalty": penalty, "scale": np.median(sizes),
        "weight": right[:-1].T, "bias": right[-1], "weight_all_penalised": all_penalised[:-1].T,
        "weight_raw": fitted(states, penalty)[:-1].T, "weight_unpenalised": fitted(states / sizes, 0.0)[:-1].T,
    }  # fmt: skip


def interval_arrays(rng: np.random.Generator) -> dict[str, Any]:
    """Two arms of 4 seeds and 150 examples, in which seeds and examples matter alike."""
    shared = rng.normal(0, 0.8, (1, 150)) + rng.normal(0, 0.1, (4, 1))
    a = shared + 0.1 + rng.normal(0, 0.08, (4, 1)) + rng.normal(0, 0.4, (1, 150)) + rng.normal(0, 0.1, (4, 150))
    b = shared + rng.normal(0, 0.1, (4, 150))
    whole = paired_difference(a, b, n_boot=40_000)
    over_examples = mean_interval((a - b).mean(0, keepdims=True), n_boot=40_000)
    examples = over_examples.high - over_examples.low
    error = (a - b).mean(1).std(ddof=1) / 2
    seeds = 2 * error * 3.182446  # t with 3 degrees of freedom
    apart = [mean_interval(arm, n_boot=40_000) for arm in (a, b)]
    return {
        "a": a, "b": b, "mean": whole.mean, "low": whole.low, "high": whole.high,
        "width_examples": examples, "width_seeds": seeds, "width_sum": examples + seeds,
        "width_unpaired": np.hypot(*(each.high - each.low for each in apart)),
        "width_normal": np.hypot(examples, 2 * error * norm.isf(0.025)),
    }  # fmt: skip


@torch.no_grad()
def main() -> None:
    """Write the arrays."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        found = layer_arrays(checkpoint(Path(folder)), generator)
    found |= interface_arrays(rng) | interval_arrays(rng)
    arrays = {
        name: value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value) for name, value in found.items()
    }
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
