"""One check of a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Check"]


@dataclass(frozen=True)
class Check:
    """One check.

    Parameters
    ----------
    name : str
    status : {"ok", "warn", "fail", "skipped"}
    finding : str
        What was found, or why the check was skipped.
    evidence : dict
        The numbers it was found from.
    advice : str
        What to do; empty when there is nothing to do.
    """

    name: str
    status: str
    finding: str
    evidence: dict[str, Any] = field(default_factory=dict)
    advice: str = ""
