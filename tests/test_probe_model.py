"""The best probe as a model: its scores, its file, its pipeline and its directions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification, pipeline

import pifi_probe as pp
from pifi_probe.features.donor import llm_features
from pifi_probe.features.rows import scoring_rows
from pifi_probe.probing.probe_model import ProbeForSequenceClassification
from tests import slm, tiny

TASK = slm.tiny_task(120)
POINT = 2


@pytest.fixture(scope="module")
def table(llm: str, tmp_path_factory: pytest.TempPathFactory) -> pp.ProbeTable:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIFI_PROBE_FEATURES", str(tmp_path_factory.mktemp("features")))
        return pp.probe(
            llm, TASK, pp.ProbeSettings(n_permutations=0), n=60, estimators=["logistic_nll"], progress=False
        )


@pytest.fixture(scope="module")
def model(llm: str, table: pp.ProbeTable) -> ProbeForSequenceClassification:
    return table.to_model(POINT, task=TASK, llm=llm)


def logits(model: ProbeForSequenceClassification, texts: tuple[str, ...], side: str = "right") -> torch.Tensor:
    tokenizer = slm.tiny_tokenizer()
    tokenizer.padding_side = side
    with torch.no_grad():
        return model(
            **dict(tokenizer(list(texts), padding=True, return_tensors="pt", return_token_type_ids=False))
        ).logits


def test_the_head_is_scikit_learns_on_the_same_states(llm: str, model: ProbeForSequenceClassification) -> None:
    rows = scoring_rows(TASK, 60)
    states = llm_features(llm, rows, until=POINT, cache=False, progress=False)[POINT].astype(np.float64)
    own = logits(model, rows.texts).double().log_softmax(-1).numpy()
    scaled = (states - states.mean(0)) / np.sqrt(((states - states.mean(0)) ** 2).mean())
    best = min(
        np.abs(
            LogisticRegression(C=1 / (l2 * states.shape[1]), tol=1e-10, max_iter=5000)
            .fit(scaled, rows.labels)
            .predict_log_proba(scaled)
            - own
        ).max()
        for l2 in (100.0, 10.0, 1.0, 0.1, 0.01)
    )
    assert best < 1e-3
    assert set(model.config.scores) == {"accuracy", "nll", "n"}


def test_padding_and_streaming_change_nothing(model: ProbeForSequenceClassification) -> None:
    texts = TASK.splits["test"].texts[:6]
    right = logits(model, texts)
    assert torch.allclose(logits(model, texts, "left"), right, atol=1e-5)
    assert torch.allclose(torch.cat([logits(model, (text,)) for text in texts]), right, atol=1e-5)
    held, model.hold, model._below = model._below, False, None
    assert torch.allclose(logits(model, texts), right, atol=1e-5) and model._below is None
    model.hold, model._below = True, held
    assert len(held[1]) == POINT, "layers from the point on are never read"


def test_a_saved_probe_is_its_head_and_a_reference(
    model: ProbeForSequenceClassification, llm: str, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        assert set(stored.keys()) == {"head.weight", "head.bias"}
    texts = TASK.splits["test"].texts[:3]
    for kind in (ProbeForSequenceClassification, AutoModelForSequenceClassification):
        again = kind.from_pretrained(tmp_path, allow_external=True)
        assert torch.allclose(logits(again, texts), logits(model, texts), atol=1e-6)
    with pytest.raises(pp.errors.PlugInError, match="allow_external"):
        logits(ProbeForSequenceClassification.from_pretrained(tmp_path), texts)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"content": "sha256:0"}))
    with pytest.raises(pp.errors.CheckpointError, match="not the one that this probe was fitted to"):
        logits(ProbeForSequenceClassification.from_pretrained(tmp_path, allow_external=True), texts)


def test_a_pipeline_runs_it(model: ProbeForSequenceClassification) -> None:
    found = model.classifier()(["the film was good", "the plot was bad " * 60])
    assert {one["label"] for one in found} <= set(TASK.label_names)
    tokenizer = slm.tiny_tokenizer()
    by_name = pipeline("text-classification", model=model, tokenizer=tokenizer)("the film was good")
    assert by_name == found[:1]
    want = logits(model, ("the film was good",)).softmax(-1).max()
    assert found[0]["score"] == pytest.approx(float(want), abs=1e-5)


def test_directions_are_written_for_other_tools(model: ProbeForSequenceClassification, tmp_path: Path) -> None:
    with safe_open(model.export_directions(tmp_path / "d.safetensors"), "pt") as stored:
        directions = stored.get_tensor("directions")
        assert stored.metadata()["point"] == str(POINT)
    assert directions.shape == (2, tiny.WIDTH) and torch.allclose(directions[0], -directions[1])
    assert torch.allclose(directions.norm(dim=1), torch.ones(2))
    reader = GGUFReader(model.export_directions(tmp_path / "d.gguf", label=TASK.label_names[0]))
    (tensor,) = reader.tensors
    assert tensor.name == f"direction.{POINT - 1}", "the point is the output of the layer before"
    assert np.allclose(tensor.data, directions[0].numpy())
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    with pytest.raises(pp.errors.FeatureError, match=r"\.safetensors or \.gguf"):
        model.export_directions(tmp_path / "d.bin")
    with pytest.raises(pp.errors.FeatureError, match="no class 'x'"):
        model.direction("x")


def test_what_cannot_become_a_model_says_why(table: pp.ProbeTable, llm: str) -> None:
    with pytest.raises(pp.errors.FeatureError, match=r"to_model\(llm="):
        table.to_model(task=TASK)
    with pytest.raises(pp.errors.TaskError, match="not embedded"):
        table.to_model(llm=llm)
    with pytest.raises(pp.errors.TaskError, match="not the task that was probed"):
        table.to_model(llm=llm, task=TASK.subset(train=40))
    for point in (99, True):
        with pytest.raises(pp.errors.FeatureError, match=f"no point {point}"):
            table.to_model(point, llm=llm, task=TASK)
    with pytest.raises(pp.errors.FeatureError, match="own states"):
        replace(table, family="plug-in").to_model(llm=llm, task=TASK)
