"""`diagnose`: why a run or a model may not do what the paper reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pifi_probe.encoders import within_positions
from pifi_probe.errors import PifiProbeError
from pifi_probe.escaping import printable
from pifi_probe.kinds.parts.encoding import encode
from pifi_probe.layers.references import NamedBy, open_reference
from pifi_probe.layers.spec import ModelRef
from pifi_probe.layers.tokenizer import donor_tokenizer
from pifi_probe.plugin.base import PiFiPreTrainedModel
from pifi_probe.plugin.build import tokenizer_for
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.reporting.result import Result
from pifi_probe.reporting.tables import Table
from pifi_probe.tasks.task import Split, Task
from pifi_probe.training.describe import describe_model
from pifi_probe.training.result import RunResult, runs_in
from pifi_probe.training.scales import plugin_scales
from pifi_probe.training.sight import NAME, check_sight, plugged_in
from pifi_probe.training.signatures import (
    Check,
    LayerState,
    check_controls,
    check_dimensions,
    check_frozen,
    check_gradients,
    check_language,
    check_scale,
)
from pifi_probe.vocabulary import MAX_TOKENS

__all__ = ["Diagnosis", "diagnose"]

N_TEXTS = 300


@dataclass(frozen=True, repr=False)
class Diagnosis(Result):
    """What `diagnose` returns.

    Parameters
    ----------
    subject : str
        Label of the arm.
    checks : tuple of Check
    """

    subject: str
    checks: tuple[Check, ...]
    noun: ClassVar[str] = "a diagnosis"

    @property
    def status(self) -> str:
        """The worst status of all checks: ``"ok"``, ``"warn"`` or ``"fail"``."""
        found = {check.status for check in self.checks}
        return next((status for status in ("fail", "warn") if status in found), "ok")

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        return super().to_dict() | {"status": self.status}

    def tables(self) -> list[Table]:
        """Return one table: a row for each check."""
        import pandas as pd

        rows = [(one.status, one.name, one.finding, one.advice) for one in self.checks]
        return [Table(pd.DataFrame(rows, columns=["status", "check", "finding", "advice"]), self.subject, fixed=2)]

    def __str__(self) -> str:
        lines = [self.subject]
        for check in self.checks:
            lines.append(f"  {check.status:8}{check.name}: {check.finding}")
            lines += [f"          -> {check.advice}"] if check.advice else []
        return printable("\n".join(lines))

    def __repr__(self) -> str:
        return str(self)


def diagnose(
    run_or_model: RunResult | PiFiForSequenceClassification,
    *,
    runs: Sequence[RunResult] = (),
    task: Task | None = None,
    allow_external: bool = False,
) -> Diagnosis:
    """Check a run or a model for the failure signatures that the paper names.

    Parameters
    ----------
    run_or_model : RunResult or PiFiForSequenceClassification
    runs : sequence of RunResult
        Further seeds of the same arm, and the controls it is compared with. The run itself may be among them.
    task : Task, optional
        Its texts are read for the language of the donor and, for a model, for the scale of the plug-in. For poor
        results under domain shift, give the task of the other domain.
    allow_external : bool
        Open the donor of a run for its tokenizer wherever the result says that it lies: any path, and hub ids with
        your token. Otherwise embedded donors, and hub ids without a token. A model says itself whose word its names
        are (``from_pretrained(allow_external=...)``).

    Returns
    -------
    Diagnosis
        What cannot be checked is "skipped", with the reason. Whether an effect of the donor's weights could be seen
        at all is told from its positive control (`pifi_probe.positive_control`), if this machine has measured it.

    Raises
    ------
    PifiProbeError
        If the first argument is neither a run nor a model, or `runs` holds anything but results of runs.

    Examples
    --------
    >>> pp.diagnose(run, runs=controls, task=pp.load_task("tweets"))  # doctest: +SKIP
    """
    if not isinstance(run_or_model, RunResult | PiFiPreTrainedModel):
        raise PifiProbeError(
            f"a {type(run_or_model).__name__} cannot be diagnosed",
            where="diagnose",
            next="give what pp.fine_tune returned, or a model of pp.plug_in",
        )
    runs = runs_in(runs, "diagnose(runs=...)")
    if isinstance(run_or_model, RunResult):
        about, label = run_or_model.model, run_or_model.label
        curves, bound = run_or_model.curves, run_or_model.recipe.max_grad_norm
        arm = [run_or_model, *(run for run in runs if run.label == label and run.seed != run_or_model.seed)]
    else:
        about = describe_model(run_or_model)
        label, curves, bound, arm = about["label"], {}, 0.0, []
    dimensions = check_dimensions(about["shapes"])
    checks = (
        check_frozen(_layer_states(run_or_model, about)),
        check_controls(arm, runs),
        dimensions,
        _language(run_or_model, about, task, allow_external),
        check_gradients(curves, bound),
        check_scale(_ratios(run_or_model, task) if dimensions.status != "fail" else []),
        _sight(about),
    )
    return Diagnosis(label, checks)


def _layer_states(subject: RunResult | PiFiForSequenceClassification, about: dict[str, Any]) -> list[LayerState]:
    if isinstance(subject, RunResult):
        found = zip(subject.layer_digests["before"], subject.layer_digests["after"], strict=True)
        return [
            LayerState(layer["spec"], layer["variant"], layer["sha256"], digests)
            for layer, digests in zip(about["layers"], found, strict=True)
        ]
    return [
        LayerState(one.card.spec, one.card.variant, one.card.sha256, (one.digest(),), trainable=not one.frozen)
        for one in subject.frozen_layers
    ]


def _language(
    subject: RunResult | PiFiForSequenceClassification, about: dict[str, Any], task: Task | None, allow_external: bool
) -> Check:
    name = "language of the donor"
    if not about["layers"]:
        return Check(name, "skipped", "there is no layer of a donor")
    if task is None:
        return Check(name, "skipped", "give task= to read its texts")
    layer = about["layers"][0]
    try:
        by = NamedBy(None, allow_external) if isinstance(subject, RunResult) else subject.frozen_layers[0].named_by
        tokenizer = donor_tokenizer(open_reference(ModelRef(layer["model"], layer["revision"]), by))
    except (PifiProbeError, OSError, ValueError) as error:
        return Check(name, "skipped", f"the donor's tokenizer could not be loaded: {error}")
    split = _some_split(task)
    texts = [*split.texts[:N_TEXTS], *(split.pairs or ())[:N_TEXTS]]
    return check_language(tokenizer, texts, layer["model"])


def _sight(about: dict[str, Any]) -> Check:
    """Return the best that the positive controls of the donors say."""
    found = [check_sight(one) for one in plugged_in([about])]
    if not found:
        return Check(NAME, "skipped", "there is no real layer of a donor")
    return min(found, key=lambda check: ("ok", "warn", "skipped").index(check.status))


def _ratios(subject: RunResult | PiFiForSequenceClassification, task: Task | None) -> list[float]:
    if isinstance(subject, RunResult):
        return [epoch["branch_ratio"] for epoch in subject.epochs if "branch_ratio" in epoch]
    if task is None:
        return []
    tokenizer = tokenizer_for(subject)
    max_tokens = within_positions(subject.encoder, MAX_TOKENS)
    scales = plugin_scales(subject, encode(_some_split(task), tokenizer, max_tokens), tokenizer)
    return [scales["branch_ratio"]] if "branch_ratio" in scales else []


def _some_split(task: Task) -> Split:
    return next(task.splits[name] for name in ("test", "validation", "train") if name in task.splits)
