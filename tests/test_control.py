"""The positive control: what the weights of a layer do on repeated random words, and what they are compared with."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.linear_model import Ridge

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import CheckpointError, FeatureError, LayerIndexError, PifiProbeError
from pifi_probe.layers.control import ARMS, ControlRow, PositiveControl, known_control
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.probing import control as module
from pifi_probe.probing.words import draw_words, once, twice
from tests import tiny

SMALL: dict[str, Any] = {"n_words": 30, "length": 6, "n_fit": 24, "n_test": 8, "progress": False}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.tiny_checkpoint("llama", tmp_path_factory.mktemp("llama")))


def made_up(*rows: tuple[int, dict[str, float]], n: int = 40, of: int = 20) -> PositiveControl:
    """A control with these accuracies of arms; the sequences scatter by one word."""
    found = []
    for layer, shares in rows:
        wobble = np.arange(n) % 3 - 1
        correct = {
            arm: tuple(int(x) for x in np.clip(round(shares.get(arm, 0.0) * of) + wobble, 0, of)) for arm in ARMS
        }
        found.append(ControlRow((layer,), correct, of))
    settings = {"n_words": 200, "length": of + 1, "n_fit": 9, "n_test": n, "seed": 0, "words": "some"}
    return PositiveControl("donor", False, 30, tuple(found), settings)


@pytest.mark.assets
@pytest.mark.usefixtures("smollm2")
def test_layer_18_of_smollm2_copies_and_its_twins_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIFI_PROBE_CACHE")  # the model is there
    control = pp.positive_control("smollm2-135m", 18, n_fit=96, n_test=16, cache=False, progress=False)
    row = control[18]
    assert row.gain("shuffled").low > 0.4 and row.gain("random").low > 0.4
    assert row.gain("none").low > 0.3
    assert abs(row.accuracy("one token").mean - row.accuracy("none").mean) < 0.1, "a single token has nothing to match"
    assert control.passed and control.peak is row and "layer 18" in control.answer


EXPECTED = {  # of another draw of words and sequences: the same within a few points
    17: {"none": 0.008, "real": 0.224, "shuffled": 0.010},
    18: {"none": 0.224, "real": 0.779, "shuffled": 0.140, "one token": 0.188},
}
RECORD = Path(__file__).parent.parent / "benchmarks" / "results" / "control.json"


def check_copying(accuracy: Callable[[int, str], float]) -> None:
    """See that layers 17 and 18 copy, that the last one changes nothing, and that twins do neither."""
    for layer, arms in EXPECTED.items():
        for arm, expected in arms.items():
            assert accuracy(layer, arm) == pytest.approx(expected, abs=0.12), (layer, arm)
    assert accuracy(17, "real") - accuracy(17, "shuffled") > 0.1
    assert accuracy(29, "none") > 0.6 and abs(accuracy(29, "real") - accuracy(29, "none")) < 0.05


def test_the_recorded_control_has_the_values_of_layers_17_18_and_29() -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))["measurements"]["smollm2-135m"]["own states"]["control"]
    rows = {row["layers"][0]: row for row in record["rows"]}
    assert sorted(rows) == list(range(30))
    check_copying(lambda layer, arm: float(np.mean(rows[layer]["correct"][arm])) / rows[layer]["of"])


@pytest.mark.assets
@pytest.mark.slow
@pytest.mark.usefixtures("smollm2")
def test_layers_17_18_and_29_do_with_other_words_what_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIFI_PROBE_CACHE")
    control = pp.positive_control("smollm2-135m", (17, 18, 29), seed=1, n_test=24, cache=False, progress=False)
    check_copying(lambda layer, arm: control[layer].accuracy(arm).mean)


@pytest.mark.assets
@pytest.mark.slow
@pytest.mark.usefixtures("smollm2")
def test_a_foreign_code_through_an_aligned_interface_is_copied_by_17_and_18(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIFI_PROBE_CACHE")
    control = pp.positive_control("smollm2-135m", "17-18", foreign=True, n_test=32, cache=False, progress=False)
    row = control[17, 18]
    assert row.accuracy("real").low > 0.55
    assert all(row.accuracy(arm).high < 0.08 for arm in ("none", "shuffled", "random", "one token"))
    assert 0.6 < control.info["17 >> 18"]["r2"] < 0.9


def test_weights_that_know_nothing_do_not_pass(llama: str) -> None:
    control = pp.positive_control(llama, **SMALL)
    assert [row.name for row in control.rows] == ["0", "1", "2"]
    assert not control.passed and 'a "no effect" says nothing yet' in control.answer


def test_what_is_read_behind_a_layer_is_what_is_read_before_the_next_one(llama: str) -> None:
    control = pp.positive_control(llama, **SMALL)
    for before, row in zip(control.rows, control.rows[1:], strict=False):
        assert row.correct["none"] == before.correct["real"]
    alone = pp.positive_control(llama, [2], cache=False, **SMALL)
    assert alone[2] == control[2], "layers asked for alone are the same"


def test_states_are_those_of_the_whole_model(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    read = module._Work._read
    monkeypatch.setattr(module._Work, "_read", lambda self, states: (seen.append(states), read(self, states))[1])
    control = pp.positive_control(llama, [0, 1], cache=False, **SMALL)
    words = draw_words(open_checkpoint(llama), 30, 0)
    sequences = twice(30, control.settings["length"], 32, 1)
    model = tiny.tiny_model("llama")
    hidden = model(words.tokens(sequences), output_hidden_states=True).hidden_states
    none, real, shuffled, random, one = seen[:5]
    torch.testing.assert_close(none, hidden[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(real, hidden[1], atol=1e-5, rtol=1e-5)
    assert one.shape[1] == control.settings["length"] - 1
    layer = pp.extract(f"{llama}[0]")
    alone = layer(hidden[0][3, -2:-1][None])  # the last word that is read, with nothing before it
    torch.testing.assert_close(one[3, -1], alone[0, 0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(one[3, -1], real[3, -2], atol=1e-3)
    assert not torch.allclose(shuffled, real, atol=1e-3) and not torch.allclose(random, real, atol=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "bloom", "gemma3_text", "qwen3_moe", "qwen3_next", "falcon_alibi"])
def test_every_family_can_be_controlled(family: str, tmp_path: Path) -> None:
    folder = tiny.tiny_checkpoint(family, tmp_path / family)
    sizes = SMALL | {"n_fit": 6, "n_test": 3, "length": 4}
    control = pp.positive_control(str(folder), [1], **sizes)
    assert control[1].of == 3 and set(control[1].correct) == set(ARMS)


def test_layers_once_measured_are_not_measured_again(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pp.positive_control(llama, [1], **SMALL)
    whole = pp.positive_control(llama, **SMALL)
    assert whole[1] == first[1]
    monkeypatch.setattr(module._Work, "_layer", lambda *_: pytest.fail("a layer was read"))
    assert pp.positive_control(llama, "0-1", **SMALL).rows == whole.rows[:2]
    known = known_control(llama)
    assert known is not None and known.rows == whole.rows
    assert known_control(llama, foreign=True) is None


def test_a_control_that_was_stopped_goes_on_where_it_was(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = module._Work._row

    def stopped(self: Any, layers: tuple[int, ...], found: Any) -> ControlRow:
        if layers == (2,):
            raise KeyboardInterrupt
        return row(self, layers, found)

    monkeypatch.setattr(module._Work, "_row", stopped)
    with pytest.raises(KeyboardInterrupt):
        pp.positive_control(llama, **SMALL)
    measured: list[tuple[int, ...]] = []
    monkeypatch.setattr(module._Work, "_row", lambda s, layers, f: (measured.append(layers), row(s, layers, f))[1])
    assert len(pp.positive_control(llama, **SMALL).rows) == 3 and measured == [(2,)]


def test_other_settings_and_other_weights_are_other_controls(llama: str, tmp_path: Path) -> None:
    assert pp.positive_control(llama, [0], **SMALL).settings["seed"] == 0
    assert pp.positive_control(llama, [0], **SMALL | {"seed": 1}).settings["seed"] == 1
    other = tiny.tiny_checkpoint("llama", tmp_path / "other", seed=1)
    assert known_control(str(other)) is None and known_control(str(tmp_path / "nowhere")) is None


def test_a_damaged_record_is_measured_anew(llama: str, tmp_path: Path) -> None:
    whole = pp.positive_control(llama, [0], **SMALL)
    (file,) = (tmp_path / "cache" / "controls").rglob("own-*.json")
    for text in ("{", '{"version": 1, "rows": [{"layers": 3}]}', '{"version": 99}'):
        file.write_text(text)
        assert known_control(llama) is None
        assert pp.positive_control(llama, [0], **SMALL).rows == whole.rows


def test_a_foreign_code_passes_through_one_chain(llama: str) -> None:
    control = pp.positive_control(llama, "1-2", foreign=True, **SMALL)
    (row,) = control.rows
    assert row.name == "1 >> 2" and control[1, 2] is row and row.accuracy("none").mean < 0.2
    assert set(control.info["1 >> 2"]) == {"r2", "scale"} and control.info["1 >> 2"]["scale"] > 0
    by_peak = pp.positive_control(llama, foreign=True, **SMALL)
    peak = pp.positive_control(llama, **SMALL).peak.layers[0]
    assert by_peak.rows[0].layers == ((peak - 1, peak) if peak else (peak,))


def test_both_ridges_are_the_textbooks() -> None:
    generator = torch.Generator().manual_seed(0)
    for n, d in ((60, 12), (12, 60)):
        x, y = (torch.randn(n, k, generator=generator) for k in (d, 3))
        alpha = module.PENALTY * float((x - x.mean(0)).square().sum()) / d
        fitted = Ridge(alpha=alpha).fit(x.double().numpy(), y.double().numpy())
        weights = module._ridge(x, y)
        np.testing.assert_allclose(weights[:-1].T, fitted.coef_, atol=2e-4)
        np.testing.assert_allclose(weights[-1], fitted.intercept_, atol=2e-4)


def test_sequences_repeat_and_aligning_ones_do_not() -> None:
    first, both = once(30, 12, 5, 0), twice(30, 6, 5, 0)
    assert all(len(set(row)) == 12 for row in first.tolist())
    assert (both[:, :6] == both[:, 6:]).all() and all(len(set(row[:6])) == 6 for row in both.tolist())
    with pytest.raises(FeatureError, match="12 different words needs more than 5"):
        once(5, 12, 1, 0)


@pytest.mark.assets
def test_words_of_a_real_donor_are_words(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pifi_probe.layers.tokenizer import donor_tokenizer

    monkeypatch.delenv("PIFI_PROBE_CACHE")  # where the converted tokenizer is
    checkpoint = open_checkpoint(str(smollm2))
    words, tokenizer = draw_words(checkpoint, 200, 0), donor_tokenizer(checkpoint)
    texts = [tokenizer.decode([int(i)]) for i in words.ids]
    assert len(set(texts)) == 200 and all(text.startswith(" ") and text.strip().isalpha() for text in texts)
    assert words.before == () and draw_words(checkpoint, 200, 1).ids.tolist() != words.ids.tolist()


def test_without_a_tokenizer_the_words_are_any_tokens(llama: str) -> None:
    words = draw_words(open_checkpoint(llama), 200, 0)
    assert len(words) == 98 and words.before == (1,) and "no tokenizer" in words.how
    assert words.tokens(np.array([[0, 1]])).tolist() == [[1, *words.ids[:2].tolist()]]


@pytest.mark.parametrize("layers", ["3", "0-3", "-4", [5], "two", "1-0", [], "1.5", True, [True]])
def test_a_layer_that_is_not_there_is_refused(llama: str, layers: Any) -> None:
    with pytest.raises(LayerIndexError, match="layer"):
        pp.positive_control(llama, layers, **SMALL)


def test_too_little_to_read_is_refused(llama: str) -> None:
    with pytest.raises(FeatureError, match="too few"):
        pp.positive_control(llama, **SMALL | {"n_words": 4})
    with pytest.raises(FeatureError, match="too few"):
        pp.positive_control(llama, **SMALL | {"n_test": 1})


def test_the_peak_is_where_the_weights_beat_every_twin() -> None:
    control = made_up(
        (17, {"none": 0.1, "real": 0.3, "shuffled": 0.1, "random": 0.1, "one token": 0.1}),
        (18, {"none": 0.3, "real": 0.8, "shuffled": 0.2, "random": 0.2, "one token": 0.2}),
        (19, {"none": 0.8, "real": 0.85, "shuffled": 0.2, "random": 0.85, "one token": 0.7}),
    )
    assert control.peak.name == "18" and control.passed
    assert control.works(17) and control.works(18) and not control.works(19), "its random twin does the same"
    assert control[18].effect.mean == pytest.approx(0.5), "over no layer, the best of the others"
    with pytest.raises(PifiProbeError, match=r"layer 3 was not measured.*17, 18, 19"):
        control[3]


def test_a_control_is_read_shown_and_kept(tmp_path: Path) -> None:
    control = made_up((17, {"real": 0.2}), (18, {"none": 0.2, "real": 0.8}))
    path = tmp_path / "control.json"
    assert json.loads(control.to_json(path))["passed"] is True
    again = PositiveControl.from_json(path)
    assert again.rows == control.rows and again.answer == control.answer == str(control)
    chain = replace(control, rows=(replace(control.rows[1], layers=(17, 18)),))
    for width in (80, 120):
        out = io.StringIO()
        for one in (control, chain):
            Console(file=out, width=width).print(one.to_rich())
        assert all(len(line) <= width for line in out.getvalue().splitlines()) and "\u2026" not in out.getvalue()
        assert "shuffled" in out.getvalue() and "yes" in out.getvalue()
    page = replace(control, model="<b>")._repr_html_()
    assert "<b>" not in page and "&lt;b&gt;" in page
    assert len(control.figure().axes) == 1 and list(control.frame["arm"].unique()) == list(ARMS)
    for wrong in ({}, {"version": 1}, {"version": 1, "rows": 3}):
        with pytest.raises(CheckpointError, match="not a positive control"):
            PositiveControl.from_dict(wrong)


def test_not_a_number_is_told_with_its_layer(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FrozenLayer, "forward", lambda self, states, mask=None: states * float("nan"))
    with pytest.raises(FeatureError, match=r"layer 0 \(real\) holds NaN"):
        pp.positive_control(llama, **SMALL)


def test_the_command_prints_answer_and_table(
    llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pp.positive_control
    monkeypatch.setitem(vars(pp), "positive_control", lambda *args, **kw: whole(*args, **SMALL | kw))
    assert main(["control", llama, "--layers", "0-1", "--out", str(tmp_path / "c.json")]) == 0
    shown = capsys.readouterr().out
    assert "positive control of" in shown and "effect" in shown
    assert PositiveControl.from_json(tmp_path / "c.json").rows[1].name == "1"
    assert main(["control", llama, "--layers", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["layers"] == [0]
    assert main(["control", llama, "--layers", "7"]) == 2
    assert "layers are numbered from 0 to 2" in " ".join(capsys.readouterr().err.split())
