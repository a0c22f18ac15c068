"""The widget in a real browser: on a page without Python, in Voila and in JupyterLab."""

# ruff: noqa: F401, F811  (fixtures of another file are taken by name)
from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest

from pifi_probe.widgets.chart import SearchChart
from tests.test_book_browser import CHROMIUM, axe, browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="pip install playwright"),
]
ROOT = Path(__file__).parent.parent
NASTY = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
THEMES = ("light", "dark")


def row(n: int, fidelity: str = "full", **more: Any) -> dict[str, Any]:
    return {
        "n": n,
        "label": f"smollm2-135m[{n % 30}]",
        "kind": "single",
        "control": False,
        "x": n % 30,
        "model": "smollm2-135m",
        "fidelity": fidelity,
        "seed": n // 30,
        "phase": "select",
        "state": "complete",
        "value": 0.4 + 0.001 * (n * 37 % 101) / 10,
        "accuracy": 0.8,
        "cost": 1.0,
        "seconds": 12.0,
        "latency": 1.0 + n % 7,
        "bytes": 90 << 20,
        "why": "next in the sweep",
        "message": "",
        "facts": {"recipe": {"lr": "5e-05"}, "curve": [0.7, 0.5, 0.45]},
    } | more


def rows() -> list[dict[str, Any]]:
    control: dict[str, Any] = {"control": True, "x": 12, "phase": "confirm"}
    return [
        *(row(n, "frozen") for n in range(60)),
        *(row(n) for n in range(60, 80)),
        row(80, state="failed", value=None, message=f"out of memory {NASTY}"),
        row(81, state="running", value=None),
        row(82, kind="random", label="random smollm2-135m[12]", value=0.44, **control),
        row(83, kind="shuffled", label="shuffled smollm2-135m[12]", value=0.45, **control),
        row(84, kind="vanilla", label="vanilla", value=0.46, **control | {"x": None}),
        row(85, label=f"model {NASTY}[3]", why=NASTY, phase="confirm"),
    ]


def summary() -> dict[str, Any]:
    posterior = [
        {"label": f"smollm2-135m[{x}]", "model": "smollm2-135m", "x": x, "mean": 0.405, "sd": 0.002, "p": 1 / 30,
         "best": 8 < x < 12}
        for x in range(30)
    ]  # fmt: skip
    return {
        "models": [["smollm2-135m", 30]],
        "chosen": "smollm2-135m[10]",
        "verdict": f"chosen: smollm2-135m[10]\nagainst {NASTY}: better",
        "fidelity": "full",
        "posterior": posterior,
        "agreement": [{"lower": "frozen", "upper": "full", "kendall": 0.5, "n": 20}],
    }


def page_of(folder: Path, trials: list[dict[str, Any]], found: dict[str, Any] | None = None) -> str:
    """Write a page without Python, and return its address."""
    facts = {"state": "running", "message": NASTY, "running": "smollm2-135m[21]", "why": NASTY, "share": 0.5}
    chart = SearchChart(rows=trials, facts=facts, summary=found or summary())
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    ground = "<style>html { color-scheme: light dark } body { margin: 8px }</style><title>page</title>"
    path = folder / "page.html"
    path.write_text(f"{head}{ground}<main><h1>A study</h1>{chart.page()}</main></html>", encoding="utf-8")
    return path.as_uri()


@contextmanager
def opened(browser: Any, address: str, width: int = 1100, **options: Any) -> Iterator[Any]:
    """Show a page; whatever goes wrong on it fails the test."""
    problems: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda one: None if one.url.startswith(("file:", "data:", "blob:")) else problems.append(one.url)
    )
    page.goto(address)
    page.wait_for_selector(".pp-search svg")
    yield page
    context.close()
    assert not problems


def serious(page: Any, source: str, where: str = ".pp-search") -> list[Any]:
    """What axe-core finds that keeps people out."""
    page.evaluate(source)
    found = page.evaluate("where => axe.run(where)", where)["violations"]
    return [(one["id"], [node["html"][:160] for node in one["nodes"]][:3]) for one in found
            if one["impact"] in ("serious", "critical")]  # fmt: skip


# A page without Python

# found in one step: the chart is drawn anew when the card has changed the width of the page
MIDDLE_OF_A_MARK = """() => {
    const box = document.querySelectorAll(".pp-figure .pp-mark")[3].getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(tmp_path_factory.mktemp("page"), rows())


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("theme", THEMES)
def test_every_view_is_sound_in_both_themes_and_from_narrow_to_wide(
    browser: Any,
    axe: str,
    address: str,
    theme: str,
    width: int,
) -> None:
    with opened(browser, address, width, color_scheme=theme) as page:
        for view in ("depth", "fidelities", "regret", "pareto"):
            page.locator(f'[data-view="{view}"]').click()
            page.wait_for_selector(f'[data-view="{view}"][aria-pressed="true"]')
            assert page.locator(".pp-figure .pp-mark").count() > 5
            assert (page.locator(".pp-figure .pp-chosen").count() > 0) == (view != "regret"), "the choice is marked"
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert not serious(page, axe), f"{view}, {theme}, {width}"


def test_texts_stay_texts(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        page.get_by_role("searchbox").fill("model")
        page.locator("tbody tr").first.click()
        page.wait_for_selector(".pp-card h3")
        assert NASTY in page.locator(".pp-card").inner_text()
        assert NASTY in page.locator(".pp-message").inner_text() and NASTY in page.locator(".pp-verdict").inner_text()
        assert page.title() == "page"
        assert page.locator(".pp-search script, .pp-search img").count() == 0


def test_chart_table_and_card_share_one_selection(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        page.locator('tr[data-trial="80"]').click()
        page.wait_for_selector(".pp-card .pp-error")
        assert "out of memory" in page.locator(".pp-card").inner_text()
        assert page.locator(".pp-figure .pp-ring").count() == 1
        page.mouse.click(*page.evaluate(MIDDLE_OF_A_MARK))
        page.wait_for_function("!document.querySelector('.pp-card').innerText.startsWith('Trial 80')")
        number = page.locator("tr.pp-selected").get_attribute("data-trial")
        assert page.locator(".pp-card h3").inner_text().startswith(f"Trial {number}:")


def test_everything_is_reached_with_the_keyboard(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Depth"
        page.locator(".pp-figure").focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("tr.pp-selected")
        first = page.locator(".pp-card h3").inner_text()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("before => document.querySelector('.pp-card h3').innerText !== before", arg=first)
        spoken = page.locator(".pp-speech").inner_text()
        assert page.locator(".pp-card h3").inner_text().split(":")[0] in spoken
        page.keyboard.press("Escape")
        page.wait_for_function("!document.querySelector('tr.pp-selected')")
        page.locator("tbody button").first.focus()
        page.keyboard.press("Enter")
        page.keyboard.press("ArrowDown")
        page.wait_for_function("document.querySelectorAll('tbody tr')[1].classList.contains('pp-selected')")
        assert page.evaluate("document.activeElement.closest('tr').classList.contains('pp-selected')")


def test_the_table_is_sorted_and_filtered(browser: Any, address: str) -> None:
    with opened(browser, address) as page:
        page.get_by_role("searchbox").fill("full failed")
        page.wait_for_function("document.querySelectorAll('tbody tr').length === 1")
        assert "1 of 86 trials" in page.locator(".pp-search").inner_text()
        page.get_by_role("searchbox").fill("select complete full")
        page.get_by_role("button", name="NLL", exact=True).click()
        page.wait_for_selector('th[aria-sort="ascending"]')
        shown = [float(text) for text in page.locator("tbody td:nth-child(7)").all_inner_texts()]
        assert len(shown) == 20 and shown == sorted(shown)


def test_trials_and_chart_are_saved_without_python(browser: Any, address: str, tmp_path: Path) -> None:
    starts = {"CSV": b"trial,label", "JSON": b"[\n", "SVG": b"<svg", "PNG": b"\x89PNG"}
    with opened(browser, address) as page:
        for kind, start in starts.items():
            with page.expect_download() as waiting:
                page.get_by_role("button", name=f"Save {kind}").click()
            waiting.value.save_as(tmp_path / kind)
            content = (tmp_path / kind).read_bytes()
            assert content.startswith(start) and len(content) > 2000, kind
    assert len(json.loads((tmp_path / "JSON").read_text())) == 86


MIDDLES = """() => [...document.querySelectorAll('.pp-figure g.pp-mark')].map((one) => {
    const box = one.getBoundingClientRect();
    return [one.querySelector('title').textContent, (box.left + box.right) / 2];
})"""


def told() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A search that was confirmed: layers, projections and twins on the same seeds."""
    arms = {"single": 0.69, "vanilla": 0.65, "linear": 0.66, "random": 0.66, "shuffled": 0.67}
    fresh = [
        row(90 + 3 * k + s, kind=kind, control=kind != "single", accuracy=share + 0.002 * s, seed=1000 + s, x=10,
            phase="confirm", label=f"{kind} smollm2-135m[10]".removeprefix("single "), why=f"confirms {NASTY}")
        for k, (kind, share) in enumerate(arms.items()) for s in range(3)
    ]  # fmt: skip
    rungs = zip(("vanilla", "linear", "twins", "real"), (0.0, 1.0, 1.5, 4.0), strict=True)
    ladder = [{"group": name, "mean": m, "low": m - 1.2, "high": m + 1.2, "unit": "points"} for name, m in rungs]
    return [*(row(n) for n in range(30)), *fresh], summary() | {"answer": "It gains.", "ladder": ladder}


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> str:
    trials, found = told()
    return page_of(tmp_path_factory.mktemp("page"), trials, found)


@pytest.mark.parametrize(("width", "theme"), [(400, "dark"), (1280, "light")])
def test_the_gain_over_the_projections_comes_first_with_its_ladder_and_blocks(
    browser: Any, axe: str, confirmed: str, theme: str, width: int
) -> None:
    with opened(browser, confirmed, width, color_scheme=theme) as page:
        page.wait_for_selector('[data-view="gain"][aria-pressed="true"]')
        assert page.locator(".pp-block").count() == 30 + 3, "layers, and three in the legend"
        assert page.locator(".pp-block-chosen title").text_content().startswith("smollm2-135m[10]: ")
        assert page.locator(".pp-ladder svg").get_attribute("aria-label").endswith("the real layer +4.0 [+2.8, +5.2].")
        assert "Most probably the best" in page.locator(".pp-figure svg").get_attribute("aria-label")
        found = page.evaluate(MIDDLES)
        fresh = sorted(x for title, x in found if "confirmation" in title)
        assert len(fresh) == 4 and min(b - a for a, b in itertools.pairwise(fresh)) > 14, "each in a column of its own"
        assert fresh[0] > max(x for title, x in found if "confirmation" not in title) + 14, "next to the layers"
        parts = [page.locator(part) for part in (".pp-answer", ".pp-ladder", ".pp-figure", ".pp-told")]
        answer, ladder, figure, status = (part.bounding_box()["y"] for part in parts)
        assert answer < (figure if width == 400 else ladder), "the answer stands first"
        assert (figure < ladder < status) if width == 400 else (ladder < status < figure)
        assert width != 400 or figure < 600, "on the first screen of a phone"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not serious(page, axe)


def chains() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """An aligned search: chains by entry and length, the projections, and the headroom that ranked them."""
    pairs = [(entry, length) for length in (1, 2, 4, 8) for entry in range(0, 31 - length, 3)]
    trials = [
        row(n, "frozen", label=f"smollm2-135m[{entry}:{entry + length}]", kind="serial", x=entry, entry=entry,
            length=length, accuracy=0.7 + 0.001 * (n * 37 % 101), seed=0)
        for n, (entry, length) in enumerate(pairs)
    ]  # fmt: skip
    linear = row(200, "frozen", kind="linear", control=True, label="linear", accuracy=0.71, x=None, seed=0)
    trials = [one | {"entry": one.get("entry"), "length": one.get("length")} for one in (*trials, linear)]
    return trials, summary() | {"headroom": {"smollm2-135m": [8 - abs(14 - depth) / 2 for depth in range(31)]}}


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("theme", THEMES)
def test_the_map_of_chains_is_sound_in_both_themes_and_from_narrow_to_wide(
    browser: Any, axe: str, tmp_path: Path, theme: str, width: int
) -> None:
    with opened(browser, page_of(tmp_path, *chains()), width, color_scheme=theme) as page:
        page.locator('[data-view="map"]').click()
        page.wait_for_selector('[data-view="map"][aria-pressed="true"]')
        said = page.locator(".pp-figure svg").get_attribute("aria-label")
        assert said.startswith("Map of chains: 37 chains on frozen runs") and "adds most before layer 14" in said
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("tbody tr").first.click()
        page.wait_for_selector(".pp-card h3")
        assert not serious(page, axe)


def test_the_search_is_replayed_with_the_keyboard(browser: Any, confirmed: str) -> None:
    with opened(browser, confirmed) as page:
        slider = page.get_by_role("slider", name="Replay of the search")
        slider.focus()
        page.keyboard.press("Home")
        page.wait_for_function("document.querySelectorAll('tbody tr').length === 1")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("document.querySelectorAll('tbody tr').length === 2")
        said = "Trial 2 of 45: smollm2-135m[1], full run, seed 0"
        assert slider.get_attribute("aria-valuetext").startswith(said)
        assert (
            page.locator(".pp-step").inner_text().startswith(said)
            and "Why: next in the sweep" in said + page.locator(".pp-step").inner_text()
        )
        assert page.locator("tr.pp-selected").get_attribute("data-trial") == "1"
        assert page.locator('[data-view="depth"]').get_attribute("aria-pressed") == "true", "no projections yet"
        page.keyboard.press("End")
        page.wait_for_function("document.querySelectorAll('tbody tr').length === 45")
        assert page.locator('[data-view="gain"]').get_attribute("aria-pressed") == "true"


def test_nothing_moves_where_less_motion_is_preferred(browser: Any, address: str) -> None:
    for preference, name in (("reduce", "none"), ("no-preference", "pp-turn")):
        with opened(browser, address, reduced_motion=preference) as page:
            style = page.locator(".pp-running").first.evaluate("one => getComputedStyle(one).animationName")
            assert style == name


def test_a_thousand_trials_stay_smooth(browser: Any, tmp_path: Path) -> None:
    with opened(browser, page_of(tmp_path, [row(n) for n in range(1000)])) as page:
        took = page.evaluate(
            """async () => {
                const times = [];
                for (let k = 0; k < 20; k++) {
                    const began = performance.now();
                    document.querySelectorAll("tbody tr")[k].click();
                    await new Promise(requestAnimationFrame);
                    await new Promise(requestAnimationFrame);
                    times.push(performance.now() - began);
                }
                return times.sort((a, b) => a - b)[5];  // others may be at work on this machine
            }"""
        )
        assert took < 100, f"{took:.0f} ms for an update, and ten come in a second"
        assert page.locator("tbody tr").count() == 100


# Notebooks, with real searches on the embedded models

CELL = """
import pifi_probe as pp
task = pp.load_task("movie-reviews").subset(train=300, validation=200, test=200)
w = pp.widgets.LayerSearch(task, study={study!r}, strategy="fast", budget="100", n_seeds=2, layers=range(0, 30, 3))
w
"""


def notebook(folder: Path, *cells: str) -> Path:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = folder / "search.ipynb"
    nbformat.write(book, path)
    return path


@contextmanager
def server(folder: Path, *command: str) -> Iterator[str]:
    """Run a Jupyter server on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"JUPYTER_RUNTIME_DIR": str(folder / "runtime"), "JUPYTER_CONFIG_DIR": str(folder / "config")}
    environment = os.environ | own | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, f"--port={port}", "--no-browser"],
            cwd=folder, env=environment, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            end = time.monotonic() + 60
            while True:
                try:
                    urllib.request.urlopen(f"{address}/api", timeout=2).close()
                    break
                except OSError as error:
                    if isinstance(error, urllib.error.HTTPError):
                        break
                    assert time.monotonic() < end, (folder / "server.log").read_text()[-3000:]
                    time.sleep(0.3)
            yield address
        finally:
            process.terminate()
            process.wait(20)


def button(page: Any, name: str) -> Any:
    return page.locator(".widget-button", has_text=name).filter(has_text=name).first


def word(page: Any) -> str:
    return page.locator(".pp-badge").first.inner_text()


def wait_for_word(page: Any, *words: str, seconds: float = 60) -> None:
    page.wait_for_function(
        "words => words.includes(document.querySelector('.pp-badge')?.innerText)",
        arg=list(words),
        timeout=seconds * 1000,
    )


def complete(page: Any) -> int:
    page.locator(".pp-search input[type=search]").first.fill("complete")
    page.wait_for_timeout(100)
    return page.locator("tbody tr").count()


@pytest.mark.assets
def test_a_search_is_steered_and_understood_in_voila(browser: Any, axe: str, tmp_path: Path) -> None:
    pytest.importorskip("voila")
    path = notebook(tmp_path, CELL.format(study=str(tmp_path / "s.db")))
    with server(tmp_path, "voila", path.name) as address:
        context = browser.new_context(viewport={"width": 1200, "height": 1000})
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector(".pp-search", timeout=90_000)
        assert word(page) == "idle"
        page.wait_for_function("document.body.innerText.includes('30 layers')", timeout=60_000)
        assert not serious(page, axe)
        page.screenshot(path=tmp_path / "idle.png", full_page=True)

        button(page, "Start").click()
        wait_for_word(page, "preparing", "running")
        page.wait_for_function("document.querySelectorAll('.pp-mark').length >= 3", timeout=120_000)
        assert "next:" in page.locator(".pp-why").inner_text()
        button(page, "Pause").click()
        wait_for_word(page, "paused", seconds=30)
        kept = complete(page)
        assert kept >= 2

        button(page, "Resume").focus()
        page.keyboard.press("Enter")
        page.wait_for_function(
            "kept => document.querySelectorAll('tbody tr').length > kept", arg=kept + 2, timeout=60_000
        )
        button(page, "Stop").click()
        wait_for_word(page, "stopped", seconds=30)
        assert complete(page) > kept

        page.locator("tbody tr").first.click()
        page.wait_for_selector(".pp-ring")
        page.screenshot(path=tmp_path / "stopped.png", full_page=True)
        button(page, "Copy as code").click()
        page.wait_for_function(
            "[...document.querySelectorAll('textarea')].some(one => one.value.includes('pp.plug_in('))"
        )
        context.close()


@pytest.mark.assets
def test_a_search_outlives_its_kernel_in_jupyterlab(browser: Any, tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("jupyterlab")
    settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "themes.jupyterlab-settings").write_text('{"theme": "JupyterLab Dark"}')
    monkeypatch.setenv("JUPYTERLAB_SETTINGS_DIR", str(tmp_path / "settings"))
    path = notebook(tmp_path, CELL.format(study=str(tmp_path / "s.db")), "print('a cell ran while it was', w.state)")
    command = ("jupyterlab", "--allow-root", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True")
    with server(tmp_path, *command) as address:
        context = browser.new_context(viewport={"width": 1200, "height": 1400})
        page = context.new_page()
        page.goto(f"{address}/lab/tree/{path.name}")
        run_cell(page, 0)
        page.wait_for_selector(".pp-search", timeout=90_000)
        button(page, "Start").click()
        page.wait_for_function("document.querySelectorAll('.pp-mark').length >= 2", timeout=120_000)
        run_cell(page, 1)
        page.wait_for_function("document.body.innerText.includes('a cell ran while it was running')", timeout=20_000)
        button(page, "Pause").click()
        wait_for_word(page, "paused", seconds=30)
        kept = complete(page)
        page.screenshot(path=tmp_path / "dark.png")

        restart(page)
        run_cell(page, 0)
        page.wait_for_function("document.querySelector('.pp-badge')?.innerText === 'paused'", timeout=90_000)
        assert complete(page) == kept
        button(page, "Resume").click()
        page.wait_for_function("kept => document.querySelectorAll('tbody tr').length > kept", arg=kept, timeout=120_000)
        button(page, "Stop").click()
        wait_for_word(page, "stopped", seconds=30)
        context.close()


@pytest.mark.assets
@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_a_chapter_is_sound_in_jupyterlab(browser: Any, axe: str, tmp_path: Path, monkeypatch: Any, theme: str) -> None:
    """What our cells put into the page as HTML; the rest is JupyterLab's, which draws a PNG without its alt text."""
    pytest.importorskip("jupyterlab")
    settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "themes.jupyterlab-settings").write_text(f'{{"theme": "{theme}"}}')
    monkeypatch.setenv("JUPYTERLAB_SETTINGS_DIR", str(tmp_path / "settings"))
    path = Path(shutil.copy(ROOT / "notebooks" / "00_start_here.ipynb", tmp_path))
    subprocess.run([sys.executable, "-m", "jupyter", "trust", path], check=True, capture_output=True, cwd=tmp_path)
    command = ("jupyterlab", "--allow-root", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True")
    with server(tmp_path, *command) as address:
        context = browser.new_context(viewport={"width": 1280, "height": 1400})
        page = context.new_page()
        page.goto(f"{address}/lab/tree/{path.name}")
        page.wait_for_selector(".jp-OutputArea-output.jp-RenderedSVG img", timeout=90_000)
        found = serious(page, axe, ".jp-OutputArea-output.jp-RenderedHTMLCommon")
        page.screenshot(path=tmp_path / "chapter.png")
        context.close()
    assert not found


def run_cell(page: Any, number: int) -> None:
    page.wait_for_selector(".jp-Notebook .cm-content", timeout=60_000)
    page.wait_for_function("document.body.innerText.includes('| Idle')", timeout=60_000)  # else it is lost
    page.locator(".jp-CodeCell .cm-content").nth(number).click()
    page.keyboard.press("Control+Enter")


def restart(page: Any) -> None:
    """Restart the kernel as a reader does."""
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text("Restart Kernel…", exact=True).click()
    page.locator(".jp-Dialog .jp-mod-accept").click()
    page.wait_for_timeout(1000)  # it is said to be idle until it goes down
