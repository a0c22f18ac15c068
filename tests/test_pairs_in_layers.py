"""With ``interaction="layer"`` two texts meet in the layers only, and late interaction is judged next to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pifi_probe as pp
from pifi_probe.alignment.chain import chain_features
from pifi_probe.alignment.fit import fit_interfaces
from pifi_probe.alignment.late import late_interaction
from pifi_probe.alignment.tokens import TokenStates, apart, joined, token_states
from pifi_probe.errors import PlugInError, TaskError
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.tasks import Task
from tests import slm

FIRST = ["the film was good", "the plot was very awful and sad", "not happy"]
SECOND = ["the film was happy", "good", "the plot was very very sad"]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIFI_PROBE_FEATURES", str(tmp_path / "features"))
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(slm.tiny_slm_folder(tmp_path_factory.mktemp("slm")))


def states(first: list[str], second: list[str]) -> TokenStates:
    one, other = (token_states(slm.tiny_slm("bert"), slm.tiny_tokenizer(), texts) for texts in (first, second))
    return apart(one, other, first)


def pairs(n: int = 48) -> Task:
    task = slm.tiny_task(n, "pairs")
    splits = {
        name: replace(split, pairs=tuple(f"the {'film' if label else 'plot'} was good" for label in split.labels))
        for name, split in task.splits.items()
    }
    return replace(task, kind="pair", splits=splits)


def test_tokens_keep_their_places_in_the_joined_text_with_the_line_end_between():
    found, texts = states(FIRST, SECOND), joined(FIRST, SECOND)
    assert found.second is not None
    for row, text in enumerate(texts):
        ends = found.ends[found.starts[row] : found.starts[row + 1]]
        middle = int(found.second[row])
        assert text[int(ends[middle - 1]) - 1] == "\n" and not found.tokens[found.starts[row] + middle - 1].any()
        assert text[: int(ends[middle - 2])] == FIRST[row] and text[: int(ends[-1])] == text


def test_the_second_text_knows_of_the_first_only_behind_a_layer(llm: str):
    texts = joined(FIRST, SECOND)
    real = states(FIRST, SECOND)
    other = states([FIRST[2], *FIRST[1:]], SECOND)
    checkpoint = open_checkpoint(llm)
    interface = fit_interfaces(real, texts, checkpoint, [1], model=llm)[1]
    width = 2 * interface.hidden_size
    alone = [chain_features(each, interface)[0, width:] for each in (real, other)]
    assert np.array_equal(*alone)
    through = [chain_features(each, interface, [pp.extract(f"{llm}[1]")])[0, 2 * width :] for each in (real, other)]
    assert not np.allclose(*through, atol=1e-4)


def test_late_interaction_is_by_hand_what_it_says():
    found = states(FIRST, SECOND)
    width = found.tokens.shape[1] // 2
    assert found.second is not None
    tokens, middle = found.tokens[found.starts[1] : found.starts[2]].astype(np.float64), int(found.second[1])
    a, b = tokens[: middle - 1, :width], tokens[middle:, :width]
    cosine = (a @ b.T) / np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    said = late_interaction(found)[1]
    best = cosine.max(1)
    assert said[:3] == pytest.approx([best.mean(), best.min(), best.std()], abs=1e-5)
    assert said.shape == (12 + 8 * width,)
    same = late_interaction(states(["good"], ["good"]))[0]
    assert same[:3] == pytest.approx([1, 1, 0], abs=1e-5) and same[3 : 3 + width] == pytest.approx(0, abs=1e-5)


def test_the_evaluation_judges_the_layers_beside_late_interaction(bert: str, llm: str):
    table = pp.probe_chain(bert, llm, pairs(), "1-2", interaction="layer", progress=False)
    beside = {f"{arm} and late interaction" for arm in ("interface", "real", "shuffled", "random")}
    assert {"encoder", "late interaction", "real"} | beside <= set(table.scores["arm"])
    left = table.difference("real and late interaction", "late interaction")
    assert left["low"] <= left["difference"] <= left["high"] and "Late interaction" in table.answer
    table.difference("real and late interaction", "shuffled and late interaction")
    assert pp.ChainTable.from_json(table.to_json()).answer == table.answer
    assert "real and late interaction" in table._repr_html_()
    together = pp.probe_chain(bert, llm, pairs(), "1-2", progress=False)
    assert "late interaction" not in set(together.scores["arm"]), "the encoder reads both texts together"
    key = "encoder | alone | 48 | pairs"
    assert (
        not np.array_equal(together.predicted[key], table.predicted[key])
        or together.scores["nll"][0] != (table.scores["nll"][0])
    )


def test_what_has_no_second_text_or_reads_one_at_a_time_is_refused(bert: str, llm: str):
    with pytest.raises(TaskError, match="pair"):
        pp.probe_chain(bert, llm, slm.tiny_task(), "1-2", interaction="layer", progress=False)
    with pytest.raises(PlugInError, match="unknown interaction"):
        pp.probe_chain(bert, llm, pairs(), "1-2", interaction="late", progress=False)
    with pytest.raises(PlugInError, match="one text per row"):
        pp.probe_chain(bert, llm, pairs(), "1-2", interaction="layer", references=["mlp"], progress=False)
