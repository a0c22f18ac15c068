"""The rule of the fidelity ladder: a rung prunes only where it has been shown to rank as the next one does."""

from __future__ import annotations

from collections.abc import Mapping

from pifi_probe.ranking import rank_agreement
from pifi_probe.selection.space import Candidate

__all__ = ["AGREEMENT", "MIN_SHARED", "may_prune"]

AGREEMENT, MIN_SHARED = 0.7, 5


def may_prune(lower: Mapping[Candidate, float], upper: Mapping[Candidate, float]) -> bool:
    """Return whether Kendall's tau between two rungs, over at least five shared candidates, reaches 0.7.

    Parameters
    ----------
    lower, upper : mapping of Candidate to float
        Mean value of each candidate on either rung.
    """
    shared = [candidate for candidate in lower if candidate in upper]
    if len(shared) < MIN_SHARED:
        return False
    found = rank_agreement([lower[c] for c in shared], [upper[c] for c in shared])
    return bool(found["kendall"] >= AGREEMENT)
