"""The steps of "Build your own pifi": each calls a function of `adapters` and compares with stored arrays.

The arrays are what `pifi_probe` gives for a tiny layer with random weights. The last step takes a real one.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import adapters
import numpy as np
import pytest
from given import Array, Shape, Weights, run_folded
from numpy.typing import NDArray

STORED = dict(np.load(Path(__file__).with_name("arrays.npz")))
LAYER = {name.removeprefix("layer."): array for name, array in STORED.items() if name.startswith("layer.")}
SHAPE = Shape(n_heads=4, n_kv_heads=2, d_head=4, eps=0.1)
H, W_IN, W_OUT = STORED["h"], STORED["W_in"], STORED["W_out"]
INDEX, D_LLM = 1, len(W_IN)


def same(got: object, expected: Array, hint: str, likely: Mapping[str, Array] | None = None, within: float = 1e-4):
    """Require equal arrays; where the answer is a known wrong one, say which mistake it is."""
    assert got is not None, "It returns None: is there a return statement?"
    array = np.asarray(got, dtype=np.float64)
    assert array.shape == expected.shape, f"The shape is {array.shape}, it must be {expected.shape}. {hint}"
    size = float(np.abs(expected).max()) or 1.0
    if np.allclose(array, expected, rtol=0, atol=within * size):
        return
    for mistake, wrong in (likely or {}).items():
        assert not np.allclose(array, wrong, rtol=0, atol=within * size), mistake
    raise AssertionError(f"Off by up to {np.abs(array - expected).max():.2g}. {hint}")


class CountedFile(io.BytesIO):
    """A file that counts what is read of it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, and count."""
        found = super().read(size)
        self.count += len(found)
        return found


def test_01_extract_layer():
    """A layer comes out of its checkpoint, and the rest of the file stays unread."""
    file = CountedFile(STORED["checkpoint"].tobytes())
    found = adapters.extract_layer(file, INDEX)
    assert set(found) == set(LAYER), "Names are those behind `model.layers.INDEX.`, of this layer only (1 is not 10)."
    for name, expected in LAYER.items():
        same(found[name], expected, f"Look at {name}: type, offsets from the end of the header, shape.", within=0)
        assert found[name].dtype == np.float32, f"{name} must be float32."
    needed = 8 + int(STORED["header_bytes"]) + int(STORED["layer_bytes"])
    assert file.count <= needed, f"{file.count} bytes were read, {needed} are enough: seek over the other tensors."


def test_02_value_path():
    """Attention over one token is two matrices."""
    likely = {
        "Each key-value head serves neighbours: repeat every head (np.repeat), not the whole list (np.tile).": STORED[
            "attention_tiled"
        ],
        "value_path takes what the norm has given already: do not norm again.": STORED["attention_normed"],
    }
    same(adapters.value_path(LAYER, STORED["x"], SHAPE), STORED["attention"], "W_o rep(W_v n).", likely)


def test_03_one_token_layer():
    """With norms, residuals and MLP it is the family's own layer."""
    likely = {
        "The first residual is missing: add x to what attention gives.": STORED["layer_no_residual"],
        "eps goes inside of the root: it is added to the mean square.": STORED["layer_eps_outside"],
        "A gain is missing: each norm multiplies by its weight.": STORED["layer_no_gain"],
    }
    same(adapters.one_token_layer(LAYER, STORED["x"], SHAPE), STORED["y"], "Compare with the equations.", likely)


def test_04_plug_in():
    """PiFi: two maps around the layer."""
    out = adapters.plug_in(H, W_IN, W_OUT, LAYER, SHAPE)
    likely = {"You added h: the paper's wiring has no bypass.": H + STORED["out"]}
    same(out, STORED["out"], "The order is W_in, layer, W_out.", likely)


def test_05_matched_scale():
    """Two numbers give the layer and the head lengths that they know."""
    a, b = adapters.matched_scale(H, W_IN, W_OUT, LAYER, SHAPE, float(STORED["target_rms"]))
    same(a, STORED["scale_in"], "rms(a W_in h) must be target_rms.")
    likely = {"b must be found with the scaled input: the layer is not linear.": STORED["scale_out_unscaled"]}
    same(b, STORED["scale_out"], "rms(b W_out layer(a W_in h)) must be rms(h).", likely)


def test_06_fold():
    """The projections disappear in the layer, and nothing changes."""
    folded = adapters.fold(W_IN, W_OUT, LAYER, SHAPE)
    d, width = H.shape[1], len(LAYER["mlp.gate_proj.weight"])
    shapes = {"norm_in": (d, d), "norm_mid": (2 * d, 2 * d), "gate": (width, 2 * d), "up": (width, 2 * d)}
    for name, wanted in (shapes | {"skip": (d, 2 * d), "down": (d, width)}).items():
        assert name in folded, f"{name} is missing."
        assert folded[name].shape == wanted, f"{name} has shape {folded[name].shape}, it must be {wanted}."
    for factor in (0.1, 1.0, 10.0):  # a norm that is left out shows at other lengths only
        out = run_folded(factor * H, folded, D_LLM, SHAPE.eps)
        same(out, STORED[f"out_{factor:g}"], f"With h times {factor:g}. Are the gains of both norms in it?")


def test_07_fit_interface():
    """An aligned interface is one ridge regression."""
    tokens, states, penalty = STORED["tokens"], STORED["states"], float(STORED["penalty"])
    weight, bias, scale = adapters.fit_interface(tokens, states, penalty)
    likely = {
        "The constant is penalised, too: centre first, and get b from the means.": STORED["weight_all_penalised"],
        "Divide each state by its own root mean square before the fit.": STORED["weight_raw"],
        "The penalty is missing.": STORED["weight_unpenalised"],
    }
    same(weight, STORED["weight"], "min sum |W token + b - y|² + penalty |W|².", likely)
    same(bias, STORED["bias"], "b = mean(y) - W mean(token).")
    same(scale, STORED["scale"], "The median of the states' root mean squares.")


def _twin_of(make: Callable[[Weights, int], Weights]) -> Weights:
    before = {name: array.copy() for name, array in LAYER.items()}
    twin, again, other = (make({k: v.copy() for k, v in LAYER.items()}, seed) for seed in (0, 0, 1))
    make(LAYER, 0)
    assert all(np.array_equal(before[name], LAYER[name]) for name in LAYER), "The weights given were changed: copy."
    assert set(twin) == set(LAYER) and all(twin[k].shape == LAYER[k].shape for k in LAYER), "Same names, same shapes."
    assert all(np.array_equal(twin[k], again[k]) for k in LAYER), "One seed must give one twin: seed a generator."
    matrices = [k for k in LAYER if LAYER[k].ndim > 1]
    assert not any(np.array_equal(twin[k], other[k]) for k in matrices), "Another seed must give another twin."
    assert not any(np.array_equal(twin[k], LAYER[k]) for k in matrices), "Nothing was changed."
    return twin


def _order(before: Array, after: Array) -> NDArray[np.intp]:
    """Return where the entries of `after` stood in `before`."""
    order = np.empty(before.size, dtype=np.intp)
    order[np.argsort(after, axis=None, kind="stable")] = np.argsort(before, axis=None, kind="stable")
    return order


def test_08_shuffled_twin():
    """The twin has the layer's numbers and not what it knows."""
    twin = _twin_of(adapters.shuffled_twin)
    for name, array in LAYER.items():
        assert np.array_equal(np.sort(twin[name], axis=None), np.sort(array, axis=None)), f"{name}: values must stay."
        if array.ndim > 1:
            rows = {tuple(np.sort(row)) for row in array} & {tuple(np.sort(row)) for row in twin[name]}
            assert not rows, f"{name}: whole rows stay together; permute all entries."
    orders = [_order(LAYER[name], twin[name]) for name in ("mlp.gate_proj.weight", "mlp.up_proj.weight")]
    assert np.mean(orders[0] == orders[1]) < 0.5, "Two tensors of one shape share one permutation: draw one for each."


def test_09_random_twin():
    """The random twin has other numbers, drawn at the same scale."""
    twin = _twin_of(adapters.random_twin)
    for name, array in LAYER.items():
        if array.ndim < 2:
            same(twin[name], np.full(array.shape, array.mean()), f"{name}: a vector becomes its mean.")
            continue
        error = array.std() / np.sqrt(array.size)
        assert abs(twin[name].mean() - array.mean()) < 5 * error, f"{name}: keep the mean, {array.mean():.3g}."
        assert abs(twin[name].std() / array.std() - 1) < 4 / np.sqrt(2 * array.size), f"{name}: keep the deviation."
        assert len(np.intersect1d(twin[name], array)) < array.size / 10, f"{name}: draw new values."
    both = [twin[name].ravel() for name in ("mlp.gate_proj.weight", "mlp.up_proj.weight")]
    assert np.corrcoef(both)[0, 1] < 0.5, "Two tensors of one shape share one draw: make the generator once."


def test_10_paired_interval():
    """A difference is said with the noise of seeds and of examples."""
    mean, low, high = adapters.paired_interval(STORED["a"], STORED["b"])
    same(mean, STORED["mean"], "The mean of a - b.")
    width = float(STORED["high"] - STORED["low"])
    wrong = {
        "Over examples only: seeds are a sample, too.": STORED["width_examples"],
        "Over seeds only: examples are a sample, too.": STORED["width_seeds"],
        "Pair first: the interval is that of the differences.": STORED["width_unpaired"],
        "Add half-widths in squares (np.hypot), not as they are.": STORED["width_sum"],
        "With few seeds, Student's t with S - 1 degrees of freedom, not the normal distribution.": STORED[
            "width_normal"
        ],
    }
    for limit, name in ((low, "low"), (high, "high")):
        likely = {mistake: float(each) - width for mistake, each in wrong.items()}
        if abs(limit - STORED[name]) < 0.04 * width:
            continue
        nearest = min(likely, key=lambda mistake: abs((high - low) - width - likely[mistake]))
        raise AssertionError(f"{name} is {limit:.4f}, it must be about {float(STORED[name]):.4f}. {nearest}")


@pytest.mark.assets
def test_11_on_a_real_layer():
    """On SmolLM2's last layer your functions are the library's, and so is a forward pass from text to vector."""
    adapters.plug_in(H, W_IN, W_OUT, LAYER, SHAPE)  # not written yet is not skipped
    pp = pytest.importorskip("pifi_probe")
    here = {name for one in pp.assets.list_assets() if one.cached for name in (one.asset.name, *one.asset.aliases)}
    if not {"minilm-l6", "smollm2-135m", "movie-reviews"} <= here:
        pytest.skip("run `pifi-probe assets pull` for the real layer")
    layer = pp.extract("smollm2-135m[-1]", dtype="float32")
    model = pp.plug_in("minilm-l6", layer, task=pp.load_task("movie-reviews"), wiring="pifi").eval()
    weights = {name: tensor.numpy().astype(np.float64) for name, tensor in layer.tensors()}
    config = layer.config
    shape = Shape(config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.rms_norm_eps)
    h = np.random.default_rng(0).normal(size=(4, model.plugin.L_in.in_features)) * 0.3
    W_in, W_out = (part.weight.detach().double().numpy() for part in (model.plugin.L_in, model.plugin.L_out))
    expected = model.plugin(model.plugin.L_in.weight.new_tensor(h)).detach().double().numpy()
    same(adapters.plug_in(h, W_in, W_out, weights, shape), expected, "Are head counts taken from `shape`?", within=1e-3)
    folded = adapters.fold(W_in, W_out, weights, shape)
    same(run_folded(h, folded, layer.hidden_size, shape.eps), expected, "Folded, at 384 and 576.", within=1e-3)
