"""Where a donor's states say nothing of the labels, the headroom's interval holds zero; a planted effect is found."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

import pifi_probe as pp
from pifi_probe.alignment.readout import cross_fitted, out_of_fold
from pifi_probe.features.headroom_table import build_headroom

DEPTHS, OWN, DONOR = 5, 24, 16
Floats = NDArray[np.float32]


def simulated(seed: int, n: int, k: int, planted: float) -> pp.Headroom:
    """The encoder knows a part of the labels; the donor, from depth 3 on, another part of them, or nothing."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % k)
    names = rng.normal(size=(2, k, max(OWN, DONOR)))  # what a class looks like to either

    def states(which: int, width: int, strength: float) -> Floats:
        noise = rng.normal(size=(n, width))
        return (noise + strength * names[which][y, :width]).astype(np.float32)

    encoder = states(0, OWN, 0.25)
    donor = [states(1, DONOR, planted if depth >= 3 else 0.0) for depth in range(DEPTHS)]
    own, *heard = (out_of_fold(x, y, k, seed=seed) for x in (encoder, *donor))
    both = np.stack([cross_fitted([own, one], y, k, seed=seed) for one in heard])
    return build_headroom(own, np.stack(heard), both, y, [0.5] * (DEPTHS - 1), {"seed": seed}, {})


def many(times: int, n: int, k: int, planted: float) -> list[pp.Headroom]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(partial(simulated, n=n, k=k, planted=planted), range(times)))


# nominal 95 %; see book/methods.md, Aligned chains
@pytest.mark.slow
@pytest.mark.parametrize(("n", "k", "times"), [(40, 2, 60), (200, 2, 60), (400, 20, 24)])
def test_where_a_donor_knows_nothing_the_interval_holds_zero(n: int, k: int, times: int):
    found = many(times, n, k, 0.0)
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.88
    assert np.mean([one.something for one in found]) <= 0.05, "a gain is claimed where there is none"


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k"), [(40, 2), (200, 2), (400, 20)])
def test_where_a_donor_knows_something_else_it_is_found(n: int, k: int):
    found = many(12, n, k, 0.5)
    assert np.mean([one.something for one in found]) >= 0.8
    assert np.mean([one.depth >= 3 for one in found]) >= 0.9


def test_a_planted_effect_is_found_once():
    assert simulated(0, 200, 2, 0.5).something and not simulated(0, 200, 2, 0.0).something
