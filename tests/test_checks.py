"""The checks of the exercises: an untouched stub is not a failure, and a wrong answer gets its likely mistake named."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pifi_probe import checks
from pifi_probe.checks.folds import join_folds
from pifi_probe.errors import PifiProbeError


def _stub(*_: Any) -> Any:
    return ...


def _breaks(*_: Any) -> Any:
    raise ValueError("shapes do not fit")


FUNCTIONS = [
    checks.check_rms_norm,
    checks.check_causal_weights,
    checks.check_gated_mlp,
    checks.check_index_from_end,
    checks.check_layer_share,
    checks.check_projections,
    checks.check_pifi_forward,
    checks.check_freeze,
    checks.check_one_token_attention,
    checks.check_group_sum,
]
each_check = pytest.mark.parametrize("check", FUNCTIONS, ids=lambda check: check.__name__)


@each_check
def test_an_untouched_stub_says_so_and_does_not_raise(check: Any) -> None:
    report = check(_stub)
    assert report.status == "not attempted" and "not attempted yet" in repr(report)


@each_check
def test_an_answer_that_raises_is_reported_not_raised(check: Any) -> None:
    report = check(_breaks)
    assert report.status == "wrong" and "ValueError: shapes do not fit" in repr(report)


@each_check
def test_an_answer_without_return_is_named(check: Any) -> None:
    assert "without a return" in check(lambda *_: None).message


def test_a_long_sentence_is_broken_at_the_end_of_a_word_and_no_name_is_torn(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "a-very-long-name/" * 6
    checks.say("name:", "word " * 40 + name)
    checks.say("short\n\nlines stay")
    lines = capsys.readouterr().out.splitlines()
    assert name in "".join(lines) and any(name in line for line in lines)
    assert all(len(line) <= 80 for line in lines if name not in line)
    assert lines[1].startswith("    word") and lines[-3:] == ["short", "", "lines stay"]


def _future(scores: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(scores, dtype=torch.bool).triu(1)


def _no_grad(layer: Any, states: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return layer(states)


MISTAKES = [
    (
        checks.check_rms_norm,
        lambda x, g, e: x / (x.square().mean(-1, keepdim=True).sqrt() + e) * g,
        "inside the root",
    ),
    (checks.check_rms_norm, lambda x, g, e: F.layer_norm(x, (8,), g, eps=e), "LayerNorm"),
    (checks.check_rms_norm, lambda x, g, e: x * (x.square().mean(-1, keepdim=True) + e).rsqrt(), "gain is missing"),
    (checks.check_causal_weights, lambda s: s.softmax(-1), "No mask"),
    (checks.check_causal_weights, lambda s: s.softmax(-1).masked_fill(_future(s), 0), "before the softmax"),
    (checks.check_causal_weights, lambda s: s.masked_fill(_future(s), -torch.inf).softmax(-2), "Wrong axis"),
    (checks.check_gated_mlp, lambda x, g, u, d: (F.gelu(x @ g.T) * (x @ u.T)) @ d.T, "not GELU"),
    (checks.check_gated_mlp, lambda x, g, u, d: ((x @ g.T) * F.silu(x @ u.T)) @ d.T, "on the gate"),
    (checks.check_index_from_end, lambda i, n: i if i >= 0 else n + i + 1, "not 30"),
    (checks.check_index_from_end, lambda i, n: i % n, "raise IndexError"),
    (checks.check_layer_share, lambda b, p: sum(v for k, v in b.items() if k.startswith(p)), "divide"),
    (checks.check_layer_share, lambda b, p: sum(v for k, v in b.items() if k.startswith(p[:-1])) / 225, "keep the dot"),
    (checks.check_projections, lambda s, d: (nn.Linear(d, s, bias=False), nn.Linear(s, d, bias=False)), "wrong way"),
    (checks.check_projections, lambda s, d: (nn.Linear(s, d), nn.Linear(d, s)), "bias=False"),
    (checks.check_pifi_forward, lambda h, a, layer, b: b(a(h)), "left out"),
    (checks.check_pifi_forward, lambda h, a, layer, b: b(layer(a(h))), "sequence of one"),
    (checks.check_pifi_forward, lambda h, a, layer, b: b(layer(a(h)[:, None])), "sequence axis"),
    (checks.check_pifi_forward, lambda h, a, layer, b: b(layer(a(h).detach()[:, None]))[:, 0].detach(), "No gradient"),
    (checks.check_pifi_forward, lambda h, a, layer, b: b(layer(a(h)[None]))[0], "as one sequence"),
    (
        checks.check_pifi_forward,
        lambda h, a, layer, b: b(_no_grad(layer, a(h)[:, None]))[:, 0],
        "No gradient",
    ),
    (checks.check_freeze, lambda module: module.requires_grad_(False), "Dropout"),
    (checks.check_freeze, lambda module: module.eval(), "still train"),
    (
        checks.check_one_token_attention,
        lambda x, v, o, g, d: (x @ v.T).unflatten(-1, (-1, d)).repeat(1, g, 1).flatten(-2) @ o.T,
        "repeat_interleave",
    ),
    (checks.check_group_sum, lambda o, g, d: o.unflatten(1, (-1, g, d)).mean(2).flatten(1), "mean"),
    (checks.check_group_sum, lambda o, g, d: o, "must be"),
]


def _copies(words: list[str]) -> str | None:
    for place in range(len(words) - 2, -1, -1):
        if words[place] == words[-1]:
            return words[place + 1]
    return None


def test_mistakes_about_copying_are_named() -> None:
    assert checks.check_next_word(_copies).passed
    assert checks.check_next_word(lambda words: ...).status == "not attempted"
    assert "*followed*" in checks.check_next_word(lambda words: words[-1]).message
    first = checks.check_next_word(lambda words: words[1])
    assert "the last word, not the first" in first.message
    raising = checks.check_next_word(lambda words: words[words.index(words[-1]) + 1])
    assert "return None" in raising.message


def test_mistakes_about_an_effect_and_what_a_wiring_lacks_are_named() -> None:
    assert checks.check_effect(lambda none, real, shuffled, random: real - max(none, shuffled, random)).passed
    assert "Real first" in checks.check_effect(lambda n, real, s, r: max(n, s, r) - real).message
    assert "Not their mean" in checks.check_effect(lambda n, real, s, r: real - (n + s + r) / 3).message
    assert "No layer can be" in checks.check_effect(lambda n, real, s, r: real - max(s, r)).message
    assert checks.check_lacking({"sequence", "middle", "alignment", "length"}).passed
    assert "How many tokens" in checks.check_lacking({"middle"}).message
    assert "no condition" in checks.check_lacking("norm").message
    assert checks.check_lacking(...).status == "not attempted"


@pytest.mark.parametrize(("check", "answer", "named"), MISTAKES)
def test_a_likely_mistake_is_named(check: Any, answer: Any, named: str) -> None:
    report = check(answer)
    assert report.status == "wrong" and named in report.message


@pytest.mark.parametrize(
    ("answer", "named"),
    [({"layer", "head"}, "frozen"), ({"encoder"}, "missing"), ({"text"}, "no weights"), ({"brain"}, "no part")],
)
def test_mistakes_about_the_trained_parts_are_named(answer: set[str], named: str) -> None:
    assert named in checks.check_trained_parts(answer).message
    assert checks.check_trained_parts(...).status == "not attempted"


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("smollm2", "not a layer's name"),
        ("smollm2-135m[-1]", "last layer"),
        ("smollm2-135m[30]", "from 0"),
        (3, "string"),
    ],
)
def test_mistakes_about_a_layers_name_are_named(answer: Any, named: str) -> None:
    assert named in checks.check_spec(answer).message
    assert checks.check_spec("smollm2-135m[28]").passed


def test_the_picture_says_in_words_what_it_shows_and_takes_the_pages_colour() -> None:
    figure = checks.pifi_block("L_in")
    assert figure.alt.endswith("Lit: L_in.") and f'aria-label="{figure.alt}"' in figure.svg()
    assert "currentColor" in figure.svg() and "LLM layer (frozen)" in figure.alt
    shown = figure._repr_mimebundle_()
    assert f'aria-label="{figure.alt}"' in shown["image/svg+xml"] and shown["text/plain"] == figure.alt
    assert base64.b64decode(shown["image/png"]).startswith(b"\x89PNG")
    with pytest.raises(PifiProbeError, match="no part 'lin'"):
        checks.pifi_block("lin")


def test_a_guess_is_drawn_next_to_what_was_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("IPython.display.display", drawn.append)
    checks.reveal(None, 41.27, "points", ".1f")
    assert capsys.readouterr().out == "your guess: none yet | measured: \u224841.3 points\n" and not drawn
    checks.reveal(20, 40, "points", live=False)
    assert capsys.readouterr().out == "your guess: 20 | measured: 40 points\n"
    (svg,) = (one.data for one in drawn)
    places = [float(x) for x in re.findall(r'circle cx="([\d.]+)"', svg)]
    zero = float(re.findall(r'line x1="([\d.]+)"', svg)[1])
    assert places[0] - zero == pytest.approx((places[1] - zero) / 2, abs=0.2)  # half of what was measured
    assert 'aria-label="Axis in points from zero: your guess 20, measured 40."' in svg


def test_a_guess_in_words_is_printed_and_not_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("IPython.display.display", drawn.append)
    checks.reveal("<b>more</b>", "fewer")
    checks.reveal({"encoder"}, 3, live=False)
    checks.reveal(float("nan"), 3, live=False)
    assert "your guess: <b>more</b> | measured: fewer\n" in capsys.readouterr().out and not drawn


def test_the_argument_over_depth_is_that_of_the_records() -> None:
    found = checks.gains_by_depth()
    assert {part: len(rows) for part, rows in found.items()} == {"states": 30, "probe": 30, "trained": 30, "chain": 3}
    states = found["states"].set_index("last")["gain"]
    assert 12 < states.idxmax() < 22 and states[15] > 2 * states[29]  # the middle knows most
    assert found["trained"]["gain"].max() < 1 and found["probe"]["gain"].abs().max() < 1  # plugged in: flat
    assert found["chain"].set_index("first")["gain"].idxmax() == 8
    figure = checks.depth_figure("trained")
    assert [len(line.get_xdata()) for line in figure.axes[0].lines][:3] == [30, 30, 30]  # and no chain yet
    assert not figure.axes[0].collections
    with pytest.raises(PifiProbeError, match="unknown part"):
        checks.depth_figure("headroom")


def test_a_quiz_says_what_it_is_where_no_script_runs_and_waits_for_mathjax() -> None:
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    had = InteractiveShell.initialized()
    InteractiveShell.instance()
    try:
        with capture_output() as shown:
            checks.quiz("03")
    finally:
        if not had:
            InteractiveShell.clear_instance()
    page, script = (one.data for one in shown.outputs)
    assert "<div" in page["text/html"] and page["text/plain"] == script["text/plain"]
    assert script["text/plain"].startswith("A quiz of ") and "trust the notebook" in script["text/plain"]
    text = script["application/javascript"]
    assert "MathJax.version" in text and "version?.[0] ==" in text and "version[" not in text, "jupyterquiz has changed"


def test_a_missing_quiz_or_record_says_what_to_do(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PifiProbeError, match="no quiz '99'"):
        checks.quiz("99")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PifiProbeError, match="clone of the repository"):
        checks.recorded("benchmarks/results/demo-full.json")


def test_a_recorded_table_comes_with_its_command_and_names_the_keys_it_has(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").touch()
    record = {"command": "make x", "provenance": {"date": "2026-01-02T03:04"}, "n": 3}
    record |= {"rows": [{"arm": "real", "x": 1.5}, {"arm": "twin", "x": None}], "by": {"real": {"x": 1.5}}}
    (tmp_path / "found.json").write_text(json.dumps(record))
    monkeypatch.chdir(tmp_path)
    table = checks.recorded_table("found.json", "rows")
    assert list(table["arm"]) == ["real", "twin"] and table["x"].isna().sum() == 1
    assert table.attrs == {"command": "make x", "date": "2026-01-02"}
    assert checks.recorded_table("found.json", "by").loc["real", "x"] == 1.5
    with pytest.raises(PifiProbeError, match="take one of: command, provenance, n, rows, by"):
        checks.recorded_table("found.json", "row")
    with pytest.raises(PifiProbeError, match="take one of: nothing"):
        checks.recorded_table("found.json", "rows", "real")
    with pytest.raises(PifiProbeError, match="not a table.*name the rows in it: nothing"):
        checks.recorded_table("found.json", "n")


def test_a_record_is_read_in_one_call_and_a_file_that_is_none_is_refused(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "found.json").write_text(json.dumps({"command": "make x", "rows": [{"word": "Ungültig"}]}))
    (tmp_path / "list.json").write_text("[1, 2]")
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert checks.record("found.json") == {"command": "make x", "rows": [{"word": "Ungültig"}]}
    with pytest.raises(PifiProbeError, match="no JSON object.*list.json"):
        checks.record("list.json")
    with pytest.raises(PifiProbeError, match="'lost.json' is not here.*clone of the repository"):
        checks.record("lost.json")


def test_missing_models_say_how_to_pull_them(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIFI_PROBE_OFFLINE", "1")
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    try:
        with pytest.raises(PifiProbeError, match="pifi-probe assets pull minilm-l6"):
            checks.start("00")
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)


# --- 20 -----------------------------------------------------------------------------------------------------------


def _paired(first: Any, second: Any) -> tuple[float, float]:
    d = 100.0 * (first - second)
    return d.mean(), d.std(ddof=1) / len(d) ** 0.5


def _holm(p_values: list[float], level: float) -> list[bool]:
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    found = [False] * len(p_values)
    for rank, place in enumerate(order):
        if p_values[place] > level / (len(p_values) - rank):
            break
        found[place] = True
    return found


def test_a_paired_gain_is_in_points_and_its_error_is_of_the_differences() -> None:
    assert checks.check_paired(_paired).passed
    assert "minus the second" in checks.check_paired(lambda a, b: _paired(b, a)).message
    assert "In points" in checks.check_paired(lambda a, b: tuple(v / 100 for v in _paired(a, b))).message
    apart = checks.check_paired(lambda a, b: (_paired(a, b)[0], 100 * (a.var(ddof=1) + b.var(ddof=1)) ** 0.5 / 20))
    assert "unpaired" in apart.message
    assert "sqrt(n)" in checks.check_paired(lambda a, b: (_paired(a, b)[0], 20 * _paired(a, b)[1])).message


def test_holm_widens_the_bound_step_by_step_and_stops() -> None:
    assert checks.check_found_by_holm(_holm).passed
    assert "below half" in checks.check_found_by_holm(lambda p, level: [one <= level for one in p]).message
    bonferroni = checks.check_found_by_holm(lambda p, level: [one <= level / len(p) for one in p])
    assert "Bonferroni" in bonferroni.message


def test_each_objection_has_its_own_answer() -> None:
    right = {
        "more features": "twins",
        "near copies": "texts unlike the training texts",
        "chosen where tested": "other tasks",
        "read before": "later texts",
    }
    assert checks.check_objections(right).passed
    assert "cannot have been read" in checks.check_objections(right | {"read before": "twins"}).message
    assert "Nothing is said" in checks.check_objections({}).message
    assert checks.check_objections(...).status == "not attempted"


def test_folds_are_joined_over_texts_and_a_text_of_several_folds_counts_once() -> None:
    folds = [
        {
            "info": {"task": "own_file"},
            "correct": {"own_file": {"real": "10"}, "other": {"real": "110"}},
            "texts": {"own_file": "a b", "other": "x y z"},
        },
        {
            "info": {"task": "own_file"},
            "correct": {"own_file": {"real": "11"}, "other": {"real": "001"}},
            "texts": {"own_file": "c d", "other": "y x w"},
        },
    ]
    joined = join_folds("own", folds)
    assert joined["own"]["real"] == [1, 0, 1, 1], "its own test has the name that it was asked by"
    assert joined["other"]["real"] == [0.5, 0.5, 0, 1], "x, y, z, w"
    unnamed = [{"correct": {"real": "10"}}, {"correct": {"real": "01"}}]
    assert join_folds("own", unnamed) == {"own": {"real": [1, 0, 0, 1]}}, "without names each is another text"


def test_recorded_folds_have_every_arm_on_the_same_texts() -> None:
    arms = checks.joined_folds("movie-reviews")["product-reviews"]
    assert set(arms) == {"encoder", "interface", "real", "shuffled", "random"}
    shapes = {shares.shape for shares in arms.values()}
    assert len(shapes) == 1 and 1500 < shapes.pop()[0] < 4500, "one fold has at most 1,500, and they share some"
    with pytest.raises(PifiProbeError, match="fold0-nowhere"):
        checks.joined_folds("nowhere")
