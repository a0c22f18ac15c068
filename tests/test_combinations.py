"""The combination study: sets on frozen vectors, claims of runs, verdicts, and the recorded tables."""

from __future__ import annotations

import importlib
import json
import multiprocessing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from pifi_probe.probing.frozen_slm import Vectors

FOLDER = Path(__file__).parent.parent / "benchmarks"
STUDIES = Path(__file__).parent.parent / "book" / "_studies" / "combinations"
RECORDED = sorted(STUDIES.glob("*/summary.json"))
TESTED = ("vanilla", "single", "repeated-pair", "shuffled-pair", "ensemble-pair", "mlp-pair")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks' folder as its scripts see it."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def module(name: str) -> ModuleType:
        return importlib.import_module(name)

    return module


@pytest.fixture
def score(load: Any) -> Any:
    rng = np.random.default_rng(0)
    h = rng.standard_normal((60, 384), dtype=np.float32)
    labels = (h[:, 0] > 0).astype(int)
    return load("_frozen_sets").FrozenSets(
        "smollm2-135m", Vectors(h[:40], labels[:40]), Vectors(h[40:], labels[40:]), 2, "matched"
    )


def test_a_result_is_claimed_by_one_process_and_made_once(load: Any, tmp_path: Path) -> None:
    claimed, file = load("_common").claimed, tmp_path / "study" / "run.json"
    with claimed(file) as free:
        assert free
        file.write_text("{}")
    with claimed(file) as free:
        assert not free
    assert list(file.parent.iterdir()) == [file]


def test_a_result_that_another_process_makes_is_left_to_it(load: Any, tmp_path: Path) -> None:
    file, ready, leave = tmp_path / "run.json", multiprocessing.Event(), multiprocessing.Event()
    other = multiprocessing.Process(target=_hold, args=(f"{file}.lock", ready, leave))
    other.start()
    assert ready.wait(30)
    with load("_common").claimed(file) as free:
        assert not free
    leave.set()
    other.join()


def _hold(lock: str, ready: Any, leave: Any) -> None:
    with FileLock(lock):
        ready.set()
        leave.wait(30)


def test_a_claim_whose_run_fails_is_free_again(load: Any, tmp_path: Path) -> None:
    claimed, file = load("_common").claimed, tmp_path / "run.json"
    with pytest.raises(ZeroDivisionError), claimed(file):
        raise ZeroDivisionError
    with claimed(file) as free:
        assert free


def test_side_by_side_sets_start_as_their_first_layer_alone(score: Any) -> None:
    h = torch.from_numpy(score.fit.h)
    with torch.no_grad():
        alone, pair = (score._tail(*one, seed=3).eval()(h) for one in (((2,), "single"), ((2, 7), "unshared")))
    torch.testing.assert_close(alone, pair)


@pytest.mark.parametrize(("layers", "design"), [((2,), "single"), ((2, 7), "unshared"), ((2, 3), "serial")])
def test_a_set_has_the_same_nll_again_and_another_with_another_seed(score: Any, layers: Any, design: str) -> None:
    first, again, other = (score.nll(layers, design, [seed])[0] for seed in (0, 0, 1))
    assert first == again != other


def test_a_greedy_choice_keeps_what_it_has_and_takes_the_lowest_nll(load: Any) -> None:
    class Planted:
        def nll(self, indices: tuple[int, ...], design: str, seeds: Any) -> list[float]:
            assert design == ("single" if len(indices) == 1 else "unshared")
            return [1.0 - 0.1 * (4 in indices) - 0.05 * (1 in indices) - 0.02 * (2 in indices) for _ in seeds]

    found = list(load("_frozen_sets").greedy(Planted(), 6, "unshared", 3, (0, 1)))
    assert [one["layers"] for one in found] == [[4], [4, 1], [4, 1, 2]]
    assert [len(one["tried"]) for one in found] == [6, 5, 4]


def rows(sign: int, p: float) -> list[dict[str, Any]]:
    return [
        {"metric": metric, "combination": "pair", "control": control, "difference": 0.1 * sign, "p_adjusted": p}
        for metric in ("accuracy", "nll")
        for control in TESTED
    ]


def test_a_combination_wins_only_against_every_control(load: Any) -> None:
    verdict = load("_combination_tables").verdict
    assert verdict(rows(1, 0.01)).startswith("Better in NLL than the single layer and all controls at equal k: pair.")
    assert verdict(rows(1, 0.2)).startswith("No combination")
    assert "pair: by accuracy no difference found (of 6), by NLL no difference found (of 6)" in verdict(rows(1, 0.2))
    mixed = rows(1, 0.01)
    mixed[-1]["difference"] = -0.1
    assert verdict(mixed).startswith("No combination") and "worse than mlp-pair (of 6)" in verdict(mixed)


def test_a_run_cuts_texts_where_its_study_says(load: Any) -> None:
    study = load("combinations")
    recipes = {name: study.recipe(one, seed=2) for name, one in study.TASKS.items()}
    assert {name: one.max_tokens for name, one in recipes.items()} == {"movie-reviews": 100, "reuters-r8": 40}
    assert all(one.seed == 2 and one.precision == "bf16" for one in recipes.values())


def test_every_combination_has_controls_at_its_own_number_of_layers(load: Any) -> None:
    tables = load("_combination_tables")
    assert "repeated-triple" in tables.opponents("triple") and "shuffled-block" in tables.opponents("block")
    assert tables.title("ensemble-triple") == "(c) ensemble of 3 seeds of the single layer"
    assert tables.title("shuffled-block") == "(b) 2 shuffled layers of the block"


def test_what_is_recorded_is_a_task_of_the_study(load: Any) -> None:
    assert {file.parent.name for file in RECORDED} <= set(load("combinations").TASKS)


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.parent.name)
def test_recorded_tables_and_verdicts_follow_from_the_summary(file: Path, load: Any) -> None:
    tables, found = load("_combination_tables"), json.loads(file.read_text(encoding="utf-8"))
    assert tables.table(found) == (file.parent / "table.md").read_text(encoding="utf-8")
    assert tables.verdict(found["controls"]) == found["verdict"]
    assert found["provenance"]["command"].startswith("combinations.py")
    selection = json.loads((file.parent / "selection.json").read_text(encoding="utf-8"))
    for name, chosen in found["chosen"].items():
        means = {layers: np.mean(values) for layers, values in selection[name]["tried"].items()}
        assert " ".join(map(str, chosen["layers"])) == min(means, key=lambda layers: means[layers])
    runs = {one.stem for one in file.parent.glob("*-seed*.json")}
    assert runs == {f"{arm}-seed{seed}" for arm, seeds in found["runs"].items() for seed in seeds}


def test_what_counts_as_the_best_layer_in_full_has_the_lowest_validation_nll(load: Any) -> None:
    nll: dict[str, list[float]] = {}
    for study in load("combinations").TASKS.values():
        for start in (start for arm, start in study.truth if arm == "best-in-full"):
            for file in (STUDIES.parent / "truth" / f"{study.task}-matched").glob("layer-*.json"):
                run = json.loads(file.read_text(encoding="utf-8"))
                nll.setdefault(file.stem.rsplit("-seed", 1)[0], []).append(run["epochs"][run["best_epoch"]]["nll"])
            assert start == min(nll, key=lambda layer: np.mean(nll[layer]))


@pytest.mark.slow
@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.parent.name)
def test_a_recorded_summary_follows_from_the_runs(file: Path, load: Any) -> None:
    selection = json.loads((file.parent / "selection.json").read_text(encoding="utf-8"))
    again = json.loads(json.dumps(load("_combination_tables").summary(file.parent, selection)))
    recorded = json.loads(file.read_text(encoding="utf-8"))
    assert again["verdict"] == recorded["verdict"] and len(again["controls"]) == len(recorded["controls"]) > 0
    for found, kept in zip(again["controls"], recorded["controls"], strict=True):
        assert found.keys() == kept.keys()
        for name, value in kept.items():
            near = pytest.approx(value, rel=1e-6, abs=1e-9) if isinstance(value, float) else value
            assert found[name] == near, name


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("kind", ["neighbours", "spread"])
def test_the_sets_of_the_density_table_share_no_layer(k: int, kind: str, load: Any) -> None:
    sets = list(load("density").sets(30, k, kind))
    layers = [layer for one in sets for layer in one]
    assert len(sets) == 30 // k and len(set(layers)) == len(layers) == k * (30 // k) and max(layers) < 30
