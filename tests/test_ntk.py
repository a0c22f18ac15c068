"""The closed-form tangent kernel is that of the whole Jacobian, and its ridge is kernel regression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev

from pifi_probe.errors import EstimatorError
from pifi_probe.probing.frozen_arms import Tail, make_arm, make_tail
from pifi_probe.probing.ntk import kernel_spectrum, ntk
from pifi_probe.scoring.estimators import ridge_accuracy, ridge_mse
from pifi_probe.vocabulary import BASIC_CONTROLS
from tests.runs import Parts

K, N = 3, 14
H = torch.randn(N, 24, generator=torch.Generator().manual_seed(0))


def tail_of(parts: Parts, control: str | None, wiring: str) -> Tail:
    return make_tail(make_arm(parts.layer, control, target_rms=2.0, seeds=(0,)), H, K, wiring, seed=0)


def brute_force(tail: Tail, h: torch.Tensor) -> np.ndarray:
    """Mean over logits of J Jᵀ, J the Jacobian to every trained weight."""
    tail = tail.eval().double()
    weights = {name: p.detach() for name, p in tail.named_parameters() if p.requires_grad}
    jacobians = jacrev(lambda w: functional_call(tail, w, (h.double(),)))(weights)
    flat = torch.cat([one.flatten(2) for one in jacobians.values()], dim=2)  # (N, K, P)
    return (torch.einsum("nkp,mkp->nm", flat, flat) / K).numpy()


@pytest.mark.parametrize("wiring", ["pifi", "matched"])
@pytest.mark.parametrize("control", [None, *BASIC_CONTROLS])
def test_the_kernel_is_the_product_of_jacobians(parts: Parts, control: str | None, wiring: str) -> None:
    tail = tail_of(parts, control, wiring)
    kernel = ntk(tail, H)
    np.testing.assert_allclose(kernel, brute_force(tail, H), rtol=1e-4, atol=1e-4 * np.abs(kernel).max())
    assert np.linalg.eigvalsh(kernel).min() > -1e-6 * np.trace(kernel)


def test_the_kernel_counts_the_encoders_last_map_when_its_inputs_are_given(parts: Parts) -> None:
    class WithMap(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.tail = torch.nn.Linear(10, 24, bias=False), tail_of(parts, None, "pifi")

        def forward(self, a: torch.Tensor) -> torch.Tensor:
            return self.tail(self.map(a))

    model = WithMap()
    inputs = torch.randn(N, 10, generator=torch.Generator().manual_seed(1))
    kernel = ntk(model.tail, model.map(inputs), encoder_inputs=inputs)
    expected = brute_force(model, inputs)  # type: ignore[arg-type]
    np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-4 * np.abs(kernel).max())


def test_a_frozen_layers_own_weights_are_not_in_the_kernel(parts: Parts) -> None:
    tail = tail_of(parts, None, "pifi")
    before = ntk(tail, H)
    assert not any(p.requires_grad for p in parts.layer.parameters())
    assert all(p.grad is None for p in tail.parameters())
    assert np.array_equal(ntk(tail, H), before)


def test_ridge_on_the_kernel_is_kernel_ridge_fitted_without_each_example(parts: Parts) -> None:
    rng = np.random.default_rng(0)
    h = torch.from_numpy(rng.normal(size=(40, 24)).astype(np.float32))
    labels = (h[:, 0] > 0).long().numpy()
    labels[:3] = 1 - labels[:3]
    kernel = ntk(tail_of(parts, None, "pifi"), h)
    found = ridge_mse(kernel, labels, spectrum=kernel_spectrum(kernel))
    centre = np.eye(40) - 1 / 40
    scaled = centre @ kernel @ centre
    values = np.linalg.eigvalsh(scaled)
    targets = np.eye(2)[labels]
    errors = []
    for penalty in np.logspace(-4, 4, 15) * values[values > 1e-10 * values[-1]].mean():
        left_out = np.empty((40, 2))
        for one in range(40):  # kernel ridge regression with an intercept, by its normal equations
            seen = np.arange(40) != one
            system = np.block(
                [[scaled[np.ix_(seen, seen)] + penalty * np.eye(39), np.ones((39, 1))], [np.ones((1, 40))]]
            )
            system[-1, -1] = 0
            solved = np.linalg.solve(system, np.vstack([targets[seen], np.zeros((1, 2))]))
            left_out[one] = targets[one] - scaled[one, seen] @ solved[:-1] - solved[-1]
        errors.append(np.square(left_out).mean())
    assert found == pytest.approx(min(errors), rel=1e-6)


def test_the_kernel_of_a_learnable_task_predicts_and_permuted_labels_do_not(parts: Parts) -> None:
    rng = np.random.default_rng(1)
    h = torch.from_numpy(rng.normal(size=(150, 24)).astype(np.float32))
    labels = (h[:, 0] + h[:, 1] > 0).long().numpy()
    kernel = ntk(tail_of(parts, None, "matched"), h)
    spectrum = kernel_spectrum(kernel)
    assert ridge_accuracy(kernel, labels, spectrum=spectrum) > 0.75
    assert ridge_accuracy(kernel, rng.permutation(labels), spectrum=spectrum) < 0.65


def test_a_constant_kernel_says_nothing_and_nan_is_refused(tmp_path: Path) -> None:
    assert kernel_spectrum(np.ones((5, 5))).rank == 0
    with pytest.raises(EstimatorError, match="NaN or infinite"):
        kernel_spectrum(np.full((5, 5), np.nan))
