"""The linear interface from an encoder's tokens to a language model's states before one of its layers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from pifi_probe.alignment.tokens import with_previous
from pifi_probe.errors import CorruptFileError
from pifi_probe.files import save_tensors
from pifi_probe.reading import Refused, open_file, parse_json, typed

__all__ = ["Interface"]

_TENSORS = ("weight", "bias", "first")


@dataclass(frozen=True)
class _Facts:
    """What is stored of an interface next to its tensors."""

    scale: float
    r2: float
    entry: int
    donor: str = ""
    slm: str = ""
    penalty: float = 0.0
    saw: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Interface:
    """``entry state = scale * (weight [token, token before] + bias)``, behind the donor's mean first state.

    A token is the encoder's state after its last layer and before its first one (`TokenStates.tokens`). Fitted by
    `fit_interfaces` on texts without labels.

    Parameters
    ----------
    weight : Tensor of float32, (d_llm, 4 d_slm)
    bias : Tensor of float32, (d_llm,)
    first : Tensor of float32, (d_llm,)
        The donor's state of first tokens, averaged: an attention sink, much larger than any other, that stands in
        front of every text.
    scale : float
        Median root mean square of the donor's tokens at the entry.
    r2 : float
        Share of the variance of the donor's states, each divided by its own root mean square, that the map
        predicts on texts it was not fitted to.
    entry : int
        The layer whose input is predicted.
    donor, slm : str
        Names of both models.
    penalty : float
        Of the ridge regression.
    saw : mapping
        What the fit has seen: texts, tokens, and where they come from. Never labels, never test texts.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    first: torch.Tensor
    scale: float
    r2: float
    entry: int
    donor: str = ""
    slm: str = ""
    penalty: float = 0.0
    saw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hidden_size(self) -> int:
        """Width of the donor's residual stream."""
        return len(self.bias)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Turn an encoder's tokens into states at the donor's entry.

        Parameters
        ----------
        tokens : Tensor, (batch, seq, 2 d_slm)
            Padded on the right.

        Returns
        -------
        Tensor, (batch, 1 + seq, d_llm)
            The mean first state, then one state for each token.
        """
        mapped = self.scale * torch.nn.functional.linear(with_previous(tokens), self.weight, self.bias)
        return torch.cat([self.first.expand(len(tokens), 1, -1), mapped], dim=1)

    def redrawn(self, seed: int) -> Interface:
        """Return an interface that is not aligned: normal weights with the mean square of the fitted ones."""
        drawn = torch.randn(self.weight.shape, generator=torch.Generator().manual_seed(seed))
        weight = drawn * self.weight.square().mean().sqrt().cpu()
        return replace(self, weight=weight.to(self.weight.device), r2=float("nan"))

    def to(self, device: str | torch.device) -> Interface:
        """Return the interface on a device."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return Interface(**values | {name: values[name].to(device) for name in _TENSORS})

    def facts(self) -> dict[str, Any]:
        """Return everything but the weights, as JSON can hold it."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in _TENSORS} | {
            "saw": dict(self.saw)
        }

    def digest(self) -> str:
        """Return a hexadecimal digest over weights and scale, 128 bits."""
        digest = hashlib.sha256(json.dumps([self.scale, self.entry]).encode())
        for name in _TENSORS:
            digest.update(getattr(self, name).detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()[:32]

    def save(self, path: str | Path) -> Path:
        """Write the interface to one safetensors file, and return its path.

        Raises
        ------
        SaveError
            If the file cannot be written.
        """
        path = Path(path)
        tensors = {name: getattr(self, name).detach().cpu().contiguous() for name in _TENSORS}
        save_tensors(path, tensors, interface=json.dumps(self.facts()))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Interface:
        """Read what `save` wrote.

        Raises
        ------
        CorruptFileError
            If the file is missing or does not hold an interface.
        """
        from safetensors import SafetensorError, safe_open

        try:
            open_file(path).close()  # no pipe
            with safe_open(str(path), framework="pt") as file:
                facts = typed(_Facts, parse_json((file.metadata() or {})["interface"]))
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
            _check_tensors(tensors)
            if facts.entry < 0 or not 0 < facts.scale < math.inf:
                raise Refused(f"entry {facts.entry}, scale {facts.scale}")
            return cls(**tensors, **asdict(facts))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CorruptFileError(
                f"this is not an interface: {error}", where=str(path), next="give a file that Interface.save wrote"
            ) from error

    def __repr__(self) -> str:
        texts = self.saw.get("texts", "?")
        return f"Interface({self.slm} -> {self.donor}[{self.entry}], R² {self.r2:.2f} on held-out texts, {texts} texts)"


def _check_tensors(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise `Refused` unless these are the weights of one map, finite and in float32."""
    width, inputs = tensors["bias"].numel(), tensors["weight"].numel() // max(1, tensors["bias"].numel())
    for name, shape in {"weight": (width, inputs), "bias": (width,), "first": (width,)}.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32 or not tensor.numel():
            raise Refused(f"{name} of shape {tuple(tensor.shape)} and type {tensor.dtype}")
        if not bool(torch.isfinite(tensor).all()):
            raise Refused(f"{name} holds numbers that are not finite")
    if inputs % 4:  # a token and the one before it, each after the last layer and before the first
        raise Refused(f"weight of shape {tuple(tensors['weight'].shape)}")
