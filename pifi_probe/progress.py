"""When a progress bar is shown: in a terminal or a notebook, never in a file or a pipe."""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["bar_options"]


def bar_options(wanted: bool = True) -> dict[str, Any]:
    """Return what `tqdm.auto.tqdm` needs to stay hidden where nobody watches, or where it is not wanted.

    ``TQDM_DISABLE`` hides it everywhere; tqdm itself heeds that in a terminal, but not in a notebook.
    """
    hidden = os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    return {} if wanted and not hidden and (sys.stderr.isatty() or _in_notebook()) else {"disable": True}


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
