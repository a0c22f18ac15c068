"""The logistic probe: cross-validated for all layers, with a nested choice of the penalty.

With a penalty on the squared norm, a logistic regression on rotated features is the same one rotated. All principal
components of a layer, of all its rows, are such a rotation: nothing is left out, so nothing is learnt from held-out
rows, and one decomposition serves every fold. Centring is absorbed by the intercept, and the scale of a fold's own
training rows by its penalty. What a fold knows is therefore exactly what ``StandardScaler`` without per-feature scaling
followed by ``LogisticRegression`` would learn from its training rows alone; ``tests/test_linear.py`` compares them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pifi_probe.errors import EstimatorError
from pifi_probe.scoring.folds import fold_pairs, stratified_folds
from pifi_probe.scoring.labels import as_labels
from pifi_probe.scoring.newton import minimise
from pifi_probe.scoring.spectrum import Spectrum

__all__ = ["L2_GRID", "CVResult", "LogisticFit", "cross_validate", "cross_validated", "fit_logistic"]

logger = logging.getLogger(__name__)
Floats = NDArray[np.float64]
L2_GRID = (100.0, 10.0, 1.0, 0.1, 0.01)  # times the number of features
CHOOSING = 1e-3  # tolerance of fits that only choose the penalty: the NLL is then off by about 1e-6
COLUMNS = 256  # coefficient vectors that are fitted at once: more are not faster, and take more memory
FITTING = 1 << 29  # bytes of 20 numbers for each coefficient vector, example and feature


@dataclass(frozen=True)
class LogisticFit:
    """Fitted problems.

    Parameters
    ----------
    coef : Tensor, shape (P, C, D), float64
        C = 1 for two classes (the log-odds of the second), else the number of classes; over classes they sum to zero.
    intercept : Tensor, shape (P, C), float64
    converged : array of bool, shape (P,)
    """

    coef: Tensor
    intercept: Tensor
    converged: NDArray[np.bool_]

    def only(self, problem: int) -> LogisticFit:
        """Return the fit of one problem, P = 1."""
        one = slice(problem, problem + 1)
        return LogisticFit(self.coef[one], self.intercept[one], self.converged[one])

    def log_probabilities(self, x: ArrayLike | Tensor) -> Tensor:
        """Return log-probabilities (P, K, N) of the rows of `x`, shape (N, D)."""
        rows = torch.as_tensor(x, dtype=torch.float64, device=self.coef.device)
        logits = self.coef @ rows.T + self.intercept[..., None]  # (P, C, N)
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return logits.log_softmax(dim=1)


def fit_logistic(
    x: ArrayLike | Tensor,
    y: ArrayLike,
    l2: ArrayLike,
    masks: ArrayLike,
    *,
    tol: float = 1e-8,
    device: str | torch.device = "cpu",
) -> LogisticFit:
    """Fit P logistic regressions to rows of one feature matrix.

    Problem p minimises ``(masks[p] * NLL).sum() + l2[p] * (coef**2).sum() / 2``; the intercept is free. That is
    ``sklearn.linear_model.LogisticRegression(C=1 / l2[p])``.

    Parameters
    ----------
    x : array, shape (N, D)
        Features; fastest where the columns are principal components.
    y : array of int, shape (N,)
        Classes 0..K-1, K at least 2.
    l2 : array, shape (P,)
        Penalties, larger than zero.
    masks : array, shape (P, N)
        1 for the rows that a problem is fitted to, 0 for the others. All zeros give coefficients of zero.
    tol : float
        A problem has converged when its last Newton step was at most `tol` of its coefficients' norm.
    device : str
        Where to compute, in float64.

    Returns
    -------
    LogisticFit
        Problems that did not converge are marked; saying so is the caller's part.

    Notes
    -----
    Cost: about 50 to 100 products of (P C, D) with (D, N), forth and back. Memory besides `x`: one copy and the squares
    of `x`, and 20 x 256 x (N + D) numbers, but no more than 512 MiB: so many coefficient vectors are fitted at once.
    """
    features = torch.as_tensor(x, dtype=torch.float64, device=device)
    z = torch.cat([features, features.new_ones(len(features), 1)], dim=1)  # the last column carries the intercept
    rows = torch.as_tensor(np.asarray(masks), dtype=torch.float64, device=device)
    penalty = torch.as_tensor(np.asarray(l2), dtype=torch.float64, device=device)
    penalty = penalty[:, None] * torch.tensor([1.0] * features.shape[1] + [0.0], dtype=torch.float64, device=device)
    targets = _targets(torch.as_tensor(np.asarray(y), device=device))
    columns = min(COLUMNS, FITTING // (160 * (len(features) + features.shape[1])))
    size = max(1, columns // len(targets))
    parts = [
        minimise(z, targets, penalty[i : i + size, None], rows[i : i + size, None], tol)
        for i in range(0, len(rows), size)
    ]
    theta = torch.cat([part[0] for part in parts])  # (P, C, D + 1)
    intercept = theta[..., -1]
    if theta.shape[1] > 1:
        intercept = intercept - intercept.mean(dim=1, keepdim=True)
    return LogisticFit(theta[..., :-1], intercept, torch.cat([part[1] for part in parts]).cpu().numpy())


def _targets(classes: Tensor) -> Tensor:
    """Return one-hot targets (K, N), or (1, N) of the second of two classes."""
    one_hot = classes == torch.arange(int(classes.max()) + 1, device=classes.device)[:, None]
    return (one_hot[1:] if len(one_hot) == 2 else one_hot).to(torch.float64)


@dataclass(frozen=True)
class CVResult:
    """One feature set, every example scored by a model that has not seen it.

    Parameters
    ----------
    nll : array of float, shape (N,)
        Negative log-likelihood of the true class, nats.
    correct : array of bool, shape (N,)
    predictions : array of int, shape (N,)
        Codes 0..K-1 of the most probable class.
    folds : array of int, shape (N,)
        The fold that held each example out.
    l2 : array of float, shape (F,)
        The penalty that each fold chose, of those in the grid.
    chosen_by : array of float, shape (F,)
        NLL that this penalty had, summed over the other folds' examples, each held out: by it one may choose between
        results with the same folds, without looking at what is scored.
    converged : bool
        Whether all fits did.
    """

    nll: Floats
    correct: NDArray[np.bool_]
    predictions: NDArray[np.int64]
    folds: NDArray[np.int64]
    l2: Floats
    chosen_by: Floats
    converged: bool


def cross_validated(
    features: Iterable[ArrayLike | Spectrum],
    labels: Iterable[object],
    *,
    n_folds: int = 5,
    l2_grid: Sequence[float] = L2_GRID,
    seed: int = 0,
    names: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
) -> list[CVResult]:
    """Score feature sets of the same examples, such as all layers, by cross-validated logistic regression.

    Features are centred and divided by one number, their global RMS on a fold's training rows; none is left out. The
    penalty is ``l2 * D`` for the squared norm of the coefficients against the summed NLL, with `l2` chosen inside
    the training rows: each of the other folds is predicted by a fit without it. Of equal penalties the strongest wins.

    Parameters
    ----------
    features : iterable of array (N, D) or Spectrum
        Taken one at a time: a generator keeps one layer in memory.
    labels : iterable, length N
        Strings or whole numbers.
    n_folds : int
        At least 3. Folds are stratified and the same for all feature sets; they are drawn by the lengths of the
        first set's vectors, so that the order of the examples does not matter.
    l2_grid : sequence of float
    seed : int
        Of the folds.
    names : sequence of str, optional
        Of the feature sets, for warnings; by default their number.
    device : str
        Where to fit, in float64.

    Returns
    -------
    list of CVResult
        One for each feature set. A fit that did not converge is logged as a warning, with feature set and fold.

    Raises
    ------
    EstimatorError
        If features or labels are unusable, a class has a single example, or the folds or the grid are.

    Notes
    -----
    Cost for each set: the decomposition, then ``n_folds (n_folds - 1) / 2 * len(l2_grid) + n_folds`` fits at once
    (see `fit_logistic`). Where a class is missing from the rows of a fit that chooses the penalty, that fit is
    left out of the choice.
    """
    codes = as_labels(labels, min_per_class=2)
    results: list[CVResult] = []
    folds: NDArray[np.int64] | None = None
    for i, one in enumerate(features):
        spectrum = one if isinstance(one, Spectrum) else Spectrum.of(one)
        if spectrum.n != len(codes):
            raise EstimatorError(
                f"{len(codes)} labels for {spectrum.n} examples", next="pass one label for each example"
            )
        if folds is None:
            folds = stratified_folds(codes, n_folds, seed, keys=spectrum.squared_norms)
        name = names[i] if names else str(i)
        results.append(cross_validate(spectrum, codes, folds, l2_grid=l2_grid, name=name, device=device))
    return results


def cross_validate(
    spectrum: Spectrum,
    y: NDArray[np.int64],
    folds: NDArray[np.int64],
    *,
    l2_grid: Sequence[float] = L2_GRID,
    name: str = "0",
    device: str | torch.device = "cpu",
) -> CVResult:
    """Score one feature set; `cross_validated` says how.

    Parameters
    ----------
    spectrum : Spectrum
        Of the features (N, D).
    y : array of int, shape (N,)
        Classes 0..K-1, each with at least two examples.
    folds : array of int, shape (N,)
        From `pifi_probe.scoring.folds.stratified_folds`.
    l2_grid : sequence of float
    name : str
        Of the feature set, for warnings.
    device : str

    Returns
    -------
    CVResult

    Raises
    ------
    EstimatorError
        If the grid holds no penalty that is larger than zero.
    """
    grid = np.sort(np.asarray(l2_grid, dtype=np.float64))[::-1]
    if not len(grid) or not np.isfinite(grid).all() or grid[-1] <= 0:
        raise EstimatorError(f"penalties of {list(l2_grid)}", where="l2_grid", next="give numbers larger than zero")
    x = spectrum.components()  # (N, rank)
    n_folds = int(folds.max()) + 1
    pairs = fold_pairs(n_folds)
    masks = np.stack([(folds != f) & (folds != g) for f, g in pairs])
    masks[_lacks_a_class(masks, y)] = False  # fitted to nothing, it says the same for every penalty
    l2 = np.outer(_unit_penalty(x, spectrum, masks), grid).ravel()
    fit = fit_logistic(x, y, l2, masks.repeat(len(grid), axis=0), tol=CHOOSING, device=device)
    nll = _nll(fit, x, y).reshape(len(pairs), len(grid), len(y))
    stuck = ~fit.converged.reshape(len(pairs), len(grid)).all(axis=1)
    inner = np.zeros((n_folds, len(grid)))
    for (f, g), loss in zip(pairs, nll, strict=True):
        inner[f] += loss[:, folds == g].sum(axis=1)
        inner[g] += loss[:, folds == f].sum(axis=1)
    chosen = grid[inner.argmin(axis=1)]
    masks = folds != np.arange(n_folds)[:, None]
    fit = fit_logistic(x, y, chosen * _unit_penalty(x, spectrum, masks), masks, device=device)
    _warn(name, [pairs[i] for i in np.flatnonzero(stuck)], np.flatnonzero(~fit.converged))
    log_p = torch.empty(len(y), int(y.max()) + 1, dtype=torch.float64)  # each row by the fit that left it out
    for fold in range(n_folds):
        held = folds == fold
        log_p[torch.from_numpy(held)] = fit.only(fold).log_probabilities(x[held])[0].T.cpu()
    predictions = log_p.argmax(dim=1).cpu().numpy()
    return CVResult(
        nll=-log_p[np.arange(len(y)), y].cpu().numpy(),
        correct=predictions == y,
        predictions=predictions,
        folds=folds,
        l2=chosen,
        chosen_by=inner.min(axis=1),
        converged=not stuck.any() and bool(fit.converged.all()),
    )


def _lacks_a_class(masks: NDArray[np.bool_], y: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.array([len(np.unique(y[mask])) <= y.max() for mask in masks])


def _unit_penalty(x: Floats, spectrum: Spectrum, masks: NDArray[np.bool_]) -> Floats:
    """Return the penalties (P,) of `l2` = 1 on components that are not yet divided by the RMS of their training rows.

    Dividing features by r multiplies coefficients by r: the same fit has the penalty times r squared.
    """
    n = np.maximum(masks.sum(axis=1), 1)
    means = masks.astype(np.float64) @ x / n[:, None]
    squares = masks @ spectrum.squared_norms / n - (means**2).sum(axis=1)  # D times the squared RMS
    return np.where(squares > 1e-12 * spectrum.dim, squares, spectrum.dim)  # one vector in all rows: any will do


def _nll(fit: LogisticFit, x: Floats, y: NDArray[np.int64]) -> Floats:
    """Return the NLL (P, N) of the true classes; the probabilities of one fit at a time are in memory."""
    loss = np.empty((len(fit.coef), len(y)))
    for p in range(len(loss)):
        loss[p] = -fit.only(p).log_probabilities(x)[0, y, np.arange(len(y))].cpu().numpy()
    return loss


def _warn(name: str, choosing: Sequence[tuple[int, int]], scoring: NDArray[np.intp]) -> None:
    advice = "; its scores are not reliable: use stronger penalties"
    for pair in choosing:
        logger.warning("feature set %s, fit without folds %d and %d: not converged%s", name, *pair, advice)
    for fold in scoring:
        logger.warning("feature set %s, fold %d: not converged%s", name, fold, advice)
