"""What plug-in probing measures of one layer after the other, without training anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pifi_probe.errors import EstimatorError
from pifi_probe.features.feature_set import Features
from pifi_probe.layers.checkpoint import Checkpoint, local_path
from pifi_probe.layers.extract import extract_from
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.residual import measure_profile, residual_rms
from pifi_probe.layers.variants import make_variant
from pifi_probe.probing.gains import Score, Scorer, arms_of, encoder_rows, mean_of
from pifi_probe.scoring.estimators import Estimator
from pifi_probe.scoring.intervals import N_FIFTHS
from pifi_probe.scoring.points import Measured
from pifi_probe.scoring.projections import DRAWN, Pairs, matched, project
from pifi_probe.scoring.spectrum import beside

__all__ = [
    "Alignment",
    "InContext",
    "LayerScores",
    "PluginScores",
    "branch",
    "layers_of",
]

_ROWS = 1024  # vectors that pass through a layer at once


@dataclass(frozen=True)
class InContext:
    """A layer with what it is used to.

    Parameters
    ----------
    layer : FrozenLayer
        In float32, in its full form.
    target_rms : float
        Median root mean square of its input tokens inside its own model.
    """

    layer: FrozenLayer
    target_rms: float

    @property
    def index(self) -> int:
        """Place of the layer in its model, and the point that is its input."""
        return self.layer.card.index


def layers_of(checkpoint: Checkpoint, model: str, indices: Sequence[int], device: torch.device) -> Iterator[InContext]:
    """Read layers one after the other, in float32."""
    local = local_path(checkpoint) is not None
    profile = [] if local else measure_profile(checkpoint, model)
    for index in indices:
        layer = extract_from(checkpoint, index, model=model, dtype="float32", device=device, digest=False)
        yield InContext(layer, residual_rms(layer.card) if local else profile[index])


class LayerScores(Protocol):
    """Something that is measured of one layer after the other."""

    def controls(self) -> list[Measured]:
        """Return what needs no layer."""
        ...

    def measure(self, one: InContext) -> list[Measured]:
        """Return what is measured of a layer."""
        ...


@torch.no_grad()
def branch(layer: FrozenLayer, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a layer adds to vectors that it sees as sequences of one: ``Layer(x) - x``, (N, d_llm).

    Raises
    ------
    EstimatorError
        If the layer's output is NaN or infinite.
    """
    device = next(layer.parameters()).device
    blocks = torch.from_numpy(x).split(_ROWS)
    added = torch.cat([(layer(block.to(device)[:, None])[:, 0].cpu() - block) for block in blocks])
    if not torch.isfinite(added).all():
        raise EstimatorError(
            "the layer's output is NaN or infinite", where=layer.card.spec, next="leave the layer out, and report it"
        )
    return added.numpy()


@dataclass(frozen=True)
class Alignment:
    """Texts, none of them scored, as both models see them; their labels are read by `likeness` alone, where it asks.

    Parameters
    ----------
    h : array of float32, shape (M, d_slm)
    states : Features
        Pooled states of the language model at every point, (M, d_llm).
    likeness : tuple of Estimator
        That compare the two at the input of each layer, or look at what the layer adds to its own input.
    labels : sequence, length M
        Of the texts.
    n_folds, seed : int
        As in `pifi_probe.probe`, where labels are predicted.
    """

    h: NDArray[np.float32]
    states: Features
    likeness: tuple[Estimator, ...] = ()
    labels: Sequence[Any] = ()
    n_folds: int = 5
    seed: int = 0

    def pairs(self, index: int) -> Pairs:
        """Return the paired states at the input of a layer."""
        return Pairs(self.h, np.asarray(self.states[index]))

    def controls(self) -> list[Measured]:
        """Return nothing: there is none."""
        return []

    def measure(self, one: InContext) -> list[Measured]:
        """Compare the encoder's vectors with the layer's own input."""
        states, note = np.asarray(self.states[one.index]), f"on the {len(self.h)} alignment texts"
        found = []
        for each in self.likeness:
            if each.needs_labels:  # the layer as a chain of one, in its own model
                leave = np.asarray(self.states[one.index + 1])
                scored = each.score(
                    leave, self.labels, other=self.h, entry=states, n_folds=self.n_folds, seed=self.seed
                )
                found.append(Score(scored.value, scored.per_example).measured(each.name, "real", "", one.index, note))
                continue
            scored = each.score(self.h, other=states)
            score = Score(scored.value, scored.per_example)
            if scored.per_example is None and len(self.h) >= 10 * N_FIFTHS:
                parts = [slice(start, None, N_FIFTHS) for start in range(N_FIFTHS)]
                score = Score(scored.value, None, np.array([each(self.h[p], other=states[p]) for p in parts]))
            found.append(score.measured(each.name, "real", "", one.index, note))
        return found


@dataclass(frozen=True)
class PluginScores:
    """Gains of a layer's branch over the encoder alone, without training.

    Parameters
    ----------
    h : array of float32, shape (N, d_slm)
        The encoder's vectors of the scored rows.
    scorer : Scorer
    projections : tuple of str
    n_draws : int
        Of the random projection; each with a shuffled twin of its own.
    alignment : Alignment, optional
        Needed by all projections but the random one.
    n_permutations : int
        Of the labels, for the scores of the encoder alone.
    seed : int
    """

    h: NDArray[np.float32]
    scorer: Scorer
    projections: tuple[str, ...]
    n_draws: int
    alignment: Alignment | None
    n_permutations: int
    seed: int

    def controls(self) -> list[Measured]:
        """Return the scores of the encoder alone."""
        base = self.scorer([self.h], self.n_permutations)[0]
        return [row for projection in self.projections for row in encoder_rows(base, projection)]

    def measure(self, one: InContext) -> list[Measured]:
        """Score a layer under every projection."""
        draws = [(name, draw) for name in self.projections for draw in range(self.n_draws if name in DRAWN else 1)]
        pairs = None if self.alignment is None else self.alignment.pairs(one.index)
        inputs, measured = [], []
        for name, draw in draws:
            found = project(name, self.h, one.layer.hidden_size, pairs=pairs, seed=(self.seed, draw))
            inputs.append(matched(found(self.h), one.target_rms))
            if np.isfinite(found.r2):
                measured.append(Score(found.r2).measured("alignment_r2", "real", name, one.index))
        gains = self.scorer.gains(self.h, self._sets(one.layer, draws, inputs))
        real, twins = gains[: len(draws)], gains[len(draws) :]
        for name in self.projections:
            own = [place for place, (projection, _) in enumerate(draws) if projection == name]
            measured += arms_of(
                _means([real[place] for place in own]),
                _means([twins[place] for place in own]),
                one.index,
                projection=name,
            )
        return measured

    def _sets(
        self, layer: FrozenLayer, draws: list[tuple[str, int]], inputs: list[NDArray[np.float32]]
    ) -> list[NDArray[np.float32]]:
        """Return the encoder's vectors next to the branch, of all draws: of the layer first, then of its twins."""
        real = make_variant(layer, "real", single_token=True)
        sets = [beside(self.h, branch(real, x)) for x in inputs]
        twins: dict[int, NDArray[np.float32]] = {}
        for shuffle in sorted({draw for _, draw in draws}):  # one twin in memory
            twin = make_variant(layer, "shuffled", single_token=True, seed=self.seed + shuffle)
            for place, (_, draw) in enumerate(draws):
                if draw == shuffle:
                    twins[place] = beside(self.h, branch(twin, inputs[place]))
        return sets + [twins[place] for place in range(len(draws))]


def _means(draws: list[dict[str, Score]]) -> dict[str, Score]:
    return {name: mean_of([one[name] for one in draws]) for name in draws[0]}
