"""Own-state probing: every depth once, held out, in one pass; the test split is never read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pifi_probe as pp
from pifi_probe.errors import EstimatorError, PifiProbeError, TaskError
from pifi_probe.probing import probe as module
from pifi_probe.scoring import estimators
from pifi_probe.tasks import Split, Task
from tests import slm, tiny

N_LAYERS, WIDTH = tiny.N_LAYERS, tiny.WIDTH
ONE_CALL: dict[str, Any] = {"progress": False, "settings": pp.ProbeSettings(n_permutations=9), "n": 40}

NONE, MANY = pp.ProbeSettings(n_permutations=0), pp.ProbeSettings(n_permutations=49)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIFI_PROBE_FEATURES", str(tmp_path / "features"))


@pytest.fixture(scope="module")
def task() -> Task:
    return slm.tiny_task(120)


def with_logistic(llm: str, task: Task) -> pp.ProbeTable:
    return pp.probe(llm, task, estimators="knn,logistic_nll", **ONE_CALL)


class TestProbe:
    def test_there_is_a_row_for_every_depth_and_estimator(self, llm: str, task: Task) -> None:
        table = pp.probe(llm, task, estimators="ridge_accuracy,logme,effective_rank", **ONE_CALL)
        assert table.family == "own-state"
        assert table.estimators == ["ridge_accuracy", "logme", "effective_rank"]
        for _, rows in table.frame.groupby("estimator"):
            assert rows["depth"].tolist() == list(range(N_LAYERS + 1))
            assert rows["layer"].tolist() == [*range(N_LAYERS), N_LAYERS - 1]
            assert rows["position"].tolist() == ["input"] * N_LAYERS + ["output"]
        assert set(table.frame["n"]) == {40}
        assert table.frame[["value", "low", "high"]].notna().all(axis=None)

    def test_its_scores_are_those_of_the_pooled_states_of_the_whole_model(self, llm: str, task: Task) -> None:
        table = pp.probe(
            llm,
            task,
            estimators="ridge_mse,logme",
            **ONE_CALL | {"settings": pp.ProbeSettings(n_permutations=9, normalise=False, drop_first=False)},
        )
        model = tiny.tiny_model("llama")
        rows = task.subset(train=40).splits["train"]
        batch = slm.tiny_tokenizer()(list(rows.texts), padding=True, return_tensors="pt")
        kept = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            states = model.model(**kept, output_hidden_states=True).hidden_states
        mask = kept["attention_mask"][:, :, None]
        for depth in range(N_LAYERS):  # transformers gives the last one after the final norm
            features = ((states[depth] * mask).sum(1) / mask.sum(1)).numpy()
            for name in table.estimators:
                expected = getattr(estimators, name)(features, rows.labels)
                assert table.series(name)["value"][depth] == pytest.approx(expected, rel=2e-3)

    def test_it_says_what_was_measured(self, llm: str, task: Task) -> None:
        table = pp.probe(
            llm, task, estimators="knn", **ONE_CALL | {"settings": pp.ProbeSettings(n_permutations=9, max_tokens=5)}
        )
        info = table.info
        assert info["task"] == "words" and info["split"] == "train" and info["n"] == 40
        assert info["pooling"] == "mean"
        assert info["tokens"] == "each divided by its own root mean square; the first one left out"
        assert "before the model's final norm" in info["position"]
        assert info["classes"] == {"bad": 20, "good": 20}
        assert any("cut" in note for note in table.notes)
        shown = table._repr_html_()
        assert not any("No null" in note for note in table.notes)
        assert any("No null for logistic_nll" in note for note in with_logistic(llm, task).notes)
        for words in ("pooling: mean", "the first one left out", "split: train", "s final norm"):
            assert words in shown
        assert table.provenance["task"] == task.fingerprint
        assert table.provenance["seconds"]["features"] > 0 and table.provenance["peak_memory"] > 0

    def test_the_same_call_gives_the_same_numbers_and_needs_no_second_pass(
        self, llm: str, task: Task, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = pp.probe(llm, task, estimators="ridge_accuracy,hscore", **ONE_CALL)
        monkeypatch.setattr("pifi_probe.features.donor.stream", lambda *_, **__: pytest.fail("a second pass"))
        again = pp.probe(llm, task, estimators="ridge_accuracy,hscore", **ONE_CALL)
        pd.testing.assert_frame_equal(first.frame, again.frame, check_exact=True)

    def test_another_seed_draws_other_rows(self, llm: str, task: Task) -> None:
        values = [pp.probe(llm, task, estimators="ridge_mse", seed=seed, **ONE_CALL).frame["value"] for seed in (0, 1)]
        assert (values[0] != values[1]).any()

    def test_without_permutations_there_is_no_null(self, llm: str, task: Task) -> None:
        table = pp.probe(llm, task, estimators="ridge_accuracy", **ONE_CALL | {"settings": NONE})
        assert table.frame[["null_mean", "p_value", "selectivity"]].isna().all(axis=None)
        assert table.info["null"] == "none"

    def test_labels_that_mean_nothing_are_found_out(self, llm: str) -> None:
        rng = np.random.default_rng(0)
        task = slm.tiny_task(120)
        split = task.splits["train"]
        shuffled = Split(split.texts, tuple(int(x) for x in rng.permutation(split.labels)), split.ids)
        told = pp.probe(
            llm,
            task,
            estimators="ridge_accuracy",
            **ONE_CALL | {"n": 120, "settings": MANY},
        )
        noise = pp.probe(
            llm,
            replace(task, splits={"train": shuffled}),
            estimators="ridge_accuracy",
            **ONE_CALL | {"n": 120, "settings": MANY},
        )
        assert told.frame["p_adjusted"].min() == pytest.approx(1 / 50)
        assert noise.frame["p_adjusted"].min() > 0.05


class TestRefusals:
    def test_the_test_split_is_refused_and_the_error_says_why(self, llm: str, task: Task) -> None:
        with pytest.raises(TaskError, match="no longer be held out"):
            pp.probe(llm, task, pp.ProbeSettings(split="test"))

    @pytest.mark.parametrize(
        ("names", "message"), [("ridge_acuracy", "ridge_accuracy"), ("cka", "two feature sets"), ([], "no estimator")]
    )
    def test_estimators_that_cannot_be_used_are_refused_before_the_pass(
        self, task: Task, names: Any, message: str
    ) -> None:
        with pytest.raises(EstimatorError, match=message):
            pp.probe("there-is-no-such-model", task, estimators=names)

    def test_rows_that_cannot_be_scored_are_refused_before_the_pass(self) -> None:
        texts = tuple(f"text {row}" for row in range(12))
        alone = Split(texts, (0,) * 11 + (1,), texts)
        task = Task("rare", "single", ("a", "b"), "en", {"train": alone})
        with pytest.raises(PifiProbeError, match="class 1 has 1"):
            pp.probe("there-is-no-such-model", task, n=12)
        with pytest.raises(PifiProbeError, match="1 rows"):
            pp.probe("there-is-no-such-model", task, n=1)
        one = Task("one", "single", ("a", "b"), "en", {"train": Split(texts, (0,) * 12, texts)})
        with pytest.raises(PifiProbeError, match="every label is"):
            pp.probe("there-is-no-such-model", one, n=12)

    def test_default_leaves_out_what_compares_two_feature_sets(self) -> None:
        assert "cka" in estimators.names(default_only=True)
        names = [each.name for each in module.applicable("default")]
        assert "cka" not in names and "mutual_knn" not in names
        assert {"ridge_accuracy", "ridge_mse", "logme", "hscore", "knn", "nearest_mean"} <= set(names)
