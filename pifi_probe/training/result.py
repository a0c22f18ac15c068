"""`RunResult`: everything that one run found, and everything that is needed to judge it."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pifi_probe.errors import CorruptFileError, PifiProbeError
from pifi_probe.escaping import one_line
from pifi_probe.files import write_text
from pifi_probe.kinds import KINDS
from pifi_probe.kinds.metrics import classification_metrics, per_example
from pifi_probe.ladder import SHARES
from pifi_probe.reading import parse_json, read_json, typed
from pifi_probe.tags import tags_of, with_tags
from pifi_probe.tasks.task import Task
from pifi_probe.training.key import RunKey
from pifi_probe.training.plausible import refuse_impossible
from pifi_probe.training.recipe import Recipe
from pifi_probe.vocabulary import in_words_of_today, stored_recipe

__all__ = ["RunResult", "TestResult", "runs_in"]

FORMAT = 1
MAX_VALUES = 3_000_000  # of a stored result: curves of 400,000 steps
SHOWN = (
    *(
        "accuracy",
        "balanced_accuracy",
        "micro_f1",
        "macro_f1",
        "example_f1",
        "mcc",
        "auroc",
        "chance",
        "pearson",
        "spearman",
        "squared_error",
    ),
    *("exact_match", "f1", "token_accuracy", "bleu", "chrf", "rouge1", "rouge2", "rougeL", "nll", "ece"),
)


@dataclass(frozen=True)
class TestResult:
    """One test split, read once.

    Parameters
    ----------
    task : str
    fingerprint : str
        sha256 of the rows that were tested: equal fingerprints can be paired example by example.
    metrics : dict
        As `pifi_probe.kinds.metrics.classification_metrics` returns them, with ``label_prior`` the class shares
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


@dataclass(frozen=True)
class RunResult:
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
        return {"format": FORMAT, "label": self.label} | asdict(self) | {"tags": list(self.tags)}

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the result as JSON, and write it to `path`, atomically, when one is given.

        Raises
        ------
        SaveError
            If the file cannot be written; an older one of that name stays.
        """
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"
        if path is not None:
            write_text(path, text)
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> RunResult:
        """Rebuild a result from a file that `to_json` wrote, or from its text.

        Raises
        ------
        CorruptFileError
            If it is not a result of a run.
        """
        is_text = isinstance(source, str) and source.lstrip().startswith("{")
        where = "the given text" if is_text else str(source)
        try:
            if is_text:
                values = parse_json(str(source), most_values=MAX_VALUES)
            else:
                values = read_json(source, most_values=MAX_VALUES)
            return cls.from_dict(values)
        except (OSError, ValueError) as error:
            raise CorruptFileError(
                f"this is not the result of a run: {error}", where=where, next="give a result.json of fine_tune"
            ) from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunResult:
        """Rebuild a result from `to_dict`.

        Raises
        ------
        Refused
            If a value is missing, of another type, or one that no run can have had; a ValueError.
        """
        if isinstance(values, Mapping):
            former = {"model": in_words_of_today, "recipe": stored_recipe}
            found = {name: read(own) for name, read in former.items() if isinstance(own := values.get(name), Mapping)}
            values = {**values, **found}
        result = typed(cls, values)
        refuse_impossible(result)
        return result

    def __repr__(self) -> str:
        scores = (f"{name} {describe_score(test.score_names[0], test)}" for name, test in self.tests.items())
        return one_line(f"RunResult({self.label}, seed {self.seed}: {', '.join(scores)})")

    def _repr_html_(self) -> str:
        kind = KINDS.get(self.task.get("kind", ""))  # None: a kind from outside that is not imported here
        names = dict.fromkeys((*SHOWN, *((kind.shown,) if kind else ())))
        shown = [name for name in names if any(name in test.metrics for test in self.tests.values())]
        head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in ("test", "n", *shown))
        rows = "".join(_row(name, test, shown) for name, test in self.tests.items())
        counts = f"{self.parameters['trainable']:,} trained, {self.parameters['frozen']:,} frozen weights"
        caption = f"{self.label}, seed {self.seed}, epoch {self.best_epoch}: {counts}, {self.seconds['train']:.0f} s"
        caption += f"; tags: {', '.join(self.tags)}" if self.tags else ""
        return f"<table><caption>{html.escape(caption)}</caption><tr>{head}</tr>{rows}</table>"


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
    return f"{value:.1%}" if metric in SHARES else f"{metric.replace('_', ' ')} {value:.3g}"


def _row(name: str, test: TestResult, shown: Sequence[str]) -> str:
    numbers = [f"{test.metrics[metric]:.3f}" if metric in test.metrics else "" for metric in shown]
    cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in (name, test.metrics["n"], *numbers))
    return f"<tr>{cells}</tr>"
