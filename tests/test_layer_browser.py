"""The browser of layers, on a tiny checkpoint and without a web browser."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pifi_probe as pp
from pifi_probe.errors import CheckpointError, LayerIndexError, ModelNotFoundError
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.widgets.layer_browser import LayerBrowser
from tests.tiny import tiny_checkpoint
from tests.widget_stub import until


@pytest.fixture
def browser(tmp_path: Path) -> LayerBrowser:
    return pp.widgets.LayerBrowser(str(tiny_checkpoint("gemma2", tmp_path / "tiny")), slm="16")


def test_it_lists_every_layer_with_type_and_size(browser: LayerBrowser) -> None:
    layer = pp.extract(f"{browser.model}[1]")
    assert list(browser.frame.index) == [0, 1, 2] and set(browser.frame["type"]) == {
        "sliding_attention",
        "full_attention",
    }
    assert browser.frame.loc[1, "bytes"] == sum(p.numel() * 4 for p in layer.parameters())
    assert repr(browser) == f"LayerBrowser({browser.model}, 3 layers)"
    assert "<table" in browser._repr_mimebundle_()["text/html"]


def test_nothing_but_headers_is_read_before_a_layer_is_extracted(browser: LayerBrowser) -> None:
    browser.selected = 2
    assert browser.strip.value == 2 and "[2]" in browser.detail.value and browser.layer is None
    assert browser._checkpoint.bytes_read < browser.frame["bytes"].sum() / 2


def test_numbers_are_in_units_and_long_names_wrap(browser: LayerBrowser) -> None:
    assert " k weights" in browser.detail.value or " M weights" in browser.detail.value
    assert "overflow-wrap: anywhere" in browser.detail.value and "max-width: 100%" in browser.detail.value


def test_a_layer_may_be_counted_from_the_end_and_one_that_is_not_there_is_refused(browser: LayerBrowser) -> None:
    browser.selected = -1
    assert browser.selected == browser.strip.value == 2
    for outside in (3, -4):
        with pytest.raises(LayerIndexError, match="next: "):
            browser.selected = outside
        assert browser.selected == browser.strip.value == 2


def test_it_takes_a_width_as_a_number_and_a_revision(browser: LayerBrowser, monkeypatch: pytest.MonkeyPatch) -> None:
    as_text = browser.detail.value
    assert pp.widgets.LayerBrowser(browser.model, slm=16).detail.value == as_text
    asked: list[tuple[str, str | None]] = []

    def opened(model: str, revision: str | None = None) -> Checkpoint:
        asked.append((model, revision))
        return browser._checkpoint

    monkeypatch.setattr("pifi_probe.layers.open.open_checkpoint", opened)
    assert pp.widgets.LayerBrowser("org/name@main", slm=16).model == "org/name@main"
    assert asked == [("org/name", "main")], "as in pp.extract"


def test_a_click_extracts_the_selected_layer_and_shows_its_norms(browser: LayerBrowser) -> None:
    browser.strip.value = 1
    browser.button.click()
    until(lambda: browser.layer is not None and not browser.button.disabled)
    own = pp.extract(f"{browser.model}[1]")
    assert browser.layer is not None and browser.layer.card.index == 1
    assert all(torch.equal(a, b) for a, b in zip(browser.layer.parameters(), own.parameters(), strict=True))
    norm = next(p for name, p in own.named_parameters() if "q_proj" in name).float().norm()
    assert f"{float(norm):.3g}" in browser.detail.value


def test_what_goes_wrong_is_shown_as_text(browser: LayerBrowser, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise CheckpointError("<script>alert(1)</script>")

    monkeypatch.setattr("pifi_probe.layers.extract.extract_from", refuse)
    browser.button.click()
    until(lambda: "&lt;script&gt;" in browser.message.value and not browser.button.disabled)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises((ModelNotFoundError, CheckpointError)):
        pp.widgets.LayerBrowser(str(tmp_path / "nothing"))


def test_the_page_says_what_can_be_called(browser: LayerBrowser) -> None:
    page = (Path(__file__).parents[1] / "book" / "layer_browser.md").read_text(encoding="utf-8")
    (block,) = [part.split("```")[0] for part in page.split("```python\n") if part.startswith("browser.selected")]
    *lines, plugged = block.replace("29", "2").strip().splitlines()
    assert plugged.startswith("model = pp.plug_in(")
    names = {"browser": browser}
    exec("\n".join(lines), names)
    assert browser.selected == 2 and names["layer"] is browser.layer
    for row in ("type", "stored", "PiFi trains", "keeps frozen", "for one text"):
        assert f"| {row} |" in page
