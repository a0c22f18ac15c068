"""Lengths of codes: of features given their classes, and of labels given features."""

from __future__ import annotations

import numpy as np

from pifi_probe.scoring.estimators.classes import Codes, Floats
from pifi_probe.scoring.estimators.registry import register_estimator
from pifi_probe.scoring.linear import L2_GRID, fit_logistic
from pifi_probe.scoring.spectrum import Spectrum

__all__ = ["mdl", "transrate"]

N_COMPONENTS = 256
N_ORDERS = 3


def _rate(x: Floats, precision: float) -> float:
    """Half the log determinant of the identity plus the covariance over the precision."""
    x = x - x.mean(axis=0)
    return 0.5 * float(np.log1p(np.linalg.svd(x, compute_uv=False) ** 2 / (len(x) * precision)).sum())


@register_estimator(
    title="TransRate",
    unit="nats",
    range="[0, inf); 0 means no signal",
    cost="64² N",
    source="Huang et al. 2022, arXiv 2106.09545, changed where the released code hides the signal, see above",
    min_per_class=2,
)
def transrate(features: Floats, labels: Codes, *, spectrum: Spectrum, precision: float = 1.0) -> float:
    """Coding rate of all features minus the mean rate of each class: R(Z) - Σ_c (n_c/N) R(Z_c).

    Of 64 principal components, or N/4K where that is fewer, divided by their common RMS, at a `precision` of that
    size: the released 1e-4 without scaling, of all D columns, counts how many directions a class of n_c < D examples
    can span.
    Classes are centred on their own means: about the common mean, two equal classes on both sides of it have the rate
    of all, however far apart they are.
    """
    n_classes = int(labels.max()) + 1
    x = spectrum.components(max(1, min(64, spectrum.n // (4 * n_classes))))
    if not x.size:
        return 0.0
    x = x / x.std()
    parts = [x[labels == code] for code in range(n_classes)]
    return _rate(x, precision) - sum(len(part) / spectrum.n * _rate(part, precision) for part in parts)


@register_estimator(
    title="description length",
    unit="bits",
    larger_is_better=False,
    range="[0, inf) an example; chance is log2(K)",
    cost="about twice that of the logistic probe",
    source="Voita and Titov 2020, arXiv 2003.12298, online code",
)
def mdl(features: Floats, labels: Codes, *, spectrum: Spectrum, seed: int = 0) -> float:
    """Bits for each label when they are sent block by block, each coded by a logistic regression on those before.

    Blocks double in size; the first, of twice as many examples as classes or more, is sent at log2(K) bits a label.
    Regressions are on 256 principal components. The penalty with the shortest code is taken, at the cost of naming it,
    and three orders are averaged.
    """
    n, n_classes = spectrum.n, int(labels.max()) + 1
    ends = _block_ends(n, n_classes)
    x = spectrum.components(N_COMPONENTS)
    orders = [_order(labels, spectrum.squared_norms, seed + i) for i in range(N_ORDERS)]
    places = np.argsort(orders, axis=1)  # of each example in each order
    known = np.stack([place < end for place in places for end in ends[:-1]])  # (orders * blocks, N)
    sent = np.stack([(place >= a) & (place < b) for place in places for a, b in zip(ends[:-1], ends[1:], strict=True)])
    lengths = []
    for penalty in L2_GRID:
        fit = fit_logistic(x, labels, np.full(len(known), penalty * spectrum.dim), known, tol=1e-4)
        log_p = fit.log_probabilities(x)[:, labels, np.arange(n)].cpu().numpy()
        lengths.append(-(log_p * sent).sum() / N_ORDERS)
    bits = min(lengths) / np.log(2) + ends[0] * np.log2(n_classes) + np.log2(len(L2_GRID))
    return float(bits / n)


def _block_ends(n: int, n_classes: int) -> list[int]:
    ends = [n]
    while ends[0] // 2 >= max(8, 2 * n_classes):
        ends.insert(0, ends[0] // 2)
    return ends


def _order(labels: Codes, keys: Floats, seed: int) -> Codes:
    """Order examples at random, one of each class first; the same examples give the same order however they come."""
    drawn = np.lexsort((labels, keys))[np.random.default_rng(seed).permutation(len(labels))]
    firsts = np.unique(labels[drawn], return_index=True)[1]
    return np.concatenate([drawn[firsts], np.delete(drawn, firsts)])
