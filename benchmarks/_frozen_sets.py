"""The search's fidelity "frozen" for sets of layers: projections and head on the encoder's vectors, computed once.

`pifi_probe.probing.frozen_slm` trains single layers this way; a greedy choice needs hundreds of sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from pifi_probe.layers.extract import extract
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.residual import residual_rms
from pifi_probe.layers.variants import make_variant
from pifi_probe.plugin.build import N_CALIBRATION, initialise
from pifi_probe.plugin.combine import make_plugin
from pifi_probe.plugin.config import WIRINGS, PiFiConfig
from pifi_probe.plugin.modeling import Head
from pifi_probe.probing.frozen_arms import Tail
from pifi_probe.probing.frozen_slm import LEARNING_RATE, Vectors, _held_out
from pifi_probe.selection.evaluate import FROZEN_EPOCHS
from pifi_probe.training import Recipe

BATCH = 32


class FrozenSets:
    """Scores sets of one model's layers by the validation NLL of what is trained on frozen vectors.

    Parameters
    ----------
    llm : str
    train, validation : Vectors
    n_labels : int
    wiring : str
    """

    def __init__(self, llm: str, train: Vectors, validation: Vectors, n_labels: int, wiring: str) -> None:
        held = _held_out(train.labels)
        self.fit, self.held = train.take(np.flatnonzero(~held)), train.take(np.flatnonzero(held))
        self.calibration = torch.from_numpy(train.h[:N_CALIBRATION])
        self.llm, self.validation, self.n_labels, self.wiring = llm, validation, n_labels, wiring
        self._layers: dict[int, tuple[FrozenLayer, float]] = {}

    def nll(self, indices: Sequence[int], design: str, seeds: Iterable[int]) -> list[float]:
        """Return the validation NLL of a set under each seed."""
        return [self._one(indices, design, seed) for seed in seeds]

    def _one(self, indices: Sequence[int], design: str, seed: int) -> float:
        tail = self._tail(indices, design, seed)
        trained = [p for p in tail.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE)
        h, labels = torch.from_numpy(self.fit.h), torch.from_numpy(self.fit.labels)
        order, best, weights = np.random.default_rng([seed, 0]), np.inf, [p.detach().clone() for p in trained]
        torch.manual_seed(seed)  # dropout
        for _ in range(FROZEN_EPOCHS):
            tail.train()
            for rows in torch.from_numpy(order.permutation(len(h))).split(BATCH):
                loss = cross_entropy(tail(h[rows]), labels[rows], label_smoothing=Recipe().label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if (now := _mean_nll(tail, self.held)) < best:
                best, weights = now, [p.detach().clone() for p in trained]
        with torch.no_grad():
            for p, kept in zip(trained, weights, strict=True):
                p.copy_(kept)
        return _mean_nll(tail, self.validation)

    def _tail(self, indices: Sequence[int], design: str, seed: int) -> Tail:
        """Return plug-in and head as `plug_in` draws and scales them."""
        layers, targets = zip(*(self._layer(index) for index in indices), strict=True)
        branches = 1 if design in ("single", "serial") else len(layers)
        config = PiFiConfig(
            combine=None if design == "single" else design,
            branches=None if design == "single" else [len(layers) // branches] * branches,
            plugin_width=layers[0].hidden_size * (branches if design == "unshared" else 1),
            **{name: value for name, value in WIRINGS[self.wiring].items() if name != "pooling"},
        )
        d_slm = self.calibration.shape[1]
        plugin = make_plugin(list(layers), d_slm, config)
        tail = Tail(plugin, Head(d_slm, self.n_labels, config.head_dropout), config)
        initialise(cast(Any, tail), seed)
        plugin.calibrate(self.calibration, None, *targets[:branches])
        return tail

    def _layer(self, index: int) -> tuple[FrozenLayer, float]:
        if index not in self._layers:
            layer = cast(FrozenLayer, extract(f"{self.llm}[{index}]", dtype="float32"))
            self._layers[index] = make_variant(layer, "real", single_token=True), residual_rms(layer.card)
        return self._layers[index]


@torch.no_grad()
def _mean_nll(tail: Tail, vectors: Vectors) -> float:
    tail.eval()
    return float(cross_entropy(tail(torch.from_numpy(vectors.h)).double(), torch.from_numpy(vectors.labels)))


def greedy(
    score: FrozenSets, n_layers: int, design: str, length: int, seeds: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yield the best single layer, the best set of two with it, and so on, each with the NLL of all that was tried."""
    chosen: tuple[int, ...] = ()
    while len(chosen) < length:
        tried = [(*chosen, index) for index in range(n_layers) if index not in chosen]
        found = step(score, tried, design if chosen else "single", seeds)
        chosen = tuple(found["layers"])
        yield found


def step(score: FrozenSets, tried: Iterable[tuple[int, ...]], design: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the set with the lowest mean NLL on the validation split, and the NLL of every set."""
    nll = {indices: score.nll(indices, design, seeds) for indices in tried}
    best = min(nll, key=lambda indices: float(np.mean(nll[indices])))
    return {
        "design": design,
        "layers": list(best),
        "validation_nll": float(np.mean(nll[best])),
        "tried": {" ".join(map(str, indices)): values for indices, values in nll.items()},
    }
