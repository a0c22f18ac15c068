"""LayerBench: recorded tables as a frame, and strategies replayed on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import pifi_probe as pp
from pifi_probe import layerbench
from pifi_probe.errors import CorruptFileError, SearchError
from pifi_probe.layerbench import Ask, decode_bits, encode_bits
from pifi_probe.training import RunResult

TRUTH = Path(__file__).parent.parent / "book" / "_studies" / "truth"
MATCHED = "movie-reviews-matched"


def test_the_frame_has_a_row_for_every_recorded_run() -> None:
    frame = pp.layerbench.load()
    own = frame[frame["table"] == MATCHED]
    assert len(own) == (30 + 8) * 3 and own["complete"].all()
    assert set(own[own["kind"] == "layer"]["layer"]) == set(range(30))
    assert {"vanilla", "linear", "random", "shuffled"} <= set(own["kind"])
    assert not frame[frame["table"] == "newsgroups"]["complete"].any(), "ten of thirty layers"


def test_a_row_is_the_run_that_was_recorded() -> None:
    run = RunResult.from_json(TRUTH / MATCHED / "layer-07-seed2.json")
    frame = pp.layerbench.load()
    (row,) = frame.query(f"table == '{MATCHED}' and kind == 'layer' and layer == 7 and seed == 2").itertuples()
    assert np.array_equal(row.scores, run.tests["movie-reviews"].per_example("accuracy"))
    assert row.validation == run.metrics["validation"]["nll"]


def test_the_ladder_of_a_table_is_that_of_its_runs() -> None:
    (table,) = (one for one in layerbench.tables() if one.name == "newsgroups")
    found = {effect.name: effect for effect in pp.layerbench.effects(table)}
    runs = [RunResult.from_json(file) for file in sorted((TRUTH / "newsgroups").glob("*.json"))]
    for effect in pp.compare(runs).effects:
        if effect.metric == "accuracy":
            own = found[effect.name]
            limits = (effect.mean, effect.low, effect.high)  # for all layers at once: simulated in the arms' order
            close = 1e-3 if effect.name in ("choice", "layers") else 1e-6
            assert (own.mean, own.low, own.high) == pytest.approx(limits, abs=close), effect.name
            assert own.verdict == effect.verdict
    assert set(found) >= {"projections", "block", "knowledge", "choice", "layers", "depth"}


@pytest.mark.parametrize(
    "table", [one for one in layerbench.tables() if one.encoder == "frozen"], ids=lambda one: one.name
)
def test_a_table_with_a_frozen_encoder_is_whole_and_its_scores_are_those_recorded(table: layerbench.Table) -> None:
    assert table.complete and table.seeds == (0, 1, 2, 3, 4) and len(table.scores) == (30 + len(table.controls)) * 5
    run = json.loads((TRUTH.parent / "truth-frozen" / table.name / "layer-07.json").read_text(encoding="utf-8"))
    assert run["task"] and list(table.validation[7]) == run["validation"]
    kept = decode_bits(run["correct"][3], run["sizes"]["test"])
    assert np.array_equal(table.scores["layer", 7, 3], kept) and 0.05 < kept.mean() < 1


def test_a_strategy_of_three_lines_is_replayed_on_every_table() -> None:
    def best_of_three(ask: Ask) -> int:
        return min((ask.layers[0], ask.layers[-1], ask.layers[len(ask.layers) // 2]), key=ask)

    found = pp.layerbench.replay(best_of_three)
    assert {one.table for one in found} == {table.name for table in layerbench.tables()}
    assert all(one.cost == 3 and one.regret >= 0 and one.low <= one.regret <= one.high for one in found)


def test_knowing_the_held_out_seed_has_no_regret_and_the_worst_layer_the_most() -> None:
    (table,) = [one for one in layerbench.tables() if one.name == MATCHED]
    held_out = iter(range(3))
    best = [int(place) for place in table.validation.argmin(0)]
    oracle = pp.layerbench.replay(lambda ask: table.layers[best[next(held_out)]], MATCHED, n_draws=1)[0]
    assert oracle.regret == 0 and oracle.cost == 0
    worst = pp.layerbench.replay(lambda ask: int(table.validation.mean(1).argmax()), table)[0]
    assert worst.regret > 0.05


def test_a_strategy_of_the_search_asks_the_table() -> None:
    (found,) = pp.layerbench.replay("fast", n_draws=1)
    assert found.table == MATCHED and 0 < found.cost < 1 and len(found.choices) == 3


@pytest.mark.parametrize(
    ("strategy", "table", "says"),
    [
        (lambda ask: 99, MATCHED, "chose layer 99"),
        (lambda ask: ask(0, seed=2), MATCHED, "no run of layer 0, seed 2"),
        (lambda ask: ask(0), "newsgroups", "no run of layer 0"),
        (lambda ask: 0, "nowhere", "no table 'nowhere'.*movie-reviews"),
        (lambda ask: None, MATCHED, "chose layer None"),
        (lambda ask: 3.7, MATCHED, "chose layer 3.7"),
        (lambda ask: "last", MATCHED, "chose layer 'last'"),
        (3, MATCHED, "a int is not a strategy"),
    ],
)
def test_what_was_not_recorded_is_refused_with_what_was(strategy: object, table: str, says: str) -> None:
    with pytest.raises(SearchError, match=says):
        pp.layerbench.replay(strategy, table)  # type: ignore[arg-type]


def test_bits_come_back() -> None:
    assert decode_bits(encode_bits("1011001"), 7).tolist() == [1, 0, 1, 1, 0, 0, 1]
    with pytest.raises(ValueError, match="8 bits for 9"):
        decode_bits(encode_bits("1011001"), 9)


@pytest.mark.parametrize("text", ["{}", "[]", '{"tables": [{}]}', "no JSON"])
def test_a_file_that_is_no_layerbench_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(text, encoding="utf-8")
    with pytest.raises(CorruptFileError, match="not a LayerBench"):
        pp.layerbench.load(tmp_path / "own.json")


def test_a_table_of_ones_own_is_read_from_a_file(tmp_path: Path) -> None:
    packaged = Path(layerbench.__file__).with_suffix(".json")
    record = json.loads(packaged.read_text(encoding="utf-8"))
    record["tables"] = [record["tables"][-1] | {"name": "mine"}]
    (tmp_path / "mine.json").write_text(json.dumps(record), encoding="utf-8")
    (table,) = pp.layerbench.tables(tmp_path / "mine.json")
    assert table.name == "mine" and pp.layerbench.replay(lambda ask: ask.layers[0], table)[0].table == "mine"


def own_file(folder: Path, **changes: object) -> Path:
    """Write a small table of one's own, with changes."""
    runs = [
        {"kind": "layer", "layer": layer, "seed": seed, "correct": encode_bits("1010")}
        for layer in (0, 2)
        for seed in (0, 1)
    ]
    table = {"name": "mine", "task": "t", "slm": "s", "llm": "l", "wiring": "matched", "n_layers": 3, "layers": [0, 2]}
    table |= {"seeds": [0, 1], "controls": [], "sizes": {"test": 4}, "metric": "accuracy", "runs": runs}
    table |= {"validation": [[0.5, 0.4], [0.3, 0.2]], "cheap": {}, "costs": {}}
    path = folder / "mine.json"
    path.write_text(json.dumps({"tables": [table | changes]}), encoding="utf-8")
    return path


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    assert [table.name for table in layerbench.tables(own_file(tmp_path))] == ["mine"]
    assert [table.name for table in layerbench.tables(own_file(tmp_path, name="mine now"))] == ["mine now"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"runs": []}, "mine has no runs of layer 0, seed 0"),
        ({"layers": [0, 1]}, "mine has no runs of layer 1, seed 0"),
        ({"seeds": [0, 0]}, "occurs twice"),
        ({"validation": [[0.5, float("nan")], [0.3, 0.2]]}, "not finite"),
        ({"metric": "f1"}, "there is no entry 'scores'"),
    ],
)
def test_a_table_that_is_not_whole_is_refused_where_it_is_read(
    changes: dict[str, object], says: str, tmp_path: Path
) -> None:
    with pytest.raises(CorruptFileError, match=says):
        pp.layerbench.tables(own_file(tmp_path, **changes))


@pytest.mark.parametrize("n_draws", [0, -1, 1.5, True])
def test_a_strategy_is_replayed_at_least_once(n_draws: object) -> None:
    with pytest.raises(SearchError, match="n_draws"):
        pp.layerbench.replay(lambda ask: 0, MATCHED, n_draws=n_draws)  # type: ignore[arg-type]
