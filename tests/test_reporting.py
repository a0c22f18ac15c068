"""Plots, tables and pages: readable by everyone, and every text of a user is only text."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from nbclient import NotebookClient
from rich.console import Console

from pifi_probe.errors import PifiProbeError, SaveError
from pifi_probe.reporting import html, looks, plots, searches, tables
from pifi_probe.reporting.svg import standalone_svg, to_svg

ATTACK = "<script>alert('1')</script> \"& $\\frac _x [red]\x1b[31m\x00"
VOID = {"meta", "br", "img", "link"}


def depth_frame() -> pd.DataFrame:
    rows = [
        {"depth": depth, "series": series, "mean": depth / 10 - 1, "low": depth / 10 - 2, "high": depth / 10}
        for series in ("movies", ATTACK)
        for depth in (0, 15, 29)
    ]
    return pd.DataFrame([*rows, {"depth": np.nan, "series": "_control", "mean": -0.5, "low": -1, "high": 0}])


def forest_frame() -> pd.DataFrame:
    rows = [("last", "movies", 2.0, 1.0, 3.0), (ATTACK, "movies", 0.1, -1.0, 1.2), ("last", ATTACK, np.nan, 0, 0)]
    return pd.DataFrame(rows, columns=["arm", "group", "mean", "low", "high"])


def curve_frame() -> pd.DataFrame:
    rows = [(step, ATTACK, step / 10 + seed / 100) for step in range(5) for seed in range(3)]
    return pd.DataFrame(rows, columns=["step", "series", "value"])


FIGURES = {
    "depth": lambda: plots.depth_curve(depth_frame()),
    "forest": lambda: plots.forest(forest_frame()),
    "curves": lambda: plots.learning_curves(curve_frame()),
}


class Page(HTMLParser):
    """A page read back: its elements with attributes, its text, and whether all of them are closed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


@pytest.fixture
def page(tmp_path: Path) -> str:
    sections: list[html.Section] = [
        {"title": ATTACK, "text": ATTACK, "table": forest_frame().rename(columns={"arm": ATTACK})},
        *({"title": name, "figure": make(), "alt": f"{name} {ATTACK}"} for name, make in FIGURES.items()),  # type: ignore[list-item]
    ]
    path = tmp_path / "out" / "report.html"
    html.report(ATTACK, sections, path, provenance={"command": ATTACK})
    return path.read_text(encoding="utf-8")


class TestPlots:
    @pytest.mark.parametrize("name", FIGURES)
    def test_a_plot_is_a_figure_that_can_be_drawn_whatever_its_labels(self, name: str) -> None:
        figure = FIGURES[name]()
        assert isinstance(figure, Figure)
        figure.savefig(io.BytesIO(), format="png", dpi=40)

    def test_every_series_is_in_the_legend_even_with_an_underscore(self) -> None:
        figure = plots.depth_curve(depth_frame())
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert names == ["movies", tables.printable(ATTACK), "_control"]

    def test_a_row_without_depth_is_a_line_across(self) -> None:
        axes = plots.depth_curve(depth_frame()).axes[0]
        dashed = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
        assert [np.asarray(line.get_ydata()).tolist() for line in dashed] == [[-0.5, -0.5]]

    def test_error_bars_reach_from_low_to_high(self) -> None:
        axes = plots.depth_curve(depth_frame()).axes[0]
        ends = axes.collections[0].get_segments()[0][:, 1]  # type: ignore[attr-defined]
        assert ends.tolist() == pytest.approx([-2.0, 0.0])

    def test_markers_are_filled_where_the_interval_leaves_out_zero(self) -> None:
        axes = plots.forest(forest_frame()).axes[0]
        styles = [line.get_fillstyle() for line in axes.get_lines() if line.get_marker() == "o"]
        assert styles == ["full", "none"]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["last", tables.printable(ATTACK)]

    def test_learning_curves_show_mean_and_range_over_seeds(self) -> None:
        axes = plots.learning_curves(curve_frame()).axes[0]
        assert np.asarray(axes.get_lines()[0].get_ydata()).tolist() == pytest.approx([0.01, 0.11, 0.21, 0.31, 0.41])
        band = axes.collections[0].get_paths()[0].vertices
        assert np.asarray(band)[:, 1].max() == pytest.approx(0.42)

    def test_series_differ_in_colour_and_shape_and_colours_are_seen_on_light_and_dark_pages(self) -> None:
        assert len(set(looks.looks_of(range(50)).values())) == 50

        def luminance(colour: str) -> float:
            parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
            linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
            return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

        for colour in looks.COLOURS:
            own, dark = luminance(colour), luminance("#14161a")
            assert 1.05 / (own + 0.05) >= 3
            assert (own + 0.05) / (dark + 0.05) >= 3

    def test_no_plot_depends_on_or_changes_the_users_style(self) -> None:
        import matplotlib

        before = dict(matplotlib.rcParams)
        to_svg(plots.forest(forest_frame()), "x")
        assert dict(matplotlib.rcParams) == before

    @pytest.mark.parametrize("plot", [plots.depth_curve, plots.forest, plots.learning_curves])
    def test_a_frame_without_the_columns_or_rows_is_refused(self, plot: Any) -> None:
        with pytest.raises(PifiProbeError, match="no column"):
            plot(pd.DataFrame({"x": [1]}))
        columns = ["depth", "series", "mean", "arm", "low", "high", "step", "value"]
        with pytest.raises(PifiProbeError, match="nothing to plot"):
            plot(pd.DataFrame(columns=columns, dtype=float))


class TestSvg:
    @pytest.mark.parametrize("name", FIGURES)
    def test_it_is_an_image_with_words_on_a_transparent_ground_in_the_pages_own_ink(self, name: str) -> None:
        svg = to_svg(FIGURES[name](), f"what {ATTACK} shows")
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert root.get("aria-label") == f"what {tables.printable(ATTACK)} shows"
        assert "currentColor" in svg
        assert looks.INK not in svg
        assert "#ffffff" not in svg
        assert not [element for element in root.iter() if "script" in str(element.tag)]

    def test_the_same_figure_gives_the_same_bytes_and_others_share_no_identifier(self) -> None:
        one, again, other = (
            to_svg(plots.forest(frame), "alt")
            for frame in (forest_frame(), forest_frame(), forest_frame().assign(mean=0.0))
        )
        assert one == again
        identifiers = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (one, other)]
        assert identifiers[0]
        assert not identifiers[0] & identifiers[1]
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', one)) <= identifiers[0]


class TestReadable:
    def test_a_long_legend_has_fewer_columns_and_stays_in_the_figure(self) -> None:
        frame = depth_frame().assign(series=[f"{'a long name of an arm ' * 2}{n}" for n in range(len(depth_frame()))])
        figure = plots.depth_curve(frame)
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width + 1

    def test_marks_of_many_series_stand_nearest_to_their_own_layer(self) -> None:
        frame = pd.DataFrame([{"depth": d, "series": f"s{n}", "mean": 1.0 * n} for n in range(9) for d in (0, 29)])
        (axes,) = plots.depth_curve(frame).axes
        drawn = {round(float(x)) for line in axes.get_lines() for x in np.ravel(line.get_xdata()) if x not in (0, 1)}
        assert drawn == {0, 29}

    def test_layers_and_epochs_have_whole_ticks(self) -> None:
        frame = pd.DataFrame([{"step": step, "value": 0.5, "series": "a"} for step in (0, 1, 2, 3)])
        for figure in (
            plots.learning_curves(frame),
            plots.depth_curve(depth_frame().assign(depth=[*range(len(depth_frame()))])),
        ):
            assert all(tick % 1 == 0 for tick in figure.axes[0].get_xticks())

    def test_one_step_of_a_search_is_a_mark_and_not_an_empty_frame(self) -> None:
        figure = searches.steps(pd.DataFrame({"cost": [1.0], "value": [0.0]}), x_label="x", value_label="y")
        (line,) = figure.axes[0].get_lines()
        assert line.get_marker() == "o"

    def test_a_step_at_zero_is_not_hidden_by_the_axis(self) -> None:
        rows = pd.DataFrame({"cost": [1.0, 2.0, 3.0], "value": [0.0, 0.0, 0.0]})
        low, high = searches.steps(rows, x_label="x", value_label="y").axes[0].get_ylim()
        assert low < -0.02 * high < 0

    def test_no_name_of_an_axis_is_longer_than_its_axis(self) -> None:
        figure = plots.forest(forest_frame(), value_label="a very long name of a value " * 4)
        figure.draw_without_rendering()
        box = figure._supxlabel.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width + 1


class TestStandalone:
    @pytest.mark.parametrize("name", FIGURES)
    def test_it_has_a_pale_and_a_dark_ground_and_no_text_becomes_markup(self, name: str) -> None:
        shown = standalone_svg(FIGURES[name](), f"what {ATTACK} shows")
        root = ElementTree.fromstring(shown)
        assert root.get("class") == "pifi-plot" and root.get("fill") == "currentColor"
        assert shown.count("prefers-color-scheme: dark") == 1 and shown.count("background:") == 2
        assert not [element for element in root.iter() if "script" in str(element.tag)]
        assert shown == standalone_svg(FIGURES[name](), f"what {ATTACK} shows")

    def test_black_of_pyplot_is_the_ink_too_and_ticks_of_a_logarithmic_axis_are_no_dollars(self) -> None:
        figure = Figure()
        axes = figure.subplots()
        axes.bar([1, 2], [1.0, 1e6], color="black")
        axes.set(yscale="log", xlabel="#000000 <b>")
        shown = standalone_svg(figure, math=True)
        assert ">#000000 &lt;b&gt;<" in shown and "#000000" not in shown.replace(">#000000 ", "")
        assert "mathdefault" not in shown

    def test_thousands_of_points_are_drawn_as_pixels_and_the_figure_is_left_as_it_was(self) -> None:
        figure = Figure()
        points = figure.subplots().scatter(*np.random.default_rng(0).normal(size=(2, 6000)))
        shown = standalone_svg(figure)
        assert "data:image/png;base64" in shown and len(shown) < 200_000
        assert not points.get_rasterized()


class TestInNotebooks:
    def test_a_figure_shows_itself_without_pyplot(self) -> None:
        for figure in (plots.forest(forest_frame()), plots.depth_curve(depth_frame())):
            assert figure._repr_png_().startswith(b"\x89PNG")
            assert figure._repr_svg_().startswith("<svg ")

    @pytest.mark.parametrize("pyplot", [True, False])
    def test_every_figure_is_shown_as_png_and_svg_in_our_colours(self, pyplot: bool) -> None:
        draw = "from matplotlib import pyplot as plt; plt.plot([1, 2]); plt.show()"
        if not pyplot:
            draw = "import pandas as pd; from pifi_probe.reporting.plots import learning_curves\n"
            draw += "learning_curves(pd.DataFrame({'step': [0, 1], 'value': [1, 2], 'series': ['a$b', 'a$b']}))"
        start = "from pifi_probe.reporting.figure import show_figures; show_figures(get_ipython())"
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (start, draw)])
        NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
        (output,) = notebook.cells[1].outputs
        assert {"image/png", "image/svg+xml"} <= set(output.data)
        assert looks.COLOURS[0].lower() in output.data["image/svg+xml"]


class TestTables:
    def test_the_terminal_table_shows_markup_and_control_characters_as_text(self) -> None:
        console = Console(width=200, file=io.StringIO(), force_terminal=True, color_system=None)
        console.print(tables.to_rich(forest_frame(), title=ATTACK))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        assert shown.count("[red]") == 3
        assert "\x1b[31m" not in shown
        assert "2.000" in shown
        assert "\u2013" in shown

    def test_the_html_table_escapes_everything(self) -> None:
        source = tables.to_html(forest_frame().rename(columns={"arm": ATTACK}), caption=ATTACK)
        page = Page(source)
        assert {tag for tag, _ in page.elements} == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
        assert page.text.count("<script>alert('1')</script>") == 4
        assert not page.open

    def test_values_are_shown_for_people(self) -> None:
        frame = pd.DataFrame(
            {"a": [1234567], "b": [True], "c": [None], "d": [0.12345], "e": [float("nan")], "f": ["x"]}
        )
        cells = re.findall(r"<td[^>]*>([^<]*)</td>", tables.to_html(frame))
        assert cells == ["1,234,567", "yes", "\u2013", "0.123", "\u2013", "x"]

    def test_numbers_stand_right_and_long_texts_have_room(self) -> None:
        source = tables.to_html(pd.DataFrame({"n": [1.5], "t": ["word " * 20]}))
        assert '<td class="number">1.500</td>' in source
        assert '<td class="long">' in source


class TestReport:
    def test_it_is_whole_html_in_which_no_text_became_markup(self, page: str) -> None:
        read = Page(page)
        assert not read.open
        assert not [tag for tag, _ in read.elements if tag in ("script", "link", "img", "iframe", "object", "b")]
        assert not [key for _, attributes in read.elements for key in attributes if key.startswith("on")]
        assert read.text.count("<script>alert('1')</script>") >= 6

    def test_it_needs_no_other_file(self, page: str) -> None:
        for _, attributes in Page(page).elements:
            assert "src" not in attributes
            assert all((attributes.get(key) or "#").startswith("#") for key in ("href", "xlink:href"))
        assert "@import" not in page
        assert "default-src 'none'" in page

    def test_it_fits_light_and_dark_narrow_and_wide(self, page: str) -> None:
        elements = Page(page).elements
        names = {attributes.get("name"): attributes.get("content") for tag, attributes in elements if tag == "meta"}
        assert names["viewport"] == "width=device-width, initial-scale=1"
        assert "@media (prefers-color-scheme: dark)" in page
        wide = [attributes for tag, attributes in elements if tag == "div"]
        assert len(wide) == 4
        assert all(one["class"] == "scroll" and one["tabindex"] == "0" and one["aria-label"] for one in wide)

    def test_every_plot_is_an_image_with_words(self, page: str) -> None:
        images = [attributes for tag, attributes in Page(page).elements if tag == "svg"]
        assert [image["role"] for image in images] == ["img"] * 3
        assert [str(image["aria-label"]).split()[0] for image in images] == list(FIGURES)

    def test_provenance_is_folded_at_the_end(self, page: str) -> None:
        assert page.index("<details>") > page.rindex("</section>")
        assert "&#34;command&#34;" in page

    def test_a_figure_without_words_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(PifiProbeError, match="no alt text"):
            html.report("t", [{"figure": FIGURES["forest"]()}], tmp_path / "r.html")
        assert not list(tmp_path.iterdir())

    def test_a_report_that_cannot_be_written_leaves_the_old_one(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("old")
        with pytest.raises(SaveError):
            html.report("t", [], tmp_path / "file" / "r.html")
        assert (tmp_path / "file").read_text() == "old"
