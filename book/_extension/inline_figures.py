"""A Sphinx extension: figures of notebooks stand in the page as SVG, in the colour of its text, whatever its theme."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

__all__ = ["InlineFigures", "inlined", "setup"]

OURS = '<svg fill="currentColor" class="pifi-plot"'


def setup(app: Any) -> dict[str, bool]:
    """Attach to Sphinx."""
    app.add_post_transform(InlineFigures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class InlineFigures(SphinxPostTransform):
    """Replace an image that a notebook's figure was written to by its SVG."""

    default_priority = 50  # after MyST-NB has chosen among an output's types
    formats = ("html",)

    def run(self, **_: Any) -> None:
        """Run on one page."""
        for image in list(self.document.findall(nodes.image)):
            file = Path(self.app.srcdir, image["uri"])
            if file.suffix == ".svg" and file.is_file():
                svg = file.read_text(encoding="utf-8")
                if svg.startswith(OURS):
                    image.replace_self(nodes.raw("", inlined(svg, image.get("alt", "")), format="html"))


def inlined(svg: str, alt: str) -> str:
    """Return an SVG of `pifi_probe.reporting.svg` without its ground, with words, in a box that scrolls."""
    own = re.match(r'<svg [^>]*?( role="img" aria-label="([^"]*)")', svg)  # words that the figure brings itself
    label = own[2] if own else escape(alt, quote=True)
    svg = svg.replace(own[1], "", 1) if own else svg
    svg = re.sub(r"<style>\.pifi-plot.*?</style>", "", svg, count=1)
    wide = re.search(r'\bwidth="([\d.]+)pt"', svg)
    least = f' style="min-width: {0.7 * float(wide[1]):.0f}pt"' if wide else ""  # narrower, letters would be too small
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{label}"{least} ', 1)
    return f'<div class="pifi-plot-box" tabindex="0" role="group" aria-label="{label}">{svg}</div>'
