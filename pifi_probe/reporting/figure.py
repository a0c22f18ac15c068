"""Figures as a notebook shows them: a PNG on a pale ground, and an SVG that follows the reader's theme."""

from __future__ import annotations

import io
from typing import Any

import matplotlib.figure

from pifi_probe.reporting.looks import style
from pifi_probe.reporting.svg import standalone_svg

__all__ = ["Figure", "png_of", "show_figures"]


class Figure(matplotlib.figure.Figure):
    """A figure unknown to pyplot: it shows itself in a notebook, whether or not pyplot was imported there."""

    def _repr_png_(self) -> bytes:
        return png_of(self)

    def _repr_svg_(self) -> str:
        return standalone_svg(self)


def png_of(figure: matplotlib.figure.Figure) -> bytes:
    """Return a figure as a PNG on a pale ground, cut to what is drawn."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", facecolor="white")
    return buffer.getvalue()


def show_figures(shell: Any) -> None:
    """Show every figure of a notebook in our style, and as an SVG next to the PNG, also those of pyplot.

    Parameters
    ----------
    shell : IPython.core.interactiveshell.InteractiveShell
        Of the notebook.
    """
    shell.run_line_magic("matplotlib", "inline")
    matplotlib.rcParams.update(style() | {"text.parse_math": True})  # as pyplot has it
    bundles = shell.display_formatter.mimebundle_formatter  # the one of SVG is emptied when pyplot is imported
    bundles.for_type(Figure, lambda figure: {"image/svg+xml": standalone_svg(figure)})
    bundles.for_type(matplotlib.figure.Figure, lambda figure: {"image/svg+xml": standalone_svg(figure, math=True)})
