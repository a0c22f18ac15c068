"""``probe(fractions=...)``: the logistic probe with few labels, scored on texts that no draw may use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import pifi_probe as pp
from pifi_probe.alignment.readout import fit_block
from pifi_probe.cli import main
from pifi_probe.errors import TaskError
from pifi_probe.probing import few_labels
from tests import slm, tiny


class Planted:
    """Two points: the first knows nothing of the labels, the second knows them."""

    n_points = 2

    def __init__(self, labels: NDArray[np.int64]) -> None:
        draw = np.random.default_rng(0)
        self.points = [draw.normal(size=(len(labels), 12)).astype(np.float32) for _ in range(2)]
        self.points[1][:, 0] += 2.5 * (2 * labels - 1)

    def __getitem__(self, point: int) -> NDArray[np.float32]:
        return self.points[point]


LABELS = np.arange(240) % 2
PLACES = [{"depth": 0, "layer": 0, "position": "input"}, {"depth": 1, "layer": 0, "position": "output"}]


@pytest.fixture
def llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PIFI_PROBE_FEATURES", str(tmp_path / "features"))
    folder = tiny.tiny_checkpoint("llama", tmp_path / "llm")
    slm.tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def scored(sizes: list[int], draws: int = 4) -> list[few_labels.Measured]:
    return few_labels.score_with_few_labels(Planted(LABELS), LABELS, PLACES, sizes, n_draws=draws, seed=3)  # type: ignore[arg-type]


def test_more_labels_and_better_states_score_higher():
    few_nothing, few, nothing, many = scored([8, 100])
    assert abs(nothing.value - 0.5) < 0.1 and abs(few_nothing.value - 0.5) < 0.1
    assert many.value > 0.97 and 0.6 < few.value < many.value
    assert few.estimator == "logistic_accuracy, 8 labels" and few.per_example is not None
    assert few.per_example.shape == (4, 120) and few.value == pytest.approx(few.per_example.mean())


def test_what_is_scored_is_never_labelled(monkeypatch: pytest.MonkeyPatch):
    planted, fitted = Planted(LABELS), []

    def spied(x: NDArray[np.float32], y: NDArray[np.int64], n: int, *, seed: int) -> object:
        fitted.append({int(np.flatnonzero((planted[1] == row).all(1))[0]) for row in x})
        assert len(x) == 20 and y.sum() == 10, "by class"
        block = fit_block(x, y, n, seed=seed)

        def apply(tested: NDArray[np.float32]) -> NDArray[np.float64]:
            places = {int(np.flatnonzero((planted[1] == row).all(1))[0]) for row in tested}
            assert len(places) == 120 and not places & fitted[-1]
            return block(tested)

        return apply

    monkeypatch.setattr(few_labels, "fit_block", spied)
    monkeypatch.setattr(Planted, "n_points", 1)
    planted.points[0] = planted.points[1]
    few_labels.score_with_few_labels(planted, LABELS, PLACES, [20], n_draws=3, seed=0)  # type: ignore[arg-type]
    assert len(fitted) == 3 and len(set.union(*fitted)) > 20, "each draw has its own"


@pytest.mark.slow
def test_the_table_holds_them_beside_the_others_and_comes_back(llm: str):
    table = pp.probe(
        llm,
        slm.tiny_task(120),
        pp.ProbeSettings(fractions=(10, 0.5), n_draws=2),
        n=60,
        estimators="ridge_accuracy",
        progress=False,
    )
    assert list(table.kinds) == ["ridge_accuracy", "logistic_accuracy, 10 labels", "logistic_accuracy, 15 labels"]
    rows = table.series("logistic_accuracy, 10 labels")
    assert len(rows) == tiny.N_LAYERS + 1 and (rows["n"] == 30).all() and (rows["low"] <= rows["value"]).all()
    assert pp.ProbeTable.from_json(table.to_json()).frame.equals(table.frame)
    assert table.kinds["logistic_accuracy, 10 labels"].title == "Logistic probe, 10 labels"


@pytest.mark.parametrize("wrong", [(31,), (1,), (0.0,), (float("nan"),), (-5,)])
def test_more_labels_than_half_of_the_texts_or_too_few_for_the_classes_are_refused(llm: str, wrong: tuple[float, ...]):
    with pytest.raises(TaskError, match="labelled texts were asked for"):
        pp.probe(
            llm,
            slm.tiny_task(120),
            pp.ProbeSettings(fractions=wrong),
            n=60,
            estimators="ridge_accuracy",
            progress=False,
        )


@pytest.mark.slow
def test_the_command_takes_them(llm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "words.csv"
    rows = [f"the film was {slm.WORDS[n % 8]} {n},{'good' if n % 8 < 4 else 'bad'}" for n in range(80)]
    file.write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    command = ["probe", llm, "--task", str(file), "-n", "40", "--estimators", "ridge_accuracy", "--fraction", "12"]
    assert main([*command, "--json"]) == 0
    assert "logistic_accuracy, 12 labels" in json.loads(capsys.readouterr().out)["kinds"]
    assert main([*command, "--slm", "minilm-l6"]) == 2
