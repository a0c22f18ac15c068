"""The kinds of tasks, one file a kind; columns are tried against them in the order of the imports below."""

from __future__ import annotations

from pifi_probe.kinds.base import KINDS, Kind, fits, kind_of, metric_named, register_kind

# isort: off
from pifi_probe.kinds import qa as qa
from pifi_probe.kinds import multiple_choice as multiple_choice
from pifi_probe.kinds import token_classification as token_classification
from pifi_probe.kinds import single as single
from pifi_probe.kinds import pair as pair
from pifi_probe.kinds import seq2seq as seq2seq
from pifi_probe.kinds import regression as regression
from pifi_probe.kinds import multi_label as multi_label

# isort: on
from pifi_probe.kinds.parts.measures import Metric
from pifi_probe.kinds.parts.rows import Columns, Layout, Origin, Row, Split

__all__ = [
    "KINDS",
    "USUAL_KIND",
    "Columns",
    "Kind",
    "Layout",
    "Metric",
    "Origin",
    "Row",
    "Split",
    "fits",
    "kind_of",
    "metric_named",
    "register_kind",
]

USUAL_KIND = single.Classes.name  # where nothing says which
