"""What commands make of the words for texts and layers: a task, columns, the layer that is meant."""

from __future__ import annotations

from typing import Any

__all__ = ["chosen_layer", "columns_of", "load_task"]


def chosen_layer(layer: str, wiring: str) -> str:
    """Return the layer that was named, or the default: the last of smollm2-135m; aligned, the chain of its headroom."""
    from pifi_probe.plugin.config import is_aligned

    return layer or ("smollm2-135m" if is_aligned(wiring) else "smollm2-135m[-1]")


def columns_of(text: str, label: str, kind: str, language: str) -> dict[str, Any]:
    """Return what a command line says of its texts beyond the defaults of `pifi_probe.load_task`."""
    said = {"text": text, "label": label, "kind": kind, "language": language}
    usual = {"text": "text", "label": "label", "kind": "", "language": "en"}
    return {name: value for name, value in said.items() if value != usual[name]}


def load_task(name: str, text: str, label: str, kind: str, language: str) -> Any:
    """Return an embedded or named task, or one from a file or the hub with these columns."""
    import pifi_probe as pp
    from pifi_probe.tasks import EMBEDDED, HUB_TASKS

    if name in EMBEDDED or name in HUB_TASKS:
        return pp.load_task(name)
    return pp.load_task(name, **columns_of(text, label, kind, language))
