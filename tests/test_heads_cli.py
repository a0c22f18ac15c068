"""The command line trains and compares tasks of other kinds than classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pifi_probe.cli import main
from tests import slm, tiny

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("parts")
    llm, bert = tiny.tiny_checkpoint("llama", folder / "llm"), slm.tiny_slm_folder(folder / "slm")
    return ["--slm", str(bert), "--layer", f"{llm}[1]", "--epochs", "1"]


@pytest.mark.parametrize(
    ("file", "options", "metric"),
    [
        ("choices.jsonl", [], "accuracy"),
        pytest.param(
            "reviews.csv", ["--kind", "regression", "--label", "stars"], "squared_error", marks=pytest.mark.slow
        ),
        pytest.param("phrases_en_de.jsonl", ["--language", "en-de"], "chrf", marks=pytest.mark.slow),
    ],
)
def test_train_and_compare(
    file: str, options: list[str], metric: str, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for control in ("vanilla", ""):
        arguments = ["train", "--task", str(DATA / file), *parts, *options, "-o", str(tmp_path / (control or "last"))]
        assert main([*arguments, "--control", control]) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "vanilla"), str(tmp_path / "last"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metric"] == metric
    assert main(["compare", str(tmp_path / "vanilla"), str(tmp_path / "last"), "--metric", "auroc"]) == 2
    assert "auroc" in capsys.readouterr().err
