"""Figures as SVG that follows the theme of whoever shows it, in reports, notebooks, files and the book."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from pifi_probe.escaping import printable
from pifi_probe.reporting.looks import INK, styled

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

__all__ = ["standalone_svg", "to_svg"]

BLACKS = (INK, "#000000")  # what becomes the colour of the text around the figure
FONTS = "'DejaVu Sans', Verdana, sans-serif"  # the one that the text was measured with, and one as wide
INKED = 'fill="currentColor"'  # matplotlib leaves out a fill that is black
MANY = 2000  # points of one series that are drawn as pixels
# the class keeps the rules to such figures where a viewer puts the SVG into its own page
GROUND = (
    f"<style>.pifi-plot {{ color: {INK}; background: #ffffff }} "
    "@media (prefers-color-scheme: dark) { .pifi-plot { color: #e8e8ea; background: #14161a } }</style>"
)


def to_svg(figure: Figure, alt: str) -> str:
    """Return a figure as an ``<svg>`` element to be put into a page.

    It has a transparent ground, takes the colour of the page's text, holds no date, and its identifiers do not
    collide with those of another figure.

    Parameters
    ----------
    figure : Figure
    alt : str
        What the figure shows, in words, for readers who do not see it.
    """
    least = f"{0.7 * figure.get_figwidth():.1f}in"  # narrower, its letters would be too small to read
    return _svg(figure, f'role="img" aria-label="{_quoted(alt)}" {INKED} style="min-width: {least}"')


def standalone_svg(figure: Figure, alt: str = "", *, math: bool = False) -> str:
    """Return a figure as an SVG that is shown on its own: in a notebook or from a file.

    It brings a ground, pale or dark as the reader's colour scheme is, and is cut to what is drawn.

    Parameters
    ----------
    figure : Figure
    alt : str
        What the figure shows, in words; empty where the place that shows it says so.
    math : bool
        True for a figure of pyplot, whose ticks on a logarithmic axis are formulas between dollars.
    """
    named = f' role="img" aria-label="{_quoted(alt)}"' if alt else ""
    svg = _svg(figure, f'{INKED} class="pifi-plot"{named}', tight=True, math=math)
    head = svg.index(">") + 1
    return svg[:head] + GROUND + svg[head:]


def _svg(figure: Figure, attributes: str, tight: bool = False, math: bool = False) -> str:
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_text(printable(text.get_text()))
    buffer = io.StringIO()
    with styled(), _many_as_pixels(figure), warnings.catch_warnings():
        matplotlib.rcParams["text.parse_math"] = math
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's own fonts will have it
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            dpi=150,  # of what is drawn as pixels
            bbox_inches="tight" if tight else None,
            metadata={"Date": None, "Creator": None},
        )
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for found, wanted in (("|".join(BLACKS), "currentColor"), (r"font-family: [^;\"]*", f"font-family: {FONTS}")):
        svg = re.sub(r"<[^>]+>", partial(_within, found, wanted), svg)
    prefix = hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r"<[^>]+>", partial(_within, r'(\bid="|href="#|url\(#)', rf"\g<1>f{prefix}-"), svg)
    return svg.replace("<svg ", f"<svg {attributes} ", 1)


def _within(found: str, wanted: str, tag: re.Match[str]) -> str:
    return re.sub(found, wanted, tag[0])


@contextlib.contextmanager
def _many_as_pixels(figure: Figure) -> Iterator[None]:
    """Draw series of very many points as pixels inside the SVG, so that it stays small."""
    import numpy as np
    from matplotlib.collections import PathCollection
    from matplotlib.lines import Line2D

    points: list[Artist] = [one for one in figure.findobj(PathCollection) if np.shape(one.get_offsets())[0] > MANY]
    lines: list[Artist] = [one for one in figure.findobj(Line2D) if np.size(one.get_xdata()) > MANY]
    many = points + lines
    before = [one.get_rasterized() for one in many]
    for one in many:
        one.set_rasterized(True)
    try:
        yield
    finally:
        for one, was in zip(many, before, strict=True):
            one.set_rasterized(was)


def _quoted(alt: str) -> str:
    return escape(printable(alt), quote=True)
