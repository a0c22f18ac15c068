"""What a chain of layers promises to an encoder, from the states before and after it."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pifi_probe.errors import EstimatorError
from pifi_probe.scoring.estimators.classes import Codes, Floats
from pifi_probe.scoring.estimators.information import usable_information
from pifi_probe.scoring.estimators.registry import Scored, register_estimator
from pifi_probe.scoring.projections import left_out_r2
from pifi_probe.scoring.spectrum import as_features

__all__ = ["promised", "span"]

Rise = TypeVar("Rise", float, NDArray[np.float64])


def promised(rise: Rise, r2: float) -> Rise:
    """Return what is left of a rise behind an interface that predicts so much of the chain's input: rise times R²."""
    return rise * max(r2, 0.0)


@register_estimator(
    title="span",
    unit="nats",
    range="(-inf, entropy of the labels]; 0 if the states know no more at the exit than at the entry",
    cost="twice that of usable information, and a ridge regression of D3 outputs on D2 features",
    source="this package; judged on the truth tables of chains (benchmarks/chains.py)",
    min_per_class=2,
)
def span(
    features: Floats,
    labels: Codes,
    *,
    other: Floats,
    entry: Floats | None = None,
    n_folds: int = 5,
    seed: int = 0,
) -> Scored:
    """Rise of what the donor's states add to an encoder over a chain of layers, times how well the chain is entered.

    ``(I(features | other) - I(entry | other)) R²``, with I the usable information about the labels. `features` are the
    language model's own states at the chain's exit, `entry` (N, D3) those at its entry, `other` the encoder's vectors,
    from which a ridge regression predicts `entry` with that R² (each example left out once, at least 0). A chain
    promises much where its layers learn what the encoder lacks, and where the encoder's vectors can be turned into the
    chain's input. Without `entry` it is what the states add at one depth. An interval of the score takes R² as given.

    `pifi_probe.headroom` scores all chains of a donor by the same product, with points of accuracy in place of nats,
    the R² of token states, and curves that are smoothed over depth; it chooses better chains than this score, as does
    the rise alone (truth tables of chains). `probe_plugin` reads every layer as a chain of one, with the alignment
    texts and their labels.
    """
    at_exit = usable_information.score(features, labels, other=other, n_folds=n_folds, seed=seed).per_example
    assert at_exit is not None
    if entry is None:
        return Scored.mean(at_exit)
    states = as_features(entry, name="entry features")
    if len(states) != len(features):
        raise EstimatorError(
            f"{len(states)} entry features for {len(features)} examples", next="pass all for the same examples"
        )
    before = usable_information.score(states, labels, other=other, n_folds=n_folds, seed=seed).per_example
    assert before is not None
    return Scored.mean(promised(at_exit - before, left_out_r2(other, states)))
