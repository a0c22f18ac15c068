"""The kinds of tasks, one file a kind; columns are tried against them in the order of the imports below."""

from __future__ import annotations

from pifi_probe.kinds.base import KINDS, Kind, fits, kind_of, metric_named, register_kind

# isort: off
from pifi_probe.kinds import answers as answers
from pifi_probe.kinds import choices as choices
from pifi_probe.kinds import tags as tags
from pifi_probe.kinds import classes as classes
from pifi_probe.kinds import writing as writing
from pifi_probe.kinds import ratings as ratings
from pifi_probe.kinds import multi as multi

# isort: on
from pifi_probe.kinds.measures import Metric
from pifi_probe.kinds.rows import Columns, Layout, Origin, Row, Split

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

USUAL_KIND = classes.Classes.name  # where nothing says which
