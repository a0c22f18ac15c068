"""The picture of the PiFi block: one source, the part under discussion lit, readable on light and dark pages."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from pifi_probe.errors import PifiProbeError
from pifi_probe.reporting.looks import ARMS

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
_WIDTHS = {"layer": 124, "encoder": 100}
_WIDTH, _GAP, _TOP, _HEIGHT = 76, 22, 14, 62
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

    def _repr_html_(self) -> str:
        return self.svg()

    def __repr__(self) -> str:
        return self.alt

    def svg(self) -> str:
        """Return the picture as inline SVG; it takes the colour of the text around it."""
        x, boxes = 2, []
        for part, (name, fate) in PARTS.items():
            width = _WIDTHS.get(part, _WIDTH)
            boxes.append(_box(x, width, name, fate, part in self.lit))
            if part != "label":
                boxes.append(_arrow(x + width, x + width + _GAP))
            x += width + _GAP
        total = x - _GAP + 2
        return (
            f'<svg class="pifi-block" role="img" aria-label="{escape(self.alt)}" viewBox="0 0 {total} 112" '
            f'xmlns="http://www.w3.org/2000/svg" style="width:100%;max-width:{total}px;height:auto;color:inherit" '
            f'font-family="sans-serif" font-size="15" text-anchor="middle">{"".join(boxes)}</svg>'
        )


def _box(x: int, width: int, name: str, fate: str, lit: bool) -> str:
    """Return one part: its box, its name, and below what becomes of its weights."""
    look = f'stroke="{_LIT}" stroke-width="3.5" fill="{_LIT}" fill-opacity="0.18"' if lit else 'stroke="currentColor"'
    plain = "" if lit else ' fill="none" stroke-width="1.3"'
    dashes = ' stroke-dasharray="6 4"' if fate == "frozen" else ""
    middle = x + width // 2
    weight = ' font-weight="700"' if lit else ""
    box = f'<rect x="{x}" y="{_TOP}" width="{width}" height="{_HEIGHT}" rx="8" {look}{plain}{dashes}/>'
    text = f'<text x="{middle}" y="{_TOP + 37}" fill="currentColor"{weight}>{escape(name)}</text>'
    below = f'<text x="{middle}" y="102" fill="currentColor" font-size="13">{fate}</text>' if fate else ""
    return box + text + below


def _arrow(start: int, end: int) -> str:
    y = _TOP + _HEIGHT // 2
    return f'<path d="M{start + 2} {y}H{end - 4}m-6 -5l6 5l-6 5" fill="none" stroke="currentColor" stroke-width="1.5"/>'


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
