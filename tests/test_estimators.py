"""The contract that every registered estimator keeps, in tables; then the registry and bad input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import entropy, multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestCentroid, NearestNeighbors
from sklearn.neural_network import MLPClassifier

from pifi_probe.errors import EstimatorError
from pifi_probe.probing import estimators
from pifi_probe.probing.estimators import Scored, as_labels, registry
from pifi_probe.probing.estimators.coding import _order
from pifi_probe.probing.estimators.evidence import log_evidence
from pifi_probe.probing.folds import stratified_folds
from pifi_probe.probing.linear import L2_GRID
from pifi_probe.probing.spectrum import Spectrum


@dataclass(frozen=True)
class Sample:
    """Features x with class means `signal` apart, labels y, and others: z is partly made of x, h knows nothing."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    h: np.ndarray


def sample(signal: float = 2.0, *, n: int = 60, dim: int = 120, k: int = 2, seed: int = 0, share=None) -> Sample:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % k) if share is None else (np.arange(n) < share * n).astype(int)
    means = rng.normal(size=(k, dim)) / np.sqrt(dim / 8)
    noise, z, h = rng.normal(size=(n, dim)), rng.normal(size=(n, 40)), rng.normal(size=(n, 5))
    x = noise + signal * means[y]
    return Sample(x, y, z + signal * x @ rng.normal(size=(dim, 40)) / np.sqrt(dim), h)


def second(name: str, data: Sample) -> dict[str, np.ndarray]:
    """Return the second feature set, if the estimator compares two."""
    if estimators.get(name).family != "pair":
        return {}
    return {"other": data.h if name == "usable_information" else data.z}


def call(name: str, data: Sample, **options) -> float:
    estimator = estimators.get(name)
    return estimator(data.x, data.y if estimator.needs_labels else None, **second(name, data), **options)


def better(name: str, value: float) -> float:
    """Turn a score so that larger is better."""
    return value if estimators.get(name).larger_is_better else -value


# --- references, written from the definitions -------------------------------------------------------------------------


def scaled(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=0)
    return x / np.sqrt((x**2).mean())


def onehot(y: np.ndarray) -> np.ndarray:
    return np.eye(y.max() + 1)[y]


def refitted_ridge(data: Sample) -> np.ndarray:
    """Fit scikit-learn's Ridge N times for each penalty; the predictions of the best one."""
    x, y, n = scaled(data.x), onehot(data.y), len(data.x)
    eigenvalues = np.linalg.eigvalsh(x @ x.T)
    mean = eigenvalues[eigenvalues > 1e-10 * eigenvalues[-1]].mean()
    predictions = []
    for penalty in mean * np.logspace(-4, 4, 15):
        fit = Ridge(penalty, solver="cholesky")
        rest = [np.delete(np.arange(n), j) for j in range(n)]
        predictions.append(np.stack([fit.fit(x[r], y[r]).predict(x[[j]])[0] for j, r in enumerate(rest)]))
    return min(predictions, key=lambda p: ((y - p) ** 2).mean())


def ridge_accuracy(data: Sample) -> float:
    y, n = onehot(data.y), len(data.x)
    share_without = (y.sum(axis=0) - y) / (n - 1)
    return (np.argmax(refitted_ridge(data) - share_without + y.mean(axis=0), axis=1) == data.y).mean()


def ridge_mse(data: Sample) -> float:
    return ((onehot(data.y) - refitted_ridge(data)) ** 2).mean()


def exact_evidence(x: np.ndarray, y: np.ndarray, alpha: float, beta: float) -> float:
    """Log density of the N-1 contrasts of y, with the weights integrated out."""
    n = len(y)
    contrasts = np.linalg.svd(np.eye(n) - 1 / n)[0][:, : n - 1].T
    covariance = contrasts @ (np.eye(n) / beta + x @ x.T / alpha) @ contrasts.T
    return multivariate_normal(np.zeros(n - 1), covariance, allow_singular=True).logpdf(contrasts @ y) / (n - 1)


def logme(data: Sample) -> float:
    """Maximise the exact evidence by a general optimiser from several starts."""
    x = scaled(data.x)
    best = []
    for y in onehot(data.y).T:
        starts = [(np.log(x.shape[1] * ratio), 1.5) for ratio in (0.1, 1, 10, 100)]
        loss = lambda p, y=y: -exact_evidence(x, y, np.exp(p[0]), np.exp(p[1]))  # noqa: E731
        best.append(-min(minimize(loss, start, method="Nelder-Mead", tol=1e-9).fun for start in starts))
    return float(np.mean(best))


def class_covariances(data: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centred features, residuals to the class means, and the between-class covariance."""
    x = scaled(data.x)
    means = np.stack([x[data.y == c].mean(axis=0) for c in range(data.y.max() + 1)])
    fitted = means[data.y]
    return x, x - fitted, fitted.T @ fitted / len(x)


def hscore(data: Sample) -> float:
    x, _, between = class_covariances(data)
    fit = LedoitWolf().fit(x)
    return np.trace(np.linalg.inv(fit.covariance_) @ between) * (1 - fit.shrinkage_)


def fisher_ratio(data: Sample) -> float:
    _, residuals, between = class_covariances(data)
    return np.trace(np.linalg.inv(LedoitWolf(assume_centered=True).fit(residuals).covariance_) @ between)


def hidden_state_variability(data: Sample) -> float:
    x, residuals, between = class_covariances(data)
    return np.trace(residuals.T @ residuals / len(x) @ np.linalg.pinv(between, rcond=1e-9)) / (data.y.max() + 1)


def neighbours(x: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
    distances, found = NearestNeighbors(n_neighbors=k + 1, metric="cosine").fit(scaled(x)).kneighbors(scaled(x))
    return found[:, 1:], 1 - distances[:, 1:]


def knn(data: Sample) -> float:
    """Count votes one by one; equal votes go to the class whose neighbours are more similar."""
    correct = 0
    for found, similar, label in zip(*neighbours(data.x), data.y, strict=True):
        votes = [((data.y[found] == c).sum(), similar[data.y[found] == c].sum()) for c in range(data.y.max() + 1)]
        correct += max(range(len(votes)), key=votes.__getitem__) == label
    return correct / len(data.y)


def nearest_mean(data: Sample) -> float:
    n = len(data.y)
    rest = [np.delete(np.arange(n), j) for j in range(n)]
    return np.mean(
        [NearestCentroid().fit(data.x[r], data.y[r]).predict(data.x[[j]])[0] == data.y[j] for j, r in enumerate(rest)]
    )


def effective_rank(data: Sample) -> float:
    return np.exp(entropy(np.linalg.eigvalsh(np.cov(data.x.T)).clip(0)))


def unbiased_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Estimate HSIC as in equation 4 of Song et al. 2012."""
    n, ones = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    cross = ones @ k @ ones * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + cross - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))


def cka(data: Sample) -> float:
    k, m = data.x @ data.x.T, data.z @ data.z.T
    return unbiased_hsic(k, m) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(m, m))


def mutual_knn(data: Sample) -> float:
    first, second = neighbours(data.x)[0], neighbours(data.z)[0]
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(first, second, strict=True)])


def held_out_logistic(x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nested cross-validation by scikit-learn: log-probabilities (N, K), and what each fold's penalty had in NLL."""
    log_p, chosen_by = np.zeros((len(y), y.max() + 1)), []
    for fold in range(5):
        losses = []
        for l2 in L2_GRID:
            inner = [(folds != fold) & (folds != g) for g in range(5) if g != fold]
            held = [folds == g for g in range(5) if g != fold]
            scores = [
                logistic(x, y, rows, l2)[h][np.arange(h.sum()), y[h]] for rows, h in zip(inner, held, strict=True)
            ]
            losses.append(-np.concatenate(scores).sum())
        chosen_by.append(min(losses))
        log_p[folds == fold] = logistic(x, y, folds != fold, L2_GRID[int(np.argmin(losses))])[folds == fold]
    return log_p, np.array(chosen_by), -log_p[np.arange(len(y)), y]


def logistic(x: np.ndarray, y: np.ndarray, rows: np.ndarray, l2: float) -> np.ndarray:
    x = x - x[rows].mean(axis=0)
    x = x / np.sqrt((x[rows] ** 2).mean())
    fit = LogisticRegression(C=1 / (l2 * x.shape[1]), tol=1e-9, max_iter=5000).fit(x[rows], y[rows])
    return np.log(fit.predict_proba(x).clip(1e-300))


def folds_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return stratified_folds(y, 5, 0, keys=Spectrum.of(x).squared_norms)


def logistic_accuracy(data: Sample) -> float:
    return (held_out_logistic(data.x, data.y, folds_of(data.x, data.y))[0].argmax(axis=1) == data.y).mean()


def logistic_nll(data: Sample) -> float:
    return held_out_logistic(data.x, data.y, folds_of(data.x, data.y))[2].mean()


def usable_information(data: Sample) -> float:
    """NLL(h) - NLL([h; x]) where a fold's training rows are told better with x, else nothing."""
    folds = folds_of(data.h, data.y)
    _, alone, nll = held_out_logistic(data.h, data.y, folds)
    _, joined, both = held_out_logistic(np.hstack([scaled(data.h), scaled(data.x)]), data.y, folds)
    return np.where((joined < alone)[folds], nll - both, 0).mean()


def transrate(data: Sample) -> float:
    x = scaled(data.x)
    rate = lambda z: np.linalg.slogdet(np.eye(z.shape[1]) + z.T @ z / len(z))[1] / 2  # noqa: E731
    return rate(x) - sum((data.y == c).mean() * rate(x[data.y == c]) for c in range(data.y.max() + 1))


def principal(x: np.ndarray, k: int | float) -> np.ndarray:
    return PCA(k, svd_solver="full").fit_transform(scaled(x))


def gbc(data: Sample) -> float:
    k = data.y.max() + 1
    x = principal(data.x, min(64, len(data.x) // (2 * k)))
    groups = [(x[data.y == c].mean(axis=0), np.diag(x[data.y == c].var(axis=0) + 1e-6 * x.var())) for c in range(k)]
    total = 0.0
    for (mean1, cov1), (mean2, cov2) in combinations(groups, 2):
        middle, gap = (cov1 + cov2) / 2, mean1 - mean2
        sizes = np.linalg.det(middle) / np.sqrt(np.linalg.det(cov1) * np.linalg.det(cov2))
        total -= np.exp(-gap @ np.linalg.solve(middle, gap) / 8 - np.log(sizes) / 2)
    return total


def by_length(data: Sample) -> np.ndarray:
    return np.argsort((scaled(data.x) ** 2).sum(axis=1))


def nleep(data: Sample) -> float:
    k, y = data.y.max() + 1, data.y[by_length(data)]
    x = principal(data.x, 0.8)[by_length(data)]
    x /= x.std()
    scores = []
    for start in range(5):
        parts = max(k, min(5 * k, len(y) // 6))
        mixture = GaussianMixture(parts, covariance_type="diag", reg_covar=1e-6, random_state=start).fit(x)
        member = mixture.predict_proba(x)
        given = np.array(
            [[member[y == c, part].sum() / member[:, part].sum() for c in range(k)] for part in range(parts)]
        )
        scores.append(np.mean([np.log(sum(given[:, y[j]] * member[j])) for j in range(len(y))]))
    return np.mean(scores)


def parc(data: Sample) -> float:
    x = principal(data.x, min(32, *data.x.shape))
    pairs = [
        (1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b), float(c != d))
        for (a, c), (b, d) in combinations(zip(x, data.y, strict=True), 2)
    ]
    return pd.DataFrame(pairs).corr(method="spearman").iloc[0, 1]


def loes(data: Sample) -> float:
    y, n = onehot(data.y), len(data.y)
    constant = np.stack([np.delete(y, j, axis=0).mean(axis=0) for j in range(n)])
    variances = np.linalg.svd(scaled(data.x))[1][: min(n - 1, data.x.shape[1])] ** 2
    spread = variances.mean() / (variances.mean() + variances.std())
    return ridge_mse(data) / ((y - constant) ** 2).mean() + 1 - spread


def mdl(data: Sample) -> float:
    n, k = len(data.y), data.y.max() + 1
    ends = {24: [12, 24], 40: [10, 20, 40], 36: [9, 18, 36]}[n]
    bits = []
    for l2 in L2_GRID:
        bits.append(np.log2(6) + ends[0] * np.log2(k))
        for seed in range(3):
            order = _order(data.y, Spectrum.of(data.x).squared_norms, seed)
            for end, after in pairwise(ends):
                fit = LogisticRegression(C=1 / (l2 * data.x.shape[1]), tol=1e-9, max_iter=5000)
                fit.fit(scaled(data.x)[order[:end]], data.y[order[:end]])
                sent = order[end:after]
                told = fit.predict_proba(scaled(data.x)[sent])[np.arange(len(sent)), data.y[sent]]
                bits[-1] -= np.log2(told).sum() / 3
    return min(bits) / n


def mlp(data: Sample) -> float:
    x, order = principal(data.x, min(len(data.x) - 1, data.x.shape[1])), by_length(data)
    x *= np.where((x**3).sum(axis=0) < 0, -1, 1) / x.std()
    seen = list(dict.fromkeys(data.y[order]))
    y, folds, correct = np.array([seen.index(c) for c in data.y]), folds_of(data.x, data.y), 0
    for fold in range(5):
        rows = order[folds[order] != fold]
        fit = MLPClassifier((32,), solver="lbfgs", alpha=1.0, max_iter=100, random_state=0).fit(x[rows], y[rows])
        correct += (fit.predict(x[folds == fold]) == y[folds == fold]).sum()
    return correct / len(y)


def gradient_coherence(data: Sample) -> float:
    """Differentiate the loss of each example on its own."""
    x, y, n = torch.tensor(scaled(data.x)), torch.tensor(data.y), len(data.y)
    intercept = torch.tensor(np.log(onehot(data.y).mean(axis=0)))
    gradients = []
    for j in range(n):
        weight = torch.zeros(len(intercept), x.shape[1], dtype=torch.float64, requires_grad=True)
        torch.nn.functional.cross_entropy(weight @ x[j] + intercept, y[j]).backward()
        gradients.append(weight.grad.flatten())
    products = torch.stack(gradients) @ torch.stack(gradients).T
    between = (products.sum() - products.trace()) / (n * (n - 1))
    return float(between / products.diagonal().mean())


# --- the table: one row an estimator ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claim:
    """What is tested of one estimator beyond what all share."""

    reference: Callable[[Sample], float]
    tolerance: float = 1e-9


CLAIMS = {
    "ridge_accuracy": Claim(ridge_accuracy),
    "ridge_mse": Claim(ridge_mse),
    "logistic_accuracy": Claim(logistic_accuracy),
    "logistic_nll": Claim(logistic_nll, 1e-4),
    "usable_information": Claim(usable_information, 1e-3),
    "logme": Claim(logme, 1e-6),
    "hscore": Claim(hscore),
    "knn": Claim(knn),
    "nearest_mean": Claim(nearest_mean),
    "hidden_state_variability": Claim(hidden_state_variability, 1e-7),
    "fisher_ratio": Claim(fisher_ratio),
    "effective_rank": Claim(effective_rank),
    "cka": Claim(cka),
    "mutual_knn": Claim(mutual_knn),
    "transrate": Claim(transrate),
    "gbc": Claim(gbc),
    "nleep": Claim(nleep, 1e-6),
    "parc": Claim(parc, 1e-6),
    "loes": Claim(loes),
    "mdl": Claim(mdl, 1e-4),
    "mlp": Claim(mlp),
    "gradient_coherence": Claim(gradient_coherence),
}
EVERY = list(CLAIMS)
LABELLED = [name for name in EVERY if name != "effective_rank"]  # it has no signal to find


def test_every_registered_estimator_is_in_the_table():
    assert set(estimators.names()) == set(EVERY)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("n", "dim", "k"), [(24, 60, 2), (40, 12, 2), (36, 50, 3)])
def test_it_agrees_with_its_definition(name, n, dim, k):
    data = sample(1.0, n=n, dim=dim, k=k)
    assert call(name, data) == pytest.approx(CLAIMS[name].reference(data), rel=CLAIMS[name].tolerance)


@pytest.mark.parametrize("name", EVERY)
def test_it_does_not_depend_on_the_order_of_the_examples(name):
    data = sample()
    order = np.random.default_rng(1).permutation(len(data.y))
    assert call(name, Sample(data.x[order], data.y[order], data.z[order], data.h[order])) == pytest.approx(
        call(name, data), rel=1e-8
    )


@pytest.mark.parametrize("name", EVERY)
def test_it_does_not_depend_on_the_names_of_the_classes(name):
    data = sample(k=3)
    assert call(name, replace(data, y=2 - data.y)) == pytest.approx(call(name, data), rel=1e-8)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dim", [30, 120])
def test_it_does_not_depend_on_rotation_or_offset(name, dim):
    data = sample(dim=dim)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(dim, dim)))[0]
    assert call(name, replace(data, x=data.x @ rotation + 3)) == pytest.approx(call(name, data), rel=1e-7)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_it_does_not_depend_on_scale(name, scale):
    data = sample()
    assert call(name, replace(data, x=data.x * scale, z=data.z / scale)) == pytest.approx(call(name, data), rel=1e-8)


@pytest.mark.parametrize("name", EVERY)
def test_a_given_spectrum_changes_nothing(name):
    data = sample()
    assert call(name, data, spectrum=Spectrum.of(data.x)) == pytest.approx(call(name, data), rel=1e-10)


@pytest.mark.parametrize("name", LABELLED)
def test_with_fewer_examples_than_dimensions_it_tells_signal_from_noise(name):
    noise = [better(name, call(name, sample(0.0, n=60, dim=400, seed=seed))) for seed in range(6)]
    signal = [better(name, call(name, sample(3.0, n=60, dim=400, seed=seed))) for seed in range(6)]
    assert np.median(signal) > max(noise)
    assert np.mean(signal) - np.mean(noise) > 2 * np.std(noise)


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("k", [2, 4])
def test_more_signal_never_lowers_it(name, k):
    levels = [np.mean([better(name, call(name, sample(s, k=k, seed=i))) for i in range(4)]) for s in (0, 1, 2, 4)]
    assert np.all(np.diff(levels) >= 0)
    assert levels[-1] > levels[0]


def test_effective_rank_counts_directions():
    rng = np.random.default_rng(0)
    for directions in (1, 5, 25):
        x = np.linalg.qr(rng.normal(size=(60, directions)))[0]
        x = np.linalg.qr(x - x.mean(axis=0))[0] @ np.linalg.qr(rng.normal(size=(100, directions)))[0].T
        assert estimators.effective_rank(x) == pytest.approx(directions)


ODD = {
    "constant": lambda x, y: np.full_like(x, 0.1),
    "constant for each class": lambda x, y: np.linspace(0, 1, y.max() + 1)[y, None] * np.ones(x.shape[1]),
    "one column": lambda x, y: x[:, :1],
    "mostly constant columns": lambda x, y: x * (np.arange(x.shape[1]) < 2),
    "each example twice": lambda x, y: np.repeat(x[::2], 2, axis=0),
    "two different examples": lambda x, y: x[np.arange(len(x)) % 2],
    "huge": lambda x, y: x * 1e200,
    "tiny": lambda x, y: x * 1e-200,
    "float32": lambda x, y: x.astype(np.float32),
    "one outlier": lambda x, y: x * np.where(np.arange(len(x)) == 3, 1e6, 1)[:, None],
    "columns of very different size": lambda x, y: x * np.logspace(-8, 8, x.shape[1]),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("odd", ODD)
def test_it_is_finite_on_odd_features(name, odd):
    data = sample()
    for k in (2, 5):
        y = np.arange(60) % k
        assert np.isfinite(call(name, replace(data, x=ODD[odd](data.x, y), y=y)))


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("dim", [20, 200])
def test_it_finds_the_signal_among_twenty_classes(name, dim):
    low, high = (better(name, call(name, sample(s, n=100, dim=dim, k=20))) for s in (0.0, 6.0))
    assert high > low


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize("dim", [20, 200])
def test_it_finds_the_signal_when_five_examples_in_a_hundred_are_of_the_other_class(name, dim):
    options = {"k": 4} if name in ("knn", "mutual_knn") else {}  # ten neighbours would outvote a class of five
    low, high = (better(name, call(name, sample(s, n=100, dim=dim, share=0.05), **options)) for s in (0.0, 6.0))
    assert high > low


@pytest.mark.parametrize("name", ["ridge_accuracy", "knn", "nearest_mean"])
@pytest.mark.parametrize(("share", "expected"), [(0.5, 0.5), (0.7, 0.7)])
def test_accuracy_on_constant_features_is_the_share_of_the_largest_class(name, share, expected):
    data = sample(share=share)
    assert estimators.get(name)(np.full((60, 5), 0.3), data.y) == pytest.approx(expected)


@pytest.mark.parametrize("name", EVERY)
def test_constant_features_score_no_better_than_noise_with_a_signal(name):
    data = sample(4.0)
    if name in LABELLED:
        assert better(name, call(name, replace(data, x=np.ones((60, 9))))) < better(name, call(name, data))
    else:
        assert call(name, replace(data, x=np.ones((60, 9)))) == 0


@pytest.mark.parametrize("name", EVERY)
def test_parts_of_examples_average_to_the_score(name):
    data = sample(1.0)
    scored = estimators.get(name).score(data.x, data.y, **second(name, data))
    if scored.per_example is not None:
        assert scored.per_example.shape == (60,)
        assert scored.per_example.mean() == pytest.approx(scored.value)


# --- what is particular to one ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "dim"), [(200, 2048), (300, 100), (50, 50)])
def test_logme_is_the_exact_log_marginal_likelihood_at_its_alpha_and_beta(n, dim):
    data = sample(1.0, n=n, dim=dim)
    found = log_evidence(Spectrum.of(data.x), onehot(data.y))
    exact = [
        exact_evidence(scaled(data.x), y, a, b)
        for y, a, b in zip(onehot(data.y).T, found.alpha, found.beta, strict=True)
    ]
    np.testing.assert_allclose(found.value, exact, rtol=1e-8)
    assert estimators.logme(data.x, data.y) == pytest.approx(np.mean(exact))


def test_logme_has_no_term_for_directions_that_the_examples_do_not_span():
    """The released code gives (D - rank)/2 ln(alpha) too much where N < D, so that it follows the scale of features."""
    data = sample(1.0, n=40, dim=50)
    padded = np.hstack([data.x, np.zeros((40, 1000))])
    assert estimators.logme(padded, data.y) == pytest.approx(estimators.logme(data.x, data.y))


def test_logme_of_noise_is_the_evidence_without_features():
    data = sample(0.0, n=400, dim=20)
    without = -0.5 * (np.log(2 * np.pi * data.y.var() * 400 / 399) + 1)
    assert estimators.logme(np.ones((400, 3)), data.y) == pytest.approx(without)
    assert without - 1e-8 < estimators.logme(data.x, data.y) < without + 0.02


def test_the_shrunk_hscore_does_not_saturate_where_the_plain_one_does():
    data = sample(0.0, n=60, dim=400, k=4)
    x, _, between = class_covariances(data)
    assert np.trace(np.linalg.pinv(x.T @ x / 60) @ between) == pytest.approx(3)
    assert estimators.hscore(data.x, data.y) < 1


def test_ridge_accuracy_of_noise_is_chance_though_left_out_means_point_away():
    accuracies = [call("ridge_accuracy", sample(0.0, n=60, dim=60, seed=seed)) for seed in range(20)]
    assert 0.4 < np.mean(accuracies) < 0.6


def test_neighbours_that_tie_share_the_vote_whatever_their_order():
    x = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0], [-1, 0], [-1, 0], [-1, 0], [-1, 0]])
    y = np.array([0, 0, 0, 1, 1, 1, 1, 0])
    values = {
        estimators.knn(x[order], y[order], k=2)
        for order in (np.arange(8), np.arange(8)[::-1], [3, 0, 1, 2, 7, 4, 5, 6])
    }
    assert values == {0.75}


def test_identical_feature_sets_are_alike():
    data = sample()
    assert estimators.cka(data.x, other=data.x) == pytest.approx(1)
    assert estimators.mutual_knn(data.x, other=data.x) == pytest.approx(1)


def test_unbiased_cka_of_independent_features_is_about_zero_with_more_dimensions_than_examples():
    rng = np.random.default_rng(0)
    values = [estimators.cka(rng.normal(size=(40, 400)), other=rng.normal(size=(40, 400))) for _ in range(20)]
    assert abs(np.mean(values)) < 0.01


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        ["bad", "good", "bad", "good"],
        [0.0, 1.0, 0.0, 1.0],
        [False, True, False, True],
        np.array([-1, 7, -1, 7]),
        pd.Series(["a", "b", "a", "b"]),
        torch.tensor([3, 9, 3, 9]),
        np.array(["x", "y", "x", "y"], dtype=object),
    ],
)
def test_labels_may_be_strings_whole_floats_booleans_or_any_whole_numbers(labels):
    codes = as_labels(labels)
    assert codes.dtype == np.int64
    assert codes.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, None, 0], "label is missing.*row 2"),
        ([0.0, float("nan"), 1.0, 0.0], "label is missing.*row 1"),
        ([0.0, 1.0, 0.5, 0.0], "0.5 names no class.*row 2"),
        ([0, 1, float("inf"), 0], "inf names no class.*row 2"),
        ([0, 1, (2,), 0], "names no class.*row 2"),
        (["a", "b", 3, "a"], "another kind.*rows 2 and 0"),
        (["a", "a", "a", "a"], "every label is 'a'"),
        ([0, 1, 2, 3], "4 examples have 4 classes"),
        ([0, 1, 0], "3 labels for 4 examples"),
        ([], "0 labels for 4 examples"),
        ("abab", "labels are a str"),
        (3, "labels are a int"),
        (np.zeros((4, 2)), "shape"),
        (None, "needs labels"),
    ],
)
def test_unusable_labels_are_refused_with_the_row(labels, message):
    with pytest.raises(EstimatorError, match=message):
        estimators.logme(np.eye(4), labels)


@pytest.mark.parametrize("name", ["ridge_accuracy", "ridge_mse", "knn", "nearest_mean", "logistic_nll"])
def test_a_class_with_one_example_is_refused_where_examples_are_left_out(name):
    with pytest.raises(EstimatorError, match="class 'rare' has 1 example.*row 3"):
        estimators.get(name)(np.eye(6), ["a", "b", "a", "rare", "b", "a"])


@pytest.mark.parametrize("name", ["logme", "hscore", "fisher_ratio", "hidden_state_variability"])
def test_a_class_with_one_example_is_taken_where_none_is_left_out(name):
    assert np.isfinite(estimators.get(name)(np.eye(6), ["a", "b", "a", "rare", "b", "a"]))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(name, bad):
    data = sample()
    data.x[5, 6] = bad
    with pytest.raises(EstimatorError, match="row 5, column 6"):
        call(name, data)


def test_other_features_are_checked_too():
    data = sample()
    with pytest.raises(EstimatorError, match=r"pass other="):
        estimators.cka(data.x)
    with pytest.raises(EstimatorError, match="59 other features for 60 examples"):
        estimators.cka(data.x, other=data.z[:-1])
    with pytest.raises(EstimatorError, match="other features hold"):
        estimators.cka(data.x, other=data.z * np.nan)
    with pytest.raises(EstimatorError, match="at least four"):
        estimators.cka(data.x[:3], other=data.z[:3])


def test_the_spectrum_of_other_features_is_refused():
    data = sample()
    with pytest.raises(EstimatorError, match="the spectrum is of features"):
        estimators.logme(data.x, data.y, spectrum=Spectrum.of(data.z))


def test_an_unknown_option_is_refused_with_those_that_there_are():
    data = sample()
    with pytest.raises(EstimatorError, match="no option 'neighbours'.*its options are k"):
        estimators.knn(data.x, data.y, neighbours=3)


# --- the registry -----------------------------------------------------------------------------------------------------

FACTS = {"title": "Spread", "unit": "", "range": "[0, inf)", "cost": "N D", "source": "this test"}


@pytest.fixture
def open_registry(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def test_every_estimator_is_an_attribute_of_its_name():
    for name in estimators.names():
        assert getattr(estimators, name) is estimators.get(name)


@pytest.mark.parametrize("name", EVERY)
def test_every_docstring_says_shapes_range_direction_cost_and_source(name):
    for part in ("shape (N, D)", "Returns", "Range: ", "Direction: ", "Cost: ", "Source: "):
        assert part in estimators.get(name).__doc__


def test_an_unknown_name_is_refused_with_those_that_are_near():
    with pytest.raises(EstimatorError, match="no estimator 'log_me'.*logme"):
        estimators.get("log_me")
    with pytest.raises(EstimatorError, match="choose from ridge_accuracy|choose from"):
        estimators.get("zzz")


def test_estimators_are_chosen_by_name_list_or_group():
    assert [e.name for e in estimators.resolve("knn, logme,knn")] == ["knn", "logme"]
    assert [e.name for e in estimators.resolve(["hscore"])] == ["hscore"]
    assert [e.name for e in estimators.resolve("all")] == estimators.names()
    assert [e.name for e in estimators.resolve("default")] == estimators.names(default_only=True)
    for nothing in ("", []):
        with pytest.raises(EstimatorError, match="no estimator was named"):
            estimators.resolve(nothing)


def test_one_decorator_adds_an_estimator(open_registry):
    @estimators.estimator(**FACTS)
    def spread(features, *, power: float = 1.0):
        """Standard deviation of all features."""
        return features.std() ** power

    x = sample().x
    assert estimators.get("spread")(x, power=2) == pytest.approx(x.var())
    assert spread.family == "label-free"
    assert "Range: [0, inf)" in spread.__doc__
    assert "spread" in estimators.names()
    assert "spread" not in estimators.names(default_only=True)


def test_an_estimator_gets_codes_spectrum_and_other_features_if_it_names_them(open_registry):
    @estimators.estimator(**FACTS)
    def everything(features, labels, *, other, spectrum):
        """Everything that there is."""
        assert set(labels) == {0, 1}
        assert spectrum.n == len(other) == len(features)
        return Scored.mean(labels)

    assert everything.family == "pair"
    assert everything(np.eye(4), ["a", "b", "a", "b"], other=np.eye(4)) == 0.5


def test_a_name_is_taken_once_but_a_cell_may_run_again(open_registry):
    def define():
        def mine(features):
            """Nothing."""
            return 0.0

        return mine

    estimators.estimator(**FACTS)(define())
    estimators.estimator(**FACTS)(define())
    with pytest.raises(EstimatorError, match="there is an estimator 'mine' already"):
        estimators.estimator(**FACTS, name="mine")(lambda features: 0.0)


def no_docstring(features):
    return 0.0


def wrong_first(x):
    """Nothing."""


def unknown_argument(features, layers):
    """Nothing."""


def any_arguments(features, **options):
    """Nothing."""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_docstring, "has no docstring"),
        (wrong_first, "does not take features"),
        (unknown_argument, "nobody would pass the argument 'layers'"),
        (any_arguments, "nobody would pass the argument 'options'"),
    ],
)
def test_a_function_that_could_not_be_called_is_refused_at_registration(open_registry, function, message):
    with pytest.raises(EstimatorError, match=message):
        estimators.estimator(**FACTS)(function)
    assert function.__name__ not in estimators.names()


def test_a_score_that_is_not_finite_is_an_error(open_registry):
    @estimators.estimator(**FACTS)
    def broken(features):
        """Not a number."""
        return float("nan")

    with pytest.raises(EstimatorError, match="broken gave nan"):
        broken(np.eye(3))
