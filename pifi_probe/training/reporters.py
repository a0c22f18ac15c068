"""Curves of a run in TensorBoard, MLflow, W&B and what else transformers' Trainer reports to; off by default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks

from pifi_probe.errors import RecipeError
from pifi_probe.escaping import markdown

__all__ = ["LOGS", "reporters"]

LOGS = "tensorboard"  # folder within that of a run


def reporters(report_to: str | Sequence[str], out: Path | None, tags: Sequence[str] = ()) -> list[TrainerCallback]:
    """Return the callbacks that report a run.

    Parameters
    ----------
    report_to : str or sequence of str
        As in transformers' ``TrainingArguments``, such as ``"tensorboard"``; "" or "none" for nothing.
    out : Path, optional
        The run's folder; TensorBoard's files go into ``out/tensorboard``.
    tags : sequence of str
        Shown by TensorBoard as a text; W&B and MLflow read theirs from ``WANDB_TAGS`` and ``MLFLOW_TAGS``.

    Raises
    ------
    RecipeError
        If a name is unknown, its library is missing, or TensorBoard has no folder to write into.
    """
    names = [report_to] if isinstance(report_to, str) else list(report_to)
    found = []
    for name in (name for name in names if name not in ("", "none")):
        where = f"fine_tune(report_to={name!r})"
        try:
            (kind,) = get_reporting_integration_callbacks([name])
        except ValueError as error:
            known = str(error).partition("only ")[2].partition(" are")[0]
            raise RecipeError(f"nothing to report to is called {name!r}", where=where, next=f"use {known}") from error
        if name == "tensorboard" and out is None:
            raise RecipeError("TensorBoard has no folder to write into", where=where, next="name one: out=")
        try:
            found.append(kind(_writer(out / LOGS, tags)) if name == "tensorboard" and out is not None else kind())
        except (ImportError, RuntimeError) as error:
            package = "'pifi-probe[tensorboard]'" if name == "tensorboard" else name
            raise RecipeError(f"{name} is not installed", where=where, next=f"pip install {package}") from error
    return found


def _writer(folder: Path, tags: Sequence[str]) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(folder))
    if tags:
        writer.add_text("tags", markdown(", ".join(tags)))
    return writer
