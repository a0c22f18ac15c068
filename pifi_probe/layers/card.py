"""The card of a layer: whose it is, and the digest of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pifi_probe.bounds import MAX_LAYERS
from pifi_probe.errors import CorruptFileError
from pifi_probe.layers.spec import ModelRef
from pifi_probe.reading import Refused, typed

__all__ = ["LayerCard"]

_TYPES = ("float64", "float32", "float16", "bfloat16")  # that a layer computes in


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
    quantised : str or None
        How most of the donor's weights of this layer are stored when they are quantised: the layer is then the
        quantised one, not that of the model it was made from. None when they are stored as they are.
    bits_per_weight : float or None
        Stored bits for each weight, scales and the like included; None on cards of older versions.
    adapter : str or None
        The LoRA adapter that was merged into the layer: an absolute path, or ``"repo@commit"``.
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
    quantised: str | None = None
    bits_per_weight: float | None = None
    adapter: str | None = None
    reduced: bool = False
    summed: bool | None = None
    variant: str = "real"
    variant_seed: int = 0

    @property
    def spec(self) -> str:
        """The layer's name in the grammar of `pifi_probe.layers.spec`."""
        return f"{self.donor}[{self.index}]"

    @property
    def ref(self) -> ModelRef:
        """The model that it is a layer of."""
        return ModelRef(self.model, self.revision)

    @property
    def donor(self) -> str:
        """The name of that model."""
        return str(self.ref)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "card") -> LayerCard:
        """Rebuild a card; unknown keys of newer versions are ignored. `where` is for messages.

        Raises
        ------
        CorruptFileError
            If a value is missing, of another type, or one that no layer has.
        """
        try:
            card = typed(cls, values)
            if not 0 <= card.index < card.n_layers <= MAX_LAYERS:
                raise Refused(f"layer {card.index:,} of {card.n_layers:,}")
            if card.dtype not in _TYPES:
                raise Refused(f"a layer in {card.dtype!r:.40}, not one of {', '.join(_TYPES)}")
        except Refused as error:
            raise CorruptFileError(
                f"the card of a layer cannot be read: {error}", where=where, next="extract and save the layer again"
            ) from error
        return card
