"""The widget without a browser: fields, clicks, traits and messages."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import pytest

import pifi_probe as pp
from pifi_probe.errors import HubError, ModelNotFoundError, PifiProbeError, SearchError
from pifi_probe.layers import outlook as outlooks
from pifi_probe.plugin.config import WIRINGS
from pifi_probe.selection.space import Candidate
from pifi_probe.selection.strategies import STRATEGIES
from pifi_probe.widgets.chart import SearchChart
from pifi_probe.widgets.layer_search import LayerSearch
from pifi_probe.widgets.upload import TableUpload
from tests.test_headroom import planted
from tests.test_search import TASK
from tests.widget_stub import Held, install, search, until

pytestmark = pytest.mark.filterwarnings("error:The optimal value found")  # a worker never prints
NASTY = "<script>alert('x')</script>"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The messages to the browser."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(SearchChart, "send", lambda self, content, buffers=None: found.append(content))
    return found


@pytest.fixture
def loadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scripts say that the task of these tests is loaded by its name."""
    monkeypatch.setattr("pifi_probe.selection.export._task", lambda source, described: "pp.load_task('words')")


@pytest.fixture
def widgets(monkeypatch: pytest.MonkeyPatch, sent: list[dict[str, Any]]) -> Iterator[Any]:
    """Makes widgets whose searches take no time, and closes them."""
    install(monkeypatch)
    made: list[LayerSearch] = []

    def make(study: Any = None, **options: Any) -> LayerSearch:
        values = {"task": TASK, "slm": "minilm-l6", "llm": "smollm2-135m", "strategy": "fast", "budget": "40 trials"}
        made.append(pp.widgets.LayerSearch(study=study, **(values | options)))
        return made[-1]

    yield make
    for widget in made:
        widget.close()


def click(widget: LayerSearch, name: str) -> None:
    until(lambda: not widget.toolbar.buttons[name].disabled, 5)
    widget.toolbar.buttons[name].click()


def upload(form: Any, name: str, content: bytes, piece: int = 1 << 20) -> None:
    """Send a file as the browser does."""
    for start in range(0, max(len(content), 1), piece):
        message = {"kind": "piece", "name": name, "from": start, "size": len(content)}
        form.upload._handle_custom_msg(message, [memoryview(content[start : start + piece])])


def possible(widget: LayerSearch) -> set[str]:
    return {name for name, button in widget.toolbar.buttons.items() if not button.disabled}


def shown(widget: LayerSearch) -> set[str]:
    return {name for name, button in widget.toolbar.buttons.items() if button.layout.display != "none"}


def test_run_searches_to_the_end_and_gives_frame_best_and_code(widgets: Any, loadable: None) -> None:
    widget = widgets()
    assert repr(widget) == "LayerSearch(idle, 0 trials)"
    result = widget.run()
    assert result is not None and widget.best == Candidate(("llm[6]",)) == result.chosen
    frame = widget.results
    assert isinstance(frame, pd.DataFrame) and frame.index.name == "trial" and len(frame) == len(widget.study.trials)
    assert set(frame["state"]) == {"complete"} and frame["value"].notna().all()
    assert "llm[6]" in widget.to_code() and compile(widget.to_code(), "code", "exec")
    assert repr(widget) == f"LayerSearch(finished, {len(frame)} trials)"
    assert widget.chart.rows == widget.engine.state.rows() and widget.chart.summary["chosen"] == "llm[6]"
    told = {one["group"]: one["mean"] for one in widget.chart.summary["ladder"]}
    stated = result.ladder().set_index("group")["mean"]
    assert told == {name: pytest.approx(stated[name], abs=1e-3) for name in ("vanilla", "linear", "twins", "real")}


def test_start_pause_resume_stop_by_clicks(widgets: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, 0.02, enough=5)
    widget = widgets(tmp_path / "s.db")
    assert possible(widget) == {"Start", "Headroom", "Estimate"}
    click(widget, "Start")
    until(lambda: "Pause" in possible(widget) and len(widget.results) > 3)
    assert widget.toolbar.buttons["Start"].disabled and widget._form.slm.disabled
    assert widget._form.fold.selected_index is None, "the chart is what one looks at now"
    assert widget._form.layout.order == "1" and "Headroom" not in shown(widget)
    click(widget, "Pause")
    until(lambda: widget.state == "paused" and "Resume" in possible(widget))
    kept = len(widget.results.query("state == 'complete'"))
    install(monkeypatch, 0.02, enough=3)
    click(widget, "Resume")
    until(lambda: len(widget.results.query("state == 'complete'")) > kept)
    click(widget, "Stop")
    until(lambda: widget.state == "stopped" and "Start" in possible(widget))
    assert len(widget.results.query("state == 'complete'")) > kept and not widget._form.slm.disabled


def test_the_chart_asks_for_more_seeds_and_for_texts(
    widgets: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    widget = widgets(tmp_path / "s.db", budget="4 trials", n_seeds=1)
    chart = widget.chart
    widget.run()
    asked = chart.summary["change"]
    runs = widget.study.separation.runs
    assert str(len(runs)) in asked["offer"] and str(widget.study.separation) == asked["words"]
    chart._handle_custom_msg({"kind": "texts", "label": widget.best.label}, [])
    until(lambda: widget.best.label in chart.texts)
    assert "test texts" in chart.texts[widget.best.label]["words"]
    widget.show_texts("llm[nothing]")
    assert "is not known" in chart.texts["llm[nothing]"]["words"]

    install(monkeypatch, enough=0)
    widget.study.evaluator = Held(0, seconds=0.0)
    chart._handle_custom_msg({"kind": "separate"}, [])
    assert widget.engine.busy
    chart._handle_custom_msg({"kind": "separate"}, [])
    assert widget.engine.state.message.startswith("the search is running already")
    widget.pause()
    assert widget.engine.wait(20) and widget.state == "paused"
    widget.study.evaluator = Held(1000, seconds=0.0)
    chart._handle_custom_msg({"kind": "separate"}, [])
    assert widget.engine.wait(60) and widget.state == "finished"
    assert {run.identity for run in runs} <= {trial.identity for trial in widget.study.trials}


def test_nothing_goes_on_after_the_end(widgets: Any, loadable: None) -> None:
    widget = widgets()
    widget.run()
    assert "Start" in possible(widget) and "Resume" not in possible(widget)


def test_no_widget_has_the_title_null(widgets: Any) -> None:
    """A described widget of ipywidgets writes a tooltip of None into the page as the word "null"."""
    texts = [one for one in _all_of(widgets()) if isinstance(one, ipywidgets.HTML)]
    assert texts and all(one.tooltip is not None for one in texts)


def _all_of(widget: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    return [widget, *(one for child in getattr(widget, "children", ()) for one in _all_of(child))]


def test_a_new_kernel_goes_on_from_the_study_file(
    widgets: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, 0.02, enough=5)
    first = widgets(tmp_path / "s.db", budget="12 trials", confirm=False)
    first.start()
    until(lambda: len(first.results) > 4)
    first.pause()
    assert first.engine.wait(5)
    kept = set(first.results.query("state == 'complete'").index)
    first.close()

    install(monkeypatch)
    second = widgets(tmp_path / "s.db", budget="12 trials", confirm=False)
    assert second.state == "paused" and set(second.results.index) == kept
    assert {row["n"] for row in second.chart.rows} == kept
    second.resume()
    assert second.engine.wait(30) and second.engine.error is None
    assert second.state == "finished" and kept < set(second.results.index)


def test_a_study_shown_as_a_widget_resumes_with_its_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    study = search(tmp_path / "s.db", budget="6 trials", confirm=False)
    widget = study.widget()
    assert "Start" not in widget.toolbar.buttons and widget.state == "finished"
    assert widget.best == study.best and len(widget.results) == len(study.trials)
    with pytest.raises(SearchError, match="shows one study"):
        widget.estimate()
    widget.close()


def test_finished_can_be_awaited_while_other_cells_run(widgets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 0.01)
    widget = widgets()

    async def cell() -> tuple[int, Any]:
        widget.start()
        turns = 0
        waiting = asyncio.ensure_future(widget.finished())
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0.01)
        return turns, await waiting

    turns, result = asyncio.run(cell())
    assert turns > 10 and result.chosen.label == "llm[6]"


def test_what_ended_a_search_is_raised_to_who_waits(widgets: Any) -> None:
    widget = widgets(budget="0.001")
    widget.start()
    with pytest.raises(SearchError, match="smaller than the first trial"):
        asyncio.run(widget.finished())
    assert widget.chart.facts["state"] == "failed" and "raise budget=" in widget.chart.facts["message"]


def test_trials_are_sent_as_they_change_and_not_again_and_again(
    widgets: Any, sent: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, 0.03)
    widget = widgets()
    began = time.monotonic()
    widget.start()
    assert widget.engine.wait(60)
    took = time.monotonic() - began
    until(lambda: len(widget.chart.rows) == len(widget.results))
    rows = [message["rows"] for message in sent if message["kind"] == "rows"]
    assert 3 <= len(rows) <= 10 * took + 2
    assert sum(map(len, rows)) <= 2 * len(widget.results) + 5, "more than begun and ended, once each"


def test_a_view_that_is_opened_later_is_told_everything(widgets: Any, sent: list[dict[str, Any]]) -> None:
    widget = widgets()
    widget.run()
    sent.clear()
    widget.chart._handle_custom_msg({"kind": "hello"}, [])
    assert [row["n"] for row in sent[0]["rows"]] == list(widget.results.index)


def test_the_selection_is_one_for_chart_and_python(widgets: Any) -> None:
    widget = widgets()
    seen: list[Any] = []
    widget.observe(lambda change: seen.append(change["new"]), "selected")
    widget.chart.selected = 3
    assert widget.selected == 3 and seen == [3]
    widget.selected = None
    assert widget.chart.selected is None
    widget._form.metric.value = "accuracy"
    assert widget.chart.metric == "accuracy"


def test_what_was_found_is_saved_by_the_suffix(widgets: Any, tmp_path: Path) -> None:
    widget = widgets()
    with pytest.raises(SearchError, match="no search yet"):
        widget.save(tmp_path / "s.csv")
    widget.run()
    frame = pd.read_csv(widget.save(tmp_path / "s.csv"), index_col="trial")
    pd.testing.assert_frame_equal(frame[["label", "value"]], widget.results[["label", "value"]])
    stored = json.loads(widget.save(tmp_path / "s.json").read_text())
    assert stored["result"]["label"] == "llm[6]" and len(stored["trials"]) == len(frame)
    assert widget.save(tmp_path / "s.svg").read_text().startswith("<svg")
    assert widget.save(tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SearchError, match="use .csv"):
        widget.save(tmp_path / "s.docx")


def test_the_rich_output_holds_a_picture_without_python_and_no_address_or_time(widgets: Any) -> None:
    def shown() -> Any:
        widget = widgets()
        widget.run()
        bundle = widget._repr_mimebundle_()
        assert re.search("0x[0-9a-f]{6,}", str({k: v for k, v in bundle.items() if "widget" not in k})) is None
        return bundle

    first, second = shown(), shown()
    assert first["text/plain"] == repr(first["text/plain"])[1:-1] == second["text/plain"]
    assert first["text/html"] == second["text/html"]
    assert "<svg" in first["text/html"] and "<table" in first["text/html"] and "<script" not in first["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in first


def test_the_static_page_holds_data_script_and_style_and_asks_nobody(widgets: Any) -> None:
    widget = widgets()
    widget.run()
    page = widget.static()
    assert repr(page) == repr(widget) and page.html == page._repr_html_() == widget.static().html
    assert "llm[6]" in page.html and "mount(el" in page.html and page.html.count("<script") == 1
    assert not re.search(r"""(src|href)=["']?https?:""", page.html)
    still = re.sub(r"(?s)<(style|script|svg).*?</\1>", "", page.html)  # what a notebook that is not trusted shows
    assert "Layer search: finished" in still and "llm[6]" in still.split("<table")[1]


def test_texts_from_tasks_models_and_errors_are_escaped(monkeypatch: pytest.MonkeyPatch, widgets: Any) -> None:
    widget = widgets()
    widget.engine.state.tell(message=NASTY)
    widget.run()
    widget.engine.state.tell(state="failed", message=NASTY)
    widget.publish()
    for text in (widget.snapshot(), widget.static().html):
        assert "<script>alert" not in text and "alert(" in text
    widget._form.llm.value = NASTY
    widget._form.describe()
    assert "&lt;script&gt;" in widget._form.about.value and "<script" not in widget._form.about.value


def test_the_form_says_what_a_large_model_holds(widgets: Any) -> None:
    widget = widgets()
    widget._form.describe()
    assert "30 layers" in widget._form.about.value and "supported" in widget._form.about.value
    assert "MB a layer" in widget._form.about.value


@pytest.mark.parametrize(
    "error",
    [
        ModelNotFoundError("there is no model 'x'", next="name another"),
        HubError("the model is gated", next="ask for access"),
        PifiProbeError("the file is damaged"),
    ],
)
def test_a_model_that_cannot_be_had_is_named_beside_the_form(
    widgets: Any, monkeypatch: pytest.MonkeyPatch, error: PifiProbeError
) -> None:
    def refuse(*args: object) -> None:
        raise error

    monkeypatch.setattr(outlooks, "outlook", refuse)
    widget = widgets()
    widget._form.llm.value = "x"
    widget._form.describe()
    assert error.what.replace("'", "&#x27;") in widget._form.about.value


def test_a_field_that_cannot_be_used_is_named_and_nothing_starts(widgets: Any) -> None:
    widget = widgets()
    for field, value, words in (
        ("layers", "first", "cannot read layers 'first'"),
        ("budget", "much", "budget"),
        ("llm", "", "model"),
    ):
        before, one = getattr(widget._form, field).value, getattr(widget._form, field)
        one.value = value
        click(widget, "Start")
        assert words in widget.engine.state.message and widget.state == "idle"
        one.value = before


def test_a_second_start_is_refused_by_name(widgets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, enough=3)
    widget = widgets()
    widget.start()
    with pytest.raises(SearchError, match="running already"):
        widget.start()
    with pytest.raises(SearchError, match="running already"):
        widget.run()
    widget.stop()
    assert widget.engine.wait(5)


def test_three_fields_stand_open_and_the_rest_is_folded(widgets: Any) -> None:
    form = widgets()._form
    opened, folded = form.fold.children[0].children[:2]
    assert [field.description for field in opened.children] == ["Encoder", "Language model", "Task"]
    assert folded is form.more and form.more.selected_index is None and form.budget in form.more.children[0].children


def test_an_upload_becomes_the_task(widgets: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path))
    widget = widgets(task=None)
    form = widget._form
    with pytest.raises(PifiProbeError, match="no task"):
        form.request()
    table = "text,label\n" + "".join(f"number {n} is {n % 2},{'ab'[n % 2]}\n" for n in range(60))
    upload(form, "mine.csv", table.encode(), piece=100)
    until(lambda: form.upload.note.startswith("mine.csv: "))
    assert form.upload.note.endswith(" test") and form.request().task.endswith("mine.csv")
    assert Path(form.request().task).read_text() == table


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.exe", b"a", "not a table"),
        ("t.csv", b"a,b\n1,2\n", "next:"),
        ("t.csv", b"", "next:"),
        ("t.csv", b"\xff\xfe\x00nothing", "next:"),
        (f"{NASTY}.csv", b"a,b\n1,2\n", "next:"),
    ],
)
def test_an_upload_that_cannot_be_used_is_named_at_once_and_the_task_stays(
    widgets: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path))
    form = widgets(task="movie-reviews")._form
    upload(form, name, content)
    until(lambda: words in form.upload.note)
    assert form.task.value == "movie-reviews"


def test_an_upload_whose_pieces_are_lost_or_too_many_is_not_taken() -> None:
    taken: list[Any] = []
    field = TableUpload(lambda name, content: taken.append((name, content)), accept=".csv", most=5)
    for pieces, words in (((b"ab", 0, 4), (b"d", 3, 4)), "come through"), (((b"abc", 0, 6), (b"def", 3, 6)), "at most"):
        for content, start, size in pieces:
            message = {"kind": "piece", "name": "t.csv", "from": start, "size": size}
            field._handle_custom_msg(message, [memoryview(content)])
        assert words in field.note and not taken
    field._handle_custom_msg({"kind": "piece", "name": "t.csv", "from": 0, "size": 2}, [memoryview(b"ok")])
    assert taken == [("t.csv", b"ok")]


def test_a_study_file_that_is_removed_is_named_and_a_search_in_it_paused(
    widgets: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, 0.02, enough=4)
    widget = widgets(tmp_path / "s.db")
    widget.start()
    until(lambda: len(widget.results) > 3)
    (tmp_path / "s.db").unlink()
    until(lambda: "is gone" in widget.engine.state.message)
    until(lambda: widget.state in ("paused", "failed"))


def test_a_damaged_study_file_is_named_and_the_form_stays(widgets: Any, tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"no database" * 100)
    widget = widgets(tmp_path / "s.db")
    assert widget.state == "failed" and "s.db" in widget.chart.facts["message"] and "Start" in possible(widget)


@pytest.mark.slow
def test_a_thousand_trials_are_told_at_once_and_once(widgets: Any, sent: list[dict[str, Any]]) -> None:
    widget = widgets()
    widget.run()
    one = widget.engine.state.rows()[0]
    widget.engine.state.put([one | {"n": n} for n in range(1000)])
    until(lambda: len(widget.chart.rows) == 1000)
    told = len(sent)
    widget.publish()
    widget.publish()
    assert len(widget.chart.rows) == 1000
    assert sum(len(one.get("rows", [])) for one in sent) < 1100 and len(sent) <= told + 2


def test_the_script_is_shown_and_sent_to_the_clipboard(
    widgets: Any, sent: list[dict[str, Any]], loadable: None
) -> None:
    widget = widgets()
    widget.run()
    click(widget, "Copy as code")
    assert widget.code.value == widget.to_code() == sent[-1]["text"] and widget.code.layout.display == ""


def test_the_headroom_is_shown_as_answer_and_curves_before_the_start(
    widgets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def headroom(slm: str, llm: str, task: object, **options: object) -> pp.Headroom:
        asked.append((slm, llm))
        return planted(True)

    monkeypatch.setattr("pifi_probe.features.headroom.headroom", headroom)
    widget = widgets()
    click(widget, "Headroom")
    until(lambda: "the donor adds" in widget.figure.value)
    assert "<svg" in widget.figure.value and len(asked) == len(widget._form.llm.value.split(","))
    assert widget.headroom() == planted(True).answer and widget.state == "idle" and not len(widget.results)


def test_aligned_chains_can_be_searched(widgets: Any) -> None:
    form = widgets(wiring="aligned", max_layers=8, strategy="span")._form
    options = form.request().options
    assert (options["wiring"], options["max_layers"], options["strategy"]) == ("aligned", 8, "span")


def test_a_wiring_and_a_strategy_from_outside_are_in_the_menus(widgets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for registry in (WIRINGS, STRATEGIES):
        for name, entry in dict(registry).items():
            monkeypatch.setitem(registry, name, entry)  # brings the registry back to what it was
    monkeypatch.setitem(WIRINGS, "gentle", WIRINGS["matched"])
    monkeypatch.setitem(STRATEGIES, "slow", STRATEGIES["fast"])
    form = widgets(wiring="gentle", strategy="slow")._form
    assert form.request().options["wiring"] == "gentle" and form.request().options["strategy"] == "slow"
    assert set(form.wiring.options) == set(WIRINGS) and set(form.strategy.options) == set(STRATEGIES)


def test_the_word_paper_of_versions_before_is_a_wiring_here_too(widgets: Any) -> None:
    with pytest.warns(DeprecationWarning, match='wiring="paper" is called "pifi" now'):
        form = widgets(wiring="paper")._form
    assert form.request().options["wiring"] == "pifi"


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"max_layers": 5}, 5),
        ({"max_layers": np.int64(30)}, 30),
        ({"n_seeds": 200}, 200),
        ({"n_seeds": np.int64(5)}, 5),
        ({"budget": 12.5}, "12.5"),
        ({"layers": range(0, 30, 3)}, "0:30:3"),
        ({"layers": range(4, -1, -2)}, "4, 2, 0"),
        ({"layers": range(-3, 0)}, "-3, -2, -1"),
        ({"layers": np.array([1, 2])}, "1, 2"),
        ({"layers": (n for n in (1, 2))}, "1, 2"),
        ({"layers": 7}, "7"),
        ({"layers": ""}, "all"),
    ],
)
def test_what_a_search_takes_the_form_takes(widgets: Any, options: dict[str, Any], asked: Any) -> None:
    (name,) = options
    assert widgets(**options)._form.request().options[name] == asked


def test_a_task_may_be_a_path(widgets: Any, tmp_path: Path) -> None:
    assert widgets(task=tmp_path / "mine.csv")._form.request().task == str(tmp_path / "mine.csv")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"wiring": "tight"}, "unknown wiring 'tight'"),
        ({"wiring": None}, "unknown wiring None"),
        ({"wiring": ["pifi"]}, "unknown wiring"),
        ({"strategy": "fsat"}, "did you mean 'fast'"),
        ({"strategy": None}, "unknown strategy None"),
        *(({name: value}, f"{name}=") for name in ("max_layers", "n_seeds") for value in (0, -1, 2.5, "3", None, True)),
        ({"layers": []}, "there is no layer"),
        ({"layers": 2.5}, "cannot read layers"),
        ({"slm": None}, "None names no model"),
        ({"slm": Path("a")}, "names no model"),
        ({"task": 5}, "5 is not a task"),
    ],
)
def test_what_a_search_refuses_the_form_refuses_in_one_line(widgets: Any, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(PifiProbeError, match=re.escape(words)) as caught:
        widgets(**wrong)
    assert "where: " in str(caught.value) and "next: " in str(caught.value) and "\n" not in str(caught.value)


def test_the_estimate_is_shown_before_the_start(widgets: Any) -> None:
    widget = widgets()
    click(widget, "Estimate")
    until(lambda: "a full run takes about" in widget.chart.facts.get("estimate", ""))
    assert widget.state == "idle" and not len(widget.results)
