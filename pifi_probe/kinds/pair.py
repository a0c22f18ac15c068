"""Kind "pair": one class for two texts that are read together."""

from __future__ import annotations

from pifi_probe.kinds.base import register_kind
from pifi_probe.kinds.parts.rows import Layout
from pifi_probe.kinds.single import Classes

__all__ = ["Pairs"]


@register_kind
class Pairs(Classes):
    """One class for two texts that are read together."""

    name = "pair"
    layout = Layout(("premise", "sentence1", "question1"), ("label",), pair=("hypothesis", "sentence2", "question2"))
    pair = True
