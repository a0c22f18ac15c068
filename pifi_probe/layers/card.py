"""The card of a layer: whose it is, and the digest of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

__all__ = ["LayerCard"]


@dataclass(frozen=True)
class LayerCard:
    """Whose layer this is.

    Parameters
    ----------
    model, revision, index, n_layers
        Donor model, its revision (commit for the hub), index of the layer and number of layers.
    family : str
        ``model_type`` of the donor.
    dtype, stored_dtype : str
        Type the layer computes in, and type (or quantisation) it is stored in at the donor's.
    licence : str or None
        Licence the donor states; None when it states none.
    gated : bool
        True when the donor must be asked for access.
    sha256 : str
        Digest over names, shapes, types and digests of the layer's tensors as they compute.
    reduced : bool
        True when only the exact single-token path is kept (see `pifi_probe.layers.reduce`).
    summed : bool or None
        Of a reduced layer: whether the columns of heads that read one key-value head were summed, as is done in
        float32 and wider; None when the type says it.
    variant, variant_seed : str, int
        ``"real"``, or the control made from it: ``"random"``, ``"shuffled"``, ``"unfrozen"``.
    """

    model: str
    index: int
    n_layers: int
    family: str
    dtype: str
    stored_dtype: str
    revision: str | None = None
    licence: str | None = None
    gated: bool = False
    sha256: str = ""
    reduced: bool = False
    summed: bool | None = None
    variant: str = "real"
    variant_seed: int = 0

    @property
    def spec(self) -> str:
        """The layer's name in the grammar of `pifi_probe.layers.spec`."""
        return f"{self.model}{'@' + self.revision if self.revision else ''}[{self.index}]"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LayerCard:
        """Rebuild a card; unknown keys of newer versions are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})
