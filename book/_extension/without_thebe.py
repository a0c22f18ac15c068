"""A Sphinx extension: leave out the scripts of Thebe, which stand twice in every page and are never used here."""

from __future__ import annotations

from typing import Any

__all__ = ["setup"]


def setup(app: Any) -> dict[str, bool]:
    """Attach to Sphinx."""
    app.connect("html-page-context", _leave_out, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _leave_out(app: Any, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    context["script_files"] = [file for file in context["script_files"] if "thebe" not in _text(file).lower()]


def _text(file: Any) -> str:
    return f"{getattr(file, 'filename', '')} {getattr(file, 'attributes', {}).get('body', '')}"
