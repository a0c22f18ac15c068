"""`TableUpload`: a file field whose file may be larger than a message to the kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

__all__ = ["TableUpload"]

_HERE = Path(__file__).parent


class TableUpload(anywidget.AnyWidget):
    """Takes one file, in pieces.

    Parameters
    ----------
    take : callable
        Called with name and content when a file is whole.
    **traits
        See attributes.

    Attributes
    ----------
    accept : str
        Suffixes, with commas between them.
    most : int
        Bytes; a larger file is refused in the browser.
    note : str
        Shown next to the field, as text.
    disabled : bool
    """

    _esm = _HERE / "upload.js"
    _css = _HERE / "upload.css"
    accept = traitlets.Unicode("").tag(sync=True)
    most = traitlets.Int(0).tag(sync=True)
    note = traitlets.Unicode("").tag(sync=True)
    disabled = traitlets.Bool(False).tag(sync=True)

    def __init__(self, take: Callable[[str, bytes], None], **traits: Any) -> None:
        super().__init__(**traits)
        self._take = take
        self._pieces = bytearray()
        self.on_msg(self._hear)

    def _hear(self, widget: object, content: Any, buffers: Sequence[Any]) -> None:
        if self.disabled or not isinstance(content, dict) or content.get("kind") != "piece" or not buffers:
            return
        if content["from"] == 0:
            self._pieces.clear()
            self.note = f"{content['name']} ..."
        if content["from"] != len(self._pieces):  # a piece was lost: the file is not whole
            self.note = f"{content['name']} did not come through; try again"
            return
        self._pieces += bytes(buffers[0])
        if len(self._pieces) > self.most:
            self._pieces.clear()
            self.note = f"{content['name']}: at most {self.most >> 20} MB are accepted"
        elif len(self._pieces) >= content["size"]:
            whole = bytes(self._pieces)
            self._pieces.clear()
            self._take(str(content["name"]), whole)

    def __repr__(self) -> str:
        return "TableUpload()"

    def _repr_keys(self) -> Any:
        return iter(())
