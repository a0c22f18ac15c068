"""A figure that a notebook shows as any other result: as the last expression of its cell."""

from __future__ import annotations

import io

import matplotlib.figure

__all__ = ["Figure"]


class Figure(matplotlib.figure.Figure):
    """A figure unknown to pyplot: it shows itself in a notebook, whether or not pyplot was imported there."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight", facecolor="white")
        return buffer.getvalue()
