"""Which texts a layer fixes and breaks against the projections alone."""

from __future__ import annotations

import pytest

from pifi_probe.errors import TaskError
from pifi_probe.selection.space import Candidate
from pifi_probe.selection.store import Record
from pifi_probe.selection.trials import Outcome, Trial
from pifi_probe.selection.views import changed
from tests.test_search import TASK

LAYER, OTHER = Candidate(("llm[3]",)), Candidate(("llm[4]",))
LINEAR = Candidate(("llm[3]",), control="linear")


def record(
    candidate: Candidate, correct: str | None, seed: int, fidelity: str = "full", phase: str = "confirm"
) -> Record:
    result = None if correct is None else {"tests": {"task": {"correct": correct}, "elsewhere": {"correct": "1" * 9}}}
    return Record(
        Trial(candidate, fidelity, seed, "complete", Outcome(0.5, result=result), seed), phase, "session", 0.0
    )


def test_texts_are_fixed_and_broken_by_most_seeds_the_surest_first() -> None:
    runs = [("110011", "000111"), ("110011", "010111"), ("100111", "000110")]
    records = [record(LAYER, own, s) for s, (own, _) in enumerate(runs)]
    records += [record(LINEAR, other, s) for s, (_, other) in enumerate(runs)]
    found = changed(records, LAYER.label)
    assert found is not None and found.confirmed and (found.n, found.seeds, found.other_seeds) == (6, 3, 3)
    assert [(one.row, one.own, one.other) for one in found.fixed] == [(0, 1.0, 0.0), (1, 2 / 3, 1 / 3)]
    assert [one.row for one in found.broken] == [3]
    assert "fixes 2 and breaks 1 of 6 test texts (full runs, 3 seeds, against 3 seeds" in str(found)


def test_a_layer_that_was_not_confirmed_is_shown_with_a_warning_and_only_at_one_fidelity() -> None:
    records = [record(LINEAR, "0101", 1000), record(OTHER, "1101", 0, phase="select")]
    found = changed(records, OTHER.label)
    assert found is not None and not found.confirmed and "do not choose a layer by its test texts" in str(found)
    assert changed([records[0], record(OTHER, "1101", 0, "frozen", "select")], OTHER.label) is None


@pytest.mark.parametrize(
    "records",
    [
        [record(LAYER, "10", 0)],
        [record(LAYER, None, 0), record(LINEAR, "10", 0)],
        [record(LAYER, "101", 0), record(LINEAR, "10", 0)],
        [record(LAYER, "", 0), record(LINEAR, "", 0)],
    ],
)
def test_what_is_not_stored_text_by_text_is_not_told(records: list[Record]) -> None:
    assert changed(records, LAYER.label) is None


def test_texts_come_with_their_labels_and_as_many_as_are_asked_for() -> None:
    n = len(TASK.splits["test"])
    own, other = "1" * n, "0" * n
    found = changed([record(LAYER, own, 0), record(LINEAR, other, 0)], LAYER.label)
    assert found is not None
    shown = found.shown(TASK, most=2)
    assert shown["words"] == str(found) and not shown["broken"]
    assert [one["text"] for one in shown["fixed"]] == list(TASK.splits["test"].texts[:2])
    assert all(one["label"] in TASK.label_names for one in shown["fixed"])
    assert shown["fixed"][0]["runs"] == "right in 100% of its seeds, 0% of theirs"
    longer = changed([record(LAYER, own + "1", 0), record(LINEAR, other + "1", 0)], LAYER.label)
    assert longer is not None
    with pytest.raises(TaskError, match="rows of the test split"):
        longer.shown(TASK)
