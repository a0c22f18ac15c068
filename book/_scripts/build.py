"""Build the book: fetch what its pages need, then run Sphinx, which needs no network.

python book/_scripts/build.py    the book is book/_build/html/index.html
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import vendor
import yaml

import pifi_probe as pp

BOOK = Path(__file__).resolve().parent.parent
BUILD = BOOK / "_build"
STUDY = BOOK / "_studies" / "search" / "movie-reviews.db"
NEEDS_VENDOR = ("nb_ipywidgets_js", "mathjax_path")


def main() -> int:
    vendored = vendor.fetch()
    for stale in (BUILD / "html", BUILD / ".doctrees"):  # an incremental build leaves pages and widgets behind
        shutil.rmtree(stale, ignore_errors=True)
    write_explorer()
    program = Path(sys.executable).with_name("jupyter-book")
    options = ["--config", str(config(vendored)), "--toc", "book/_toc.yml", "--path-output", "book"]
    paths = os.pathsep.join(filter(None, [str(BOOK / "_extension"), os.environ.get("PYTHONPATH")]))
    command = [program, "build", ".", *options, "-W", "--keep-going"]
    return subprocess.run(command, cwd=BOOK.parent, env=os.environ | {"PYTHONPATH": paths}).returncode


def write_explorer() -> Path:
    """Write the recorded search as the piece of a page that book/explorer.md shows, and return the file."""
    file = BUILD / "explorer.html"
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:  # opening a study writes next to it
        study = pp.Study.open(shutil.copy(STUDY, folder))
        widget = study.widget()
        if study.best is not None:
            widget.show_texts(study.best.label)
        file.write_text(widget.static().html, encoding="utf-8")
    return file


def config(vendored: bool) -> Path:
    """Return the configuration; without vendored JavaScript, Sphinx's own defaults (a CDN) stay."""
    if vendored:
        return BOOK / "_config.yml"
    settings = yaml.safe_load((BOOK / "_config.yml").read_text(encoding="utf-8"))
    for name in NEEDS_VENDOR:
        del settings["sphinx"]["config"][name]
    settings["sphinx"]["config"]["html_static_path"].remove("book/_vendor")
    settings["sphinx"]["config"].pop("html_extra_path")
    BUILD.mkdir(exist_ok=True)
    file = BUILD / "_config.yml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


if __name__ == "__main__":
    sys.exit(main())
