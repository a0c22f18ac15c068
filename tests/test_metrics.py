"""Metrics agree with their definitions, and say so where they are undefined."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pifi_probe.errors import PifiProbeError
from pifi_probe.kinds.parts.metrics import calibration_error, classification_metrics, per_example

LABELS = [0, 0, 0, 1, 1, 1, 1, 1]
LOGITS = [[2, 0], [1, 0], [0, 1], [0, 2], [0, 3], [1, 0], [0, 1], [0, 1]]


def test_two_classes_by_hand() -> None:
    values = classification_metrics(LABELS, LOGITS)
    recalls = (2 / 3, 4 / 5)
    assert values["accuracy"] == 6 / 8
    assert values["balanced_accuracy"] == pytest.approx(sum(recalls) / 2)
    assert values["macro_f1"] == pytest.approx((4 / 6 + 8 / 10) / 2)
    assert values["mcc"] == pytest.approx((2 * 4 - 1 * 1) / math.sqrt(3 * 3 * 5 * 5))
    pairs = [(p, n) for p in (2, 3, -1, 1, 1) for n in (-2, -1, 1)]
    assert values["auroc"] == pytest.approx(sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs))
    assert values["label_prior"] == [3 / 8, 5 / 8]
    assert values["predicted_prior"] == [3 / 8, 5 / 8]
    assert (values["n"], values["undefined"]) == (8, {})


def test_nll_is_exact_even_where_the_model_is_certain_and_wrong() -> None:
    values = classification_metrics([0, 1], [[0.0, 1000.0], [0.0, 1000.0]])
    assert values["nll"] == pytest.approx(500.0)
    assert per_example([0, 1], [[0.0, 1000.0], [0.0, 1000.0]])["nll"].tolist() == [1000.0, 0.0]


def test_per_example_values_average_to_the_metrics() -> None:
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 3, 50), rng.standard_normal((50, 3)).astype(np.float32)
    rows, values = per_example(labels, logits), classification_metrics(labels, logits)
    assert rows["correct"].dtype == bool
    assert rows["correct"].mean() == values["accuracy"]
    assert rows["nll"].mean() == pytest.approx(values["nll"])
    assert rows["predicted"].tolist() == logits.argmax(axis=1).tolist()


def test_calibration_error_by_hand() -> None:
    # confidences 0.9 (one right, one wrong) and 0.6 (right): gaps |1.0 - 1.8| and |1 - 0.6| over 3 rows
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    assert calibration_error(np.array([0, 1, 1]), probabilities) == pytest.approx((0.8 + 0.4) / 3)


def test_a_calibrated_classifier_has_hardly_any_calibration_error() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.01, 0.99, 20_000)
    labels = (rng.random(20_000) < probability).astype(int)
    logits = np.stack([np.zeros(20_000), np.log(probability / (1 - probability))], axis=1)
    assert classification_metrics(labels, logits)["ece"] < 0.02
    assert classification_metrics(labels, 5 * logits)["ece"] > 0.1


def test_a_split_of_one_class_has_no_auroc_and_says_why() -> None:
    values = classification_metrics([1, 1, 1], [[0, 1], [0, 1], [1, 0]])
    assert "auroc" not in values
    assert values["undefined"] == {"auroc": "all 3 examples are of class 1"}
    assert values["balanced_accuracy"] == pytest.approx(2 / 3)
    assert values["mcc"] == 0.0


def test_more_than_two_classes_have_no_auroc() -> None:
    values = classification_metrics([0, 1, 2], np.eye(3))
    assert "3" in values["undefined"]["auroc"]
    assert values["accuracy"] == values["macro_f1"] == 1.0


@given(
    st.integers(2, 4).flatmap(
        lambda k: st.lists(
            st.tuples(st.integers(0, k - 1), st.lists(st.floats(-1e30, 1e30), min_size=k, max_size=k)),
            min_size=1,
        )
    )
)
def test_nothing_is_nan_nothing_warns_and_all_is_json(rows: list[tuple[int, list[float]]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = classification_metrics([label for label, _ in rows], [logits for _, logits in rows])
    json.dumps(values, allow_nan=False)
    assert 0 <= values["ece"] <= 1
    assert sum(values["predicted_prior"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("labels", "logits", "reason"),
    [
        ([0, 1], [[0.0, float("nan")], [0, 1]], "1 of 2 predictions"),
        ([0, 2], [[0, 1], [0, 1]], "from 0 to 1"),
        ([0, -1], [[0, 1], [0, 1]], "from 0 to 1"),
        ([0.5, 1.0], [[0, 1], [0, 1]], "whole numbers"),
        ([0], [[0, 1], [0, 1]], "do not fit"),
        ([0, 1], [0, 1], "do not fit"),
        ([0, 0], [[1], [1]], "do not fit"),
        ([], np.zeros((0, 2)), "do not fit"),
    ],
)
def test_predictions_that_have_no_metrics_are_refused(labels: list[float], logits: object, reason: str) -> None:
    with pytest.raises(PifiProbeError, match=reason):
        classification_metrics(labels, logits)  # type: ignore[arg-type]
