"""A small neural network as a probe."""

from __future__ import annotations

import warnings

import numpy as np

from pifi_probe.scoring.estimators.classes import Codes, Floats, chance
from pifi_probe.scoring.estimators.registry import Scored, register_estimator
from pifi_probe.scoring.folds import stratified_folds
from pifi_probe.scoring.spectrum import Spectrum

__all__ = ["mlp"]


@register_estimator(
    title="MLP accuracy",
    unit="accuracy",
    range="[0, 1]; chance is the share of the largest class",
    cost="about 10⁵ N",
    source="Conneau et al. 2018, arXiv 1805.01070",
    min_per_class=2,
)
def mlp(features: Floats, labels: Codes, *, spectrum: Spectrum, n_folds: int = 5, seed: int = 0) -> Scored:
    """Share of examples that a network of 32 hidden units, fitted without their fold, gets right.

    On 256 principal components, divided by their common RMS; weight decay 1. Beyond the logistic probe by more than
    the interval, it says that the classes are there but not linearly.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    if not spectrum.rank:
        return chance(labels)
    x = spectrum.components(256)
    x = x / x.std() * np.where((x**3).sum(axis=0) < 0, -1, 1)  # eigenvectors have no sign of their own
    folds = stratified_folds(labels, n_folds, seed, keys=spectrum.squared_norms)
    order = np.lexsort((labels, spectrum.squared_norms))
    first = np.unique(labels[order], return_index=True)[1]
    codes = first.argsort().argsort()[labels]  # nor have classes an order: outputs start from different weights
    correct = np.zeros(len(labels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 50 steps are the recipe
        for fold in range(n_folds):
            rows = order[folds[order] != fold]
            fit = MLPClassifier((32,), solver="lbfgs", alpha=1.0, max_iter=50, random_state=seed)
            held = folds == fold
            correct[held] = fit.fit(x[rows], codes[rows]).predict(x[held]) == codes[held]
    return Scored.mean(correct)
