"""One style for every picture: a real layer orange, its twins grey, projections blue, the encoder black."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

import pifi_probe
from pifi_probe.reporting import looks, plots

ROOT = Path(__file__).parent.parent
PACKAGE = Path(pifi_probe.__file__).parent


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("vanilla", "vanilla"),
        ("matched: vanilla (best learning_rate)", "vanilla"),
        ("encoder alone", "vanilla"),
        ("pifi: linear", "linear"),
        ("interface", "linear"),
        ("pifi: random smollm2-135m[29]", "twins"),
        ("shuffled, own interface", "twins"),
        ("pifi: smollm2-135m[29]", "real"),
        ("smollm2-135m[8:15]", "real"),
        ("real, layers 8 to 14", "real"),
        ("real - shuffled", "real"),
        ("LoRA", None),
        ("PiFi is better than the encoder alone", None),
        ("", None),
        (7, None),
    ],
)
def test_an_arm_is_known_by_its_name(name: object, group: str | None) -> None:
    assert looks.group_of(name) == group


def test_series_have_the_look_of_their_group_and_no_two_the_same() -> None:
    names = ["vanilla", "random a[1]", "shuffled a[1]", "a[1]", "a[2]", "LoRA", "linear", "mlp"]
    given = looks.looks_of(names)
    assert {name: given[name] for name in ("vanilla", "linear", "random a[1]", "a[1]")} == {
        "vanilla": looks.ARMS["vanilla"],
        "linear": looks.ARMS["linear"],
        "random a[1]": looks.ARMS["twins"],
        "a[1]": looks.ARMS["real"],
    }
    assert given["shuffled a[1]"][0] == looks.ARMS["twins"][0]
    others = {given[name][0] for name in ("a[2]", "LoRA", "mlp")}
    assert not others & {colour for colour, _ in looks.ARMS.values()}
    assert len(set(given.values())) == len(names)


def test_a_series_of_no_arm_never_has_the_colour_of_one() -> None:
    names = ["ridge", "LoRA", "H-score", "LogME", "bits", "centroid", "mlp", *map(str, range(40))]
    for arms in ([], ["vanilla", "a[1]"]):
        given = looks.looks_of([*arms, *names])
        assert not {given[name][0] for name in names} & {colour for colour, _ in looks.ARMS.values()}
        assert len(set(given.values())) == len(arms) + len(names)


def test_a_forest_draws_each_arm_in_its_groups_colour() -> None:
    arms = ["linear", "random a[1]", "a[1]", "a claim"]
    frame = pd.DataFrame({"arm": arms, "mean": [1.0] * 4, "low": [0.5, -1.0, 0.5, 0.5], "high": [2.0] * 4})
    drawn = [line for line in plots.forest(frame).axes[0].get_lines() if line.get_marker() not in ("None", "", None)]
    wanted = [looks.ARMS["linear"], looks.ARMS["twins"], looks.ARMS["real"], (looks.INK, "o")]
    assert [(line.get_color(), line.get_marker()) for line in drawn] == wanted


def test_widget_and_book_have_the_same_colours() -> None:
    colours = {group: colour.lower() for group, (colour, _) in looks.ARMS.items()}
    chart = (PACKAGE / "widgets" / "chart.css").read_text(encoding="utf-8").lower()
    assert {
        name: re.search(rf"--pp-{name}: (#\w+)", chart)[1]  # type: ignore[index]
        for name in ("real", "twin", "linear")
    } == {"real": colours["real"], "twin": colours["twins"], "linear": colours["linear"]}
    shapes = {"diamond": "D", "circle": "o", "up": "^", "square": "s"}
    ladder = (PACKAGE / "widgets" / "chart_ladder.js").read_text(encoding="utf-8")
    drawn = dict(re.findall(r'^  (\w+): \{ name: .*shape: "(\w+)"', ladder, re.MULTILINE))
    assert {group: shapes[shape] for group, shape in drawn.items()} == {g: m for g, (_, m) in looks.ARMS.items()}
    script = (PACKAGE / "widgets" / "chart.js").read_text(encoding="utf-8")
    first = re.search(r'COLOURS = \["(#\w+)"', script)
    assert first is not None and first[1].lower() == colours["real"]
    book = (ROOT / "book" / "_theme" / "pifi.css").read_text(encoding="utf-8").lower()
    for group in ("real", "twins", "linear"):
        rule = re.search(rf"\.pifi-winner \.{group} \{{[^}}]*(?:fill|stroke): (#\w+)", book)
        assert rule is not None and rule[1] == colours[group]


def test_no_picture_brings_its_own_colour_for_an_arm() -> None:
    """In Python: the hues of `ARMS` stand in one file, so that changing one changes every picture."""
    hues = {colour.lower() for colour, _ in looks.ARMS.values()}
    own = [
        f"{file.relative_to(ROOT)}: {hue}"
        for folder in (PACKAGE, ROOT / "book" / "_scripts", ROOT / "notebooks" / "src")
        for file in folder.rglob("*.py")
        if file.name not in ("looks.py", "session.py")  # the one place; the borders of a quiz
        for hue in re.findall(r"#[0-9a-f]{6}\b", file.read_text(encoding="utf-8").lower())
        if hue in hues | {"#7a7a7a"}
    ]
    assert own == []
