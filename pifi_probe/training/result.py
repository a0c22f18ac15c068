"""`RunResult`: everything that one run found, and everything that is needed to judge it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pifi_probe.errors import PifiProbeError
from pifi_probe.escaping import one_line
from pifi_probe.kinds import KINDS, metric_named
from pifi_probe.kinds.parts.metrics import classification_metrics, per_example
from pifi_probe.reporting.result import Result, plain
from pifi_probe.reporting.tables import Table
from pifi_probe.tags import tags_of, with_tags
from pifi_probe.tasks.task import Task
from pifi_probe.training.key import RunKey
from pifi_probe.training.plausible import refuse_impossible
from pifi_probe.training.recipe import Recipe
from pifi_probe.vocabulary import in_words_of_today, stored_settings

__all__ = ["RunResult", "TestResult", "runs_in"]


@dataclass(frozen=True)
class TestResult:
    """One test split, read once.

    Parameters
    ----------
    task : str
    fingerprint : str
        sha256 of the rows that were tested: equal fingerprints can be paired example by example.
    metrics : dict
        As `pifi_probe.kinds.parts.metrics.classification_metrics` returns them, with ``label_prior`` the class shares
        of this test split; for other kinds as `row_metrics` and `text_metrics` of `pifi_probe.tasks` do.
    train_prior : list of float
        Class shares of the training split; empty for kinds without classes. Under domain shift, accuracy mixes
        transfer with a bias towards the classes that were frequent in training.
    correct : str
        A ``0`` or ``1`` per example; empty for kinds without classes.
    nll : str
        The negative log-likelihood of each example in nats, five significant digits, separated by spaces.
    note : str
        What was left out of the test split, if anything.
    scores : dict of str to str
        For kinds without classes: for each score the value of every example, written as `nll` is.
    """

    __test__ = False  # not a test case of pytest

    task: str
    fingerprint: str
    metrics: dict[str, Any]
    train_prior: list[float]
    correct: str
    nll: str
    note: str = ""
    scores: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, view: Task, logits: ArrayLike, train_labels: Sequence[int], note: str = "") -> TestResult:
        """Score the test split of `view`."""
        labels = view.splits["test"].labels
        rows = per_example(labels, logits)
        shares = np.bincount(train_labels, minlength=view.n_labels) / len(train_labels)
        return cls(
            task=view.name,
            fingerprint=view.fingerprint,
            metrics=classification_metrics(labels, logits),
            train_prior=shares.tolist(),
            correct="".join("1" if good else "0" for good in rows["correct"]),
            nll=_written(rows["nll"]),
            note=note,
        )

    @classmethod
    def scored(
        cls, view: Task, metrics: dict[str, Any], scores: Mapping[str, NDArray[np.float64]], note: str = ""
    ) -> TestResult:
        """Return the result of a kind without classes, from the metrics and every row's own scores."""
        written = {name: _written(values) for name, values in scores.items()}
        return cls(view.name, view.fingerprint, metrics, [], "", "", note, written)

    @property
    def score_names(self) -> list[str]:
        """What `per_example` knows, the main one first."""
        return list(self.scores) or ["accuracy", "nll"]

    def per_example(self, metric: str) -> NDArray[np.float64]:
        """Return one of `score_names` of every example, shape (n,); an accuracy is 0 or 1, an ``"nll"`` in nats."""
        if self.scores:
            return np.array(self.scores[metric].split(), dtype=np.float64)
        values = list(self.correct) if metric == "accuracy" else self.nll.split()
        return np.array(values, dtype=np.float64)


def _written(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.5g}" for value in values)


@dataclass(frozen=True, repr=False)
class RunResult(Result):
    """What `fine_tune` returns.

    Parameters
    ----------
    model : dict
        Encoder, wiring, control, modes, layers with their sha256, shapes; ``label`` names the arm.
    recipe : Recipe
    lr_projection : float
        Learning rate that L_in and L_out had.
    task : dict
        ``name``, ``fingerprint``, ``label_names``, ``language``, ``licence`` and ``sizes`` of the splits.
    start : str
        sha256 of the weights the run started from.
    epochs : list of dict
        For each epoch, the first before training: validation metrics, ``branch_ratio`` and ``output_ratio`` of
        the plug-in (see `pifi_probe.training.scales`).
    best_epoch : int
        The epoch whose weights were tested.
    tests : dict of str to TestResult
        By task name: the run's own task first, then the further ones.
    curves : dict of str to list of float
        For each step: ``loss`` (smoothed, nats) and the norms of the gradients before clipping: ``grad_norm`` of
        all, ``grad_encoder``, ``grad_projections``, ``grad_gates``, ``grad_head``, ``grad_layer``.
    parameters : dict
        Numbers of ``trainable`` and ``frozen`` weights.
    layer_digests : dict
        sha256 of each plugged layer ``before`` and ``after`` the run.
    seconds : dict
        Wall time of ``train`` (with validation) and ``test``.
    peak_memory : dict
        The most memory held during the run, in bytes: ``rss_bytes`` of the process, the 99th percentile of its
        samples while training ``rss_p99_bytes``, and on CUDA ``cuda_bytes`` and ``cuda_p99_bytes``, else None.
    provenance : dict
        Versions, commit, machine, time.
    tuned : dict
        Settings that were chosen on the validation split, with their value.
    tags : tuple of str
        The user's own words for it; no part of what the run is.
    """

    model: dict[str, Any]
    recipe: Recipe
    lr_projection: float
    task: dict[str, Any]
    start: str
    epochs: list[dict[str, Any]]
    best_epoch: int
    tests: dict[str, TestResult]
    curves: dict[str, list[float]]
    parameters: dict[str, int]
    layer_digests: dict[str, list[str]]
    seconds: dict[str, float]
    peak_memory: dict[str, int | None]
    provenance: dict[str, Any] = field(default_factory=dict)
    tuned: dict[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    noun: ClassVar[str] = "the result of a run"
    most_values: ClassVar[int] = 3_000_000  # curves of 400,000 steps

    @property
    def label(self) -> str:
        """Name of the arm, such as ``"pifi: smollm2-135m[29]"``; equal for all seeds."""
        tuned = f" (best {', '.join(self.tuned)})" if self.tuned else ""
        return f"{self.model['label']}{tuned}"

    @property
    def seed(self) -> int:
        """Seed of the recipe."""
        return self.recipe.seed

    @property
    def identity(self) -> dict[str, Any]:
        """What a run is: recipe, task, model and start; equal identities give equal numbers on one machine."""
        task = {name: self.task[name] for name in ("name", "fingerprint")}
        return {"recipe": self.recipe.to_dict(), "task": task, "model": self.model, "start": self.start}

    @property
    def key(self) -> RunKey:
        """What makes another run the same as this one, with its test sets."""
        tests = {name: test.fingerprint for name, test in self.tests.items()}
        return RunKey.of(self.model, self.task["fingerprint"], self.recipe.to_dict(), tests, self.start)

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Metrics by split: ``"validation"`` at the best epoch, then each test by its task's name."""
        validation = {name: value for name, value in self.epochs[self.best_epoch].items() if name != "epoch"}
        return {"validation": validation} | {name: test.metrics for name, test in self.tests.items()}

    def tagged(self, *tags: str) -> RunResult:
        """Return the result with further tags.

        Raises
        ------
        PifiProbeError
            If one is not one short line of text.
        """
        return replace(self, tags=with_tags(self.tags, tags_of(tags)))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        return self._header() | {"label": self.label} | plain(self)

    @classmethod
    def _read(cls, values: Mapping[str, Any]) -> RunResult:
        former = {"model": in_words_of_today, "recipe": stored_settings}
        found = {name: read(own) for name, read in former.items() if isinstance(own := values.get(name), Mapping)}
        result = super()._read({**values, **found})
        refuse_impossible(result)
        return result

    def __repr__(self) -> str:
        scores = (f"{name} {describe_score(test.score_names[0], test)}" for name, test in self.tests.items())
        return one_line(f"RunResult({self.label}, seed {self.seed}: {', '.join(scores)})")

    def tables(self) -> list[Table]:
        """Return one table: a row for each test, with the scores that its kind is known by."""
        import pandas as pd

        own = KINDS.get(self.task.get("kind", ""))  # None: a kind from outside that is not imported here
        known = (one for kind in (own, *KINDS.values()) if kind for one in kind.measures)
        names = dict.fromkeys(one.name for one in known if one.shown)
        shown = [name for name in names if any(name in test.metrics for test in self.tests.values())]
        rows = [
            {"test": name, "n": test.metrics["n"]} | {one.replace("_", " "): test.metrics.get(one) for one in shown}
            for name, test in self.tests.items()
        ]
        counts = f"{self.parameters['trainable']:,} trained, {self.parameters['frozen']:,} frozen weights"
        title = f"{self.label}, seed {self.seed}, epoch {self.best_epoch}: {counts}, {self.seconds['train']:.0f} s"
        return [Table(pd.DataFrame(rows), title, f"tags: {', '.join(self.tags)}" if self.tags else "")]


def runs_in(results: Any, where: str) -> list[RunResult]:
    """Return results of runs as a list.

    Raises
    ------
    PifiProbeError
        If `results` is anything but several results; the error names `where`.
    """
    given = list(results) if isinstance(results, Iterable) else []
    wrong = [one for one in given if not isinstance(one, RunResult)] if isinstance(results, Iterable) else [results]
    if wrong:
        raise PifiProbeError(
            f"a {type(wrong[0]).__name__} was given, not a list of results",
            where=where,
            next="give a list of what pp.fine_tune returned; a stored one is read with pp.RunResult.from_json",
        )
    return given


def describe_score(metric: str, test: TestResult) -> str:
    """Return a test's mean of a score as text, shares in percent."""
    value = float(test.per_example(metric).mean()) if metric not in test.metrics else float(test.metrics[metric])
    return f"{value:.1%}" if metric_named(metric).is_share else f"{metric.replace('_', ' ')} {value:.3g}"
