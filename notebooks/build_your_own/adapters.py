"""Your own pifi: fill in the functions, in their order, until ``python -m pytest notebooks/build_your_own`` passes.

NumPy is enough. `weights` are those of one layer of a Llama-like model, by their names in its checkpoint, each matrix
(out, in) as torch stores it::

    input_layernorm.weight, post_attention_layernorm.weight        (d_llm,)
    self_attn.v_proj.weight                                        (n_kv_heads * d_head, d_llm)
    self_attn.o_proj.weight                                        (d_llm, n_heads * d_head)
    mlp.gate_proj.weight, mlp.up_proj.weight                       (d_mlp, d_llm)
    mlp.down_proj.weight                                           (d_llm, d_mlp)

`shape` is a `given.Shape`: ``n_heads``, ``n_kv_heads``, ``d_head`` and ``eps``, that of both norms.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np  # noqa: F401  (for what you write)
from given import Array, Shape, Weights


def extract_layer(file: BinaryIO, index: int) -> Weights:
    """Return one layer's weights out of a safetensors file, without reading the others.

    Parameters
    ----------
    file : binary file
        8 bytes, the length of the header as a little-endian integer; the header, JSON; then the numbers. The header
        has for each tensor ``{"dtype": "F32" or "BF16", "shape": [...], "data_offsets": [start, end]}``, offsets
        counted from the end of the header; its key ``"__metadata__"`` is not a tensor.
    index : int
        Of the layer; its tensors are named ``model.layers.INDEX.NAME``.

    Returns
    -------
    dict of str to float32 array
        By NAME. NumPy has no bfloat16: one is the upper half of a float32.
    """
    raise NotImplementedError(
        "Write extract_layer: read the header, keep the names that begin with model.layers.INDEX., seek to each one's "
        "bytes and read those alone"
    )


def value_path(weights: Weights, n: Array, shape: Shape) -> Array:
    """Return what attention gives for sequences of one token: (batch, d_llm) to (batch, d_llm).

    The softmax over one key is 1, so it is ``W_o rep(W_v n)``, where rep repeats each key-value head for the query
    heads that share it, which are neighbours.
    """
    raise NotImplementedError(
        "Write value_path: n through v_proj, each head of d_head numbers repeated n_heads / n_kv_heads times, then "
        "o_proj"
    )


def one_token_layer(weights: Weights, x: Array, shape: Shape) -> Array:
    """Return what the whole layer gives for sequences of one token: (batch, d_llm) to (batch, d_llm).

    ``m = x + attention(norm(x))``, then ``m + down(silu(gate n) * up n)`` with ``n = norm(m)``. A norm divides by the
    root of (mean square + eps) and multiplies by its gain; ``silu(a) = a / (1 + exp(-a))``.
    """
    raise NotImplementedError(
        "Write one_token_layer: norm, value_path, add x; second norm, gated MLP, add what went into the norm"
    )


def plug_in(h: Array, W_in: Array, W_out: Array, weights: Weights, shape: Shape) -> Array:
    """Return ``W_out layer(W_in h)`` for an encoder's vectors: (batch, d_slm) to (batch, d_slm).

    W_in is (d_llm, d_slm), W_out is (d_slm, d_llm).
    """
    raise NotImplementedError("Write plug_in: h through W_in, one_token_layer and W_out, without biases")


def matched_scale(
    h: Array, W_in: Array, W_out: Array, weights: Weights, shape: Shape, target_rms: float
) -> tuple[float, float]:
    """Return the two fixed factors a and b of ``b W_out layer(a W_in h)``.

    a gives the layer an input as long as it is used to: ``rms(a W_in h) = target_rms``. b gives the encoder's length
    back: ``rms(b W_out layer(a W_in h)) = rms(h)``. rms is the root mean square over all entries of the batch.
    """
    raise NotImplementedError("Write matched_scale: a first; b depends on what the layer makes of the scaled input")


def fold(W_in: Array, W_out: Array, weights: Weights, shape: Shape) -> Weights:
    """Return the plug-in without the language model's width, for `given.run_folded`.

    Returns
    -------
    dict of arrays
        ``norm_in`` (d_slm, d_slm) and ``norm_mid`` (2 d_slm, 2 d_slm), triangular; ``gate`` and ``up``
        (d_mlp, 2 d_slm); ``skip`` (d_slm, 2 d_slm); ``down`` (d_slm, d_mlp).

    Notes
    -----
    With ``s = 1 / sqrt(|W_in h|² / d_llm + eps)`` and ``z = [h, s h]``, the vector after attention is linear in z:
    ``m = [W_in, A] z``, where A is W_o rep W_v, the first norm's gain, and W_in, multiplied out. A norm needs only a
    length, and ``|M z| = |R z|`` for the QR decomposition ``M = Q R``.
    """
    raise NotImplementedError(
        "Write fold: M = [W_in, A]; norm_in is R of W_in, norm_mid is R of M; gate and up take the second gain and M; "
        "skip is W_out M; down is W_out W_down"
    )


def fit_interface(tokens: Array, states: Array, penalty: float) -> tuple[Array, Array, float]:
    """Fit ``state = scale (W token + b)`` by ridge regression, without labels.

    Parameters
    ----------
    tokens : array, (n, p)
        An encoder's.
    states : array, (n, d_llm)
        Those of the language model's tokens that they meet.
    penalty : float
        ``min sum |W token + b - y|² + penalty |W|²``; b is not penalised.

    Returns
    -------
    W (d_llm, p), b (d_llm,), scale
        y is each state divided by its own root mean square, so that a few huge tokens do not take the fit; scale is
        the median of those root mean squares.
    """
    raise NotImplementedError(
        "Write fit_interface: divide each state by its rms, centre tokens and targets, solve (T'T + penalty I) W' = "
        "T'Y, and get b from the means"
    )


def shuffled_twin(weights: Weights, seed: int) -> Weights:
    """Return a layer that knows nothing: each tensor keeps its values and loses their order.

    One seed gives one twin; `weights` stay as they are.
    """
    raise NotImplementedError("Write shuffled_twin: one generator of the seed, a new permutation for each tensor")


def random_twin(weights: Weights, seed: int) -> Weights:
    """Return a layer of other weights: each matrix drawn from a normal distribution with its mean and deviation.

    A vector, such as a norm's gain, is replaced by its mean. One seed gives one twin.
    """
    raise NotImplementedError("Write random_twin: normal draws for matrices, the mean for vectors")


def paired_interval(a: Array, b: Array, level: float = 0.95) -> tuple[float, float, float]:
    """Return mean, low and high of ``a - b``, two arms' scores by seed and test example, (S, N).

    Both seeds and examples are samples. Half-widths of two standard intervals are added in squares, below and above
    apart: Student's t over the S means of seeds, and a percentile bootstrap over the N examples' means.
    """
    raise NotImplementedError(
        "Write paired_interval: subtract first; t with S - 1 degrees of freedom over the means of seeds; draw examples "
        "again, 4,000 times; low = mean - hypot(...), high = mean + hypot(...)"
    )
