"""One training for all layers at once: a softmax over frozen layers, each with projections of its own.

The architecture search that the paper proposes (its section on limits). The encoder is frozen and its vectors are
cached, so that one run costs about as many frozen-SLM runs as there are layers. All plug-ins start with matched
output scales, because a softmax favours layers with large outputs (book/methods.md, Search).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pifi_probe.errors import RunInterrupted
from pifi_probe.probing.frozen_arms import Arm, make_tail
from pifi_probe.probing.frozen_slm import Vectors
from pifi_probe.training.recipe import Recipe

__all__ = ["OneShot", "train_one_shot"]

RATE_OF_WEIGHTS = 1e-2
RATE = 1e-3


class OneShot(nn.Module):
    """``head(h + sum_i softmax(a)_i branch_i(h))``, or without ``h`` where the wiring has no bypass.

    Parameters
    ----------
    arms : sequence of Arm
        One for each layer.
    calibration : Tensor, (rows, d_slm)
    n_labels : int
    wiring : {"pifi", "matched"}
    seed : int
    """

    def __init__(self, arms: Sequence[Arm], calibration: torch.Tensor, n_labels: int, wiring: str, seed: int) -> None:
        super().__init__()
        tails = [make_tail(arm, calibration, n_labels, wiring, seed) for arm in arms]
        self.plugins = nn.ModuleList([tail.plugin for tail in tails if tail.plugin is not None])
        self.head = tails[0].head
        self.scores = nn.Parameter(torch.zeros(len(arms)))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Turn pooled vectors (batch, d_slm) into logits (batch, n_labels)."""
        outputs = torch.stack([plugin(h) for plugin in self.plugins])  # (L, batch, d_slm)
        mixed = (self.shares[:, None, None] * outputs).sum(0)  # with a bypass each holds h, and the shares add up to 1
        logits: torch.Tensor = self.head(mixed)
        return logits

    @property
    def shares(self) -> torch.Tensor:
        """The softmax over layers, (L,)."""
        return self.scores.softmax(0)


def train_one_shot(
    arms: Sequence[Arm],
    train: Vectors,
    score: Vectors,
    *,
    n_labels: int,
    wiring: str,
    seed: int,
    epochs: int = 3,
    device: str = "cpu",
    stop: Callable[[], bool] = lambda: False,
) -> tuple[np.ndarray, np.ndarray]:
    """Train and return the shares of the layers, (L,), and the logits of the scored rows, (N, K).

    Raises
    ------
    RunInterrupted
        When `stop` says True.
    """
    torch_seed = int(np.random.SeedSequence([seed, 0]).generate_state(1)[0])
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed)  # dropout
        model = OneShot(arms, torch.from_numpy(train.h[:64]), n_labels, wiring, seed).to(device)
        weights = [p for name, p in model.named_parameters() if p.requires_grad and name != "scores"]
        groups = [{"params": weights, "lr": RATE}, {"params": [model.scores], "lr": RATE_OF_WEIGHTS}]
        optimizer = torch.optim.Adam(groups)
        h, labels = torch.from_numpy(train.h).to(device), torch.from_numpy(train.labels).to(device)
        order = np.random.default_rng([seed, 0])
        smoothing = Recipe().label_smoothing
        for _ in range(epochs):
            model.train()
            for rows in torch.from_numpy(order.permutation(len(train))).to(device).split(32):
                if stop():
                    raise RunInterrupted("told to stop")
                loss = cross_entropy(model(h[rows]), labels[rows], label_smoothing=smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(rows.to(device)) for rows in torch.from_numpy(score.h).split(256)])
    return model.shares.detach().cpu().numpy(), logits.cpu().numpy()
