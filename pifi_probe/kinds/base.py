"""`Kind`: from the columns of a row to its label, from rows to batches, to a loss, and from predictions to scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from pifi_probe.errors import RecipeError, TaskError
from pifi_probe.kinds.parts.encoding import EncodedSplit, encode
from pifi_probe.kinds.parts.evaluating import predict_logits
from pifi_probe.kinds.parts.labels import checked_text, is_missing
from pifi_probe.kinds.parts.measures import Metric
from pifi_probe.kinds.parts.rows import Columns, Layout, Origin, Row, Split
from pifi_probe.kinds.parts.text import row_keys
from pifi_probe.registry import TEXTS, Registry, home_of, lacking, mistyped, told_how

__all__ = [
    "IGNORED",
    "KINDS",
    "Batch",
    "Kind",
    "OneOutput",
    "Scores",
    "TaskFacts",
    "fits",
    "kind_of",
    "metric_named",
    "register_kind",
    "smoothed_loss",
]

IGNORED = -100  # where there is no label

Batch = dict[str, torch.Tensor]
Scores = dict[str, NDArray[np.float64]]


class TaskFacts(Protocol):
    """What a kind may know of a task besides its rows."""

    @property
    def kind(self) -> str:
        """Its kind's name."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def language(self) -> str:
        """Code of the texts' language."""


class Kind(ABC):
    """One kind of task: what a row and its label are, and what training and testing do with them.

    Parameters
    ----------
    task : Task
        Gives names and language; its rows are not read.

    Attributes
    ----------
    name : str
        What users write: ``load_task(..., kind=...)``.
    layout : Layout
        The usual names of its columns.
    head : str
        The model's head, a key of `pifi_probe.plugin.HEADS`; it brings the model's class and its tag on the hub.
    classes : bool
        Labels are indices into ``Task.label_names``, one per row or a tuple of them. They are read as names.
    row_classes : bool
        Every row has one class, so that shares of classes mean something.
    pair : bool or None
        Rows have a second text; None: they may.
    items : bool
        Rows have a list of strings: the choices, or the words.
    targets : tuple of str
        Of a batch: what the model is not shown.
    shown : str
        The metric for a progress bar.
    measures : tuple of Metric
        Range, direction and looks of `metrics` and `scores`, in the order of a result's table. A name means the same
        in every kind; what no kind names has no bounds, and smaller is better, as of a loss.
    """

    name: ClassVar[str] = ""
    layout: ClassVar[Layout]
    head: ClassVar[str] = ""
    classes: ClassVar[bool] = False
    row_classes: ClassVar[bool] = False
    pair: ClassVar[bool | None] = False
    items: ClassVar[bool] = False
    targets: ClassVar[tuple[str, ...]] = ("labels",)
    shown: ClassVar[str] = "accuracy"
    measures: ClassVar[tuple[Metric, ...]] = ()

    def __init__(self, task: TaskFacts) -> None:
        self.task = task

    def weigh(self, weights: str | Sequence[float], labels: Sequence[Any]) -> None:
        """Weigh the classes in the training loss; see `Recipe.class_weights`.

        Raises
        ------
        RecipeError
            If rows of this kind have no class, or another number of classes.
        """
        if weights != "none":
            raise RecipeError(
                f"a {self.task.kind} task has no class weights: its rows do not have one class each",
                where="recipe, class_weights",
                next='use class_weights="none"',
            )

    @classmethod
    def parse(cls, values: Mapping[str, object], columns: Columns, origin: Origin) -> Row:
        """Return a row from the values of its columns.

        Raises
        ------
        TaskError
            If a value is missing or not what it should be; says where it stands.
        """
        if columns.text is None:
            raise TaskError(
                f"the kind {cls.name!r} reads no column of text",
                where=origin.where,
                next="name one in its layout, or give it a parse() of its own",
            )
        text = checked_text(values[columns.text], columns.text, origin.where)
        if columns.before is not None and isinstance(first := values[columns.before], str) and first.strip():
            text = f"{checked_text(first, columns.before, origin.where)}\n{text}"
        pair = None if columns.pair is None else checked_text(values[columns.pair], columns.pair, origin.where)
        return cls.labelled(Row(origin.id, text, None, pair=pair), values, columns, origin)

    @classmethod
    @abstractmethod
    def labelled(cls, row: Row, values: Mapping[str, object], columns: Columns, origin: Origin) -> Row:
        """Return a row with its label, and with its items where the kind has any; `parse` has read its texts.

        Parameters
        ----------
        row : Row
            With identifier and texts; its label is None.
        values : mapping of str to object
            What the source holds in every column of the row, as it was read.
        columns : Columns
            Which column is what.
        origin : Origin
            Where the row comes from, for messages; with ``class_names``, labels are indices into them.

        Returns
        -------
        Row
            ``row._replace(label=...)``. A class is given by its name: `pifi_probe.tasks` numbers the names once all
            rows are read.

        Raises
        ------
        TaskError
            If the label is missing or not what it should be; says where it stands.
        """

    @classmethod
    @abstractmethod
    def wrong_label(cls, split: Split, row: int, n_labels: int) -> str:
        """Say what is wrong with a row's label.

        Parameters
        ----------
        split : Split
            Rows of a finished task: classes are indices, not names.
        row : int
            Index of the row in the split.
        n_labels : int
            Number of classes of the task; 0 where the kind has none.

        Returns
        -------
        str
            The end of a sentence about the row, such as "has a label outside 0 to 1"; empty for a good label.
        """

    @classmethod
    def unlabelled(cls, label: object) -> bool:
        """Return whether a label is missing, from the column of labels, or from one of several."""
        return is_missing(label)

    @classmethod
    def strata(cls, labels: Sequence[Any]) -> Sequence[Hashable]:
        """Return what a row counts as where rows are divided so that every part has its share of each."""
        return labels if cls.row_classes else (0,) * len(labels)

    @classmethod
    def hides_minus_one(cls, labels: Sequence[object]) -> bool:
        """Return whether a label of -1 stands for a hidden one, as test splits of the hub have them."""
        return True

    @classmethod
    def keys(cls, texts: Sequence[str], pairs: Sequence[str] | None) -> list[str]:
        """Return a key for each row: equal ones must not be on both sides of training and testing."""
        return row_keys(texts, pairs)

    @classmethod
    def read(cls, split: Split, row: int) -> tuple[str, str | None]:
        """Return what a model reads of a row, without its label: a text, and what is read together with it."""
        return split.texts[row], None if split.pairs is None else split.pairs[row]

    @classmethod
    def model_settings(cls, task: TaskFacts) -> dict[str, Any]:
        """Return what a model's configuration says of the labels."""
        if not task.label_names:
            return {}
        return {
            "num_labels": len(task.label_names),
            "id2label": dict(enumerate(task.label_names)),
            "label2id": {label: i for i, label in enumerate(task.label_names)},
        }

    @abstractmethod
    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> EncodedSplit:
        """Tokenise a split.

        Parameters
        ----------
        split : Split
            N rows.
        tokenizer : PreTrainedTokenizerBase
        max_tokens : int
            Tokens after which a row is cut off, special ones counted.

        Returns
        -------
        EncodedSplit
            Columns of N lists of int, not padded, and N labels; `collate` makes batches of them.

        Raises
        ------
        TokenizerError
            If the kind needs the places of tokens in the text, and the tokenizer does not give them.
        """

    def collate(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Any]:
        """Return what makes a padded batch of rows of an `EncodedSplit`."""
        collator: Callable[[list[dict[str, Any]]], Any] = DataCollatorWithPadding(tokenizer)
        return collator

    def outputs(self, model: nn.Module, inputs: Batch, targets: Batch) -> Any:
        """Return what the model gives for a batch."""
        return model(**inputs)

    def loss(self, outputs: Any, targets: Batch, smoothing: float) -> torch.Tensor:
        """Return what `pifi_probe.fine_tune` minimises: here the cross-entropy in nats, with label smoothing.

        The model is called without labels for this. The loss of a model that is called with ``labels=``, as
        transformers' own Trainer does, is that of its head (`pifi_probe.plugin.losses`), without smoothing or weights.

        Parameters
        ----------
        outputs : ModelOutput
            What `outputs` gave; here with ``logits`` (batch, n_labels).
        targets : dict of Tensor
            The entries of the batch that the kind's `targets` name; here ``labels`` (batch,), int64.
        smoothing : float
            Share of the label that is spread over all classes, in [0, 1).

        Returns
        -------
        Tensor, shape (), float32
            The mean over the batch.
        """
        return nn.functional.cross_entropy(outputs.logits.float(), targets["labels"], label_smoothing=smoothing)

    @abstractmethod
    def predict(
        self,
        model: PreTrainedModel,
        split: EncodedSplit,
        tokenizer: PreTrainedTokenizerBase,
        *,
        precision: str = "float32",
        final: bool = True,
    ) -> Any:
        """Return predictions of all rows, from which `metrics` and `scores` are computed.

        Parameters
        ----------
        model : PreTrainedModel
            Left in the mode (training or evaluation) that it was in.
        split : EncodedSplit
            N rows, as `encode` gave them.
        tokenizer : PreTrainedTokenizerBase
            Pads batches, and turns tokens into text.
        precision : {"float32", "bf16"}
        final : bool
            False for the validation after an epoch, where a kind may leave out what takes long, such as writing texts.

        Returns
        -------
        Any
            In the order of the rows; for classes the logits (N, n_labels), float32.
        """

    @abstractmethod
    def metrics(self, split: Split, predictions: Any) -> dict[str, Any]:
        """Return the metrics of a split.

        Parameters
        ----------
        split : Split
            N rows with their labels.
        predictions : Any
            What `predict` gave for them.

        Returns
        -------
        dict of str to number
            Those that `measures` name, within their bounds, and ``n``, the number of rows. What cannot be computed is
            left out; ``undefined`` may say why, by name.
        """

    @abstractmethod
    def scores(self, split: Split, predictions: Any) -> Scores:
        """Return what each row scores by itself, for comparisons that are paired over rows.

        Parameters
        ----------
        split : Split
            N rows with their labels.
        predictions : Any
            What `predict` gave for them.

        Returns
        -------
        dict of str to array of float64, shape (N,)
            By the names that `measures` give, which say in what direction they are better. The first one is the main
            score, the default of `pifi_probe.compare`.
        """

    @abstractmethod
    def quality(self, metrics: Mapping[str, Any]) -> float:
        """Return the number by which the best epoch is chosen; larger is better.

        Parameters
        ----------
        metrics : mapping
            What `metrics` gave for the validation split.
        """

    def settle(self, model: PreTrainedModel, epoch: Mapping[str, Any]) -> None:  # noqa: B027  (most need nothing)
        """Put what the best epoch's metrics say of reading predictions into the trained model's configuration."""


class OneOutput(Kind):
    """A kind whose model gives one row of numbers for a row's text, or for its two texts read together."""

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> EncodedSplit:
        """Tokenise texts, or pairs."""
        return encode(split, tokenizer, max_tokens)

    def predict(
        self,
        model: PreTrainedModel,
        split: EncodedSplit,
        tokenizer: PreTrainedTokenizerBase,
        *,
        precision: str = "float32",
        final: bool = True,
    ) -> NDArray[np.float32]:
        """Return the model's numbers, shape (N, K): the logits of K classes, or one number."""
        return predict_logits(model, split, tokenizer, precision=precision)


K = TypeVar("K", bound=type[Kind])
KINDS: Registry[type[Kind]] = Registry("kind of task", TaskError)
_ATTRIBUTES: Mapping[str, str] = {
    "name": "a text", "head": "a text", "shown": "a text", "targets": TEXTS,
    "classes": "True or False", "row_classes": "True or False", "items": "True or False", "pair": "True, False or None",
}  # fmt: skip


@told_how(TaskError, "@register_kind")
def register_kind(cls: K) -> K:
    """Add a kind of task; a class decorator.

    Columns without ``kind=`` are tried against the kinds in the order of their registration.

    Raises
    ------
    TaskError
        If the class does not derive from `Kind`, lacks something, or its name is taken.
    """
    where = home_of(cls) or repr(cls)
    if not (isinstance(cls, type) and issubclass(cls, Kind)):
        raise TaskError("a kind of task is a class derived from Kind", where=where, next="derive it")
    missing = lacking(cls, Kind, ("name", "head", "layout", "targets", "shown")) or mistyped(cls, _ATTRIBUTES)
    missing = missing or _contradiction(cls)
    if missing:
        named = cls.name or cls.__name__
        raise TaskError(
            f"the kind {named!r} {missing}", where=where, next="correct it: book/extending/kind.md shows how"
        )
    KINDS.add(cls.name, cls)
    return cls


def _contradiction(cls: type[Kind]) -> str:
    """Say which attributes of a kind contradict each other, or ""."""
    layout = cls.layout
    if not isinstance(layout, Layout):
        return f"has layout={layout!r}, which is not a Layout"
    if not layout.label or cls.items != bool(layout.items):
        return "has a layout without a label, or with items where the kind has none"
    if not layout.text and getattr(cls.parse, "__func__", None) is getattr(Kind.parse, "__func__", cls):
        return "has a layout without a text, and no parse() of its own"
    if cls.row_classes and not cls.classes:
        return "has row_classes, and no classes"
    if cls.pair is True and not layout.pair:
        return "has pairs, and its layout names no column for them"
    if cls.pair is False and layout.pair:
        return "has no pairs (pair=False), and its layout names a column for them"
    encoder = next(one for one in cls.__mro__ if "encode" in vars(one))
    if getattr(encoder, "items", False) and not cls.items:
        return f"has items=False, and the encode() of {encoder.__name__} reads a list of strings in every row"
    home = next(one for one in cls.__mro__ if "loss" in vars(one))
    if unread := [name for name in getattr(home, "targets", ()) if name not in cls.targets]:
        return f"has targets={cls.targets!r} without {unread[0]!r}, which the loss() of {home.__name__} reads"
    return _contradiction_of_measures(cls)


def _contradiction_of_measures(cls: type[Kind]) -> str:
    """Say what is wrong with the metrics that a kind names, or ""."""
    measures = cls.measures
    if not isinstance(measures, tuple) or not all(isinstance(one, Metric) for one in measures):
        return f"has measures={measures!r}, which is not a tuple of Metric, such as (Metric('closeness', 0, 1),)"
    others = {one.name: (name, one) for name, kind in KINDS.items() if name != cls.name for one in kind.measures}
    for one in measures:
        kind, other = others.get(one.name, ("", one))
        facts = ("low", "high", "larger_is_better", "unit", "listed")
        if differ := [name for name in facts if getattr(one, name) != getattr(other, name)]:
            own, theirs = (f"{differ[0]}={getattr(metric, differ[0])!r}" for metric in (one, other))
            return f"says of the metric {one.name!r} {own}, and the kind {kind!r} says {theirs}"
    if cls.shown not in {one.name for one in measures} | others.keys():
        return f"has shown={cls.shown!r}, which is none of its measures"
    return ""


def fits(kind: type[Kind], split: Split) -> bool:
    """Return whether a split has the second texts and the items that a kind's rows have."""
    return kind.pair in (None, split.pairs is not None) and kind.items == (split.items is not None)


def kind_of(task: TaskFacts) -> Kind:
    """Return what reading, training and testing do for a task."""
    return KINDS.named(task.kind, "Task.kind")(task)


def metric_named(name: str) -> Metric:
    """Return what is known of a metric; what no kind names is taken for an error without bounds."""
    found = (one for kind in KINDS.values() for one in kind.measures if one.name == name)
    return next(found, Metric(name, larger_is_better=False))


def smoothed_loss(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return the cross-entropy in nats per label with label smoothing; 0 for a batch without any label.

    Parameters
    ----------
    logits : Tensor, (batch, seq, n_classes)
    labels : Tensor, (batch, seq), int64
        -100 where there is no label, such as at every token of a row of words that have none of their own.
    smoothing : float
    """
    per_class = logits.float().transpose(1, 2)
    total = nn.functional.cross_entropy(per_class, labels, label_smoothing=smoothing, reduction="sum")
    return total / (labels != IGNORED).sum().clamp_min(1)  # of nothing, the mean would be no number
