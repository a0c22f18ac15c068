"""Tables of probes: intervals, nulls and best sets mean what they say; nothing is lost on the way to disk."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pifi_probe.errors import CorruptFileError, PifiProbeError, SaveError
from pifi_probe.probing import summary
from pifi_probe.probing.building import build_table
from pifi_probe.probing.table import ProbeTable
from pifi_probe.reporting import depths
from pifi_probe.reporting.looks import INK
from pifi_probe.reporting.svg import to_svg
from pifi_probe.scoring import intervals
from pifi_probe.scoring.points import Kind, Measured

N = 200
KINDS = {
    "hit": Kind("hits", "accuracy", True),
    "loss": Kind("loss", "nats", False),
    "fit": Kind("fit", "nats", True),
}
INFO = {"llm": "tiny", "task": "words", "split": "train", "n": N, "pooling": "mean"}
ATTACK = "<script>alert('1')</script>"


def place(depth: int, n_points: int = 5) -> dict[str, Any]:
    last = n_points - 1
    return {"depth": depth, "layer": min(depth, last - 1), "position": "input" if depth < last else "output"}


def three_estimators(seed: int = 0) -> list[Measured]:
    """Five depths, of which 2 and 3 are far better than the others and alike."""
    rng = np.random.default_rng(seed)
    level = np.array([0.1, 0.2, 0.9, 0.9, 0.3])
    noise = rng.random(N)
    permuted = rng.normal(size=60)
    measured = []
    for depth in range(5):
        hits = (noise < level[depth]).astype(float)
        hits = np.where(rng.random(N) < 0.02, 1 - hits, hits)
        losses = rng.exponential(1.5 - level[depth], N)
        fifths = level[depth] + 0.01 * rng.normal(size=5)
        null = 0.1 + 0.02 * permuted
        measured += [
            Measured("hit", float(hits.mean()), **place(depth), per_example=hits, null=null),
            Measured("loss", float(losses.mean()), **place(depth), per_example=losses, null=2 + null),
            Measured("fit", float(level[depth]), **place(depth), fifths=fifths, note="a sentence"),
        ]
    return measured


@pytest.fixture
def table() -> ProbeTable:
    return build_table("own-state", three_estimators(), INFO, kinds=KINDS, provenance={"command": "x"})


def plug_in_table() -> ProbeTable:
    """Two projections, three arms each, and a control without a layer."""
    rng = np.random.default_rng(1)
    measured = [
        Measured("hit", value, depth, depth, arm=arm, projection=projection, fifths=value + 0.1 * rng.normal(size=5))
        for projection in ("random", "ridge")
        for arm, shift in (("real", 0.5), ("shuffled", 0.4), ("real - shuffled", 0.1))
        for depth, value in enumerate(shift + rng.normal(size=4) / 10)
    ]
    measured.append(Measured("hit", 0.2, None, None, arm="encoder"))
    return build_table("plug-in", measured, INFO, kinds=KINDS)


class TestFrame:
    def test_it_has_one_row_per_depth_and_estimator_in_their_order(self, table: ProbeTable) -> None:
        assert table.frame["estimator"].tolist() == ["hit"] * 5 + ["loss"] * 5 + ["fit"] * 5
        hits = table.frame[table.frame["estimator"] == "hit"]
        assert hits["depth"].tolist() == [0, 1, 2, 3, 4]
        assert hits["layer"].tolist() == [0, 1, 2, 3, 3]
        assert hits["position"].tolist() == ["input"] * 4 + ["output"]
        assert set(table.frame["n"]) == {N}

    def test_the_interval_holds_the_value_and_says_how_it_was_made(self, table: ProbeTable) -> None:
        assert ((table.frame["low"] <= table.frame["value"]) & (table.frame["value"] <= table.frame["high"])).all()
        words = dict(zip(table.frame["estimator"], table.frame["interval"], strict=True))
        assert "200 examples" in words["hit"]
        assert "1/sqrt(n)" in words["fit"]

    def test_the_null_is_summed_up_in_the_better_direction(self, table: ProbeTable) -> None:
        hit, loss = (table.series(name).iloc[2] for name in ("hit", "loss"))
        assert hit["null_high"] > hit["null_mean"] and loss["null_high"] < loss["null_mean"]
        assert hit["p_value"] == loss["p_value"] == pytest.approx(1 / 61)
        assert hit["selectivity"] == pytest.approx(hit["value"] - hit["null_mean"])
        assert loss["selectivity"] == pytest.approx(loss["null_mean"] - loss["value"])
        assert table.series("fit")[["null_mean", "p_value", "p_adjusted"]].isna().all(axis=None)

    def test_scores_of_examples_are_kept_by_series(self, table: ProbeTable) -> None:
        assert set(table.per_example) == {"hit", "loss"}
        assert table.per_example["hit"].shape == (5, N)
        np.testing.assert_allclose(table.per_example["loss"].mean(axis=1), table.series("loss")["value"], rtol=1e-5)

    def test_seeds_count_in_the_interval(self) -> None:
        rng = np.random.default_rng(0)
        alike = rng.normal(size=(1, N)).repeat(3, axis=0)
        apart = alike + np.array([[-0.5], [0.0], [0.5]])
        tables = [
            build_table("plug-in", [Measured("hit", float(s.mean()), 0, 0, per_example=s)], INFO, kinds=KINDS)
            for s in (alike, apart)
        ]
        widths = [float((t.frame["high"] - t.frame["low"]).iloc[0]) for t in tables]
        assert widths[1] > 3 * widths[0]
        assert "3 seeds" in tables[1].frame["interval"].iloc[0]

    def test_a_score_that_could_not_be_made_is_missing_and_in_no_best_set(self) -> None:
        measured = [Measured("hit", np.nan, 0, 0, note="no signal"), Measured("hit", 0.5, 1, 1)]
        built = build_table("own-state", measured, INFO, kinds=KINDS)
        assert built.frame["in_best_set"].tolist() == [False, True]
        assert "no signal" in built._repr_html_()

    @pytest.mark.parametrize(
        ("measured", "message"),
        [
            ([], "nothing was measured"),
            ([Measured("hit", np.inf, 0, 0)], "infinite"),
            ([Measured("hit", 0.5, 0, 0, per_example=np.zeros(N))], "average to 0"),
            ([Measured("hit", 0.5, 0, 0, fifths=np.zeros(4))], "five"),
            ([Measured("hit", 0.5, 0, 0), Measured("hit", 0.6, 0, 0)], "depth 0 was measured twice"),
            ([Measured("hit", 0, d, d, per_example=np.zeros(N + d)) for d in (0, 1)], "different examples"),
            ([Measured("rigde_accuracy", 0.5, 0, 0)], "ridge_accuracy"),
        ],
    )
    def test_measurements_that_make_no_table_are_refused(self, measured: list[Measured], message: str) -> None:
        with pytest.raises(PifiProbeError, match=message):
            build_table("own-state", measured, INFO, kinds=KINDS)


class TestRanking:
    def test_the_best_set_holds_what_is_alike_and_leaves_out_what_is_worse(self, table: ProbeTable) -> None:
        assert [table.best_set(name) for name in ("hit", "loss", "fit")] == [[2, 3]] * 3

    @pytest.mark.parametrize("name", ["hit", "loss", "fit"])
    def test_rank_puts_the_best_first_whatever_the_direction(self, table: ProbeTable, name: str) -> None:
        assert set(table.rank(name)["depth"][:2]) == {2, 3}
        assert table.rank(name)["value"].is_monotonic_increasing == (name == "loss")

    def test_agreement_turns_losses_over_and_warns_of_smooth_curves(self, table: ProbeTable) -> None:
        found = table.agreement()
        assert list(zip(found["a"], found["b"], strict=True)) == [("hit", "loss"), ("hit", "fit"), ("loss", "fit")]
        assert (found[["kendall", "spearman"]] > 0.5).all(axis=None)
        assert (found["n"] == 5).all()
        assert "by chance" in found.attrs["warning"]

    def test_an_unknown_estimator_is_refused_with_the_known_ones(self, table: ProbeTable) -> None:
        with pytest.raises(PifiProbeError, match="no estimator 'hits'") as caught:
            table.rank("hits")
        assert "hit, loss, fit" in caught.value.next

    def test_the_headline_of_a_plug_in_is_the_difference_to_the_shuffled_layer(self) -> None:
        table = plug_in_table()
        assert set(table.headlines()["arm"]) == {"real - shuffled"}
        assert set(table.rank("hit", projection="ridge")["arm"]) == {"real - shuffled"}
        assert set(table.series("hit", projection="random", arm="shuffled")["arm"]) == {"shuffled"}
        with pytest.raises(PifiProbeError, match="several: projection"):
            table.rank("hit")
        with pytest.raises(PifiProbeError, match="no arm 'linear'"):
            table.rank("hit", projection="ridge", arm="linear")

    def test_a_difference_between_arms_has_a_p_value_corrected_for_the_number_of_layers(self) -> None:
        rng = np.random.default_rng(0)
        gains = [rng.normal(shift, 1.0, N) for shift in (0.0, 0.0, 0.0, 0.5)]
        measured = [
            Measured("hit", float(gain.mean()), d, d, arm="real - shuffled", per_example=gain)
            for d, gain in enumerate(gains)
        ]
        measured.append(Measured("hit", 0.1, 0, 0, arm="real", per_example=np.full(N, 0.1)))
        table = build_table("plug-in", measured, INFO, kinds=KINDS)
        rows = table.series("hit")
        assert rows["p_adjusted"][3] < 0.01 and rows["p_adjusted"][:3].min() > 0.05
        assert (rows["p_adjusted"] >= rows["p_value"]).all()
        assert table.series("hit", arm="real")["p_value"].isna().all()
        assert table.summary()["arm"].tolist() == ["real - shuffled"]

    def test_a_control_without_a_layer_is_in_no_best_set(self) -> None:
        frame = plug_in_table().frame
        control = frame[frame["depth"].isna()]
        assert control["arm"].tolist() == ["encoder"]
        assert not control["in_best_set"].any()


class TestStatistics:
    def test_fifths_are_disjoint_equal_and_have_the_classes_in_their_shares(self) -> None:
        labels = np.repeat([0, 1, 2], [50, 33, 12])
        fifths = intervals.stratified_fifths(labels, seed=3)
        counts = np.array([[((fifths == f) & (labels == k)).sum() for k in range(3)] for f in range(5)])
        assert (np.ptp(counts, axis=0) <= 1).all()
        assert np.bincount(fifths).tolist() == [19] * 5
        assert (fifths != intervals.stratified_fifths(labels, seed=4)).any()

    def test_the_interval_over_examples_is_the_usual_one(self) -> None:
        scores = np.random.default_rng(0).normal(size=(2, 1, 400))
        below, above = intervals.example_half_widths(scores)
        usual = 1.96 * scores[:, 0].std(axis=1) / 20
        np.testing.assert_allclose(below, usual, rtol=0.08)
        np.testing.assert_allclose(above, usual, rtol=0.08)

    def test_the_interval_of_fifths_covers_the_truth_as_often_as_it_says(self) -> None:
        rng = np.random.default_rng(0)
        samples = rng.normal(size=(2000, 5, 20))
        half = np.array([intervals.fifth_half_width(fifths) for fifths in samples.mean(axis=2)])
        covered = np.mean(np.abs(samples.mean(axis=(1, 2))) <= half)
        assert covered == pytest.approx(0.95, abs=0.015)

    @pytest.mark.parametrize("gap", [0.0, 0.3])
    def test_the_best_set_of_fifths_holds_the_true_best_as_often_as_it_says(self, gap: float) -> None:
        rng = np.random.default_rng(1)
        truth = np.zeros(10)
        truth[3] = gap
        held = []
        for _ in range(400):
            fifths = truth[:, None] + rng.normal(size=(1, 5)) + 0.3 * rng.normal(size=(10, 5))
            held.append(intervals.best_by_fifths(fifths.mean(axis=1), fifths)[3])
        assert np.mean(held) >= 0.93

    def test_the_best_set_of_fifths_leaves_out_what_is_far_behind(self) -> None:
        rng = np.random.default_rng(2)
        values = np.array([0.0, 0.0, 1.0])
        assert intervals.best_by_fifths(values, values[:, None] + 0.05 * rng.normal(size=(3, 5))).tolist() == [
            False,
            False,
            True,
        ]

    def test_adjusted_p_values_allow_for_having_looked_at_all_layers(self) -> None:
        rng = np.random.default_rng(0)
        smallest = []
        for _ in range(300):
            draws = rng.normal(size=(12, 60))
            smallest.append(intervals.adjusted_p_values(draws[:, 0], draws[:, 1:]).min())
        assert np.mean(np.array(smallest) <= 0.05) <= 0.085
        strong = intervals.adjusted_p_values(np.full(12, 9.0), rng.normal(size=(12, 59)))
        assert strong.tolist() == pytest.approx([1 / 60] * 12)

    def test_p_values_of_differences_are_those_of_their_intervals(self) -> None:
        values, half = np.array([1.96, -1.96, 0.0, 5.0]), np.full(4, 1.96)
        p_values = intervals.difference_p_values(values, half, half, by_fifths=False)
        np.testing.assert_allclose(p_values, [0.05, 0.05, 1.0, 5.7e-7], rtol=0.02)
        by_fifths = intervals.difference_p_values(values, half, half, by_fifths=True)
        assert by_fifths[:2].tolist() == pytest.approx([0.05, 0.05]) and by_fifths[3] > 1e-3
        one_sided = intervals.difference_p_values(np.array([1.0]), np.array([1.0]), np.array([9.0]), by_fifths=False)
        assert one_sided[0] == pytest.approx(0.05)
        assert np.isnan(intervals.difference_p_values(values, half * np.nan, half * np.nan, by_fifths=False)).all()


class TestDisk:
    @pytest.mark.parametrize(
        "make", [lambda: build_table("own-state", three_estimators(), INFO, kinds=KINDS), plug_in_table]
    )
    def test_json_brings_back_every_value(self, make: Any, tmp_path: Path) -> None:
        table = make()
        text = table.to_json(tmp_path / "table.json")
        for again in (ProbeTable.from_json(text), ProbeTable.from_json(tmp_path / "table.json")):
            pd.testing.assert_frame_equal(again.frame, table.frame, check_exact=True)
            assert again.info == table.info and again.kinds == table.kinds and again.provenance == table.provenance
            assert again.per_example.keys() == table.per_example.keys()
            assert all(np.array_equal(again.per_example[name], table.per_example[name]) for name in table.per_example)
            assert again.to_json() == text

    def test_scores_of_examples_can_be_left_out_of_the_file(self, table: ProbeTable, tmp_path: Path) -> None:
        table.to_json(tmp_path / "table.json", per_example=False)
        again = ProbeTable.from_json(tmp_path / "table.json")
        assert again.per_example == {} and table.per_example
        pd.testing.assert_frame_equal(again.frame, table.frame, check_exact=True)

    def test_json_is_strict(self, table: ProbeTable) -> None:
        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        json.loads(table.to_json(), parse_constant=refuse)

    def test_csv_holds_the_frame(self, table: ProbeTable, tmp_path: Path) -> None:
        table.to_csv(tmp_path / "table.csv")
        read = pd.read_csv(tmp_path / "table.csv")
        assert read.columns.tolist() == table.frame.columns.tolist()
        np.testing.assert_allclose(read["value"], table.frame["value"])

    @pytest.mark.parametrize("text", ["{", "{}", '{"format": 2}', "[1]"])
    def test_what_is_no_table_is_refused(self, text: str, tmp_path: Path) -> None:
        file = tmp_path / "table.json"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(CorruptFileError, match="not a table of probes"):
            ProbeTable.from_json(file)

    def test_a_damaged_array_is_refused(self, table: ProbeTable) -> None:
        values = json.loads(table.to_json())
        values["per_example"]["hit"]["float32"] = "AAAA"
        with pytest.raises(CorruptFileError):
            ProbeTable.from_json(json.dumps(values))

    def test_a_table_that_cannot_be_written_leaves_the_old_one(self, table: ProbeTable, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("old")
        with pytest.raises(SaveError):
            table.to_json(tmp_path / "file" / "table.json")
        assert (tmp_path / "file").read_text() == "old"


class Words(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def dashed(axes: Any) -> list[float]:
    """Return the heights of the dashed lines of a panel."""
    return [float(line.get_ydata()[0]) for line in axes.get_lines() if line.get_linestyle() == "--"]


class TestShown:
    def test_the_notebook_shows_best_layers_the_set_the_null_what_was_measured_and_notes(
        self, table: ProbeTable
    ) -> None:
        text = Words(table._repr_html_()).text
        best = table.rank("hit").iloc[0]
        for expected in ("own-state scores of tiny on words", "200 examples of the train split", "2\u20133 (2 of 5)"):
            assert expected in text
        assert f"{best['value']:.3f} [{best['low']:.3f}, {best['high']:.3f}] accuracy" in text
        assert f"{best['null_mean']:.3f}; {best['null_high']:.3f}" in text
        assert "pooling: mean" in text and "a sentence" in text
        assert "smaller is better" in text

    def test_everything_is_escaped_and_stays_within_the_page(self) -> None:
        kinds = {"hit": Kind(ATTACK, ATTACK, True)}
        info = INFO | {"llm": ATTACK, "task": ATTACK, "notes": [ATTACK], ATTACK: {ATTACK: [ATTACK, True]}}
        measured = [Measured("hit", 0.5, d, d, projection=ATTACK, note=ATTACK) for d in range(3)]
        source = build_table("own-state", measured, info, kinds=kinds)._repr_html_()
        page = Words(source)
        assert "script" not in page.tags
        assert page.text.count(ATTACK) >= 6
        assert (
            '<div style="max-width: 100%; overflow-x: auto"><table>' in source and "overflow-wrap: anywhere" in source
        )

    def test_a_missing_null_or_interval_is_a_dash(self) -> None:
        shown = build_table("own-state", [Measured("hit", 0.5, 0, 0)], INFO, kinds=KINDS).summary().iloc[0]
        assert shown["permuted labels: mean; best 5 %"] == shown["p"] == "\u2013"
        assert shown["score there"] == "0.500 accuracy"

    @pytest.mark.parametrize(
        ("numbers", "shown"), [([], ""), ([3], "3"), ([0, 1], "0\u20131"), ([9, 1, 2, 3, 7], "1\u20133, 7, 9")]
    )
    def test_ranges_are_short(self, numbers: list[int], shown: str) -> None:
        assert summary.ranges(numbers) == shown

    def test_the_terminal_has_the_same_summary(self, table: ProbeTable) -> None:
        shown = table.to_rich()
        assert "arm" not in table.summary()
        assert list(shown.headings) == list(table.summary().columns)
        assert len(shown.rows) == 3

    def test_there_is_a_panel_per_estimator_with_bands_and_filled_markers_for_the_best(self, table: ProbeTable) -> None:
        axes = table.plot().axes
        assert [one.get_title(loc="left") for one in axes] == ["hits", "loss (smaller is better)", "fit"]
        assert [len(one.collections) for one in axes] == [2, 2, 1]  # the last has no null
        filled = [line for line in axes[0].get_lines() if line.get_fillstyle() == "full" and line.get_marker() == "o"]
        assert np.asarray(filled[0].get_xdata()).tolist() == [2, 3]
        assert len(table.plot(["fit"]).axes) == 1
        with pytest.raises(PifiProbeError, match="no estimator"):
            table.plot(["nosuch"])

    def test_a_control_is_a_dashed_line(self) -> None:
        measured = [Measured("hit", 0.1 * d, d, d) for d in range(3)] + [Measured("hit", 0.2, None, None, arm="linear")]
        axes = build_table("plug-in", measured, INFO, kinds=KINDS).plot().axes
        assert dashed(axes[0]) == [0.2] and len(axes) == 1

    def test_where_the_headline_is_a_difference_its_arms_have_a_panel_of_their_own(self) -> None:
        arms = ("real", "shuffled", "real - shuffled", "real - vanilla")
        measured = [Measured("hit", 0.1 * d, d, d, arm=arm) for arm in arms for d in range(3)]
        measured.append(Measured("hit", 0.7, None, None, arm="vanilla"))
        gains = [Measured("fit", 0.1 * d, d, d, arm=arm) for arm in arms[:3] for d in range(3)]
        gains.append(Measured("fit", 9.0, None, None, arm="encoder", note="no gain"))
        axes = build_table("plug-in", [*measured, *gains], INFO, kinds=KINDS).plot().axes
        assert [one.get_title(loc="left") for one in axes] == ["hits", "fit", "hits: every arm"]
        assert [dashed(one) for one in axes] == [[], [], [0.7]]

    def test_the_heat_map_shows_how_far_behind_the_best_and_marks_the_set(self, table: ProbeTable) -> None:
        axes = table.heatmap().axes[0]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["hits", "loss (smaller is better)", "fit"]
        cells = np.asarray(axes.collections[0].get_array()).reshape(3, 5)
        assert (cells.max(axis=1) > -1e-3).all() and (cells[:, 0] < -1).all()
        dots = axes.get_lines()[0].get_xydata()
        assert {tuple(map(int, dot)) for dot in np.asarray(dots)} == {(d, row) for d in (2, 3) for row in range(3)}

    @pytest.mark.parametrize(
        "make", [lambda: build_table("own-state", three_estimators(), INFO, kinds=KINDS), plug_in_table]
    )
    def test_the_report_holds_tables_plots_the_warning_and_provenance(self, make: Any, tmp_path: Path) -> None:
        make().report(tmp_path / "report.html")
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert page.count("<svg ") == 2
        assert "agree by chance" in html.unescape(page)
        assert "its test split was never read" in page and "How these numbers were made" in page
        assert not re.search(r"<(image|script|link)\b", page)


class TestPlots:
    @pytest.mark.parametrize("plot", [depths.depth_panels, depths.depth_heatmap])
    def test_a_frame_without_the_columns_or_rows_is_refused(self, plot: Any) -> None:
        with pytest.raises(PifiProbeError, match="no column"):
            plot(pd.DataFrame({"x": [1]}))
        columns = ["panel", "series", "depth", "value", "row", "behind"]
        with pytest.raises(PifiProbeError, match="nothing to plot"):
            plot(pd.DataFrame(columns=columns, dtype=float))

    def test_names_of_users_are_text_and_the_ink_is_the_pages_own(self, table: ProbeTable) -> None:
        kinds = {"hit": Kind(ATTACK, ATTACK, True)}
        measured = [Measured("hit", 0.5, d, d, fifths=np.arange(5.0), projection=ATTACK) for d in range(3)]
        hostile = build_table("own-state", measured, INFO, kinds=kinds)
        for figure in (hostile.plot(), hostile.heatmap(), table.plot(), table.heatmap()):
            svg = to_svg(figure, ATTACK)
            tags = {str(element.tag).rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()}
            assert not tags & {"script", "image"}
            assert "currentColor" in svg and INK not in svg and "#ffffff" not in svg
