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
    targets : Tensor, shape (C, N), float64
        One-hot classes; for two classes only the second.
    penalty : Tensor, shape (P, 1, D + 1), float64
        Of each coefficient; 0 for what is not penalised, such as the intercept.
    rows : Tensor, shape (P, 1, N), float64
        Weights of the rows; 0 leaves a row out.
    tol : float
        A problem has converged when a full Newton step is at most `tol` of the norm of its parameters, or changes no
        logit by more than rounding (where zero is the minimum).

    Returns
    -------
    theta : Tensor, shape (P, C, D + 1), float64
        The minimum; the last iterate where `converged` is False.
    converged : Tensor, shape (P,), bool
        False after `MAX_NEWTON` steps without convergence.
    """
    shape = (len(rows), len(targets), z.shape[1])
    found, converged = z.new_zeros(shape), torch.zeros(len(rows), dtype=torch.bool, device=z.device)
    active = torch.arange(len(rows), device=z.device)  # numbers of the problems that have not converged
    theta, logits = z.new_zeros(shape), z.new_zeros(*shape[:2], len(z))  # logits = theta Z', kept up to date
    first: Tensor | None = None
    squares = z.square()
    for _ in range(MAX_NEWTON):
        p, not_p = _probabilities(logits)
        # 1. the gradient g = (p - y) Z + penalty theta
        gradient = (rows * _residuals(p, not_p, targets)) @ z + penalty * theta
        # 2. the diagonal of the Hessian, sum over rows of p (1 - p) z^2 + penalty, as preconditioner M
        diagonal = (rows * p * not_p) @ squares + penalty
        diagonal = diagonal.where(diagonal > 0, 1.0)
        # 3. how exactly to solve for the step: eta = min(1/4, sqrt(|g| / |g_0|)), with |g|^2 = g' M^-1 g; squared here
        size = _dot(gradient, _scaled(gradient, diagonal))
        first = size if first is None else first
        accuracy = (size / first.clamp_min(1e-300)).sqrt().clamp(max=FORCING)
        # 4. the step -H^-1 g; `weights` is what multiplies each row in H: p (1 - p), or p of diag(p) - p p'
        weights = rows * p if len(targets) > 1 else rows * p * not_p
        step, logit_step = _conjugate_gradients(z, weights, p, penalty, diagonal, -gradient, accuracy * size)
        # 5. how much of it to take
        length = _line_search(logits, logit_step, theta, step, targets, rows, penalty, _dot(gradient, step))
        theta, logits = theta + length * step, logits + length * logit_step
        # 6. problems whose whole step was small have converged, and drop out
        small = (_dot(step, step) <= tol**2 * _dot(theta, theta)) | (logit_step.abs().amax(dim=(1, 2)) <= ROUNDING)
        done = small & (length == 1).flatten()
        found[active] = theta
        if done.any():
            converged[active[done]] = True
            left = ~done
            active, theta, logits, first = active[left], theta[left], logits[left], first[left]
            rows, penalty = rows[left], penalty[left]
            if not len(active):
                break
    return found, converged


def _probabilities(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return p and 1 - p, both (P, C, N) and both to full relative precision."""
    if logits.shape[1] == 1:
        return torch.sigmoid(logits), torch.sigmoid(-logits)
    p = logits.softmax(dim=1)
    return p, torch.where(p < 0.5, 1 - p, p.where(p < 0.5, 0.0).sum(dim=1, keepdim=True))


def _residuals(p: Tensor, not_p: Tensor, targets: Tensor) -> Tensor:
    """Return p - targets, without the loss of digits that would stop separable classes short of their minimum."""
    return torch.where(targets > 0, -not_p, p)


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
    z: Tensor, weights: Tensor, p: Tensor, penalty: Tensor, diagonal: Tensor, residual: Tensor, tolerance: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve ``Hessian @ step = residual`` for each problem by preconditioned conjugate gradients.

    A problem stops where ``r' M^-1 r``, with its residual r and the preconditioner M, is at most its `tolerance` (P,).
    Returns the steps (P, C, D + 1) and what they add to the logits (P, C, N), so that a line search needs no further
    product with Z.
    """
    steps, logit_steps = torch.zeros_like(residual), torch.zeros_like(p)
    active = torch.arange(len(p), device=p.device)
    step, logit_step = steps, logit_steps
    scaled = _scaled(residual, diagonal)  # M^-1 r
    size = _dot(residual, scaled)  # r' M^-1 r
    direction = scaled  # d
    for _ in range(MAX_CG):
        # H d = Z' W (Z d) + penalty d, with W = p (1 - p), or diag(p) - p p' of every row
        along = direction @ z.T  # Z d, (P, C, N)
        centred = along if p.shape[1] == 1 else along - (p * along).sum(dim=1, keepdim=True)
        product = (weights * centred) @ z + penalty * direction
        curvature = _dot(direction, product)  # d' H d
        # the minimum along d: alpha = r' M^-1 r / d' H d, then step + alpha d and r - alpha H d
        alpha = torch.where(curvature > 0, size / curvature, 0.0)[:, None, None]
        step, logit_step = step + alpha * direction, logit_step + alpha * along
        residual = residual - alpha * product
        scaled = _scaled(residual, diagonal)
        last, size = size, _dot(residual, scaled)
        left = (size > tolerance) & (curvature > 0)
        steps[active], logit_steps[active] = step, logit_step
        if not left.any():
            break
        # the next direction, conjugate to all before: M^-1 r + beta d, with the beta of Fletcher and Reeves
        direction = scaled + torch.where(last > 0, size / last, 0.0)[:, None, None] * direction
        if not left.all():
            active, step, logit_step = active[left], step[left], logit_step[left]
            residual, direction = residual[left], direction[left]
            weights, p, penalty, diagonal = weights[left], p[left], penalty[left], diagonal[left]
            size, tolerance = size[left], tolerance[left]
    return steps, logit_steps


def _line_search(
    logits: Tensor,
    logit_step: Tensor,
    theta: Tensor,
    step: Tensor,
    targets: Tensor,
    rows: Tensor,
    penalty: Tensor,
    slope: Tensor,
) -> Tensor:
    """Return how much of each step to take, (P, 1, 1): all of it, or halved until the loss falls enough."""

    def loss(length: Tensor) -> Tensor:
        ahead = logits + length * logit_step
        if len(targets) == 1:  # -log p = log(1 + exp(-logit)) for the second class, log(1 + exp(logit)) for the first
            nll = softplus((1 - 2 * targets) * ahead)
        else:  # log(1 + sum over the other classes of exp(their logit - the right one's)), precise for small losses
            others = (ahead - (targets * ahead).sum(dim=1, keepdim=True)).masked_fill(targets > 0, -torch.inf)
            nll = softplus(others.logsumexp(dim=1, keepdim=True))
        return (rows * nll).sum(dim=(1, 2)) + (penalty * (theta + length * step).square()).sum(dim=(1, 2)) / 2

    length = logits.new_ones(len(logits), 1, 1)
    before = loss(torch.zeros_like(length))
    for _ in range(40):
        # Armijo: at least 1e-4 of the fall that the slope g' step promises; the last term is the loss's own rounding
        falls = loss(length) <= before + 1e-4 * length.flatten() * slope + 1e-12 * before
        if falls.all():
            break
        length = torch.where(falls[:, None, None], length, length / 2)
    return length
