"""Whatever a command prints as a table fits the terminal: nothing is cut in silence, names of layers never."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pifi_probe.cli import main
from pifi_probe.cli.live import Live
from pifi_probe.cli.output import print_record
from pifi_probe.efficiency.cost_result import CostTable
from pifi_probe.efficiency.result import ArmCost, Benchmark, Spread
from pifi_probe.experiments.reproduce import Reproduction
from pifi_probe.features.headroom_table import Headroom
from pifi_probe.probing.chain_table import ChainTable
from pifi_probe.probing.table import ProbeTable
from pifi_probe.reporting.result import Result
from pifi_probe.reporting.terminal import Fitted

ROOT = Path(__file__).parent.parent
TRUTH = ROOT / "book" / "_studies" / "truth" / "movie-reviews-paper"
WIDTHS = pytest.mark.parametrize("width", [80, 120])


def printed(one: Any, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), markup=False, highlight=False)
    console.print(one)
    return console.file.getvalue()  # type: ignore[attr-defined]


def fits(text: str, width: int, *names: str) -> None:
    assert max(map(len, text.splitlines())) <= width
    assert "\u2026" not in text
    assert not [name for name in names if name not in text]


LONG = Fitted(
    ["layer", "score", "seeds", "why"],
    [["smollm2-135m[2]", "0.1", "3", "it was the best one of all layers that were measured so far"],
     ["smollm2-135m[29]", "12.25 [1.0, 20.0]", "3", ""]],
)  # fmt: skip


class TestFitted:
    def test_where_there_is_room_everything_is_a_column(self) -> None:
        shown = printed(LONG, 120)
        assert "no room" not in shown and "measured so far" in shown.splitlines()[3]

    def test_sentences_go_below_before_a_column_is_left_out(self) -> None:
        shown = printed(LONG, 60)
        assert "no room" not in shown
        assert "smollm2-135m[2]:\n  it was the best" in shown

    def test_what_is_left_out_is_named_and_the_first_column_is_whole(self) -> None:
        shown = printed(LONG, 40)
        fits(shown, 40, "smollm2-135m[2] ", "smollm2-135m[29]", "12.25 [1.0, 20.0]", "no room at 40 columns: seeds")

    def test_a_terminal_narrower_than_a_name_folds_it_and_loses_nothing(self) -> None:
        shown = printed(Fitted(["a"], [["x" * 30]]), 20)
        fits(shown, 20)
        assert shown.count("x") == 30


@WIDTHS
def test_compare_shows_the_answer_then_a_table_for_each_test_then_verdicts(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    files = [
        str(TRUTH / f"{arm}-seed{seed}.json") for arm in ("vanilla-29", "random-15", "layer-29") for seed in (0, 1)
    ]
    assert main(["compare", *files, "--table"]) == 0
    shown = capsys.readouterr().out
    fits(shown, width, "pifi: random smollm2-135m[15]", "pifi: smollm2-135m[29]", "-7.0 [")
    assert shown.index("Plugging in") < shown.index("difference") < shown.index("detectable with 2 seeds")
    assert len(shown.splitlines()) < 60


@WIDTHS
def test_a_study(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    study = shutil.copy(ROOT / "book" / "_studies" / "search" / "movie-reviews.db", tmp_path / "s.db")
    assert main(["study", "show", str(study), "--table"]) == 0
    table = capsys.readouterr().out.split("movie-reviews, 6 C")[1].split("and 19 more")[0]
    fits(table, width, "smollm2-135m[29]", "smollm2-135m[0] ", "p_best")


@WIDTHS
@pytest.mark.parametrize(
    ("command", "names"),
    [(["info", "list"], ("llama-3.1-70b-instruct",)), (["reproduce", "list"], ("language-alignment", "paper:")),
     (["assets", "list"], ("smollm2-135m", "licence")),
     (["info"], ("version of torch", "cache", "machine cores", " GB"))],
)  # fmt: skip
def test_lists(
    width: int,
    command: list[str],
    names: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(command) == 0
    fits(capsys.readouterr().out, width, *names)


@WIDTHS
def test_records_fold_their_values_and_keep_their_keys(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `extract`, `info MODEL`, `train` and `cache list` print."""
    monkeypatch.setenv("COLUMNS", str(width))
    print_record("model[3]", {"a key of several words": "a/long/path" * 30, "layer": "x" * 200})
    fits(capsys.readouterr().out, width, "a key of several words")


@WIDTHS
def test_what_was_measured(width: int) -> None:
    """The tables of `probe`, `headroom` and `bench`; that of `control` is tested next to its class."""
    probed = ProbeTable.from_json(ROOT / "book" / "_studies" / "probes" / "movie-reviews-own-state.json")
    fits(printed(probed.to_rich(), width), width, *(title.split()[0] for title in probed.summary()["estimator"]))
    room = Headroom(
        4.0, 1.0, 7.0, 1, (0, 1), (0, 1), 0.7, (0.6, 0.7), (0.7, 0.8), (1.0, 4.0), (-1.0, 1.0), (3.0, 7.0), (0.5,)
    )
    fits(printed(room.to_rich(), width), width, "+4.0 [1.0, 7.0]")
    spread = Spread(0.1, 0.05, 0.2, 5)
    arms = [
        ArmCost(name, 10**7, 10**8, 10**9, 10**9, 10**9, spread, spread, 10**9, {"1 x 32": spread, "8 x 128": spread})
        for name in ("vanilla", "PiFi, folded", "layer trained too")
    ]
    costs = Benchmark("small + 135M", "movie-reviews", "cpu", "float32", 32, tuple(arms), {})
    fits(printed(costs.to_rich(), width), width, "PiFi, folded", "layer trained too")


@WIDTHS
@pytest.mark.parametrize(
    ("kind", "file", "names"),
    [(CostTable, "costs/minilm-gemma3.json", ("layer trained too", "PiFi, aligned", "P90 ms", "file MB")),
     (Reproduction, "experiments/layer-position/summary.json", ("measured here", "open: the interval includes zero")),
     (Reproduction, "experiments/domain-shift/summary.json", ("measured here", "open: the interval includes zero")),
     (ChainTable, "aligned/movie-reviews.json", ("shuffled", "random"))],
)  # fmt: skip
def test_what_was_recorded(kind: type[Result], file: str, names: tuple[str, ...], width: int) -> None:
    """The tables of `bench --seeds`, `reproduce NAME` and the demo's chain."""
    fits(printed(kind.from_json(ROOT / "book" / "_studies" / file).to_rich(), width), width, *names)


@WIDTHS
def test_a_running_search(width: int) -> None:
    live = Live()
    why = "the strategy asks for it because nothing else is known of the layers besides this one"
    live._rows.extend(
        ("12", f"smollm2-135m[{index}] | smollm2-135m[3] (mix)", "last-block", "0", "NLL 0.6123, 14.0 s", why)
        for index in (2, 29)
    )
    shown = printed(live._table(), width)
    fits(shown, width, "smollm2-135m[29]", "smollm2-135m[2]", "NLL 0.6123")


def test_the_package_prints_no_other_table() -> None:
    """Who prints a new table adds it here."""
    users = {
        str(file.relative_to(ROOT / "pifi_probe"))
        for file in (ROOT / "pifi_probe").rglob("*.py")
        if re.search(r"rich\.table|rich import table", file.read_text(encoding="utf-8"))
    }
    assert users == {"cli/output.py", "reporting/terminal.py"}
