"""How an exercise is judged: not attempted, not right yet (with the likely mistake named), or passed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

__all__ = ["Mistake", "Report", "ask", "attempt", "require", "require_close", "require_shape"]

Status = Literal["not attempted", "wrong", "passed"]


class Mistake(Exception):
    """What is wrong with an answer, in words for the learner; never leaves this room."""


class _NotAttempted(Exception):
    """The answer is still the stub."""


@dataclass(frozen=True)
class Report:
    """What a check found; a notebook shows it as one line.

    Parameters
    ----------
    exercise : str
        Its number, such as ``"03.1"``.
    status : {"not attempted", "wrong", "passed"}
    message : str
        The likely mistake and where to look; empty otherwise.
    """

    exercise: str
    status: Status
    message: str = ""

    @property
    def passed(self) -> bool:
        """True when the answer is right."""
        return self.status == "passed"

    def __repr__(self) -> str:
        if self.status == "not attempted":
            return f"Exercise {self.exercise}: not attempted yet"
        return f"Exercise {self.exercise}: " + ("passed" if self.passed else f"not right yet. {self.message}")


def attempt(exercise: str, answer: Any, judge: Callable[[], None]) -> Report:
    """Judge an answer without ever raising.

    Parameters
    ----------
    exercise : str
        Its number, such as ``"03.1"``.
    answer : object
        The learner's value or function; ``...`` is the untouched stub.
    judge : callable
        Raises `Mistake` through the ``require`` functions when the answer is wrong. It calls the learner's
        function through `ask` only.

    Returns
    -------
    Report
    """
    if answer is ...:
        return Report(exercise, "not attempted")
    try:
        judge()
    except _NotAttempted:
        return Report(exercise, "not attempted")
    except Mistake as mistake:
        return Report(exercise, "wrong", str(mistake))
    except Exception as error:  # the learner's code may raise anything
        return Report(exercise, "wrong", f"Your answer raised {type(error).__name__}: {error}")
    return Report(exercise, "passed")


def ask(function: Callable[..., Any], *args: Any) -> Any:
    """Call the learner's function; a result of ``...`` means that the stub is untouched."""
    result = function(*args)
    if result is ... or (isinstance(result, tuple) and any(part is ... for part in result)):
        raise _NotAttempted
    if result is None:
        raise Mistake("Your function returns None: it ends without a return statement.")
    return result


def require(holds: bool, message: str) -> None:
    """Name the mistake unless `holds`."""
    if not holds:
        raise Mistake(message)


def require_shape(got: Any, shape: tuple[int, ...], message: str = "") -> None:
    """Require a tensor of this shape."""
    require(isinstance(got, torch.Tensor), f"Expected a tensor, got {type(got).__name__}.")
    require(tuple(got.shape) == shape, f"The shape is {tuple(got.shape)}, it must be {shape}. {message}".strip())


def require_close(
    got: torch.Tensor,
    expected: torch.Tensor,
    message: str,
    likely: dict[str, torch.Tensor] | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Require equal tensors; where the answer equals a known wrong one, name that mistake.

    Parameters
    ----------
    got, expected : Tensor
        Of one shape.
    message : str
        Said when no known mistake fits.
    likely : dict, optional
        Message of a likely mistake to the tensor it gives.
    tolerance : float
        Largest absolute difference.
    """
    require_shape(got, tuple(expected.shape))
    if _close(got, expected, tolerance):
        return
    for mistake, wrong in (likely or {}).items():
        if wrong.shape == got.shape and _close(got, wrong, tolerance):
            raise Mistake(mistake)
    raise Mistake(message)


def _close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    return bool(torch.allclose(a.detach().float(), b.detach().float(), rtol=0, atol=tolerance))
