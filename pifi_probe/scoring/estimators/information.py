"""What features tell about the labels that other features do not."""

from __future__ import annotations

import numpy as np

from pifi_probe.scoring.estimators.classes import Codes, Floats
from pifi_probe.scoring.estimators.registry import Scored, register_estimator
from pifi_probe.scoring.linear import cross_validated
from pifi_probe.scoring.spectrum import Spectrum, centred

__all__ = ["usable_information"]


@register_estimator(
    title="usable information",
    unit="nats",
    range="(-inf, entropy of the labels]; 0 if nothing is added, below it if what helped in training misleads",
    cost="twice that of the logistic probe, on D2 and on D + D2 features",
    source="Xu et al. 2020, arXiv 2002.10689, conditional as by Hewitt et al. 2021, arXiv 2109.09234; cross-fitted",
    in_default=True,
    min_per_class=2,
)
def usable_information(features: Floats, labels: Codes, *, other: Floats, n_folds: int = 5, seed: int = 0) -> Scored:
    """Usable information of `features` about the labels, given `other`: NLL(other) - NLL([other; features]).

    For a plug-in, `other` is the encoder's vectors h and `features` is what the layer makes of them. Both terms are
    those of logistic regressions fitted without the fold of the example, on the same folds, each with its own nested
    choice of the penalty. Side by side, the two blocks are each divided by their global RMS: one number each from all
    examples, in which no label takes part.

    The family of predictors must be free to ignore what it is given ("optional ignorance", Xu et al.): a fold whose
    training examples are predicted better, each held out, by `other` alone uses `other` alone. Otherwise hundreds of
    useless features would have a large negative value, because one penalty shrinks both blocks.
    """
    both = Spectrum.of(np.hstack([centred(other), centred(features)]))
    alone, joined = cross_validated([other, both], labels, n_folds=n_folds, seed=seed)
    used = (joined.chosen_by < alone.chosen_by)[alone.folds]
    return Scored.mean(np.where(used, alone.nll - joined.nll, 0.0))
