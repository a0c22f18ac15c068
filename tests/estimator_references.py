"""What each estimator should give, by its definition or another library: slow and plain. Functions have their names."""

from __future__ import annotations

from functools import cache
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize
from scipy.stats import entropy, multivariate_normal
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestCentroid, NearestNeighbors
from sklearn.neural_network import MLPClassifier

from pifi_probe.scoring.estimators.coding import _order
from pifi_probe.scoring.folds import stratified_folds
from pifi_probe.scoring.linear import L2_GRID
from pifi_probe.scoring.spectrum import Spectrum
from tests.planted import Sample


def scaled(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=0)
    return x / np.sqrt((x**2).mean())


def onehot(y: np.ndarray) -> np.ndarray:
    return np.eye(y.max() + 1)[y]


def refitted_ridge(data: Sample) -> np.ndarray:
    """Fit scikit-learn's Ridge N times for each penalty; the predictions of the best one."""
    return _refitted_ridge(data.x.tobytes(), tuple(data.y))


@cache
def _refitted_ridge(rows: bytes, labels: tuple[int, ...]) -> np.ndarray:
    x, y, n = scaled(np.frombuffer(rows).reshape(len(labels), -1)), onehot(np.array(labels)), len(labels)
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
        starts = [(np.log(x.shape[1] * ratio), 1.5) for ratio in (1, 30)]
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
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(first, second, strict=True)]))


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


def span(data: Sample) -> float:
    """Without states at an entry, what the features add to the encoder."""
    return usable_information(data)


def transrate(data: Sample) -> float:
    x = principal(data.x, len(data.x) // (4 * (data.y.max() + 1)))
    x /= x.std()
    rate = lambda z: np.linalg.slogdet(np.eye(z.shape[1]) + np.atleast_2d(np.cov(z.T, bias=True)))[1] / 2  # noqa: E731
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
    return float(pd.DataFrame(pairs).corr(method="spearman").to_numpy()[0, 1])


def loes(data: Sample) -> float:
    y, n = onehot(data.y), len(data.y)
    constant = np.stack([np.delete(y, j, axis=0).mean(axis=0) for j in range(n)])
    variances = np.linalg.svd(scaled(data.x))[1][: min(n - 1, data.x.shape[1])] ** 2
    spread = variances.mean() / (variances.mean() + variances.std())
    return ridge_mse(data) / ((y - constant) ** 2).mean() + 0.1 * (1 - spread)


def mdl(data: Sample) -> float:
    n, k = len(data.y), data.y.max() + 1
    ends = {24: [12, 24], 40: [10, 20, 40], 30: [15, 30]}[n]
    bits = []
    for l2 in L2_GRID:
        bits.append(np.log2(len(L2_GRID)) + ends[0] * np.log2(k))
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
        fit = MLPClassifier((32,), solver="lbfgs", alpha=1.0, max_iter=50, random_state=0).fit(x[rows], y[rows])
        correct += (fit.predict(x[folds == fold]) == y[folds == fold]).sum()
    return correct / len(y)


def gradient_coherence(data: Sample) -> float:
    """Differentiate the loss of each example on its own."""
    x, y, n = torch.tensor(scaled(data.x)), torch.tensor(data.y), len(data.y)
    intercept = torch.tensor(np.log(onehot(data.y).mean(axis=0)))
    gradients = []
    for j in range(n):
        weight = torch.zeros(len(intercept), x.shape[1], dtype=torch.float64, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(weight @ x[j] + intercept, y[j])
        gradients.append(torch.autograd.grad(loss, weight)[0].flatten())
    products = torch.stack(gradients) @ torch.stack(gradients).T
    between = (products.sum() - products.trace()) / (n * (n - 1))
    return float(between / products.diagonal().mean())
