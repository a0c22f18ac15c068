"""The picture of the PiFi block: one source, the part under discussion lit, readable on light and dark pages."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import Any

from pifi_probe.errors import PifiProbeError
from pifi_probe.reporting.figure import Figure, png_of
from pifi_probe.reporting.looks import ARMS, INK, styled
from pifi_probe.reporting.svg import standalone_svg, to_svg

__all__ = ["PARTS", "BlockFigure", "pifi_block"]

PARTS = {  # part: (what the box says, what becomes of its weights)
    "text": ("text", ""),
    "encoder": ("encoder", "trained"),
    "L_in": ("L_in", "trained"),
    "layer": ("LLM layer", "frozen"),
    "L_out": ("L_out", "trained"),
    "head": ("head", "trained"),
    "label": ("label", ""),
}
_WIDTHS = {"layer": 124, "encoder": 100}  # hundredths of an inch, as all below
_WIDTH, _GAP, _BOTTOM, _HEIGHT = 76, 22, 28, 62
_LIT = ARMS["real"][0]


@dataclass(frozen=True)
class BlockFigure:
    """A picture of the PiFi block that a notebook or a page shows.

    Parameters
    ----------
    lit : tuple of str
        The parts to light, out of `PARTS`.
    """

    lit: tuple[str, ...]

    @property
    def alt(self) -> str:
        """The picture in words."""
        chain = ", ".join(f"{name} ({fate})" if fate else name for name, fate in PARTS.values())
        lit = " and ".join(PARTS[part][0] for part in self.lit)
        return f"The PiFi block, from left to right: {chain}." + (f" Lit: {lit}." if lit else "")

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        """Return SVG for a notebook that is trusted, and PNG for one that is not."""
        figure = self.figure()
        return {
            "image/svg+xml": standalone_svg(figure, self.alt),
            "image/png": b64encode(png_of(figure)).decode(),
            "text/plain": self.alt,
        }

    def __repr__(self) -> str:
        return self.alt

    def svg(self) -> str:
        """Return the picture as inline SVG; it takes the colour of the text around it."""
        return to_svg(self.figure(), self.alt)

    def figure(self) -> Figure:
        """Draw the picture."""
        total = sum(_WIDTHS.get(part, _WIDTH) for part in PARTS) + _GAP * (len(PARTS) - 1) + 4
        with styled():
            figure = Figure(figsize=(total / 100, (_BOTTOM + _HEIGHT + 4) / 100))
            axes = figure.add_axes((0, 0, 1, 1))
            axes.set(xlim=(0, total), ylim=(0, _BOTTOM + _HEIGHT + 4))
            axes.axis("off")
            x = 2
            for part in PARTS:
                if x > 2:
                    _arrow(axes, x - _GAP, x)
                x = _box(axes, x, part, part in self.lit) + _GAP
        return figure


def _box(axes: Any, x: int, part: str, lit: bool) -> int:
    """Draw one part: its box, its name, and below what becomes of its weights; return where it ends."""
    from matplotlib.patches import FancyBboxPatch

    (name, fate), width = PARTS[part], _WIDTHS.get(part, _WIDTH)
    look: dict[str, Any] = (
        {"edgecolor": _LIT, "facecolor": f"{_LIT}2e", "linewidth": 2.5} if lit else {"edgecolor": INK, "fill": False}
    )
    dashes = (0, (5, 3)) if fate == "frozen" else "solid"
    shape = "round,pad=0,rounding_size=8"
    axes.add_patch(FancyBboxPatch((x, _BOTTOM), width, _HEIGHT, boxstyle=shape, linestyle=dashes, **look))
    middle = x + width / 2
    weight = "bold" if lit else "normal"
    axes.text(middle, _BOTTOM + _HEIGHT / 2, name, ha="center", va="center", fontsize=10.5, weight=weight)
    axes.text(middle, 10, fate, ha="center", va="center", fontsize=9.5)
    return x + width


def _arrow(axes: Any, start: int, end: int) -> None:
    from matplotlib.patches import FancyArrowPatch

    y = _BOTTOM + _HEIGHT / 2
    axes.add_patch(FancyArrowPatch((start + 2, y), (end - 2, y), arrowstyle="->", mutation_scale=11, color=INK))


def pifi_block(*lit: str) -> BlockFigure:
    """Return the picture of the PiFi block.

    Parameters
    ----------
    *lit : {"text", "encoder", "L_in", "layer", "L_out", "head", "label"}
        The parts under discussion.

    Raises
    ------
    PifiProbeError
        If there is no such part.
    """
    for part in lit:
        if part not in PARTS:
            raise PifiProbeError(f"no part {part!r} in the picture", where="pifi_block", next=f"use {', '.join(PARTS)}")
    return BlockFigure(lit)
