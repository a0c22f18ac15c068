"""The cheap fidelities for ``wiring="aligned"``: what a chain's headroom promises, and its frozen readout."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pifi_probe.alignment.readout import Block, fit_block, fit_stack
from pifi_probe.errors import SearchError
from pifi_probe.features.chain_parts import Encoder, Texts, cached_interfaces
from pifi_probe.features.headroom import headroom
from pifi_probe.kinds.parts.metrics import per_example
from pifi_probe.layers.frozen import FrozenLayer, list_of
from pifi_probe.layers.variants import twin_of
from pifi_probe.selection.space import Candidate
from pifi_probe.vocabulary import TWINS

if TYPE_CHECKING:
    from pifi_probe.selection.evaluate import Parts

__all__ = ["AlignedRuns"]

N_HEADROOM = 1000
Floats = NDArray[np.float64]


class AlignedRuns:
    """Runs chains behind the frozen encoder; nothing is trained by gradient descent.

    Parameters
    ----------
    parts : Parts
        Gives encoder, task, rows and layers.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._blocks: dict[int, Block] = {}

    def promise(self, candidate: Candidate) -> tuple[float, list[float]]:
        """Return what a chain promises, in points, and what the donor adds to the encoder at every depth.

        The promise is what the donor adds over the chain times the fit of the interface at its entry.
        """
        layers = self._layers(candidate)
        if candidate.control is not None or not layers:
            return 0.0, []
        llm, first, last = layers[0].card.donor, layers[0].card.index, layers[-1].card.index
        task = self.parts.task
        n = min(N_HEADROOM, len(task.splits["train"]))
        own: Any = {"tokenizer": self.parts.given_tokenizer or None, "device": self.parts.device}
        found = headroom(self.parts.slm, llm, task, n=n, progress=False, **own)
        scores = found.spans(len(layers))
        score = scores.loc[(scores["first"] == first) & (scores["last"] == last), "score"].iloc[0]
        return float(score), [round(float(value), 3) for value in found.added]

    def frozen(self, candidate: Candidate, seed: int) -> tuple[Floats, Floats]:
        """Return NLL and correctness of validation and test rows, one after the other; `seed` draws folds and twins."""
        train, scored = self._texts["train"], [self._texts[name] for name in ("validation", "test")]
        y, n_labels = np.asarray(train.rows.labels, dtype=np.int64), self.parts.task.n_labels
        base = self._base(seed)
        said = [base(each.pooled()) for each in scored]
        if candidate.control != "vanilla":
            layers = self._layers(candidate)
            llm, entry = layers[0].card.donor, layers[0].card.index
            saw = {"task": self.parts.task.name, "split": "train", "texts of tests": "none"}
            interface = cached_interfaces(train, llm, [entry], saw=saw)[entry]
            if candidate.control in TWINS:
                layers = [twin_of(layer, str(candidate.control), seed) for layer in layers]
            chain = [] if candidate.control == "linear" else layers
            block = fit_block(train.chain(interface, chain, False), y, n_labels, seed=seed)
            stack = fit_stack([base, block], y, n_labels)
            said = [
                stack([own, block(each.chain(interface, chain, False))]) for own, each in zip(said, scored, strict=True)
            ]
        rows = [per_example(each.rows.labels, log_p) for each, log_p in zip(scored, said, strict=True)]
        nll, correct = (np.concatenate([one[name] for one in rows]).astype(np.float64) for name in ("nll", "correct"))
        return nll, correct

    def _layers(self, candidate: Candidate) -> list[FrozenLayer]:
        if candidate.control in ("unfrozen", "mlp") or candidate.design not in ("single", "serial"):
            raise SearchError(
                "an aligned chain is layers in series, and its cheap fidelities train nothing",
                where=candidate.label,
                next='use combine=("serial",), or the fidelity "full"',
            )
        return [] if candidate.control == "vanilla" else list_of(self.parts.layer(candidate, "float32"))

    @functools.cached_property
    def _texts(self) -> dict[str, Texts]:
        parts = self.parts
        encoder = Encoder(
            parts.slm, parts.recipe.max_tokens, parts.device, True, tokenizer=parts.given_tokenizer or None
        )
        return {name: Texts(encoder, rows) for name, rows in self.parts.rows.items()}

    def _base(self, seed: int) -> Block:
        if seed not in self._blocks:
            train = self._texts["train"]
            y = np.asarray(train.rows.labels, dtype=np.int64)
            self._blocks[seed] = fit_block(train.pooled(), y, self.parts.task.n_labels, seed=seed)
        return self._blocks[seed]
