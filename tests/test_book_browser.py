"""Every page of the book in a real browser: no error, no request elsewhere, both themes, a narrow screen, axe."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.test_book import BOOK, load, pages

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(built_book: Path) -> Iterator[str]:
    """The address of the built book."""
    if not (BOOK / "_vendor" / "vendor" / "embed-amd.js").is_file():
        pytest.skip("the book was built without vendored JavaScript: npm is not installed")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(built_book)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core."""
    vendor = load("vendor")
    if not vendor.fetch((vendor.AXE,)):
        pytest.skip("axe-core cannot be fetched: npm is not installed")
    return (BOOK / "_build" / "axe.min.js").read_text(encoding="utf-8")


class _Visit:
    """One page in one theme and width, and what went wrong while it loaded."""

    def __init__(self, browser: Any, address: str, theme: str, width: int = 1200) -> None:
        self.problems: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        self.context.add_init_script(
            f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')"
        )
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self._note(message.type == "error", f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self._note(True, f"error: {error} {error.stack}"))
        self.page.on("response", lambda answer: self._note(answer.status >= 400, f"{answer.status}: {answer.url}"))
        own = address.split("/", 3)[2]
        self.page.on(
            "request",
            lambda request: self._note(
                not request.url.startswith(("data:", "blob:")) and own not in request.url, f"outside: {request.url}"
            ),
        )
        self.page.goto(address, wait_until="networkidle")

    def _note(self, wrong: bool, what: str) -> None:
        if wrong:
            self.problems.append(what)

    def __enter__(self) -> _Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def violations(page: Any, options: str) -> list[tuple[str, list[str]]]:
    found = page.evaluate(f"axe.run({options})")["violations"]
    return [
        (violation["id"], [node["html"][:120] for node in violation["nodes"]][:3])
        for violation in found
        if violation["impact"] in ("serious", "critical")
    ]


# What looks alike is judged once, which halves the time of a long page: words of code of one class, rows of a table,
# functions and classes of the reference.
ONE_OF_EACH = """() => {
  const seen = new Set();
  for (const word of document.querySelectorAll(".highlight pre span[class]")) {
    if (seen.has(word.className)) word.replaceWith(...word.childNodes); else seen.add(word.className);
  }
  document.querySelectorAll(".highlight pre").forEach(code => code.normalize());
  document.querySelectorAll("article tbody tr:nth-child(n + 11)").forEach(row => row.remove());
  [...document.querySelectorAll("article dl.py")].slice(20).forEach(entry => entry.remove());
}"""


WIDE = """() => {
  const edge = document.querySelector("article.bd-article").getBoundingClientRect().right + 1;
  const boxes = [...document.querySelectorAll(".bd-article pre")].filter(box => box.scrollWidth > box.clientWidth + 1);
  const scrolls = (one) =>
    one !== null && (/auto|scroll/.test(getComputedStyle(one).overflowX) || scrolls(one.parentElement));
  const lines = [...document.querySelectorAll(".bd-article mjx-container > svg, .bd-article .cell_output table")];
  return [...boxes, ...lines.filter(line => line.getBoundingClientRect().right > edge && !scrolls(line.parentElement))]
    .map(box => box.outerHTML.slice(0, 120));
}"""


CHAPTERS = [f"notebooks/{file.stem}" for file in sorted((BOOK.parent / "notebooks").glob("[0-9]*.ipynb"))]


def too_wide(page: Any) -> list[tuple[int, Any]]:
    """Return what is wider than the screen, at either width: outputs, code, equations, the page itself."""
    found = []
    for width in (400, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(200)  # equations are laid out anew
        found += [(width, box) for box in page.evaluate(WIDE)]
        found += [(width, most) for most in [page.evaluate("document.documentElement.scrollWidth")] if most > width + 1]
    return found


ERRORS = sorted(page for page in pages() if page.startswith("book/errors/"))


@pytest.mark.parametrize("page", pages())
def test_a_page_is_sound_in_both_themes_and_on_a_narrow_screen(page: str, site: str, browser: Any, axe: str) -> None:
    # Pages of errors are made alike: by day the one half is seen, by night the other.
    themes = ("light", "dark") if page not in ERRORS else (("light", "dark")[ERRORS.index(page) % 2],)
    with _Visit(browser, f"{site}/{page}.html", themes[0], width=1280) as visit:
        assert visit.page.evaluate("document.documentElement.dataset.theme") == themes[0]
        assert visit.page.locator(".output.traceback, .problematic").count() == 0
        assert visit.page.locator(".bd-article pre").count() > 0 or page not in CHAPTERS
        assert too_wide(visit.page) == []
        visit.page.evaluate(axe)
        visit.page.evaluate(ONE_OF_EACH)
        assert not violations(visit.page, "{resultTypes: ['violations']}"), themes[0]
        # The page's structure is the same in both themes; its colours are not. They are judged as they end, not on
        # their way there.
        visit.page.add_style_tag(content="*, ::before, ::after { transition: none !important }")
        for theme in themes[1:]:
            visit.page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
            colours = "{resultTypes: ['violations'], runOnly: ['color-contrast']}"
            assert not violations(visit.page, colours), theme
        assert not visit.problems


@pytest.mark.parametrize("page", ["book/intro", "book/explorer", "book/results", "notebooks/05_train_it"])
def test_a_page_opens_in_the_dark_theme(page: str, site: str, browser: Any) -> None:
    with _Visit(browser, f"{site}/{page}.html", "dark") as visit:
        assert visit.page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert not visit.problems


def test_another_seed_has_another_winner_and_the_slider_tells_of_any_layer(site: str, browser: Any) -> None:
    with _Visit(browser, f"{site}/book/intro.html", "light", width=400) as visit:
        figure = visit.page.locator(".pifi-winner")
        assert figure.locator("rect.real").count() > 30  # 30 layers, and one in the legend
        said = [figure.locator(".pifi-told").inner_text()]
        for _ in range(3):
            figure.locator("button").click()
            said.append(figure.locator(".pifi-told").inner_text())
        assert len(set(said)) == 3 and said[0] == said[3] and all(" wins with " in one for one in said)
        figure.locator("input").fill("3")
        assert "layer 3 " in figure.locator(".pifi-told").inner_text()
        assert not visit.problems


def test_a_quiz_answers_without_python(site: str, browser: Any) -> None:
    with _Visit(browser, f"{site}/notebooks/03_pifi_from_scratch.html", "light") as visit:
        visit.page.get_by_text("(768, 4096)", exact=True).first.click()
        assert visit.page.get_by_text("That would map 4096 numbers to 768").first.is_visible()


def test_a_recorded_search_is_explored_without_python(site: str, browser: Any) -> None:
    with _Visit(browser, f"{site}/book/explorer.html", "light") as visit:
        shown = visit.page.locator("[data-open]")
        assert shown.locator("tbody tr").count() > 60
        shown.locator("input[type=search]").fill("vanilla confirm")
        shown.get_by_text("2 of 74 trials").wait_for()
        shown.get_by_role("button", name="trial 70, vanilla").click()
        shown.get_by_text("Trial 70: vanilla").first.wait_for()
        shown.get_by_role("button", name="Cost and regret").click()
        shown.locator("button[data-view=regret][aria-pressed=true]").wait_for()
        assert shown.locator("svg").first.is_visible()
        assert not visit.problems
