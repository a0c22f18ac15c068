"""Cross-validated logistic regression of one feature set."""

from __future__ import annotations

from pifi_probe.scoring.estimators.classes import Codes, Floats
from pifi_probe.scoring.estimators.registry import Scored, register_estimator
from pifi_probe.scoring.linear import cross_validated
from pifi_probe.scoring.spectrum import Spectrum

__all__ = ["logistic_accuracy", "logistic_nll"]

COST = "about 10³ N D K: 55 fits of 30 to 60 products, in one batch"
SOURCE = "Alain and Bengio 2016, with the penalty chosen by nested cross-validation; all components are kept"


@register_estimator(
    title="logistic accuracy",
    unit="accuracy",
    range="[0, 1]; chance is the share of the largest class",
    cost=COST,
    source=SOURCE,
    in_default=True,
    min_per_class=2,
)
def logistic_accuracy(
    features: Floats, labels: Codes, *, spectrum: Spectrum, n_folds: int = 5, seed: int = 0
) -> Scored:
    """Share of examples whose class is the most probable one for a logistic regression fitted without their fold.

    See `pifi_probe.scoring.linear.cross_validated`, which fits all layers and gives this and `logistic_nll` at once.
    """
    return Scored.mean(cross_validated([spectrum], labels, n_folds=n_folds, seed=seed)[0].correct)


@register_estimator(
    title="logistic NLL",
    unit="nats",
    larger_is_better=False,
    range="[0, inf); chance is the entropy of the labels",
    cost=COST,
    source=SOURCE,
    in_default=True,
    min_per_class=2,
)
def logistic_nll(features: Floats, labels: Codes, *, spectrum: Spectrum, n_folds: int = 5, seed: int = 0) -> Scored:
    """Negative log-likelihood of the true classes under a logistic regression fitted without their fold.

    See `pifi_probe.scoring.linear.cross_validated`, which fits all layers and gives this and `logistic_accuracy` at
    once.
    """
    return Scored.mean(cross_validated([spectrum], labels, n_folds=n_folds, seed=seed)[0].nll)
