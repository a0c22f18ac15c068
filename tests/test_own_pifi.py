"""Build your own pifi: unfilled, each step says what to write; a solution passes; a known mistake is named."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import own_pifi

FOLDER = Path(__file__).parents[1] / "notebooks" / "build_your_own"
NAMES = ("adapters", "given", "test_steps")


@pytest.fixture(scope="module")
def kit() -> Iterator[Any]:
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("test_steps")
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)


def steps(kit: Any) -> dict[str, Callable[[], None]]:
    """Return the steps that need no model, by the function that each asks for."""
    found = {name[8:]: step for name, step in vars(kit).items() if name.startswith("test_")}
    return {name: step for name, step in found.items() if name != "on_a_real_layer"}


def test_every_function_has_a_step_and_unfilled_each_says_what_to_write(kit: Any) -> None:
    stubs = [name for name, _ in inspect.getmembers(kit.adapters, inspect.isfunction)]
    assert sorted(steps(kit)) == sorted(stubs) and len(stubs) == 10
    for name, step in [*steps(kit).items(), ("plug_in", kit.test_11_on_a_real_layer)]:
        with pytest.raises(NotImplementedError, match=f"^Write {name}: "):
            step()
        assert (
            inspect.signature(getattr(kit.adapters, name)).parameters.keys()
            == inspect.signature(getattr(own_pifi, name)).parameters.keys()
        )


def test_a_solution_passes_every_step(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "adapters", own_pifi)
    for step in steps(kit).values():
        step()


@pytest.mark.slow
@pytest.mark.assets
def test_a_solution_is_the_library_on_a_real_layer(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kit, "adapters", own_pifi)
    kit.test_11_on_a_real_layer()


def _reads_all(file: Any, index: int) -> Any:
    file.read()
    file.seek(0)
    return own_pifi.extract_layer(file, index)


def _more_layers(file: Any, index: int) -> Any:
    return own_pifi.extract_layer(file, index) | {"0.input_layernorm.weight": np.ones(16, np.float32)}


def _tiled(weights: Any, n: Any, shape: Any) -> Any:
    heads = (n @ weights["self_attn.v_proj.weight"].T).reshape(len(n), shape.n_kv_heads, shape.d_head)
    return np.tile(heads, (1, 2, 1)).reshape(len(n), -1) @ weights["self_attn.o_proj.weight"].T


def _no_residual(weights: Any, x: Any, shape: Any) -> Any:
    m = own_pifi.value_path(weights, own_pifi.norm(x, weights["input_layernorm.weight"], shape.eps), shape)
    n = own_pifi.norm(m, weights["post_attention_layernorm.weight"], shape.eps)
    gate = n @ weights["mlp.gate_proj.weight"].T
    up = n @ weights["mlp.up_proj.weight"].T
    return m + (gate / (1 + np.exp(-gate)) * up) @ weights["mlp.down_proj.weight"].T


def _unscaled(h: Any, W_in: Any, W_out: Any, weights: Any, shape: Any, target_rms: float) -> Any:
    out = own_pifi.plug_in(h, W_in, W_out, weights, shape)
    return target_rms / own_pifi.rms(h @ W_in.T), own_pifi.rms(h) / own_pifi.rms(out)


def _no_gain(W_in: Any, W_out: Any, weights: Any, shape: Any) -> Any:
    return own_pifi.fold(W_in, W_out, weights | {"post_attention_layernorm.weight": np.ones(len(W_in))}, shape)


def _all_penalised(tokens: Any, states: Any, penalty: float) -> Any:
    sizes = np.sqrt(np.square(states).mean(1, keepdims=True))
    f = np.concatenate([tokens, np.ones((len(tokens), 1))], axis=1)
    W = np.linalg.solve(f.T @ f + penalty * np.eye(f.shape[1]), f.T @ (states / sizes))
    return W[:-1].T, W[-1], np.median(sizes)


def _raw_targets(tokens: Any, states: Any, penalty: float) -> Any:
    centred = tokens - tokens.mean(0)
    W = np.linalg.solve(centred.T @ centred + penalty * np.eye(8), centred.T @ (states - states.mean(0))).T
    return W, states.mean(0) - W @ tokens.mean(0), 1.0


def _one_order(weights: Any, seed: int) -> Any:
    return {
        name: np.random.default_rng(seed).permutation(array.ravel()).reshape(array.shape)
        for name, array in weights.items()
    }


def _rows_only(weights: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return {name: rng.permutation(array) for name, array in weights.items()}


def _in_place(weights: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    for array in weights.values():
        flat = array.reshape(-1)
        flat[:] = rng.permutation(flat)
    return weights


def _no_seed(weights: Any, seed: int) -> Any:
    return own_pifi.shuffled_twin(weights, int(np.random.default_rng().integers(1 << 30)))


def _unit_normal(weights: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return {
        k: rng.normal(size=v.shape) if v.ndim > 1 else np.full(v.shape, v.mean(), v.dtype) for k, v in weights.items()
    }


def _examples_only(a: Any, b: Any, level: float = 0.95) -> Any:
    return own_pifi.paired_interval((a - b).mean(0, keepdims=True).repeat(2, 0), np.zeros((2, a.shape[1])), level)


def _unpaired(a: Any, b: Any, level: float = 0.95) -> Any:
    one, other = (own_pifi.paired_interval(arm, 0 * arm, level) for arm in (a, b))
    mean = one[0] - other[0]
    return (
        mean,
        mean - np.hypot(one[0] - one[1], other[0] - other[1]),
        mean + np.hypot(one[2] - one[0], other[2] - other[0]),
    )


def _normal(a: Any, b: Any, level: float = 0.95) -> Any:
    mean, low, high = _examples_only(a, b, level)
    seeds = 1.96 * (a - b).mean(1).std(ddof=1) / np.sqrt(len(a))
    return mean, mean - np.hypot(mean - low, seeds), mean + np.hypot(high - mean, seeds)


@pytest.mark.parametrize(
    ("step", "wrong", "said"),
    [
        ("extract_layer", _reads_all, "bytes were read"),
        ("extract_layer", _more_layers, "of this layer only"),
        ("extract_layer", lambda file, index: own_pifi.extract_layer(file, 10), "Look at"),
        ("value_path", _tiled, "not the whole list"),
        ("value_path", lambda weights, n, shape: None, "returns None"),
        ("one_token_layer", _no_residual, "residual is missing"),
        ("plug_in", lambda h, *rest: h + own_pifi.plug_in(h, *rest), "no bypass"),
        ("plug_in", lambda h, *rest: own_pifi.plug_in(h, *rest)[0], "The shape is"),
        ("matched_scale", _unscaled, "is not linear"),
        ("fold", _no_gain, "gains of both norms"),
        ("fold", lambda *parts: {}, "is missing"),
        ("fit_interface", _all_penalised, "constant is penalised"),
        ("fit_interface", _raw_targets, "own root mean square"),
        ("fit_interface", lambda t, s, _: own_pifi.fit_interface(t, s, 0.0), "penalty is missing"),
        ("shuffled_twin", lambda weights, seed: dict(weights), "Another seed"),
        ("shuffled_twin", _one_order, "share one permutation"),
        ("shuffled_twin", _rows_only, "whole rows"),
        ("shuffled_twin", _in_place, "were changed"),
        ("shuffled_twin", _no_seed, "One seed"),
        ("random_twin", _unit_normal, "keep the"),
        ("random_twin", own_pifi.shuffled_twin, "becomes its mean"),
        ("paired_interval", _examples_only, "seeds are a sample"),
        ("paired_interval", _unpaired, "Pair first"),
        ("paired_interval", _normal, "Student's t"),
    ],
)
def test_a_known_mistake_is_named(
    kit: Any, monkeypatch: pytest.MonkeyPatch, step: str, wrong: Callable[..., Any], said: str
) -> None:
    monkeypatch.setattr(kit, "LAYER", {name: array.copy() for name, array in kit.LAYER.items()})
    monkeypatch.setattr(kit, "adapters", type("Answers", (), {step: staticmethod(wrong)}))
    with pytest.raises(AssertionError, match=said):
        steps(kit)[step]()
