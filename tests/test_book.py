"""The book's pages: each is there, says what is recorded, and its links lead somewhere."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import typer
import yaml
from typer.core import TyperGroup

import pifi_probe as pp
from pifi_probe import errors
from pifi_probe.cli import app, main
from pifi_probe.efficiency.cost_table import COST_ARMS
from pifi_probe.reporting.block import pifi_block

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
HTML = BOOK / "_build" / "html"


def load(name: str, folder: str = "_scripts") -> ModuleType:
    """Return a script of the book as a module."""
    spec = importlib.util.spec_from_file_location(name, BOOK / folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages() -> list[str]:
    """Return the pages that the table of contents names, without ending."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text(encoding="utf-8"))
    found = [toc["root"]]
    entries = [entry for part in toc["parts"] for entry in part["chapters"]]
    for entry in entries:
        found.append(entry["file"])
        for section in entry.get("sections", []):
            globbed = sorted(ROOT.glob(section.get("glob", "") + ".md")) if "glob" in section else []
            found += [file.relative_to(ROOT).with_suffix("").as_posix() for file in globbed] or [section["file"]]
    return found


def test_every_page_exists_once_and_has_one_title() -> None:
    assert len(pages()) == len(set(pages())) > 40
    for page in pages():
        files = [ROOT / f"{page}{ending}" for ending in (".md", ".ipynb")]
        assert any(file.exists() for file in files), page
        if files[0].exists():
            text = re.sub(r"```.*?```", "", files[0].read_text(encoding="utf-8"), flags=re.DOTALL)
            assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1, page


def test_every_notebook_and_every_page_is_in_the_table_of_contents() -> None:
    written = {file.relative_to(ROOT).with_suffix("").as_posix() for file in (ROOT / "notebooks").glob("*.ipynb")}
    written |= {
        file.relative_to(ROOT).with_suffix("").as_posix()
        for file in BOOK.rglob("*.md")
        if not any(part.startswith("_") for part in file.relative_to(BOOK).parts)
    }
    assert written == set(pages())


# those that both engines of the book read, and two that only one of them does: see book/decisions/006-jupyter-book-1.md
PORTABLE = {"bibliography", "dropdown", "grid", "grid-item", "grid-item-card", "image", "include"}
BOUND = {"raw", "eval-rst"}


def test_pages_are_written_in_myst_that_moves() -> None:
    found = set()
    for page in pages():
        if (file := ROOT / f"{page}.md").exists():
            text = file.read_text(encoding="utf-8")
            found |= {(page, *one) for one in re.findall(r"^[`:]{3,}\{([\w:-]+)\} ?(\w*)", text, re.MULTILINE)}
            assert set(re.findall(r"\{(\w[\w:-]*)\}`", text)) <= {"cite:t", "cite:p"}, page
    directives = {name for _, name, _ in found}
    assert BOUND <= directives <= PORTABLE | BOUND, directives
    assert {page for page, name, _ in found if name == "eval-rst"} == {"book/api"}
    assert {kind for _, name, kind in found if name == "raw"} == {"html"}


def test_every_public_error_has_a_page_with_wrong_and_right_code() -> None:
    for name in errors.__all__:
        text = (BOOK / "errors" / f"{name}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {name}\n") and "Wrong:" in text and "Right:" in text
        assert f"[{name}]({name}.md)" in (BOOK / "errors" / "index.md").read_text(encoding="utf-8")


def test_the_api_reference_has_every_public_name() -> None:
    text = (BOOK / "api.md").read_text(encoding="utf-8")
    described = {name.rpartition(".")[2] for name in re.findall(r"auto(?:class|function):: (\S+)", text)}
    assert set(pp.__all__) - {"__version__"} <= described
    assert all(getattr(pp, name) is not None for name in pp.__all__)


def test_commands_in_the_guides_name_options_that_exist() -> None:
    assert main(["--version"]) == 0  # which registers the commands
    group = typer.main.get_command(app)
    found = 0
    for file in [*BOOK.rglob("*.md"), ROOT / "README.md"]:
        if any(part.startswith("_") for part in file.relative_to(ROOT).parts) or file == BOOK / "results.md":
            continue
        text = file.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"(?:^|`)(?:\.venv/bin/)?pifi-probe ([^`\n]+)", text, re.MULTILINE):
            words, command = shlex.split(line, comments=True), group
            if words[0] == "--import":  # of the program, before the command
                words = words[2:]
            while words and not words[0].startswith("-") and isinstance(command, TyperGroup):
                found_command = command.get_command(typer.Context(command), words.pop(0))
                assert found_command is not None, f"{file.name}: {line}"
                command = found_command
            known = {option for parameter in command.params for option in parameter.opts}
            assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known | {"--help"}, line
            found += 1
    assert found > 8


def test_the_recorded_search_is_over_and_can_be_explored_without_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load("vendor")
    build = load("build")
    monkeypatch.setattr(build, "BUILD", tmp_path)
    before = build.STUDY.read_bytes()
    text = build.write_explorer().read_text(encoding="utf-8")
    assert build.STUDY.read_bytes() == before
    assert "finished" in text and "smollm2-135m[29]" in text and "http://" not in text.replace("http://www.w3.org", "")
    record = json.loads(build.STUDY.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["provenance"]["versions"]["pifi_probe"]


def test_the_landing_page_shows_the_one_picture_of_the_block() -> None:
    shown = (BOOK / "_theme" / "pifi-block.html").read_text(encoding="utf-8")
    block = pifi_block("layer")
    box = f'<div class="pifi-hero pifi-plot-box" tabindex="0" role="group" aria-label="{block.alt}">'
    assert shown == f"{box}{block.svg()}</div>\n"
    assert "_theme/pifi-block.html" in (BOOK / "intro.md").read_text(encoding="utf-8")


def test_a_figure_of_a_notebook_takes_the_colours_of_the_page() -> None:
    from matplotlib.figure import Figure

    from pifi_probe.reporting.svg import standalone_svg

    figures = load("inline_figures", folder="_extension")
    figure = Figure(figsize=(6, 3))
    figure.subplots().plot([1, 2], color="black")
    own = standalone_svg(figure)
    assert own.startswith(figures.OURS)
    piece = figures.inlined(own, 'one "line"')
    assert "prefers-color-scheme" not in piece and "background" not in piece and "currentColor" in piece
    assert piece.count('aria-label="one &quot;line&quot;"') == 2 and 'role="img"' in piece
    named = figures.inlined(standalone_svg(figure, "its own words"), "")  # a figure may bring its words
    assert named.count('aria-label="its own words"') == 2 and named.count('role="img"') == 1


def test_a_quiz_waits_for_mathjax_in_every_chapter_that_has_one() -> None:
    texts = [file.read_text(encoding="utf-8") for file in sorted((BOOK.parent / "notebooks").glob("*.ipynb"))]
    assert sum(text.count("MathJax.version") for text in texts) > 20
    assert sum(text.count("version?.[0] ==") for text in texts) > 20
    assert not any("version[" in text for text in texts)


def test_the_page_on_compatibility_is_the_recorded_walk() -> None:
    from pifi_probe.layers.refused import REFUSED

    script = load("compatibility")
    records = [json.loads(file.read_text(encoding="utf-8")) for file in (script.RESULT, script.TYPES)]
    assert (BOOK / "compatibility.md").read_text(encoding="utf-8") == script.page(*records)
    assert records[1]["not offered"] == dict(REFUSED) and len(records[1]["types"]["passed"]) >= 100
    assert not records[1]["types"]["failed"]


def test_compatibility_names_exceptions_and_not_each_family() -> None:
    rows = [{"family": name, "loads": "yes", "folds": "no", "runs": "yes"} for name in "abcd"]
    rows[0] |= {"folds": "yes"}
    rows[1] |= {"runs": "**no**"}
    said = load("compatibility").exceptions(rows)
    assert "| loads | all 4 |" in said and "| folds | only `a` |" in said
    assert "| runs | all but `b` (**no**) |" in said and said.endswith("Tried: `a`, `b`, `c`, `d`.")


@pytest.mark.slow
def test_the_page_on_aligned_chains_is_the_recorded_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aligned = load("aligned_page")
    page = aligned.PAGE.read_text(encoding="utf-8")
    assert aligned.page() == page and page.count("| yes |") >= 2, "run make results"
    assert page.index("_pictures/aligned-forest.html") < page.index("| --- |"), "the picture comes before the tables"
    shown = aligned.first_rows(aligned.records((*aligned.EXPLORING, *aligned.CONFIRMING)))
    picture = load("aligned_forest")
    kept = picture.PICTURE.read_text(encoding="utf-8")
    monkeypatch.setattr(picture, "PICTURE", tmp_path / "forest.html")
    picture.draw_forest(shown)
    assert picture.PICTURE.read_text(encoding="utf-8") == kept and len(shown) == 11, "run make results"


def test_a_line_that_is_not_reached_says_what_could_have_been_found() -> None:
    page = (BOOK / "aligned.md").read_text(encoding="utf-8")
    blocks = [block for block in page.split("\n\n") if block.strip()]
    missed = 0
    for block, after in zip(blocks, blocks[1:], strict=False):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        if "beats all" in rows[0] and any(row[rows[0].index("beats all")] == "no" for row in rows[2:]):
            assert after.startswith("Where the chain does not beat all four, what could have been found"), rows[0]
            missed += 1
    assert missed >= 6, "both halves, folds, shift, few labels, through, variants"


def test_what_the_page_says_of_twins_is_so_in_every_record() -> None:
    page = (BOOK / "aligned.md").read_text(encoding="utf-8").partition("\n## Limits\n")[2]
    assert "one draw each" in page and "aligned to the real layers' input" in page
    assert "was tried on movie-reviews and product-reviews alone" in page
    files = sorted((BOOK / "_studies" / "aligned").glob("*.json"))
    records = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    more = [records.pop(f"variant-three-twins-{task}") for task in ("movie-reviews", "product-reviews")]
    for record in more:
        assert record["info"]["twins"] == 3 and {f"{arm}, own interface" for arm in ("shuffled", "random")} <= set(
            record["scores"]["arm"]
        )
    read = [record for record in records.values() if "info" in record]
    assert len(read) > 30 and all(record["info"]["twins"] == 1 for record in read)
    for record in read:
        arms = (
            set(record["scores"]["arm"]) if "scores" in record else {a for t in record["correct"].values() for a in t}
        )
        assert {"shuffled", "random"} <= arms and not [arm for arm in arms if "own interface" in arm]


def test_the_page_of_verdicts_is_the_recorded_one() -> None:
    decided = load("decided_page")
    record = json.loads(decided.RECORD.read_text(encoding="utf-8"))
    assert decided.page(record) == decided.PAGE.read_text(encoding="utf-8"), "run make results"
    assert record["provenance"]["versions"]["pifi_probe"]


@pytest.mark.parametrize(("in_nats", "repairs"), [("better", True), ("undecided", False)])
def test_the_weights_repair_the_block_only_where_that_was_found(in_nats: str, repairs: bool) -> None:
    def told(wiring: str, block: str, knowledge: str, nats: str) -> list[dict[str, Any]]:
        own = {"mean": -0.02, "low": -0.04, "high": 0.0, "wiring": wiring}
        effects = [own | {"name": "block", "verdict": block}, own | {"name": "knowledge", "verdict": knowledge}]
        shown = {"knowledge": {"shown": "+0.06 [+0.02, +0.10]", "verdict": nats}}
        return [{"test": f"films, {wiring}", "metric": "accuracy", "effects": effects, "nats": shown}]

    tables = {
        "films-paper": told("pifi", "worse", "undecided", in_nats),
        "films": told("matched", "undecided", "worse", ""),
    }
    said = load("decided_page").surprise(tables)
    assert ("The weights repair" in said) is repairs and f"+0.06 [+0.02, +0.10], {in_nats}." in said
    assert "cost on no test set" in said and "ahead on 1 test set: films, matched (films, -2.0 [-4.0, +0.0]" in said


def test_the_page_of_verified_layers_is_the_recorded_one() -> None:
    verified = load("verified_page")
    record = json.loads(verified.RECORD.read_text(encoding="utf-8"))
    assert verified.page(record) == verified.PAGE.read_text(encoding="utf-8"), "run make results"
    assert len(record) > 5 and max(error for row in record for error in row["errors"]) < 1e-5


def test_the_page_on_costs_is_the_recorded_one() -> None:
    costs = load("costs_page")
    tables = costs.recorded()
    assert costs.page(tables) == costs.PAGE.read_text(encoding="utf-8"), "run make results"
    assert len(tables) >= 3 and len({table.pair for table in tables.values()}) == len(tables)
    for table in tables.values():
        assert table.n_seeds >= 5 and not table.provenance["settings"]["busy"] and table.provenance["git"]["commit"]
        assert {row.arm for row in table.rows} == set(COST_ARMS)
        assert all(row.failed or len(row.stream["forward_s"]) >= 256 for row in table.rows)


def test_the_page_on_layerbench_is_the_recorded_one() -> None:
    page = load("layerbench_page")
    record = json.loads(page.RECORD.read_text(encoding="utf-8"))
    assert page.page(record) == page.PAGE.read_text(encoding="utf-8"), "run make results"


def rounded(value: Any) -> Any:
    """Floats to nine digits: the last bits of a sum depend on the machine and its threads."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


@pytest.mark.slow
def test_a_recorded_verdict_is_what_the_runs_say() -> None:
    decided = load("decided_page")
    record = json.loads(decided.RECORD.read_text(encoding="utf-8"))
    file = decided.STUDIES / "experiments" / "domain-shift" / "summary.json"
    assert rounded(decided.claims(file)) == rounded(record["experiments"]["domain-shift"])
    table = decided.table(decided.STUDIES / "truth" / "newsgroups")
    assert rounded(table) == rounded(record["tables"]["newsgroups"])


@pytest.mark.slow
def test_the_results_are_the_recorded_ones() -> None:
    results = load("results")
    assert results.page() == results.PAGE.read_text(encoding="utf-8"), "run make results"


@pytest.mark.parametrize("name", ["regret", "trained", "agreement"])
def test_no_label_of_a_strategys_picture_is_cut(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = load("result_pictures")
    monkeypatch.setattr(pictures, "piece", lambda figure, alt: figure)
    record = json.loads((ROOT / "benchmarks" / "results" / "selection.json").read_text(encoding="utf-8"))
    figure = pictures.SELECTION[name](record["measurements"])
    figure.draw_without_rendering()  # the layout is made when it is drawn
    box = figure.get_tightbbox()  # inches
    width, height = figure.get_size_inches()
    assert box.x0 >= -0.01 and box.y0 >= -0.01 and box.x1 <= width + 0.01 and box.y1 <= height + 0.01


def test_each_question_of_the_results_shows_its_picture_before_its_tables() -> None:
    page = (BOOK / "results.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        question = section.partition("\n")[0]
        if question.endswith("?") and not question.startswith("What does it cost"):
            picture = re.search(r"^(?:```\{raw\} html|!\[)", section, re.MULTILINE)
            table = re.search(r"^(?:\||:::\{dropdown\})", section, re.MULTILINE)
            assert picture is not None and table is not None and picture.start() < table.start(), question
    shown = re.findall(r":file: (_pictures/results/\S+)", page)
    assert sorted(shown) == sorted(f"_pictures/results/{file.name}" for file in (BOOK / "_pictures/results").iterdir())
    for name in shown:
        piece = (BOOK / name).read_text(encoding="utf-8")
        assert re.match(r'<div class="pifi-figure" [^>]*aria-label="[^"]{30,}"', piece) and "<svg role=" in piece, name


@pytest.mark.slow
def test_the_log_says_what_the_records_say() -> None:
    log = load("log")
    text = log.PAGE.read_text(encoding="utf-8")
    assert log.updated(text) == text, "run make results"
    assert len(log.TRIED) == log.table().count("\n| ") and "| nan" not in log.table()


def test_the_first_figure_is_drawn_from_the_records() -> None:
    weights = load("weights")
    kept = json.loads((weights.OUT / "weights.json").read_text(encoding="utf-8"))
    assert kept == weights.drawn(), "run make results"
    for theme in weights.THEMES:
        assert (weights.OUT / f"weights-{theme}.svg").read_text(encoding="utf-8").startswith("<?xml")
    readme, intro = ((weights.ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "book/intro.md"))
    assert "weights-dark.svg" in readme and "weights-light.svg" in readme
    for half in ("words", "reviews"):  # two pictures, one below the other on a narrow screen
        assert f"weights-{half}-dark.svg" in intro and f"weights-{half}-light.svg" in intro


def test_three_seeds_of_all_arms_are_asked_for_where_they_are_promised() -> None:
    for page in (BOOK / "howto" / "own-data.md", ROOT / "notebooks" / "src" / "19_your_own_data.py"):
        assert "--arms all --seeds 3" in page.read_text(encoding="utf-8"), page.name


def test_the_landing_page_lets_one_feel_the_winners_curse() -> None:
    winner = load("winner")
    assert winner.fragment() == winner.OUT.read_text(encoding="utf-8"), "run make results"
    assert "_theme/winner.html" in (BOOK / "intro.md").read_text(encoding="utf-8")
    found = winner.measured()
    best = [max(range(30), key=one.__getitem__) for one in found["accuracy"]]
    assert len(found["seeds"]) == 3 and len(set(best)) > 1, "with one winner there is no curse to show"


@pytest.mark.slow
def test_instructors_see_every_notebook_with_its_minutes() -> None:
    timings = load("timings")
    text = timings.PAGE.read_text(encoding="utf-8")
    assert timings.updated(text) == text, "run make results"
    assert text.count("../notebooks/0") >= 5


def test_scripts_from_elsewhere_are_pinned_by_version_and_sha512() -> None:
    vendor = load("vendor")
    for package in (*vendor.PACKAGES, vendor.AXE):
        assert re.fullmatch(r"\d+\.\d+\.\d+", package.version) and len(package.sha512) == 88
    assert "/book/_vendor/" in (ROOT / ".gitignore").read_text(encoding="utf-8")


def test_a_tampered_script_is_refused_and_a_missing_npm_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vendor = load("vendor")
    monkeypatch.setattr(vendor, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(vendor.shutil, "which", lambda name: None)
    assert vendor.fetch() is False
    assert "npm is not installed" in capsys.readouterr().err
    tarball = tmp_path / "npm" / vendor.AXE.tarball
    tarball.write_bytes(b"tampered")
    assert not vendor._is_right(vendor.AXE, tarball)
    assert vendor.fetch((vendor.AXE,)) is False


def test_without_vendored_scripts_the_configuration_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load("vendor")
    build = load("build")
    monkeypatch.setattr(build, "BUILD", tmp_path)
    settings = yaml.safe_load(build.config(vendored=False).read_text(encoding="utf-8"))["sphinx"]["config"]
    assert not {"nb_ipywidgets_js", "mathjax_path", "html_extra_path"} & set(settings)
    assert settings["html_static_path"] == ["book/_theme"]
    assert build.config(vendored=True) == BOOK / "_config.yml"


class _Page(HTMLParser):
    """Titles of the article (the print version repeats one), anchors, links and pictures of a built page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.titles, self.anchors, self.links, self.bare_images = (
            text.partition('<article class="bd-article"')[2].count("<h1>"),
            {""},
            [],
            [],
        )
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.links += [values[name] for name in ("href", "src") if name in values]
        if tag == "img" and not values.get("alt"):
            self.bare_images.append(values.get("src", ""))


@pytest.mark.slow
def test_built_pages_have_one_title_alt_texts_and_links_that_lead_somewhere(built_book: Path) -> None:
    texts = {file.resolve(): file.read_text(encoding="utf-8") for file in built_book.rglob("*.html")}
    shown = {file: text for file, text in texts.items() if "_modules" not in file.parts}  # those are our sources
    assert not [file.name for file, text in shown.items() if "version[0]" in text], "a quiz that does not wait"
    parsed = {file: _Page(text) for file, text in texts.items()}
    broken = []
    for page in pages():
        file = (built_book / f"{page}.html").resolve()
        assert parsed[file].titles == 1, page
        assert not parsed[file].bare_images, page
        for link in parsed[file].links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.exists() or (target in parsed and unquote(parts.fragment) not in parsed[target].anchors):
                broken.append(f"{page}: {link}")
    assert not broken
