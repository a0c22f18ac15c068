"""A solution of notebooks/build_your_own/adapters.py. Look only after your own."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

import numpy as np
from scipy.stats import t

Array = Any
Weights = dict[str, Any]


def extract_layer(file: BinaryIO, index: int) -> Weights:
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    prefix, found = f"model.layers.{index}.", {}
    for name, entry in header.items():
        if not name.startswith(prefix):
            continue
        start, end = entry["data_offsets"]
        file.seek(8 + length + start)
        raw = file.read(end - start)
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        else:
            values = np.frombuffer(raw, "<f4")
        found[name.removeprefix(prefix)] = values.reshape(entry["shape"])
    return found


def norm(x: Array, gain: Array, eps: float) -> Array:
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps) * gain


def value_path(weights: Weights, n: Array, shape: Any) -> Array:
    heads = (n @ weights["self_attn.v_proj.weight"].T).reshape(len(n), shape.n_kv_heads, shape.d_head)
    repeated = np.repeat(heads, shape.n_heads // shape.n_kv_heads, axis=1)  # (batch, n_heads, d_head)
    return repeated.reshape(len(n), -1) @ weights["self_attn.o_proj.weight"].T


def one_token_layer(weights: Weights, x: Array, shape: Any) -> Array:
    m = x + value_path(weights, norm(x, weights["input_layernorm.weight"], shape.eps), shape)
    n = norm(m, weights["post_attention_layernorm.weight"], shape.eps)
    gate = n @ weights["mlp.gate_proj.weight"].T
    hidden = gate / (1 + np.exp(-gate)) * (n @ weights["mlp.up_proj.weight"].T)
    return m + hidden @ weights["mlp.down_proj.weight"].T


def plug_in(h: Array, W_in: Array, W_out: Array, weights: Weights, shape: Any) -> Array:
    return one_token_layer(weights, h @ W_in.T, shape) @ W_out.T


def rms(x: Array) -> float:
    return float(np.sqrt(np.square(x).mean()))


def matched_scale(
    h: Array, W_in: Array, W_out: Array, weights: Weights, shape: Any, target_rms: float
) -> tuple[float, float]:
    a = target_rms / rms(h @ W_in.T)
    return a, rms(h) / rms(plug_in(a * h, W_in, W_out, weights, shape))


def fold(W_in: Array, W_out: Array, weights: Weights, shape: Any) -> Weights:
    attend = value_path(weights, (weights["input_layernorm.weight"][:, None] * W_in).T, shape).T  # (d_llm, d_slm)
    M = np.concatenate([W_in, attend], axis=1)
    inner = weights["post_attention_layernorm.weight"][:, None] * M
    return {
        "norm_in": np.linalg.qr(W_in)[1],
        "norm_mid": np.linalg.qr(M)[1],
        "gate": weights["mlp.gate_proj.weight"] @ inner,
        "up": weights["mlp.up_proj.weight"] @ inner,
        "skip": W_out @ M,
        "down": W_out @ weights["mlp.down_proj.weight"],
    }


def fit_interface(tokens: Array, states: Array, penalty: float) -> tuple[Array, Array, float]:
    sizes = np.sqrt(np.square(states).mean(1, keepdims=True))
    y = states / sizes
    centred = tokens - tokens.mean(0)
    gram = centred.T @ centred + penalty * np.eye(tokens.shape[1])
    W = np.linalg.solve(gram, centred.T @ (y - y.mean(0))).T
    return W, y.mean(0) - W @ tokens.mean(0), float(np.median(sizes))


def shuffled_twin(weights: Weights, seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    return {name: rng.permutation(array.ravel()).reshape(array.shape) for name, array in weights.items()}


def random_twin(weights: Weights, seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(array.mean(), array.std(), array.shape)
        if array.ndim > 1
        else np.full(array.shape, array.mean())
        for name, array in weights.items()
    }


def paired_interval(a: Array, b: Array, level: float = 0.95) -> tuple[float, float, float]:
    difference, rng = a - b, np.random.default_rng(0)
    mean, tail = difference.mean(), (1 - level) / 2
    seeds = difference.mean(1)
    over_seeds = t.isf(tail, len(seeds) - 1) * seeds.std(ddof=1) / np.sqrt(len(seeds))
    examples = difference.mean(0)
    drawn = examples[rng.integers(len(examples), size=(4000, len(examples)))].mean(1) - mean
    below, above = np.quantile(drawn, [tail, 1 - tail])
    return float(mean), float(mean - np.hypot(below, over_seeds)), float(mean + np.hypot(above, over_seeds))
