"""Widgets for notebooks: watch, steer and understand a search; look at the layers of a checkpoint.

They are loaded on first use, so that nothing of Jupyter is imported before a widget is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pifi_probe.widgets.layer_browser import LayerBrowser
    from pifi_probe.widgets.layer_search import LayerSearch

__all__ = ["LayerBrowser", "LayerSearch"]


def __getattr__(name: str) -> Any:
    if name == "LayerBrowser":
        from pifi_probe.widgets.layer_browser import LayerBrowser

        return LayerBrowser
    if name == "LayerSearch":
        from pifi_probe.widgets.layer_search import LayerSearch

        return LayerSearch
    raise AttributeError(f"module 'pifi_probe.widgets' has no attribute {name!r}")
