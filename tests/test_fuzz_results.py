"""Altered results, recipes, probe tables and studies are read as what they say, or refused by the name of the value."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pifi_probe.errors import CorruptFileError
from pifi_probe.probing.building import build_table
from pifi_probe.probing.table import ProbeTable
from pifi_probe.scoring.points import Measured
from pifi_probe.selection.database import Address
from pifi_probe.selection.settings import Settings, note_source, read_n_train
from pifi_probe.selection.store import Store
from pifi_probe.selection.study import Study
from pifi_probe.selection.views import leaderboard
from pifi_probe.training.recipe import Recipe
from pifi_probe.training.result import RunResult
from tests.fuzzing import fuzz, mutate_bytes, mutate_json, mutate_text
from tests.search_stub import SPACE, StubEvaluator, runner

N = 40
CORRECT = "1101" * 10
RESULT: dict[str, Any] = {
    "format": 1,
    "label": "pifi: smollm2-135m[3]",
    "model": {"label": "pifi: smollm2-135m[3]", "slm": "minilm-l6", "layers": [], "control": None},
    "recipe": Recipe(epochs=2).to_dict(),
    "lr_projection": 5e-5,
    "task": {
        "name": "movie-reviews",
        "fingerprint": "ab" * 32,
        "label_names": ["neg", "pos"],
        "language": "en",
        "licence": None,
        "sizes": {"train": 80, "validation": 20, "test": N},
    },
    "start": "cd" * 32,
    "epochs": [
        {"epoch": 0, "branch_ratio": 0.1, "output_ratio": 1.0},
        {"epoch": 1, "accuracy": 0.7, "nll": 0.6, "branch_ratio": 0.1, "output_ratio": 1.0},
        {"epoch": 2, "accuracy": 0.75, "nll": 0.5, "branch_ratio": 0.2, "output_ratio": 1.0},
    ],
    "best_epoch": 2,
    "tests": {
        "movie-reviews": {
            "task": "movie-reviews",
            "fingerprint": "ab" * 32,
            "metrics": {
                "accuracy": 0.75,
                "balanced_accuracy": 0.74,
                "macro_f1": 0.73,
                "mcc": 0.5,
                "nll": 0.5,
                "ece": 0.1,
                "auroc": 0.8,
                "label_prior": [0.5, 0.5],
                "predicted_prior": [0.4, 0.6],
                "n": N,
                "undefined": {},
            },
            "train_prior": [0.5, 0.5],
            "correct": CORRECT,
            "nll": " ".join(["0.5"] * N),
            "note": "",
            "scores": {},
        }
    },
    "curves": {name: [1.0, 0.5, 0.25] for name in ("loss", "grad_norm", "grad_encoder", "grad_projections")},
    "parameters": {"trainable": 1000, "frozen": 5000},
    "layer_digests": {"before": ["aa"], "after": ["aa"]},
    "seconds": {"train": 1.5, "test": 0.5},
    "peak_memory": {"rss_bytes": 1000000, "cuda_bytes": None},
    "provenance": {"versions": {"torch": "2.6"}, "time": "2026-01-01T00:00:00"},
    "tuned": {},
}


def use_result(result: RunResult) -> None:
    """Do what tables, comparisons and pages do with a result."""
    assert repr(result) and result._repr_html_() and result.identity and result.metrics
    for test in result.tests.values():
        for name in test.score_names:
            values = test.per_example(name)
            assert np.isfinite(values).all() and len(values) == test.metrics["n"]
    assert RunResult.from_json(result.to_json()) == result


def result_case(draw: random.Random) -> None:
    use_result(RunResult.from_json(mutate_text(RESULT, draw).decode("utf-8", errors="replace").replace("\ufffd", "?")))


def file_case(folder: Path) -> Callable[[random.Random], None]:
    def case(draw: random.Random) -> None:
        (folder / "result.json").write_bytes(mutate_text(RESULT, draw))
        use_result(RunResult.from_json(folder / "result.json"))

    return case


def test_the_result_that_is_altered_below_is_whole() -> None:
    use_result(RunResult.from_json(json.dumps(RESULT)))


IMPOSSIBLE: dict[str, tuple[list[Any], Any]] = {
    "an accuracy of 4.9": (["tests", "movie-reviews", "metrics", "accuracy"], 4.9),
    "an accuracy in percent": (["epochs", 2, "accuracy"], 75),
    "an accuracy that the examples contradict": (["tests", "movie-reviews", "metrics", "accuracy"], 0.9),
    "NaN for an accuracy": (["tests", "movie-reviews", "metrics", "accuracy"], float("nan")),
    "a negative likelihood": (["tests", "movie-reviews", "metrics", "nll"], -0.1),
    "a negative count": (["tests", "movie-reviews", "metrics", "n"], -40),
    "a count that is not a number": (["tests", "movie-reviews", "metrics", "n"], "40"),
    "fewer examples than values": (["tests", "movie-reviews", "metrics", "n"], 39),
    "a 2 among the correct": (["tests", "movie-reviews", "correct"], CORRECT[:-1] + "2"),
    "infinite surprise": (["tests", "movie-reviews", "nll"], " ".join(["inf"] * N)),
    "no tests": (["tests"], {}),
    "a best epoch that there was not": (["best_epoch"], 3),
    "negative weights": (["parameters", "trainable"], -1),
    "negative time": (["seconds", "train"], -1.0),
    "a correlation of 2": (["tests", "movie-reviews", "metrics", "mcc"], 2.0),
    "a prior of 1.5": (["tests", "movie-reviews", "train_prior"], [1.5, -0.5]),
    "a label that is a list": (["model", "label"], ["a"]),
    "a recipe of -1 epochs": (["recipe", "epochs"], -1),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_no_run_can_have_is_refused(case: str) -> None:
    path, value = IMPOSSIBLE[case]
    forged = json.loads(json.dumps(RESULT))
    holder = forged
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    with pytest.raises(CorruptFileError, match="this is not the result of a run") as caught:
        RunResult.from_json(json.dumps(forged))
    assert str(path[-1]) in str(caught.value) or "test" in str(caught.value)


def table_text() -> Any:
    rng = np.random.default_rng(0)
    measured = [
        Measured("ridge_accuracy", float(parts.mean()), depth=depth, layer=depth, per_example=parts)
        for depth, parts in enumerate((rng.random((3, 30)) > 0.4).astype(np.float64))
    ] + [Measured("logme", -0.1 * depth, depth=depth, layer=depth, fifths=rng.random(5)) for depth in range(3)]
    table = build_table("own-state", measured, {"n": 30, "llm": "a", "task": "b", "split": "train"}, provenance={})
    return json.loads(table.to_json())


def table_case(folder: Path) -> Callable[[random.Random], None]:
    whole = table_text()

    def case(draw: random.Random) -> None:
        (folder / "table.json").write_bytes(mutate_text(whole, draw))
        table = ProbeTable.from_json(folder / "table.json")
        assert repr(table) and table._repr_html_()

    return case


def recipe_case(draw: random.Random) -> None:
    text = mutate_text(Recipe().to_dict(), draw).decode("utf-8", errors="replace")
    assert Recipe.from_json(text).to_json()


@pytest.fixture(autouse=True)
def migrations_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Optuna's version of its tables be known: it runs ten modules to find it, for each study that it opens."""
    from optuna.storages._rdb.storage import _VersionManager

    find, known = _VersionManager.get_head_version, list[str]()

    def head(self: Any) -> str:
        known.extend([] if known else [find(self)])
        return known[0]

    monkeypatch.setattr(_VersionManager, "get_head_version", head)


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with complete, failed and running trials."""
    file = tmp_path_factory.mktemp("study") / "study.db"
    store = Store(Address.parse(file))
    settings = Settings(
        {"name": "t", "fingerprint": "f", "sizes": {"train": 8}},
        "minilm-l6",
        ["llm"],
        "pifi",
        {},
        SPACE.to_dict(),
        {"name": "exhaustive", "options": {}},
        1,
    )
    store.note("settings", settings.to_dict())
    store.note("budget", "6 trials")
    store.note("weights", {"encoder minilm-l6": "sha256:1"})
    note_source(store, "movie-reviews", 8)
    runner(store, "6 trials", StubEvaluator(0.0, broken=("llm[2]",)), seeds=1).run()
    return file


# What a search stores, by table: the column with JSON, or a plain one with values to put in.
_JSON = (("study_user_attributes", "value_json"), ("trial_user_attributes", "value_json"))
_PLAIN = (
    ("trials", "state", ("COMPLETE", "RUNNING", "FAIL", "WAITING", "nothing", 7, None)),
    ("trials", "number", (0, -1, 1 << 40, None)),
    ("trials", "datetime_start", ("yesterday", None)),
    ("trial_params", "param_value", (0, -1, 9.5, 1e300, None, "x")),
    (
        "trial_params",
        "distribution_json",
        ("{}", "[]", '{"name": "IntDistribution", "attributes": {}}', "\ud83d", None),
    ),
    ("trial_params", "param_name", ("rung", "seed", "", None)),
    ("trial_values", "value", (1e308, -1.0, None, "x")),
    ("trial_values", "value_type", ("FINITE", "INF_POS", "nothing")),
    ("studies", "study_name", ("other", "")),
    ("version_info", "schema_version", (1, 99, None)),
    ("alembic_version", "version_num", ("v0", "", None)),
)


def alter_rows(file: Path, draw: random.Random) -> None:
    """Change one or two values of the database through SQLite itself."""
    base = sqlite3.connect(file, isolation_level=None)
    try:
        for _ in range(draw.choice([1, 1, 2])):
            if draw.random() < 0.7:
                table, column = draw.choice(_JSON)
                rows = base.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
                row, text = draw.choice(rows)
                value: Any = json.dumps(mutate_json(_parsed(text), draw, n=1))
                if draw.random() < 0.15:
                    value = draw.choice(["", "{", "null", "NaN", b"\xff\xfe", '"' + text[:5]])
            else:
                table, column, values = draw.choice(_PLAIN)
                rows = base.execute(f"SELECT rowid FROM {table}").fetchall()
                row, value = draw.choice(rows)[0], draw.choice(values)
            if isinstance(value, str):
                value = value.encode("utf-8", errors="replace").decode()
            try:
                base.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
            except sqlite3.Error:
                continue  # the database's own constraints
    finally:
        base.close()


def _parsed(text: str) -> Any:
    """Return the value of a text that may have been altered before."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


def use_study(file: Path, *, conclude: bool) -> None:
    """Do what the command line and the widget do with a study that they only read."""
    study = Study.open(file)
    assert study.trials is not None and study.spent and study.budget and study.source
    assert read_n_train(study.store) >= 0
    study._settle_weights({"encoder minilm-l6": "sha256:1"})
    if conclude:  # fits a curve, which takes a second
        result = study.result
        assert result is None or (result.verdict and leaderboard(study.store.records(), result) is not None)


def study_case(whole: Path, folder: Path) -> Callable[[random.Random], None]:
    file = folder / "study.db"

    def case(draw: random.Random) -> None:
        if draw.random() < 0.8:
            shutil.copy(whole, file)
            alter_rows(file, draw)
        else:
            file.write_bytes(mutate_bytes(whole.read_bytes(), draw))
        for journal in folder.glob("study.db-*"):
            journal.unlink()
        use_study(file, conclude=draw.random() < 0.05)

    return case


def test_the_study_that_is_altered_below_is_whole(study_file: Path) -> None:
    use_study(study_file, conclude=True)
    assert {trial.state for trial in Study.open(study_file).trials} == {"complete", "failed"}


def case_of(kind: str, folder: Path, study_file: Path) -> Callable[[random.Random], None]:
    made = {
        "result as text": lambda: result_case,
        "result.json": lambda: file_case(folder),
        "probe table": lambda: table_case(folder),
        "recipe": lambda: recipe_case,
        "study.db": lambda: study_case(study_file, folder),
    }
    return made[kind]()


KINDS = ("result as text", "result.json", "probe table", "recipe", "study.db")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_altered_files(kind: str, tmp_path: Path, study_file: Path) -> None:
    fuzz(case_of(kind, tmp_path, study_file), 1000, seed=1, accepted=(0.05, 0.8))
