"""From the encoder's vectors to a layer's input without labels and without training (book/methods.md, Probes).

``x = s * A(h)``: an affine map A from the encoder's width to the layer's, then one number s that gives x the root
mean square which the layer's input has inside its own model. Four ways to choose A:

============  =========================================================================================
random        the vectors turned into random directions: norms and angles are kept, meanings are not
moment        mean and covariance of the layer's own input, in directions that stay arbitrary
ridge         linear regression from the encoder's vectors to the layer's own input, on paired texts
procrustes    the best rotation and scale for the same, which cannot drop directions as ridge does
============  =========================================================================================

The last three read unlabelled texts (other ones than those that are scored), the last two in pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pifi_probe.errors import EstimatorError
from pifi_probe.scoring.spectrum import centred

__all__ = ["DRAWN", "PROJECTIONS", "Pairs", "Projection", "left_out_r2", "matched", "project"]

PROJECTIONS = ("random", "moment", "ridge", "procrustes")
DRAWN = ("random",)  # those of which several draws are averaged
MAX_MOMENTS = 128  # principal components whose moments are matched
MIN_PAIRS = 10
PENALTIES = np.logspace(-6, 2, 17)  # times the mean eigenvalue
Floats = NDArray[np.float64]
Seed = int | tuple[int, ...]


@dataclass(frozen=True)
class Projection:
    """An affine map from the encoder's width to the layer's.

    Parameters
    ----------
    matrix : array of float, shape (d_slm, d_llm)
    center : array of float, shape (d_slm,)
        Subtracted before.
    offset : array of float, shape (d_llm,)
        Added after.
    r2 : float
        Of paired alignments: the share of the variance of the layer's own input that the map predicts on texts it
        was not fitted to; at most 1, and below 0 where the mean would predict better. NaN for the others.
    """

    matrix: Floats
    center: Floats
    offset: Floats
    r2: float = float("nan")

    def __call__(self, h: NDArray[np.floating]) -> Floats:
        """Map vectors (N, d_slm) to (N, d_llm), float64."""
        return (h.astype(np.float64) - self.center) @ self.matrix + self.offset


@dataclass(frozen=True)
class Pairs:
    """The encoder's vectors and the layer's own input for the same texts, which are not those that are scored.

    Parameters
    ----------
    h : array of float, shape (M, d_slm)
    states : array of float, shape (M, d_llm)
        Pooled states of the language model at the layer's input.

    Raises
    ------
    EstimatorError
        If the numbers of rows differ, or an entry is not finite.
    """

    h: NDArray[np.floating]
    states: NDArray[np.floating]

    def __post_init__(self) -> None:
        if len(self.h) != len(self.states):
            raise EstimatorError(
                f"{len(self.h)} vectors and {len(self.states)} states do not make pairs",
                where="alignment texts",
                next="give the same texts to both models",
            )
        if not (np.isfinite(self.h).all() and np.isfinite(self.states).all()):
            raise EstimatorError(
                "a vector or state is NaN or infinite", where="alignment texts", next="look for the text that overflows"
            )


def project(
    name: str, h: NDArray[np.floating], d_llm: int, *, pairs: Pairs | None = None, seed: Seed = 0
) -> Projection:
    """Make a projection.

    Parameters
    ----------
    name : {"random", "moment", "ridge", "procrustes"}
    h : array of float, shape (N, d_slm)
        The vectors it is for. Only ``"random"`` with d_slm > d_llm looks at them: their first d_llm principal
        components are kept.
    d_llm : int
        Width of the layer.
    pairs : Pairs, optional
        Needed by all but ``"random"``.
    seed : int or tuple of int
        Of what is random.

    Returns
    -------
    Projection

    Raises
    ------
    EstimatorError
        If the name is unknown, or pairs are missing or fewer than ten.
    """
    if name not in PROJECTIONS:
        raise EstimatorError(
            f"unknown projection {name!r}", where="projections", next=f"use some of {', '.join(PROJECTIONS)}"
        )
    if name == "random":
        return _random(h, d_llm, np.random.default_rng(seed))
    if pairs is None or len(pairs.h) < MIN_PAIRS:
        raise EstimatorError(
            f"the projection {name!r} needs the layer's own input on at least {MIN_PAIRS} texts",
            where="projections",
            next='give more texts that are not scored, or use projections=("random",)',
        )
    if name == "moment":
        return _moment(pairs, np.random.default_rng(seed))
    return _held_out_r2(_ridge if name == "ridge" else _procrustes, pairs)


def matched(x: NDArray[np.floating], target_rms: float) -> NDArray[np.float32]:
    """Scale vectors by one number, so that their root mean square is the target; (N, d), float32.

    Raises
    ------
    EstimatorError
        If all vectors are zero.
    """
    rms = float(np.sqrt(np.square(x).mean()))
    if not rms > 0:
        raise EstimatorError("all projected vectors are zero", where="projections", next="check the encoder's vectors")
    return (x * (target_rms / rms)).astype(np.float32)


def _random(h: NDArray[np.floating], d_llm: int, rng: np.random.Generator) -> Projection:
    """Draw orthonormal rows: a rotation into a wider space or, after PCA, within an equally wide one."""
    d_slm = h.shape[1]
    kept = min(d_slm, d_llm)
    # QR of a normal matrix; with the signs of R's diagonal put into Q, Q is uniform over rotations
    q, r = np.linalg.qr(rng.standard_normal((d_llm, kept)))
    rotation = (q * np.sign(np.diagonal(r))).T  # (kept, d_llm)
    center = np.zeros(d_slm)
    if d_slm > d_llm:  # A = V Q': onto the first d_llm principal axes, then turned
        center = h.mean(axis=0, dtype=np.float64)
        rotation = _principal(h - center)[1][:, :d_llm] @ rotation
    return Projection(rotation, center, np.zeros(d_llm))


def _moment(pairs: Pairs, rng: np.random.Generator) -> Projection:
    """Carry mean and leading covariance of h over to those of the states, by a random turn between the two.

    The leading min(128, M/5) principal components take part, with eigenvalues shrunk as by Ledoit and Wolf.
    """
    center, offset = pairs.h.mean(axis=0, dtype=np.float64), pairs.states.mean(axis=0, dtype=np.float64)
    rank = max(1, min(MAX_MOMENTS, len(pairs.h) // 5, pairs.h.shape[1], pairs.states.shape[1]))
    (spread_in, axes_in), (spread_out, axes_out) = (_principal(pairs.h - center), _principal(pairs.states - offset))
    rank = min(rank, len(spread_in), len(spread_out))
    # A = V_in S_in^-1/2 Q S_out^1/2 V_out', with covariances V S V': whiten, turn, colour
    whiten = axes_in[:, :rank] / np.sqrt(spread_in[:rank])  # (d_slm, rank)
    turn, r = np.linalg.qr(rng.standard_normal((rank, rank)))
    turn = turn * np.sign(np.diagonal(r))  # uniform over rotations
    colour = axes_out[:, :rank] * np.sqrt(spread_out[:rank])  # (d_llm, rank)
    return Projection(whiten @ turn @ colour.T, center, offset)


def _ridge(pairs: Pairs) -> Projection:
    """Fit a ridge regression with intercept; the penalty by the leave-one-out error over all outputs."""
    # the intercept is that of the centred problem H A = Y, which is not penalised
    center, offset = pairs.h.mean(axis=0, dtype=np.float64), pairs.states.mean(axis=0, dtype=np.float64)
    # H = U S V', so that every penalty needs the same two products
    u, s, vt = _svd(pairs.h - center)
    projected = u.T @ (pairs.states - offset)  # U' Y, (k, d_llm)
    penalties = PENALTIES * np.square(s).mean()
    errors = [_left_out_error(u, s, projected, pairs.states - offset, penalty) for penalty in penalties]
    penalty = penalties[int(np.argmin(errors))]
    # A = (H'H + penalty)^-1 H'Y = V diag(s / (s^2 + penalty)) U' Y
    return Projection(vt.T @ ((s / (s**2 + penalty))[:, None] * projected), center, offset)


def left_out_r2(h: NDArray[np.floating], states: NDArray[np.floating]) -> float:
    """Return the share of the states' variance that a ridge regression predicts from other vectors, each row left out.

    Parameters
    ----------
    h : array of float, shape (M, d)
    states : array of float, shape (M, d2)

    Returns
    -------
    float
        At most 1; below 0 where the mean of the other rows predicts better; 0 if all vectors or all states are alike.
    """
    u, s, _ = _svd(centred(h))
    y = centred(states)
    if not len(s) or not y.any():
        return 0.0
    projected = u.T @ y
    errors = [_left_out_error(u, s, projected, y, penalty) for penalty in PENALTIES * np.square(s).mean()]
    # the mean of the other rows errs by (1 + 1 / (M - 1)) times a row's distance to the mean of all
    return 1 - min(errors) / float(np.square(y * (len(y) / (len(y) - 1))).mean())


def _left_out_error(u: Floats, s: Floats, projected: Floats, targets: Floats, penalty: float) -> float:
    """Return the mean squared leave-one-out error of a penalty, without a fit for each row."""
    kept = s**2 / (s**2 + penalty)  # shrinkage of each direction
    residuals = targets - u @ (kept[:, None] * projected)  # y - H A, of the fit to all rows
    # the fit without row j errs there by residual_j / (1 - leverage_j), to which the intercept adds 1 / N
    return float(np.square(residuals / (1 - 1 / len(u) - np.square(u) @ kept)[:, None]).mean())


def _procrustes(pairs: Pairs) -> Projection:
    """Fit the rotation and the one scale that map h nearest to the states, between centred clouds."""
    center, offset = pairs.h.mean(axis=0, dtype=np.float64), pairs.states.mean(axis=0, dtype=np.float64)
    h, states = pairs.h - center, pairs.states - offset
    # H'Y = U S V': the best rotation is U V', the best scale trace(S) / |H|^2
    u, s, vt = np.linalg.svd(h.T @ states, full_matrices=False)
    return Projection(u @ vt * (s.sum() / np.square(h).sum()), center, offset)


def _held_out_r2(fit: Callable[[Pairs], Projection], pairs: Pairs) -> Projection:
    """Fit on all pairs; say how well five fits on four fifths predict the fifth that they have not seen."""
    fold = np.random.default_rng(0).permutation(len(pairs.h)) % 5
    residual = total = 0.0  # sums of squares over held-out texts
    for k in range(5):
        seen, unseen = fold != k, fold == k
        fitted = fit(Pairs(pairs.h[seen], pairs.states[seen]))
        residual += float(np.square(pairs.states[unseen] - fitted(pairs.h[unseen])).sum())
        total += float(np.square(pairs.states[unseen] - fitted.offset).sum())  # around the mean of the texts seen
    return replace(fit(pairs), r2=1 - residual / total if total > 0 else float("nan"))


def _principal(centred: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Return shrunk variances, largest first, and the principal axes (d, k), each with its largest entry positive."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    _, s, vt = _svd(centred)  # the covariance is V diag(s^2 / N) V'
    signs = np.sign(vt[np.arange(len(vt)), np.abs(vt).argmax(axis=1)])
    # Ledoit and Wolf: every variance a share of the way towards their mean
    shrinkage = float(ledoit_wolf_shrinkage(centred, assume_centered=True))
    variances = np.square(s) / len(centred)
    mean = variances.sum() / centred.shape[1]
    return (1 - shrinkage) * variances + shrinkage * mean, (vt * signs[:, None]).T


def _svd(centred: NDArray[np.floating]) -> tuple[Floats, Floats, Floats]:
    """Return the thin singular value decomposition without null directions."""
    u, s, vt = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    kept = s > 1e-10 * s[0] if len(s) and s[0] > 0 else np.zeros(len(s), dtype=bool)
    return u[:, kept], s[kept], vt[kept]
