"""A truncated Newton method for many logistic regressions that share their features.

Every step is one matrix product for all problems together. Steps are found by conjugate gradients; on principal
components the Hessian is close to diagonal, so that its diagonal is a good preconditioner. A problem that has
converged drops out. Shapes: P problems, C columns of coefficients (1 for two classes, else K), N rows, D features.

The loss is convex, so that Newton's step ``-H^-1 g`` with its exact Hessian leads to the one minimum:
``g = (p - y) Z + penalty theta`` and, for two classes, ``H = Z' diag(p (1 - p)) Z + penalty``; for K classes the middle
is ``diag(p) - p p'`` for every row. H is never formed: conjugate gradients need only its product with a direction, two
matrix products with Z. They stop early, since a residual below a share of the gradient that falls with it still
converges superlinearly (Dembo, Eisenstat and Steihaug, 1982), and a line search with Armijo's condition halves a step
that overshoots. The whole is algorithm 7.1 of Nocedal and Wright, Numerical Optimization (2006).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["minimise"]

MAX_NEWTON = 100
MAX_CG = 1_000
FORCING = 0.0625  # a step's residual is at most a quarter of the gradient (squared), and less near the minimum
ROUNDING = 1e-12  # of logits


def minimise(z: Tensor, targets: Tensor, penalty: Tensor, rows: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """Minimise ``sum(rows * NLL) + sum(penalty * theta**2) / 2`` for each problem.

    Parameters
    ----------
    z : Tensor, shape (N, D + 1), float64
        Features, and a column of ones for the intercept.
    targets : Tensor, shape (C, N)
        One-hot classes; for two classes only the second.
    penalty : Tensor, shape (P, 1, D + 1)
    rows : Tensor, shape (P, 1, N)
        Weights of the rows.
    tol : float
        A problem has converged when a full Newton step is at most `tol` of the norm of its parameters, or changes no
        logit by more than rounding (where zero is the minimum).

    Returns
    -------
    theta : Tensor, shape (P, C, D + 1)
    converged : Tensor, shape (P,), bool
    """
    shape = (len(rows), len(targets), z.shape[1])
    found, converged = z.new_zeros(shape), torch.zeros(len(rows), dtype=torch.bool, device=z.device)
    live = torch.arange(len(rows), device=z.device)
    theta, logits = z.new_zeros(shape), z.new_zeros(*shape[:2], len(z))
    first: Tensor | None = None
    squares = z.square()
    for _ in range(MAX_NEWTON):
        p, rest = _probabilities(logits)
        # gradient, and the diagonal of the Hessian, sum over rows of p (1 - p) z^2, as preconditioner
        gradient = (rows * _residuals(p, rest, targets)) @ z + penalty * theta
        diagonal = (rows * p * rest) @ squares + penalty
        diagonal = diagonal.where(diagonal > 0, 1.0)
        size = _dot(gradient, _scaled(gradient, diagonal))
        first = size if first is None else first
        # eta = min(1/4, sqrt(|g| / |g_0|)), here squared: loose steps far from the minimum, exact ones near it
        accuracy = (size / first.clamp_min(1e-300)).sqrt().clamp(max=FORCING)
        weights = rows * p if len(targets) > 1 else rows * p * rest
        step, along = _conjugate_gradients(z, weights, p, penalty, diagonal, -gradient, accuracy * size)
        length = _line_search(logits, along, theta, step, targets, rows, penalty, _dot(gradient, step))
        theta, logits = theta + length * step, logits + length * along
        small = (_dot(step, step) <= tol**2 * _dot(theta, theta)) | (along.abs().amax(dim=(1, 2)) <= ROUNDING)
        done = small & (length == 1).flatten()
        found[live] = theta
        if done.any():
            converged[live[done]] = True
            left = ~done
            live, theta, logits, first = live[left], theta[left], logits[left], first[left]
            rows, penalty = rows[left], penalty[left]
            if not len(live):
                break
    return found, converged


def _probabilities(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return p and 1 - p, both (P, C, N) and both to full relative precision."""
    if logits.shape[1] == 1:
        return torch.sigmoid(logits), torch.sigmoid(-logits)
    p = logits.softmax(dim=1)
    return p, torch.where(p < 0.5, 1 - p, p.where(p < 0.5, 0.0).sum(dim=1, keepdim=True))


def _residuals(p: Tensor, rest: Tensor, targets: Tensor) -> Tensor:
    """Return p - targets, without the loss of digits that would stop separable classes short of their minimum."""
    return torch.where(targets > 0, -rest, p)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products (P,) of the parameters of each problem."""
    return (a * b).sum(dim=(1, 2))


def _scaled(residual: Tensor, diagonal: Tensor) -> Tensor:
    """Precondition a residual (P, C, D + 1).

    What is added to all classes alike changes no probability, so that softmax coefficients stay in the space where
    they sum to zero over classes: outside, the Hessian has nothing but the penalty.
    """
    scaled = residual / diagonal
    return scaled - scaled.mean(dim=1, keepdim=True) if scaled.shape[1] > 1 else scaled


def _conjugate_gradients(
    z: Tensor, weights: Tensor, p: Tensor, penalty: Tensor, diagonal: Tensor, residual: Tensor, enough: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve ``Hessian @ step = residual`` for each problem until the scaled residual is `enough`.

    Returns the steps and what they add to the logits, so that a line search needs no product more.
    """
    steps, alongs = torch.zeros_like(residual), torch.zeros_like(p)
    live = torch.arange(len(p), device=p.device)
    step, along = steps, alongs
    scaled = _scaled(residual, diagonal)
    size = _dot(residual, scaled)
    direction = scaled
    for _ in range(MAX_CG):
        # H d = Z' W (Z d) + penalty d, with W = p (1 - p), or diag(p) - p p' of every row
        ahead = direction @ z.T  # (P, C, N)
        spread = ahead if p.shape[1] == 1 else ahead - (p * ahead).sum(dim=1, keepdim=True)
        product = (weights * spread) @ z + penalty * direction
        bend = _dot(direction, product)
        # the exact step along the direction, then one that is conjugate to all before (Fletcher and Reeves)
        alpha = torch.where(bend > 0, size / bend, 0.0)[:, None, None]
        step, along, residual = step + alpha * direction, along + alpha * ahead, residual - alpha * product
        scaled = _scaled(residual, diagonal)
        last, size = size, _dot(residual, scaled)
        left = (size > enough) & (bend > 0)
        steps[live], alongs[live] = step, along
        if not left.any():
            break
        direction = scaled + torch.where(last > 0, size / last, 0.0)[:, None, None] * direction
        if not left.all():
            live, step, along, residual, direction = (t[left] for t in (live, step, along, residual, direction))
            weights, p, penalty, diagonal = weights[left], p[left], penalty[left], diagonal[left]
            size, enough = size[left], enough[left]
    return steps, alongs


def _line_search(
    logits: Tensor,
    along: Tensor,
    theta: Tensor,
    step: Tensor,
    targets: Tensor,
    rows: Tensor,
    penalty: Tensor,
    slope: Tensor,
) -> Tensor:
    """Return how much of each step to take, (P, 1, 1): all of it, or halved until the loss falls enough."""

    def loss(length: Tensor) -> Tensor:
        there = logits + length * along
        if len(targets) == 1:
            nll = softplus((1 - 2 * targets) * there)
        else:
            others = (there - (targets * there).sum(dim=1, keepdim=True)).masked_fill(targets > 0, -torch.inf)
            nll = softplus(others.logsumexp(dim=1, keepdim=True))  # small losses to full relative precision
        return (rows * nll).sum(dim=(1, 2)) + (penalty * (theta + length * step).square()).sum(dim=(1, 2)) / 2

    length = logits.new_ones(len(logits), 1, 1)
    before = loss(torch.zeros_like(length))
    for _ in range(40):
        # Armijo: at least 1e-4 of the fall that the slope promises; the last term is the loss's own rounding
        falls = loss(length) <= before + 1e-4 * length.flatten() * slope + 1e-12 * before
        if falls.all():
            break
        length = torch.where(falls[:, None, None], length, length / 2)
    return length
