"""Take the README's pictures of the search widget from the built book: `make book`, then this script.

It needs Chromium (`apt-get install chromium`) and looks at book/_build/html/book/explorer.html in both themes.
"""

from __future__ import annotations

import http.server
import shutil
import threading
from functools import partial
from pathlib import Path

from playwright.sync_api import sync_playwright

BOOK = Path(__file__).resolve().parent.parent


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def main() -> None:
    """Write book/_pictures/search-light.png and search-dark.png."""
    site = partial(_Quiet, directory=str(BOOK / "_build" / "html"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for theme in ("light", "dark"):
            page = chromium.new_page(viewport={"width": 1400, "height": 1400}, color_scheme=theme)
            page.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")
            page.goto(f"http://127.0.0.1:{server.server_port}/book/explorer.html", wait_until="networkidle")
            box, figure = (page.locator(name).bounding_box() for name in (".pp-search", ".pp-search .pp-figure svg"))
            assert box is not None and figure is not None
            down = figure["y"] + figure["height"] - box["y"]  # the whole chart, with its axis and stack of blocks
            page.screenshot(path=BOOK / "_pictures" / f"search-{theme}.png", clip={**box, "height": down})
        chromium.close()
    server.shutdown()


if __name__ == "__main__":
    main()
