"""A Gaussian process over depth: what measured layers say of the others (book/methods.md, Search)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pifi_probe.selection.space import Candidate, Space, place_of

__all__ = ["Posterior", "fit_depths", "layer_posterior", "model_number", "places", "seed_adjusted"]

Array = NDArray[np.float64]
N_DRAWS = 512


@dataclass(frozen=True)
class Posterior:
    """What is believed of every layer; lower values are better.

    Parameters
    ----------
    mean, sd : array (layers,)
    draws : array (draws, layers)
        Joint samples.
    """

    mean: Array
    sd: Array
    draws: Array

    @property
    def p_best(self) -> Array:
        """Share of the draws in which each layer is the best, (layers,)."""
        winners = np.bincount(self.draws.argmin(1), minlength=len(self.mean))
        return np.asarray(winners / len(self.draws), dtype=np.float64)

    def regret(self, index: int) -> float:
        """Return how much higher a layer is expected to be than the best one."""
        return float((self.draws[:, index] - self.draws.min(1)).mean())


def places(layers: Sequence[tuple[int, float]]) -> Array:
    """Return coordinates for the process: depth and, with several models, which model it is.

    Parameters
    ----------
    layers : sequence of (int, float)
        For each layer the number of its model, from 0, and its depth in it, in [0, 1].

    Returns
    -------
    array of float64, shape (layers, 1), or (layers, 1 + models) with several models
        Depth first, then the model as one-hot columns.
    """
    n_models = 1 + max(model for model, _ in layers)
    depth = np.array([[depth] for _, depth in layers], dtype=np.float64)
    if n_models == 1:
        return depth
    return np.hstack([depth, np.eye(n_models)[[model for model, _ in layers]]])


def seed_adjusted(values: Mapping[tuple[int, int], float]) -> tuple[Array, Array, Array]:
    """Return layers, their means without what the seeds share, and the noise of each mean.

    Layers are measured with different seeds; an additive model of layers and seeds, by least squares, makes their
    means comparable, where a chain of shared seeds links them.

    Parameters
    ----------
    values : mapping of (layer, seed) to float
        In any unit.

    Returns
    -------
    layers : array of float64, shape (layers,)
        The numbers of the layers, sorted; whole numbers, to be cast where they index.
    means : array of float64, shape (layers,)
        In the unit of the values, at the mean effect of the seeds.
    variances : array of float64, shape (layers,)
        Residual variance of all layers over the number of runs of each. The uncertainty of the seeds' own effects is
        not in it, so that means of few seeds are less certain than it says. NaN where nothing was repeated.
    """
    from scipy.sparse.csgraph import connected_components

    layers, seeds = (sorted({key[axis] for key in values}) for axis in (0, 1))
    keys = list(values)
    design = np.zeros((len(keys), len(layers) + len(seeds)))
    for row, (layer, seed) in enumerate(keys):
        design[row, layers.index(layer)] = design[row, len(layers) + seeds.index(seed)] = 1.0
    y = np.array([values[key] for key in keys], dtype=np.float64)
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    # What no chain of shared seeds links is compared as it was measured: on average seeds do nothing to any such part.
    _, part = connected_components(design.T @ design)
    of_layers, of_seeds = part[: len(layers)], part[len(layers) :]
    shift = np.array([solution[len(layers) :][of_seeds == own].mean() for own in of_layers])
    free = len(keys) - int(np.linalg.matrix_rank(design))
    noise = float(((y - design @ solution) ** 2).sum()) / free if free > 0 else float("nan")
    counts = design[:, : len(layers)].sum(0)
    return np.array(layers, dtype=np.float64), solution[: len(layers)] + shift, noise / counts


def fit_depths(
    x: Array, y: Array, variance: Array, grid: Array, prior: tuple[Array, Array] | None = None, seed: int = 0
) -> Posterior:
    """Fit a Gaussian process (Matern 5/2; length scale and nugget by marginal likelihood).

    Parameters
    ----------
    x, y, variance : array
        Coordinates (n, k) as from `places`, values (n,), of which lower is better, and the noise variance of each
        (n,). Where it is known the nugget is what a layer has of its own, apart from its neighbours; where it is not
        (NaN), the nugget counts as noise.
    grid : array (m, k)
        All layers, the measured ones too.
    prior : tuple of array, optional
        A cheap score at `x` (n,) and at `grid` (m,): its regression line is the mean of the process. Here **lower is
        better**, too, against the convention of estimators: a line that falls is left out.
    seed : int
        Of the draws.

    Returns
    -------
    Posterior
        Of all m layers, in the unit of `y`.

    Notes
    -----
    After Rasmussen and Williams, Gaussian Processes for Machine Learning (2006): the posterior is equations 2.25 and
    2.26, the marginal likelihood equation 2.30, the Matern kernel with nu = 5/2 equation 4.17.
    """
    from scipy.optimize import minimize
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    # The process models what the regression on a cheap score leaves, in units of its spread, so that the bounds of the
    # kernel mean the same for every task. Coordinates are depth, then one-hot models, each with a length scale.
    line_x, line_grid = _line(y, prior, len(grid))
    rest = y - line_x
    spread = float(rest.std()) or max(float(np.abs(y).max()), 1.0) * 1e-6
    scales = [0.2] + [1.0] * (x.shape[1] - 1)
    bounds = [(0.03, 2.0)] + [(0.3, 10.0)] * (x.shape[1] - 1)
    kernel = ConstantKernel(1.0, (0.05, 20.0)) * Matern(scales, bounds, nu=2.5) + WhiteKernel(0.1, (1e-4, 2.0))
    known = bool(np.isfinite(variance).all())
    noise = np.nan_to_num(variance, nan=0.0) / spread**2 + 1e-8
    process = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(x, rest / spread)

    def loss(theta: Array) -> tuple[float, Array]:
        value, gradient = process.log_marginal_likelihood(theta, eval_gradient=True, clone_kernel=False)
        return -value, -gradient

    # As scikit-learn's own optimizer, which warns where a value meets its bound. Here bounds are meant to be met, and
    # warnings cannot be silenced in a thread: their filters belong to the process.
    theta = kernel.theta
    if len(y) > 3:
        theta = minimize(loss, theta, method="L-BFGS-B", jac=True, bounds=kernel.bounds).x
    fitted = kernel.clone_with_theta(theta)
    # With K = smooth(x) + noise + nugget and k = smooth(x, grid): mean k' K^-1 y, covariance smooth(grid) - k' K^-1 k.
    # Where the noise of the means is known, the nugget is a layer's own value, so it belongs to the layer on the grid
    # that was measured (`same`); else it is noise, and only K has it.
    smooth, nugget = fitted.k1, float(fitted.k2.noise_level)
    own = nugget if known else 0.0
    same = (x[:, None, :] == grid[None, :, :]).all(-1)  # (n, m)
    cross = smooth(x, grid) + own * same
    solved = np.linalg.solve(smooth(x) + np.diag(noise + nugget), np.column_stack([rest / spread, cross]))
    mean = cross.T @ solved[:, 0]
    covariance = smooth(grid) + own * np.eye(len(grid)) - cross.T @ solved[:, 1:]
    # Joint draws through the root of the covariance; eigenvalues below 0 are rounding, where Cholesky would stop.
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    normal = np.random.default_rng(seed).standard_normal((N_DRAWS, len(grid)))
    draws = line_grid + spread * (mean + normal @ root.T)
    return Posterior(line_grid + spread * mean, spread * np.sqrt((root**2).sum(1)), draws)


def _line(y: Array, prior: tuple[Array, Array] | None, m: int) -> tuple[Array, Array]:
    """Return the process's mean at the measured places and on the grid."""
    flat = np.full(len(y), y.mean()), np.full(m, y.mean())
    if prior is None or len(y) < 3 or float(np.std(prior[0])) == 0:
        return flat
    slope, offset = np.polyfit(prior[0], y, 1)
    if slope <= 0:  # both are better when lower: a line that falls says that the score is worth nothing here
        return flat
    return slope * prior[0] + offset, slope * prior[1] + offset


def layer_posterior(
    layers: Sequence[Candidate],
    values: Mapping[Candidate, Mapping[int, float]],
    space: Space,
    scores: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> Posterior | None:
    """Return what is believed of `layers`; None before two of them were run.

    Parameters
    ----------
    layers : sequence of Candidate
        Single layers.
    values : mapping of Candidate to mapping of seed to float
        What was measured, lower being better; candidates that are not among the layers are left out.
    space : Space
    scores : array (layers,), optional
        A cheap score of each, **lower being better**, as values are and estimators' scores are not: its regression line
        is the mean of the process.
    seed : int
        Of the draws.

    Returns
    -------
    Posterior or None
        In the order of `layers` and the unit of the values.
    """
    place = {one: i for i, one in enumerate(layers)}
    table = {(place[one], s): v for one, runs in values.items() if one in place for s, v in runs.items()}
    if len({layer for layer, _ in table}) < 2:
        return None
    rows, means, variances = seed_adjusted(table)
    measured = rows.astype(int)
    grid = places([(model_number(one, space), space.depth(one)) for one in layers])
    prior = None if scores is None else (scores[measured], scores)
    return fit_depths(grid[measured], means, variances, grid, prior, seed=seed)


def model_number(one: Candidate, space: Space) -> int:
    """Return the place of a single layer's model among those of the space."""
    name, _ = place_of(one.layers[0])
    return [model for model, _ in space.models].index(name)
