"""A frozen layer: the family's own code around one layer's weights, and a card; layers in series and side by side."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from pifi_probe.errors import CheckpointError, CorruptFileError, FrozenLayerError, PifiProbeError
from pifi_probe.escaping import one_line
from pifi_probe.files import save_tensors, write_json
from pifi_probe.folders import finish_replacing, replaced_together
from pifi_probe.layers.card import LayerCard
from pifi_probe.layers.families import Family, family_of
from pifi_probe.layers.references import NamedBy
from pifi_probe.layers.shell import layers_of, make_shell, refuse_absurd_config
from pifi_probe.layers.value_path import reduce_structure
from pifi_probe.pretrained import config_from_dict
from pifi_probe.reading import read_object
from pifi_probe.reporting.tables import to_html

__all__ = ["FrozenChain", "FrozenLayer", "FrozenLayers", "FrozenParallel", "LayerCard"]

WEIGHTS_FILE = "layer.safetensors"
CARD_FILE = "layer.json"


class FrozenLayer(nn.Module):
    """One decoder layer of a language model, frozen, called as its family calls it.

    Made by `pifi_probe.extract`; not by hand.

    Parameters
    ----------
    shell : PreTrainedModel
        The family's base model with this layer as its only one; see `make_shell`.
    card : LayerCard
        Whose layer this is.
    named_by : NamedBy, optional
        The file whose word the card is; None: the user has named the donor.
    """

    def __init__(self, shell: PreTrainedModel, card: LayerCard, named_by: NamedBy | None = None) -> None:
        super().__init__()
        self.shell = shell
        self.card = card
        self.named_by = named_by
        self._trainable = False
        self.freeze()

    @classmethod
    def skeleton(cls, config: PretrainedConfig, card: LayerCard) -> FrozenLayer:
        """Build the layer without its weights, in the type that the card states, on the default device.

        Parameters
        ----------
        config : PretrainedConfig
            The layer's `donor_config`; of layers saved by version 0.1.0, cut down to the one layer.
        card : LayerCard
        """
        layer = cls(make_shell(config, _index_in(config, card), getattr(torch, card.dtype)), card)
        if card.reduced:
            reduce_structure(layer)
        return layer

    @property
    def family(self) -> Family:
        """The row of the layer's family."""
        return family_of(self.shell.config)

    @property
    def block(self) -> nn.Module:
        """The family's own layer module."""
        return layers_of(self.shell)[0]

    @property
    def config(self) -> PretrainedConfig:
        """The donor's configuration, cut down to this one layer."""
        return self.shell.config

    @property
    def donor_config(self) -> PretrainedConfig:
        """The donor's whole configuration, from which the layer is built: its depth may enter the arithmetic."""
        config: PretrainedConfig = self.shell.donor_config
        return config

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """Type the layer computes in."""
        return next(self.parameters()).dtype

    @property
    def n_params(self) -> int:
        """Number of weights of the layer."""
        return sum(p.numel() for p in self.parameters())

    @property
    def nbytes(self) -> int:
        """Bytes of the layer's weights in memory."""
        return sum(p.numel() * p.element_size() for p in self.parameters())

    @property
    def frozen(self) -> bool:
        """True when no weight of the layer can be trained."""
        return not any(p.requires_grad for p in self.parameters())

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Pass hidden states through the layer.

        Parameters
        ----------
        hidden_states : Tensor, (batch, seq, hidden_size)
            In any floating type; computed in the layer's.
        attention_mask : Tensor, optional
            (batch, seq) with 1 for tokens and 0 for padding; attention is causal. Or (batch, 1, seq, seq),
            added to the attention scores as it is, instead of the causal mask.

        Returns
        -------
        Tensor, (batch, seq, hidden_size)
            The layer's output before any final norm, in the type of `hidden_states`.

        Raises
        ------
        FrozenLayerError
            If a weight has become trainable, or a reduced layer is given more than one token.
        """
        self._check(hidden_states, attention_mask)
        states = hidden_states.to(self.dtype)
        output = self.shell(inputs_embeds=states, attention_mask=attention_mask, use_cache=False)
        return output.last_hidden_state.to(hidden_states.dtype)

    def _check(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
        if not self._trainable and not self.frozen:
            raise FrozenLayerError(
                "the frozen layer has trainable weights",
                where=self.card.spec,
                next="call layer.freeze(), or ask for the control 'unfrozen' if you mean to train it",
            )
        if hidden_states.shape[-1] != self.hidden_size:
            raise FrozenLayerError(
                f"hidden states have width {hidden_states.shape[-1]}, the layer expects {self.hidden_size}",
                where=self.card.spec,
                next=f"project to {self.hidden_size} first (L_in), as pp.plug_in does",
            )
        if self.card.reduced and hidden_states.shape[1] != 1:
            raise FrozenLayerError(
                f"a reduced layer takes one token, got {hidden_states.shape[1]}",
                where=self.card.spec,
                next="use the full layer from pp.extract for sequences",
            )
        alibi = self.family.alibi or getattr(self.config, "alibi", False)
        if alibi and attention_mask is not None and attention_mask.dim() == 4:
            raise FrozenLayerError(
                f"{self.card.family} derives its position bias from a two-dimensional mask",
                where=self.card.spec,
                next='use mask="causal" with this family',
            )

    def freeze(self) -> FrozenLayer:
        """Make every weight untrainable again."""
        self._trainable = False
        self.requires_grad_(False)
        return self.train(False)

    def unfreeze(self) -> FrozenLayer:
        """Let the layer be trained: the control ``"unfrozen"``, never part of PiFi."""
        self._trainable = True
        self.requires_grad_(True)
        return self

    def train(self, mode: bool = True) -> FrozenLayer:
        """Stay in evaluation mode, so that the donor's dropout never acts."""
        return super().train(False)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the layer's own tensors with names relative to the layer, sorted by name."""
        yield from sorted(self.block.state_dict().items())

    def digest(self) -> str:
        """Return the sha256 over names, shapes, types and sha256 of the layer's tensors."""
        with ThreadPoolExecutor() as pool:  # hashing lets other threads run
            lines = pool.map(_fingerprint, self.tensors())
            return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def with_card(self, **changes: Any) -> FrozenLayer:
        """Set fields of the card and return the layer."""
        self.card = replace(self.card, **changes)
        return self

    def __rshift__(self, other: FrozenLayer | FrozenChain) -> FrozenChain:
        return FrozenChain([self]) >> other

    def __or__(self, other: FrozenLayer | FrozenChain | FrozenParallel) -> FrozenParallel:
        return FrozenParallel([self]) | other

    def save(self, folder: str | Path) -> Path:
        """Write ``layer.safetensors`` and ``layer.json`` into `folder` and return it.

        Raises
        ------
        SaveError
            If the folder cannot be written or the disk is full. An older layer in it stays; a process that is
            killed at any point leaves the older or this one.
        CheckpointError
            If the weights are not the ones that the card describes.
        """
        folder = Path(folder)
        card = asdict(self.card_as_it_is())
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors()}
        with replaced_together(folder, CARD_FILE) as work:
            write_json(work / CARD_FILE, {"card": card, "config": self.donor_config.to_dict()})
            save_tensors(work / WEIGHTS_FILE, tensors)
        return folder

    def card_as_it_is(self) -> LayerCard:
        """Return the card of the weights as they are now: in another type a layer has another digest.

        Raises
        ------
        CheckpointError
            If the weights were changed otherwise and are not the ones that the card describes.
        """
        dtype = str(self.dtype).removeprefix("torch.")
        if self._trainable or dtype != self.card.dtype or not self.card.sha256:
            return replace(self.card, dtype=dtype, sha256=self.digest())
        self.check_digest(
            self.card.spec,
            "extract the layer again; a layer that is to be changed is the control 'unfrozen' (layer.unfreeze())",
        )
        return self.card

    def check_digest(self, where: str, next: str) -> None:
        """Raise `CheckpointError` unless the weights have the digest that the card states."""
        if any(tensor.is_meta for _, tensor in self.tensors()):
            raise CheckpointError(
                f"the weights of the frozen layer {self.card.spec} are not in memory, so they cannot be checked",
                where=where,
                next="load the model without offloading to disk (device_map): the layer is a small part of it",
            )
        found = self.digest()
        if found != self.card.sha256:
            raise CheckpointError(
                f"the weights of the frozen layer are not the ones of {self.card.spec} that the card describes: "
                f"expected sha256 {self.card.sha256 or '(none is stated)'}, found {found}",
                where=where,
                next=next,
            )

    @classmethod
    def load(
        cls, folder: str | Path, device: str | torch.device = "cpu", *, allow_external: bool = False
    ) -> FrozenLayer:
        """Read a layer written by `save`.

        Parameters
        ----------
        folder : str or Path
        device : str or device
        allow_external : bool
            What needs the whole donor later, such as ``scale="matched"``, may open whatever donor the card names:
            paths outside of `folder`, too, and hub ids with your token. Nothing of the donor is opened here.

        Raises
        ------
        CheckpointError
            If a file is missing or damaged, or the weights do not have the digest that the card states.
        """
        folder = Path(folder)
        here = os.path.isdir(folder)  # unlike pathlib, says no of what is not a name
        if here:
            finish_replacing(folder, CARD_FILE)
        if not here or not (folder / CARD_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
            raise CheckpointError(
                f"no saved layer here: {CARD_FILE} or {WEIGHTS_FILE} is missing",
                where=str(folder),
                next="give the folder that FrozenLayer.save wrote",
            )
        layer = _read_saved(folder, str(device))
        layer.check_digest(str(folder / WEIGHTS_FILE), "extract and save the layer again")
        layer.named_by = NamedBy(folder, allow_external)
        return layer.to(device)

    def assign(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put `tensors`, named relative to the layer, in place of its weights."""
        try:
            self.block.load_state_dict(dict(tensors), strict=True, assign=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"the tensors do not fit the layer: {error}",
                where=self.card.spec,
                next="check that configuration and weights come from the same model",
            ) from error
        self.freeze()

    def __repr__(self) -> str:
        size = f"{self.n_params:,} weights, {self.nbytes / 2**20:.1f} MiB"
        state = "frozen" if self.frozen else "TRAINABLE"
        kind = "" if self.card.variant == "real" else f", {self.card.variant}"
        path = ", single-token" if self.card.reduced else ""
        whose = one_line(f"{self.card.spec}, {self.card.family}")
        return f"FrozenLayer({whose}, d={self.hidden_size}, {size}, {state}{path}{one_line(kind)})"

    def _repr_html_(self) -> str:
        import pandas as pd

        card = self.card
        rows = {
            "layer": f"{card.spec} of {card.n_layers}",
            "family": card.family,
            "width": self.hidden_size,
            "weights": f"{self.n_params:,} ({self.nbytes / 2**20:.1f} MiB, {str(self.dtype).removeprefix('torch.')})",
            "stored as": card.stored_dtype,
            "licence": card.licence or "not stated",
            "kind": f"{card.variant}{', single-token path' if card.reduced else ''}",
            "frozen": "yes" if self.frozen else "no",
        }
        return to_html(pd.DataFrame([*rows.items()], columns=["of the layer", "value"]), "FrozenLayer")


def _read_saved(folder: Path, device: str) -> FrozenLayer:
    """Build the layer that the card describes around the stored weights."""
    from safetensors.torch import load_file

    stored = read_object(folder / CARD_FILE)
    try:
        card, config = LayerCard.from_dict(stored["card"], where=str(folder)), config_from_dict(stored["config"])
        tensors = load_file(folder / WEIGHTS_FILE, device=device)
        refuse_absurd_config(
            config, _index_in(config, card), sum(tensor.numel() for tensor in tensors.values()), card.spec
        )
        layer = FrozenLayer.skeleton(config, card)
    except (PifiProbeError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged file shows in many ways, and so does a configuration that cannot be
        raise CorruptFileError(
            f"{CARD_FILE} and {WEIGHTS_FILE} do not describe a layer: {type(error).__name__}: {error}",
            where=str(folder),
            next="extract and save the layer again",
        ) from error
    layer.assign(tensors)
    return layer


def _index_in(config: PretrainedConfig, card: LayerCard) -> int:
    """Return the layer's index among the layers of a stored configuration, which may be cut down to the one layer.

    Raises
    ------
    CheckpointError
        If the configuration has another number of layers than the card.
    """
    n_layers = int(config.num_hidden_layers)
    if n_layers not in (1, card.n_layers):
        raise CheckpointError(
            f"the configuration of a layer says num_hidden_layers = {n_layers}, and its card {card.n_layers}",
            where=card.spec,
            next="extract and save the layer again, or copy the whole folder again",
        )
    return card.index if n_layers == card.n_layers else 0


class FrozenChain(nn.Module):
    """Frozen layers in series; made by ``a >> b`` or ``pp.extract("M[8:11]")``.

    Parameters
    ----------
    layers : sequence of FrozenLayer
        Of equal hidden size.

    Raises
    ------
    FrozenLayerError
        If the hidden sizes differ.
    """

    def __init__(self, layers: list[FrozenLayer]) -> None:
        super().__init__()
        sizes = {layer.hidden_size for layer in layers}
        if len(sizes) != 1:
            raise FrozenLayerError(
                f"layers in series need equal hidden sizes, got {sorted(sizes)}",
                where=" >> ".join(layer.card.spec for layer in layers),
                next="combine them in parallel with | instead",
            )
        self.layers = nn.ModuleList(layers)

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return list_of(self)[0].hidden_size

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Pass (batch, seq, hidden_size) through all layers; see `FrozenLayer.forward`."""
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask)
        return hidden_states

    def __rshift__(self, other: FrozenLayer | FrozenChain) -> FrozenChain:
        if not isinstance(other, (FrozenLayer, FrozenChain)):
            return NotImplemented
        return FrozenChain(list_of(self) + list_of(other))

    def __or__(self, other: FrozenLayer | FrozenChain | FrozenParallel) -> FrozenParallel:
        return FrozenParallel([self]) | other

    def __repr__(self) -> str:
        return " >> ".join(repr(layer) for layer in self.layers)


class FrozenParallel(nn.Module):
    """Frozen branches side by side; made by ``a | b`` or ``pp.extract("M[3] | M[20]")``.

    It has no output of its own: `pifi_probe.plug_in` combines the branches with weights that are trained.

    Parameters
    ----------
    branches : list of FrozenLayer or FrozenChain
        Their hidden sizes may differ.
    """

    def __init__(self, branches: list[FrozenLayer | FrozenChain]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, *args: object, **kwargs: object) -> None:
        """Refuse: there is nothing yet that could add the branches up."""
        raise FrozenLayerError(
            "layers side by side have no output of their own",
            where=" | ".join(repr(branch) for branch in self.branches),
            next='combine them with pp.plug_in(..., combine="mix"), or call each branch by itself',
        )

    def __or__(self, other: FrozenLayer | FrozenChain | FrozenParallel) -> FrozenParallel:
        return FrozenParallel(branches_of(self) + branches_of(other))

    def __rshift__(self, other: object) -> None:
        raise FrozenLayerError(
            "layers side by side cannot stand in a series",
            where=">>",
            next="write A >> B | C >> D: each branch is a series of its own",
        )

    __rrshift__ = __rshift__

    def __repr__(self) -> str:
        return " | ".join(repr(branch) for branch in self.branches)


FrozenLayers = FrozenLayer | FrozenChain | FrozenParallel


def branches_of(layers: FrozenLayers) -> list[FrozenLayer | FrozenChain]:
    """Return what stands side by side; a layer or chain is one branch."""
    if not isinstance(layers, FrozenParallel):
        return [layers]
    return [branch for branch in layers.branches if isinstance(branch, (FrozenLayer, FrozenChain))]


def list_of(layer: FrozenLayers) -> list[FrozenLayer]:
    """Return the frozen layers of a layer, a chain or a parallel set, in order."""
    if isinstance(layer, FrozenLayer):
        return [layer]
    parts: Any = layer.layers if isinstance(layer, FrozenChain) else layer.branches
    return [one for part in parts for one in list_of(part)]


def _fingerprint(named: tuple[str, torch.Tensor]) -> str:
    name, tensor = named
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|{hashlib.sha256(flat.numpy().data).hexdigest()}"
