"""Late interaction: what the best match of every token says about a pair, without any parameters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pifi_probe.alignment.tokens import TokenStates

__all__ = ["late_interaction"]

Floats = NDArray[np.float32]


def late_interaction(states: TokenStates) -> Floats:
    """Compare the two texts of each pair, token by token.

    Every token meets the most similar one of the other text (cosine; as ColBERT does, Khattab and Zaharia 2020, whose
    score is the sum of these). It is the free alternative to layers in which two texts meet: such layers have to add
    something on top of it.

    Parameters
    ----------
    states : TokenStates
        Of pairs whose texts were read apart, N rows.

    Returns
    -------
    array of float32, shape (N, 12 + 8 d_slm)
        Of each kind of state (after the encoder's last layer, before its first) and each direction: mean, smallest
        value and standard deviation of the cosines; mean absolute difference and mean product of a token and its
        match, both of length 1.
    """
    assert states.second is not None
    width = states.tokens.shape[1] // 2
    found = np.empty((len(states), 12 + 8 * width), dtype=np.float32)
    for row in range(len(states)):
        tokens = states.tokens[states.starts[row] : states.starts[row + 1]]
        middle = int(states.second[row])
        parts: list[Floats] = []
        for kind in (slice(None, width), slice(width, None)):
            a, b = _unit(tokens[: middle - 1, kind]), _unit(tokens[middle:, kind])
            cosine = a @ b.T
            for here, there, each in ((a, b, cosine), (b, a, cosine.T)):
                best = each.max(1)
                match = there[each.argmax(1)]
                parts += [np.array([best.mean(), best.min(), best.std()], dtype=np.float32)]
                parts += [np.abs(here - match).mean(0), (here * match).mean(0)]
        found[row] = np.concatenate(parts)
    return found


def _unit(states: Floats) -> Floats:
    size = np.linalg.norm(states, axis=1, keepdims=True)
    scaled: Floats = states / np.maximum(size, np.finfo(np.float32).tiny)
    return scaled
