"""The named tasks of the hub: where each lies, and which column and split is what.

Source of each row: the repository's own data card, ``https://huggingface.co/datasets/`` and the name; column names
as they were in October 2026. Splits without public labels (the test splits of GLUE, SST-2 and HellaSwag) are not
used: there the validation split is the test split, and validation rows are carved from the training rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["HUB_TASKS", "HubTask"]

_PARQUET = "refs/convert/parquet"  # the hub's own conversion of a repository that is a script
_ENTAILMENT = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class HubTask:
    """A named task.

    Parameters
    ----------
    repo, config : str
        The data set and its configuration, if it has several.
    kind : str
    text, label : str
    pair, items, group : str, optional
        Columns; the others are found by their usual names.
    train, validation, test : str
        Names of the data set's splits; an empty one is carved from the training rows.
    classes : tuple of str
        Names of the classes where the data set has numbers only, in their order.
    language : str
    revision : str, optional
    unlabelled : bool
        Rows with the label -1, on which the annotators did not agree, are left out.
    """

    repo: str
    kind: str
    text: str
    label: str
    config: str | None = None
    pair: str | None = None
    items: str | None = None
    group: str | None = None
    train: str = "train"
    validation: str = ""
    test: str = "test"
    classes: tuple[str, ...] = ()
    language: str = "en"
    revision: str | None = None
    unlabelled: bool = False


def _glue(config: str, text: str, pair: str | None = None, **more: str) -> HubTask:
    kind = more.pop("kind", "pair" if pair else "single")
    return HubTask("nyu-mll/glue", kind, text, "label", config=config, pair=pair, test=more.pop("test", "validation"))


def _agieval(name: str, language: str = "en") -> HubTask:
    return HubTask(
        f"hails/agieval-{name}", "multiple-choice", "query", "gold", items="choices", train="test", test="",
        language=language,
    )  # fmt: skip


def _arc(config: str) -> HubTask:
    return HubTask(
        "allenai/ai2_arc", "multiple-choice", "question", "answerKey", config=config, items="choices",
        validation="validation",
    )  # fmt: skip


def _tweets(config: str) -> HubTask:
    return HubTask("cardiffnlp/tweet_eval", "single", "text", "label", config=config, validation="validation")


HUB_TASKS: Mapping[str, HubTask] = MappingProxyType(
    {
        "sst2": HubTask("stanfordnlp/sst2", "single", "sentence", "label", test="validation"),
        "imdb": HubTask("stanfordnlp/imdb", "single", "text", "label"),
        "tweet-sentiment": _tweets("sentiment"),
        "tweet-offensive": _tweets("offensive"),
        "cola": _glue("cola", "sentence"),
        "trec": HubTask("SetFit/TREC-QC", "single", "text", "label_coarse_original"),
        "subj": HubTask("SetFit/subj", "single", "text", "label", classes=("objective", "subjective")),
        "cr": HubTask("SetFit/CR", "single", "text", "label", classes=("negative", "positive")),
        "ag-news": HubTask("fancyzhx/ag_news", "single", "text", "label"),
        "nsmc": HubTask("e9t/nsmc", "single", "document", "label", language="ko", revision=_PARQUET,
                        classes=("negative", "positive")),
        "mnli": _glue("mnli", "premise", "hypothesis", test="validation_matched"),
        "snli": HubTask("stanfordnlp/snli", "pair", "premise", "label", pair="hypothesis", validation="validation",
                        classes=_ENTAILMENT, unlabelled=True),
        "rte": _glue("rte", "sentence1", "sentence2"),
        "qqp": _glue("qqp", "question1", "question2"),
        "stsb": _glue("stsb", "sentence1", "sentence2", kind="regression"),
        "mmlu": HubTask("cais/mmlu", "multiple-choice", "question", "answer", config="all", items="choices",
                        group="subject", train="auxiliary_train", validation="validation"),
        "arc-easy": _arc("ARC-Easy"),
        "arc-challenge": _arc("ARC-Challenge"),
        "hellaswag": HubTask("Rowan/hellaswag", "multiple-choice", "ctx", "label", items="endings", test="validation"),
        **{f"agieval-{name}": _agieval(name) for name in (
            "aqua-rat", "gaokao-english", "logiqa-en", "lsat-ar", "lsat-lr", "lsat-rc", "sat-en", "sat-math")},
        "agieval-logiqa-zh": _agieval("logiqa-zh", "zh"),
        "squad": HubTask("rajpurkar/squad", "qa", "question", "answers", pair="context", test="validation"),
        "go-emotions": HubTask("google-research-datasets/go_emotions", "multi-label", "text", "labels",
                               config="simplified", validation="validation"),
        "conll2003": HubTask("lhoestq/conll2003", "token-classification", "", "ner_tags", items="tokens",
                             validation="validation"),
        "multi30k-en-de": HubTask("bentrevett/multi30k", "seq2seq", "en", "de", validation="validation",
                                  language="en-de"),
        "cnn-dailymail": HubTask("abisee/cnn_dailymail", "seq2seq", "article", "highlights", config="3.0.0",
                                 validation="validation"),
    }
)  # fmt: skip
