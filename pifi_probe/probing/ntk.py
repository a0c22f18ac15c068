"""PiFi-NTK: what training would do in its first, linear phase, in closed form (Jacot et al. 2018).

With small steps a model moves along its gradients, and its predictions are those of kernel regression with the
kernel ``k(i, j) = <gradient of f(i), gradient of f(j)>``. For a linear map with input a and output gradient d the
gradient is the outer product d aᵀ, so that ``k(i, j)`` is a sum over the trained maps of
``(d_i . d_j) (a_i . a_j + 1)`` (the one for a bias). No gradient is ever stored whole.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import nn

from pifi_probe.errors import EstimatorError
from pifi_probe.probing.frozen_arms import Tail
from pifi_probe.scoring.spectrum import RANK_CUT, Spectrum

__all__ = ["kernel_spectrum", "ntk"]

Floats = NDArray[np.float64]


def ntk(tail: Tail, h: torch.Tensor, encoder_inputs: torch.Tensor | None = None) -> Floats:
    """Return the tangent kernel of a plugged model at its start, averaged over the outputs.

    Parameters
    ----------
    tail : Tail
        L_in, layer, L_out and head of one seed; see `make_tail`. Dropout is off.
    h : Tensor, (N, d_slm)
        The encoder's pooled vectors.
    encoder_inputs : Tensor, (N, d), optional
        Input of the encoder's last linear map, to count that map among the trained ones. By default the encoder
        is frozen, as in `frozen_slm`.

    Returns
    -------
    array of float64, shape (N, N)
        Mean over the K logits of the inner products of their gradients to all trained weights: symmetric, not
        negative.

    Notes
    -----
    Cost: K backward passes through the layer, and 2 N² (d_slm + d_llm) per trained map. With the zero-start
    bypass L_out is zero, and no gradient reaches L_in: the kernel then holds the head and L_out alone.
    """
    maps = [one for one in tail.modules() if isinstance(one, nn.Linear) and one.weight.requires_grad]
    seen: list[tuple[nn.Linear, torch.Tensor, torch.Tensor]] = []
    handles = [one.register_forward_hook(_keep(seen)) for one in maps]
    h, training = h.detach().requires_grad_(), tail.training
    try:
        logits = tail.eval()(h)  # (N, K)
    finally:
        tail.train(training)
        for handle in handles:
            handle.remove()
    inputs = [_gram(a) + (0.0 if one.bias is None else 1.0) for one, a, _ in seen]
    outputs = [out for _, _, out in seen]
    if encoder_inputs is not None:
        inputs.append(_gram(encoder_inputs))
        outputs.append(h)
    kernel = np.zeros((len(h), len(h)))
    for k in range(logits.shape[1]):
        gradients = torch.autograd.grad(logits[:, k].sum(), outputs, retain_graph=True)
        for gram, gradient in zip(inputs, gradients, strict=True):
            kernel += gram * _gram(gradient)
    return kernel / logits.shape[1]


def kernel_spectrum(kernel: Floats) -> Spectrum:
    """Return a kernel as the spectrum that every estimator of inner products takes.

    Parameters
    ----------
    kernel : array of float64, shape (N, N)
        Symmetric, without negative eigenvalues.

    Returns
    -------
    Spectrum
        Of features whose inner products are the centred kernel. Estimators that want (N, D) features as well can be
        given any array of shape (N, N).

    Raises
    ------
    EstimatorError
        If an entry is NaN or infinite.
    """
    if not np.isfinite(kernel).all():
        raise EstimatorError("the tangent kernel is NaN or infinite", where="PiFi-NTK", next="check the layer")
    n = len(kernel)
    centred = kernel - kernel.mean(axis=0) - kernel.mean(axis=1, keepdims=True) + kernel.mean()
    trace = float(np.trace(centred))
    if not trace > 0:
        return Spectrum(np.zeros(0), np.zeros((n, 0)), n, n)
    values, vectors = scipy.linalg.eigh(centred * (n * n / trace), driver="evd", overwrite_a=True)
    kept = values > RANK_CUT * values[-1]
    return Spectrum(values[kept][::-1], np.ascontiguousarray(vectors[:, kept][:, ::-1]), n, n)


def _keep(seen: list[tuple[nn.Linear, torch.Tensor, torch.Tensor]]) -> Callable[..., None]:
    def hook(module: nn.Linear, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen.append((module, args[0].detach(), output))

    return hook


def _gram(rows: torch.Tensor) -> Floats:
    """Return the inner products of rows (N, d) or (N, 1, d), (N, N)."""
    flat = rows.detach().flatten(1).cpu().double()
    return (flat @ flat.T).numpy()
