"""What plug-in probing measures of projections and head around a layer: trained, and at the start of training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from pifi_probe.plugin.build import N_CALIBRATION
from pifi_probe.probing.frozen_arms import Arm, make_arm, make_tail
from pifi_probe.probing.frozen_slm import Vectors, frozen_slm
from pifi_probe.probing.gains import Score, Scorer, arms_of, encoder_rows
from pifi_probe.probing.layer_scores import InContext
from pifi_probe.probing.ntk import kernel_spectrum, ntk
from pifi_probe.scoring.estimators import ridge_accuracy, ridge_mse
from pifi_probe.scoring.points import Kind, Measured

__all__ = ["KINDS", "MOST_NTK", "NTK", "RIDGES", "NTKScores", "TrainedScores"]

NTK = "ntk_"  # before the names of the estimators that were given the tangent kernel
MOST_NTK = 2000  # rows: six matrices of all pairs take 200 MB, and their eigenvalues seconds
RIDGES = (ridge_accuracy, ridge_mse)
KINDS = {
    "alignment_r2": Kind("alignment R²", "share of variance", True),
    "frozen_slm_accuracy": Kind("frozen-SLM PiFi, accuracy", "accuracy", True),
    "frozen_slm_nll": Kind("frozen-SLM PiFi, NLL", "nats", False),
}
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NTKScores:
    """Gains in kernel regression with the tangent kernel of the plugged model at its start.

    Parameters
    ----------
    h : array of float32, shape (N, d_slm)
    scorer : Scorer
        Of ridge estimators.
    n_labels : int
    wiring : str
    seed : int
        Of head and projections.
    """

    h: NDArray[np.float32]
    scorer: Scorer
    n_labels: int
    wiring: str
    seed: int

    @cached_property
    def _alone(self) -> NDArray[np.floating]:
        return self._features(Arm("vanilla"))

    def controls(self) -> list[Measured]:
        """Return the score of the kernel without a plug-in."""
        return encoder_rows(self.scorer([self._alone])[0], "", prefix=NTK)

    def measure(self, one: InContext) -> list[Measured]:
        """Score the kernels of a layer and of its shuffled twin."""
        arms = [
            make_arm(one.layer, control, target_rms=one.target_rms, seeds=(self.seed,))
            for control in (None, "shuffled")
        ]
        real, twin = self.scorer.gains(self._alone, [self._features(arm) for arm in arms])
        return arms_of(real, twin, one.index, prefix=NTK)

    def _features(self, arm: Arm) -> NDArray[np.floating]:
        """Return features whose inner products are the kernel, (N, rank)."""
        h = torch.from_numpy(self.h)
        h = h if not arm.layers else h.to(next(arm.layers[0].parameters()).device)
        tail = make_tail(arm, h[:N_CALIBRATION], self.n_labels, self.wiring, self.seed)
        spectrum = kernel_spectrum(ntk(tail, h))
        return spectrum.components() if spectrum.rank else np.zeros((len(h), 1))


@dataclass(frozen=True)
class TrainedScores:
    """Frozen-SLM PiFi of layers and of their controls; see `frozen_slm`.

    Parameters
    ----------
    train, score : Vectors
    n_labels : int
    width : int
        d_llm.
    wiring : str
    seeds : tuple of int
    epochs : int
    device : str
    """

    train: Vectors
    score: Vectors
    n_labels: int
    width: int
    wiring: str
    seeds: tuple[int, ...]
    epochs: int
    device: str

    @cached_property
    def vanilla(self) -> dict[str, Floats]:
        """The scores of the head alone."""
        return self._scores(Arm("vanilla"))

    def controls(self) -> list[Measured]:
        """Return the scores of the head alone, and with both projections and nothing between them."""
        linear = self._scores(Arm("linear", width=self.width))
        return _rows_of(self.vanilla, "vanilla", None) + _rows_of(linear, "linear", None)

    def measure(self, one: InContext) -> list[Measured]:
        """Train a layer, a random layer and its shuffled twin, and compare them seed by seed."""
        made = {"real": None, "random": "random", "shuffled": "shuffled"}
        arms = {
            arm: self._scores(make_arm(one.layer, control, target_rms=one.target_rms, seeds=self.seeds))
            for arm, control in made.items()
        }
        measured = [row for arm, scores in arms.items() for row in _rows_of(scores, arm, one.index)]
        for other, scores in (("shuffled", arms["shuffled"]), ("vanilla", self.vanilla)):
            difference = {name: arms["real"][name] - scores[name] for name in scores}
            measured += _rows_of(difference, f"real - {other}", one.index)
        return measured

    def _scores(self, arm: Arm) -> dict[str, Floats]:
        run = frozen_slm(
            [arm],
            self.train,
            self.score,
            n_labels=self.n_labels,
            wiring=self.wiring,
            seeds=self.seeds,
            epochs=self.epochs,
            device=self.device,
        )[0]
        return {"frozen_slm_accuracy": run.correct, "frozen_slm_nll": run.nll}


def _rows_of(scores: dict[str, Floats], arm: str, index: int | None) -> list[Measured]:
    return [Score(float(parts.mean()), parts).measured(name, arm, "", index) for name, parts in scores.items()]
