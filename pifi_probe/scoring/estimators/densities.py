"""How far Gaussians that are fitted to the features overlap between classes."""

from __future__ import annotations

import warnings

import numpy as np

from pifi_probe.scoring.estimators.classes import Codes, Floats
from pifi_probe.scoring.estimators.registry import register_estimator
from pifi_probe.scoring.spectrum import Spectrum

__all__ = ["gbc", "nleep"]

FLOOR = 1e-6  # of the mean variance: added to every variance
N_RESTARTS = 5


@register_estimator(
    title="Gaussian Bhattacharyya coefficient",
    unit="",
    range="[-K(K-1)/2, 0]; 0 means no overlap",
    cost="64 N + 64 K²",
    source="Pandy et al. 2022, arXiv 2111.12780; 64 principal components, or N/2K where that is fewer",
    min_per_class=2,
)
def gbc(features: Floats, labels: Codes, *, spectrum: Spectrum) -> float:
    """Minus the overlap of diagonal Gaussians, summed over pairs of classes.

    More components than half of the examples of a class would make every pair look apart.
    """
    n_classes = int(labels.max()) + 1
    x = spectrum.components(max(1, min(64, spectrum.n // (2 * n_classes))))
    floor = FLOOR * x.var() if x.size else 0.0
    groups = [x[labels == code] for code in range(n_classes)]
    means = np.stack([group.mean(axis=0) for group in groups])
    variances = np.stack([group.var(axis=0) + floor for group in groups]) + 1e-300
    overlap = 0.0
    for i in range(n_classes - 1):
        middle = (variances[i] + variances[i + 1 :]) / 2
        distance = ((means[i] - means[i + 1 :]) ** 2 / middle).sum(axis=1) / 8
        shape = 0.5 * (np.log(middle) - (np.log(variances[i]) + np.log(variances[i + 1 :])) / 2).sum(axis=1)
        overlap += float(np.exp(-distance - shape).sum())
    return -overlap


@register_estimator(
    title="N-LEEP",
    unit="nats",
    range="(-inf, 0]; chance is minus the entropy of the labels",
    cost="5 fits of a mixture: about 10³ N K k for k components",
    source="Li et al. 2021, arXiv 2011.11200, after LEEP of Nguyen et al. 2020; mean of 5 starts",
)
def nleep(features: Floats, labels: Codes, *, spectrum: Spectrum, seed: int = 0) -> float:
    """Log-likelihood of labels predicted from the memberships of a Gaussian mixture.

    Mixtures (diagonal) have 5 K parts, fewer where that leaves under 6 examples to each, and see the principal
    components that hold 80 % of the variance. The likelihood is of the examples that fitted it: noise scores above
    chance.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    n_classes = int(labels.max()) + 1
    order = np.lexsort((labels, spectrum.squared_norms))  # starts are drawn by row: do not let the order matter
    onehot = np.eye(n_classes)[labels[order]]
    if not spectrum.rank:
        return _leep(np.ones((spectrum.n, 1)), onehot)
    share = np.cumsum(spectrum.values) / spectrum.values.sum()
    x = spectrum.components(int(np.searchsorted(share, 0.8)) + 1)[order]
    x = x / x.std()
    n_parts = max(n_classes, min(5 * n_classes, spectrum.n // 6))
    scores = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # duplicates leave parts empty: they have no members
        for start in range(N_RESTARTS):
            mixture = GaussianMixture(n_parts, covariance_type="diag", reg_covar=FLOOR, random_state=seed + start)
            scores.append(_leep(mixture.fit(x).predict_proba(x), onehot))
    return float(np.mean(scores))


def _leep(memberships: Floats, onehot: Floats) -> float:
    joint = memberships.T @ onehot  # (parts, K)
    given = joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-300)
    return float(np.log(np.maximum(((memberships @ given) * onehot).sum(axis=1), 1e-300)).mean())
