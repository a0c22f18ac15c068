"""Tests of `pp.search` and `pp.Study`, with trials that take no time, and once with tiny models."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.cli import search as cli_search
from pifi_probe.cli.inputs import columns_of
from pifi_probe.errors import CheckpointError, CorruptFileError, PifiProbeError, SearchError, TaskError
from pifi_probe.selection import events
from pifi_probe.selection.conclude import pick
from pifi_probe.selection.evaluate import Parts
from pifi_probe.selection.settings import note_source
from pifi_probe.selection.space import Candidate, Space
from pifi_probe.selection.store import CONFIRM
from pifi_probe.selection.trials import FIDELITIES, Outcome, Trial
from pifi_probe.widgets.request import with_task
from tests import runs, slm
from tests.search_stub import ROOT, SPACE, StubEvaluator

TASK = slm.tiny_task(24)


class Valley(StubEvaluator):
    """Layer 6 is the best by far, with any seed and at any fidelity."""

    def evaluate(self, candidate: Candidate, fidelity: str, seed: int, stop: Callable[[], bool]) -> Outcome:
        found = super().evaluate(candidate, fidelity, seed, stop)
        index = int(candidate.layers[0].rpartition("[")[2][:-1]) if candidate.layers else 0
        noise = 0.002 * ((37 * index + 11 * seed) % 7)
        return replace(found, value=0.5 + 0.01 * abs(index - 6) + 0.05 * (candidate.control is not None) + noise)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Valley:
    evaluator = Valley(seconds=0.0)
    for home in ("search", "study"):
        monkeypatch.setattr(f"pifi_probe.selection.{home}.make_evaluator", lambda *args: evaluator)
    monkeypatch.setattr("pifi_probe.selection.search.make_space", lambda *args: SPACE)
    return evaluator


def search(study: Path | None = None, **options: Any) -> pp.Study:
    return pp.search("slm", "llm", TASK, study=study, **({"strategy": "fast", "budget": "40 trials"} | options))


@pytest.mark.parametrize("strategy", ["auto", "fast", "exhaustive", "halving", "thompson"])
def test_a_strategy_finds_the_best_layer_and_says_how_sure_that_is(stub: Valley, strategy: str) -> None:
    study = search(strategy=strategy, budget="30")
    result = study.result
    assert study.best == Candidate(("llm[6]",)) and result is not None
    assert result.expected_regret is not None and 0 <= result.expected_regret < 0.02
    assert max(result.posterior, key=lambda posterior: posterior.p_best).label == "llm[6]"
    assert sum(posterior.p_best for posterior in result.posterior) == pytest.approx(1.0)
    assert [gain.control for gain in result.gains] == ["vanilla", "linear", "random", "shuffled", "last layer"]
    assert result.confirm_cost > 0 and "to confirm" in result.verdict
    stored = json.loads(json.dumps(result.to_dict()))
    assert stored["label"] == "llm[6]" and stored["answer"] == result.answer
    told = {effect.name for effect in result.effects}
    assert told == {"plugging in", "projections", "twins", "block", "knowledge", "choice"} and not result.missing
    assert result.answer.startswith("Plugging in llm[6] ") and result.verdict.startswith(result.answer)
    lines = result.panel().splitlines()
    assert len(lines) <= 8 and all(len(line) <= 80 for line in lines)
    assert set(result.ladder()["group"]) == {"vanilla", "linear", "twins", "real"}


def test_without_a_layer_effect_the_default_layer_is_chosen_and_confirmed(
    stub: Valley, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flat(self: Valley, candidate: Candidate, fidelity: str, seed: int, stop: Callable[[], bool]) -> Outcome:
        found = StubEvaluator.evaluate(self, candidate, fidelity, seed, stop)
        index = int(candidate.layers[0].rpartition("[")[2][:-1]) if candidate.layers else 0
        return replace(found, value=0.5 + 0.01 * ((7 * index + 5 * seed + index * seed) % 11))

    monkeypatch.setattr(Valley, "evaluate", flat)
    study = search()
    result = study.result
    assert result is not None and result.default
    assert study.best == Candidate(("llm[9]",))
    assert result.details[0] == "no detectable layer effect; using the default layer llm[9]"
    assert result.verdict.startswith(result.answer)
    assert "last layer" not in [gain.control for gain in result.gains]


def test_one_seed_cannot_show_that_layers_do_not_differ(stub: Valley) -> None:
    study = search(n_seeds=1)
    assert study.result is not None and not study.result.default
    chosen, default, words = pick(study._strategy(), [], SPACE)
    assert (chosen, default, words) == (None, False, "")


def test_a_study_is_on_disk_and_read_without_task_or_model(stub: Valley, tmp_path: Path) -> None:
    study = search(tmp_path / "s.db")
    again = pp.Study.open(tmp_path / "s.db")
    assert again.result == study.result
    assert again.leaderboard().equals(study.leaderboard())
    assert [trial.identity for trial in again.trials] == [trial.identity for trial in study.trials]
    with pytest.raises(SearchError, match="without its task"):
        again.estimate()


def test_the_command_shows_the_answer_and_the_rest_when_asked(
    stub: Valley, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search(tmp_path / "s.db")
    assert main(["study", "show", str(tmp_path / "s.db")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 9 and lines[0].startswith("Plugging in llm[6] ") and "--table" in lines[-1]
    assert main(["study", "show", str(tmp_path / "s.db"), "--table"]) == 0
    shown = capsys.readouterr().out
    assert "against vanilla:" in shown and "llm[3]" in shown


def test_an_unconfirmed_choice_says_that_its_gain_is_not_known(stub: Valley) -> None:
    study = search(confirm=False)
    assert study.result is not None and not study.result.effects and study.result.needed() == []
    assert study.result.panel().startswith("Chosen so far: llm[6]; what it gains is not known")
    with pytest.raises(SearchError, match="no ladder yet"):
        study.plot("ladder")


def test_a_paused_study_goes_on_and_finds_what_it_would_have_found(stub: Valley, tmp_path: Path) -> None:
    whole = search(strategy="auto", budget="14")

    def pause(event: events.Event) -> None:
        if isinstance(event, events.Started):
            studies.append(event.study)
        if isinstance(event, events.TrialFinished) and event.trial.number % 7 == 3:
            studies[-1].pause()

    studies: list[pp.Study] = []
    rounds = 0
    while rounds == 0 or not studies[-1].is_over():
        study = search(tmp_path / "s.db", strategy="auto", budget="14", on_event=pause)
        rounds += 1
    assert rounds > 3
    assert {t.identity: t.outcome for t in study.trials} == {t.identity: t.outcome for t in whole.trials}
    assert study.result is not None and whole.result is not None
    assert study.result.posterior == whole.result.posterior


def test_nothing_left_to_do_loads_nothing_and_more_budget_goes_on(stub: Valley, tmp_path: Path) -> None:
    file = tmp_path / "s.db"
    search(file, strategy="exhaustive", budget="12", confirm=False)
    study = pp.Study.open(file)
    assert study.is_over() and not study.is_over("20")
    study.resume()  # no task, and none is needed
    assert len(study.trials) == 12
    study = pp.Study.open(file, task=TASK)
    study.resume(budget="20")
    assert len(study.trials) == 20 and str(study.budget) == "20 C"


def test_a_stopped_study_stays_stopped_until_it_gets_a_new_budget(stub: Valley, tmp_path: Path) -> None:
    def stop(event: events.Event) -> None:
        if isinstance(event, events.Started):
            begun.append(event.study)
        if isinstance(event, events.TrialFinished):
            begun[0].stop()

    begun: list[pp.Study] = []
    study = search(tmp_path / "s.db", on_event=stop)
    assert study.is_over() and study.spent.trials == 1
    study.on_event = None
    study.resume()
    assert study.spent.trials == 1
    study.resume(budget="5 trials")
    assert study.spent.trials == 5


@pytest.mark.parametrize("kind", [events.Started, events.Estimated])
def test_a_stop_before_the_first_trial_is_for_good(stub: Valley, tmp_path: Path, kind: type[events.Event]) -> None:
    def stop(event: events.Event) -> None:
        if isinstance(event, events.Started):
            begun.append(event.study)
        if isinstance(event, kind):
            begun[0].stop()

    begun: list[pp.Study] = []
    study = search(tmp_path / "s.db", on_event=stop)
    assert study.is_over() and study.trials == []
    study.on_event = None
    study.resume()
    assert study.trials == []
    study.resume(budget="2 trials")
    assert study.spent.trials == 2


def test_a_pause_while_nothing_runs_changes_nothing(stub: Valley, tmp_path: Path) -> None:
    study = search(tmp_path / "s.db", budget="2 trials", confirm=False)
    study.pause()
    study.cancel()
    study.resume(budget="4 trials")
    assert study.spent.trials == 4


def test_a_pause_before_the_first_trial_holds_for_this_time_only(stub: Valley, tmp_path: Path) -> None:
    study = search(
        tmp_path / "s.db", budget="2 trials", on_event=lambda e: e.study.pause() if isinstance(e, events.Started) else 0
    )
    assert study.trials == [] and not study.is_over()
    study.on_event = None
    study.resume()
    assert study.spent.trials == 2


def test_one_study_is_not_run_by_two_threads_at_once(stub: Valley) -> None:
    refused: list[SearchError] = []

    def again(event: events.Event) -> None:
        if isinstance(event, events.Started):
            with pytest.raises(SearchError, match="already running") as caught:
                event.study.resume()
            refused.append(caught.value)

    assert search(budget="2 trials", confirm=False, on_event=again).spent.trials == 2
    assert len(refused) == 1


@pytest.mark.parametrize("layers", [(0, 1, 2), (-8, 3, 0)])
def test_the_default_is_a_layer_that_the_search_may_choose(
    stub: Valley, monkeypatch: pytest.MonkeyPatch, layers: tuple[int, ...]
) -> None:
    space = Space(SPACE.models, (layers,))
    monkeypatch.setattr("pifi_probe.selection.search.make_space", lambda *args: space)
    monkeypatch.setattr(Valley, "evaluate", lambda self, candidate, fidelity, seed, stop: flat(candidate, seed))
    result = search(strategy="exhaustive", budget="40").result
    assert result is not None and result.default
    assert result.chosen in space.singles() and result.chosen.layers == (f"llm[{max(i % 10 for i in layers)}]",)
    assert "last layer" in [gain.control for gain in result.gains], "the paper's choice stays the control"


def flat(candidate: Candidate, seed: int) -> Outcome:
    """Return an outcome in which layers do not differ."""
    noise = int(hashlib.sha256(f"{candidate.key} {seed}".encode()).hexdigest()[:4], 16) / 2**20
    correct = "01" * 40
    return Outcome(0.5 + noise, 0.5, 1.0, 0.0, {"label": candidate.label, "tests": {"task": {"correct": correct}}})


def test_a_default_that_cannot_be_run_is_not_chosen(stub: Valley, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Valley, candidate: Candidate, fidelity: str, seed: int, stop: Callable[[], bool]) -> Outcome:
        if candidate.layers == ("llm[9]",):
            raise CheckpointError("a tensor is missing", where="llm[9]")
        return flat(candidate, seed)

    monkeypatch.setattr(Valley, "evaluate", broken)
    result = search(strategy="exhaustive", budget="40").result
    assert result is not None and result.chosen.layers != ("llm[9]",)


@pytest.mark.parametrize("llm", ["a[1] >> b", "a | b", "a >> ", "|", ">>", "", "a[0]", "a[1:3]", "a@", "@b"])
def test_a_donor_that_names_no_model_is_refused(llm: str) -> None:
    with pytest.raises(PifiProbeError):
        pp.search("slm", llm, TASK, study=None)


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"recipe": pp.Recipe(epochs=5)}, "recipe.epochs: 3 there, 5 here"),
        ({"recipe": pp.Recipe(class_weights="balanced")}, "recipe.class_weights: none there, balanced here"),
        ({"wiring": "pifi"}, "wiring: matched there, pifi here"),
        ({"strategy": "auto"}, "strategy.name: fast there, auto here"),
        ({"n_seeds": 2}, "seeds: 3 there, 2 here"),
        ({"tokenizer": "other"}, "tokenizer: '' there, other here"),
    ],
)
def test_a_study_of_another_search_is_refused_with_the_difference(
    stub: Valley, tmp_path: Path, changed: dict[str, Any], shown: str
) -> None:
    search(tmp_path / "s.db", budget="2 trials", confirm=False)
    with pytest.raises(SearchError, match="made with other settings") as caught:
        search(tmp_path / "s.db", **changed)
    assert shown in str(caught.value)
    assert len(pp.Study.open(tmp_path / "s.db").trials) == 2


def test_a_study_of_an_older_version_goes_on_and_one_of_a_newer_version_is_refused(
    stub: Valley, tmp_path: Path
) -> None:
    study = search(tmp_path / "s.db", budget="2 trials", confirm=False)
    settings = study.settings.to_dict()
    old = {name: value for name, value in settings["recipe"].items() if name != "lr_gate"}
    study.store.note("settings", {**settings, "recipe": old})
    assert search(tmp_path / "s.db", budget="3 trials", confirm=False).spent.trials == 3
    assert pp.Study.open(tmp_path / "s.db", task=TASK).settings == study.settings
    weighted = search(tmp_path / "w.db", recipe=pp.Recipe(class_weights="balanced"), budget="2 trials", confirm=False)
    assert pp.Study.open(tmp_path / "w.db", task=TASK).settings == weighted.settings
    with pytest.raises(SearchError, match="lr_gate"):
        search(tmp_path / "s.db", recipe=pp.Recipe(lr_gate=0.5))
    for newer in ({"speed": 3}, {"recipe": settings["recipe"] | {"warmup": 5}}):
        study.store.note("settings", {**settings, **newer})
        with pytest.raises(SearchError, match=r"newer version, with settings unknown here: (speed|recipe\.warmup)"):
            pp.Study.open(tmp_path / "s.db")
    study.store.note("settings", {"slm": "x"})
    with pytest.raises(CheckpointError, match="settings of the study are damaged"):
        pp.Study.open(tmp_path / "s.db")


def test_trials_of_other_weights_under_the_same_names_are_not_mixed(
    stub: Valley, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {"encoder slm": "sha256:1", "donor llm": "sha256:2"}
    monkeypatch.setattr(Valley, "check", lambda self: dict(weights))
    search(tmp_path / "s.db", budget="2 trials", confirm=False)
    weights["donor llm"] = "sha256:3"
    with pytest.raises(SearchError, match=r"other weights under the same name: donor llm \(sha256:2 there, sha256:3"):
        search(tmp_path / "s.db", budget="4 trials", confirm=False)
    study = pp.Study.open(tmp_path / "s.db", task=TASK)
    with pytest.raises(SearchError, match="other weights"):
        study.resume(budget="4 trials")
    assert len(study.trials) == 2
    weights["donor llm"] = "sha256:2"  # as the error says
    assert search(tmp_path / "s.db", budget="4 trials", confirm=False).spent.trials == 4
    study.store.note("weights", None)  # of a version that noted none
    assert search(tmp_path / "s.db", budget="5 trials", confirm=False).spent.trials == 5


def test_what_a_study_checks_changes_with_every_file_that_its_numbers_come_from(tmp_path: Path) -> None:
    models = runs.Parts(tmp_path)

    def load() -> dict[str, str]:
        return Parts(TASK, str(models.slm), (str(models.llm),), "pifi", runs.RECIPE).load()

    before = load()
    assert load() == before and len(before) == 3
    changed = []
    for name in ("slm/model.safetensors", "slm/tokenizer.json", "llm/model.safetensors", "llm/config.json"):
        raw = (tmp_path / name).read_bytes()
        if name.endswith("safetensors"):
            half = len(raw) // 2  # the last tensor may be one that is not used
            other = raw[:half] + bytes([raw[half] ^ 1]) + raw[half + 1 :]
        else:
            other = raw.replace(b"[MASK]", b"[MAXK]").replace(b'"rms_norm_eps": 1e-06', b'"rms_norm_eps": 1e-05')
        assert other != raw
        (tmp_path / name).write_bytes(other)
        now = load()
        changed.append([key.split()[0] for key in before if now[key] != before[key]])
        (tmp_path / name).write_bytes(raw)
    assert changed == [["encoder"], ["tokenizer"], ["donor"], ["donor"]]


@pytest.mark.parametrize(
    "source",
    [
        "words.csv",
        ["words.csv"],
        {},
        {"name_or_path": 3},
        {"name_or_path": None},
        {"name_or_path": ""},
        {"name_or_path": "a\0b"},
        {"name_or_path": "x\x1b[2J"},
        {"name_or_path": "words.csv", "text": ["a"]},
        {"name_or_path": "words.csv", "validation": "/etc/passwd"},
        {"name_or_path": "words.csv", "revision": "main"},
        {"name_or_path": "words.csv", "self": "x"},
        {"name_or_path": "w" * 5000},
    ],
)
def test_a_study_that_names_no_task_is_refused_before_anything_is_loaded(
    stub: Valley, tmp_path: Path, source: Any
) -> None:
    study = search(tmp_path / "s.db", budget="2 trials", confirm=False)
    study.store.note("source", source)
    for use in (
        lambda: study.source,
        study.to_code,
        lambda: with_task(study),
        lambda: cli_search.load(tmp_path / "s.db"),
    ):
        with pytest.raises(CorruptFileError, match="altered or damaged") as caught:
            use()
        assert "Study.open(study, task=...)" in caught.value.next and "\x1b" not in str(caught.value)
    assert with_task(study, TASK).resume(budget="2 trials") is not None  # as the error says


@pytest.mark.parametrize("n_train", [-1, "3", 1.5, True, [3], {"a": 1}])
def test_a_number_of_texts_that_is_none_is_refused(stub: Valley, tmp_path: Path, n_train: Any) -> None:
    study = search(tmp_path / "s.db", budget="2 trials", confirm=False)
    note_source(study.store, "movie-reviews")
    study.store.note("n_train", n_train)
    with pytest.raises(CorruptFileError, match="altered or damaged"):
        cli_search.load(tmp_path / "s.db")


def test_a_study_reads_its_texts_again_as_the_command_line_said(stub: Valley, tmp_path: Path) -> None:
    rows = [f"Satz {n},{'laut;froh' if n % 2 else 'leise'}" for n in range(40)]
    file = tmp_path / "worte.csv"
    file.write_text("\n".join(["text,worte", *rows]), encoding="utf-8")
    study = search(tmp_path / "s.db", budget="2 trials", confirm=False)
    said = columns_of(text="text", label="worte", kind="multi-label", language="de")
    note_source(study.store, str(file), **said)
    again = cli_search.load(tmp_path / "s.db")
    assert (again.kind, again.language, again.label_names) == ("multi-label", "de", ("froh", "laut", "leise"))


def test_a_tokenizer_is_given_by_name_and_part_of_the_search(stub: Valley, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="cannot remember a ") as caught:
        search(tokenizer=slm.tiny_tokenizer())
    assert "give the folder" in caught.value.next
    slm.tiny_tokenizer().save_pretrained(tmp_path / "words")  # as the error says
    study = search(tmp_path / "s.db", tokenizer=tmp_path / "words", budget="2 trials", confirm=False)
    assert pp.Study.open(tmp_path / "s.db").settings.tokenizer == study.settings.tokenizer == str(tmp_path / "words")


def test_every_part_of_a_search_uses_the_tokenizer_that_is_given(tmp_path: Path) -> None:
    models = runs.Parts(tmp_path)
    other = slm.tiny_tokenizer()
    other.model_max_length = 77
    other.save_pretrained(tmp_path / "other")
    for file in Path(models.slm).glob("*token*"):
        file.unlink()
    parts = pickle.loads(
        pickle.dumps(Parts(TASK, str(models.slm), (str(models.llm),), "matched", runs.RECIPE, str(tmp_path / "other")))
    )
    assert parts.tokenizer.model_max_length == 77
    assert parts.model(Candidate((f"{models.llm}[0]",)), 0).tokenizer.model_max_length == 77
    assert len(parts.vectors[0].h) and parts.load()


def test_a_study_of_another_task_is_refused(stub: Valley, tmp_path: Path) -> None:
    search(tmp_path / "s.db", budget="2 trials", confirm=False)
    with pytest.raises(SearchError, match=r"task.fingerprint: \w+\.* there, \w+\.* here"):
        pp.Study.open(tmp_path / "s.db", task=slm.tiny_task(16))


def test_a_study_with_trials_is_refused_when_a_new_one_is_asked_for(stub: Valley, tmp_path: Path) -> None:
    search(tmp_path / "s.db", budget="2 trials", confirm=False)
    with pytest.raises(SearchError, match="already holds 2 trials"):
        search(tmp_path / "s.db", resume=False)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strategy": "clever"}, "unknown strategy"),
        ({"budget": "much"}, "is not a budget"),
        ({"executor": "cloud"}, "unknown executor"),
        ({"workers": 0}, "0 workers"),
        ({"wiring": "own"}, "unknown wiring"),
        ({"n_seeds": 0}, "n_seeds=0"),
        ({"options": {"speed": 3}}, "unknown options: speed"),
    ],
)
def test_a_bad_argument_is_said_in_one_line(stub: Valley, options: dict[str, Any], says: str) -> None:
    with pytest.raises(SearchError, match=says) as caught:
        search(**options)
    assert "\n" not in str(caught.value)


def test_another_thread_that_joins_makes_no_run_twice(stub: Valley, tmp_path: Path) -> None:
    search(tmp_path / "s.db", budget="1 trials", confirm=False)
    studies = [pp.Study.open(tmp_path / "s.db", task=TASK) for _ in range(2)]
    threads = [threading.Thread(target=study.resume, kwargs={"budget": "30 trials"}) for study in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    identities = [trial.identity for trial in studies[0].trials]
    assert len(identities) == len(set(identities)) == 30


def test_time_and_memory_are_told_before_the_first_trial(stub: Valley) -> None:
    seen: list[events.Event] = []
    search(on_event=seen.append)
    kinds = [type(event) for event in seen]
    assert kinds.index(events.Started) < kinds.index(events.Estimated) < kinds.index(events.TrialStarted)
    (told,) = [event for event in seen if isinstance(event, events.Estimated)]
    assert "a full run takes about" in str(told.estimate) and "GiB" in str(told.estimate)


@pytest.mark.parametrize("kind", ["depth", "regret", "fidelities", "pareto"])
def test_every_plot_is_drawn(stub: Valley, kind: str) -> None:
    figure = search(strategy="auto", budget="14").plot(kind)
    assert figure.axes and all(axes.get_xlabel() for axes in figure.axes)


def test_a_plot_of_nothing_and_an_unknown_one_are_refused(stub: Valley) -> None:
    study = search()
    with pytest.raises(SearchError, match="unknown plot 'pie'"):
        study.plot("pie")
    with pytest.raises(SearchError, match="at two fidelities"):
        study.plot("fidelities")


def test_the_word_rung_of_versions_before_is_read_and_written_in_studies_and_told_of_in_calls(
    stub: Valley, tmp_path: Path
) -> None:
    recorded = shutil.copy(ROOT / "book" / "_studies" / "search" / "movie-reviews.db", tmp_path / "old.db")
    assert {trial.fidelity for trial in pp.Study.open(recorded).trials} >= {"frozen", "full"}
    search(tmp_path / "new.db", budget="2 trials", confirm=False)
    for file in ("old.db", "new.db"):
        (name,) = optuna.get_all_study_names(f"sqlite:///{tmp_path / file}")
        trials = optuna.load_study(study_name=name, storage=f"sqlite:///{tmp_path / file}").trials
        assert trials and all(trial.params["rung"] in FIDELITIES for trial in trials), file
    study = search(strategy="auto", budget="14")
    with pytest.warns(DeprecationWarning, match='plot="rungs" is called "fidelities" now'):
        assert study.plot("rungs").axes


def test_the_leaderboard_begins_with_the_highest_fidelity_and_the_lowest_nll(stub: Valley) -> None:
    board = search(strategy="auto", budget="14").leaderboard()
    selected = board[board["phase"] == "select"]
    assert selected.iloc[0]["fidelity"] == "full" and set(selected["fidelity"]) == {"frozen", "full"}
    frozen = selected[selected["fidelity"] == "frozen"]
    assert list(frozen["nll"]) == sorted(frozen["nll"]) and len(frozen) == 10


def test_the_page_shows_text_never_markup(stub: Valley, monkeypatch: pytest.MonkeyPatch) -> None:
    study = search()
    assert "llm[6]" in study._repr_html_() and "llm[6]" in repr(study)
    assert repr(study.best) == "llm[6]", "what a cell shows that ends in `study.best`"
    monkeypatch.setattr(type(study.result), "verdict", "<script>")
    assert "<script>" not in study._repr_html_()


def test_a_task_that_has_no_class_a_row_is_refused() -> None:
    task = replace(TASK, kind="regression", label_names=()) if TASK.kind == "single" else TASK
    with pytest.raises(TaskError, match="one class a row"):
        from pifi_probe.selection.evaluate import Parts

        Parts(task, "slm", ("llm",), "matched", pp.Recipe())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[pp.Study, Path]:
    """A real search on tiny models, whose texts lie in a file."""
    folder = tmp_path_factory.mktemp("search")
    models = runs.Parts(folder)
    rows = [
        f"the {slm.WORDS[8 + n % 4]} was {slm.WORDS[n % 8]} {n},{'good' if n % 8 < 4 else 'bad'}" for n in range(80)
    ]
    (folder / "words.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    source = {"name_or_path": str(folder / "words.csv")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIFI_PROBE_CACHE", str(folder / "cache"))
        study = pp.search(
            str(models.slm),
            str(models.llm),
            pp.load_task(**source),
            strategy="exhaustive",
            n_seeds=2,
            budget="6",
            recipe=runs.RECIPE.replace(epochs=1),
            study=folder / "s.db",
        )
        study.store.note("source", source)
        yield study, folder


@pytest.mark.slow
def test_full_runs_of_the_choice_and_its_controls_are_compared(made: tuple[pp.Study, Path]) -> None:
    study, _ = made
    confirmed = [record for record in study.store.records() if record.phase == CONFIRM]
    assert {record.trial.seed for record in confirmed} == {1000, 1001}
    assert "vanilla" in str(study.compare())
    result = study.result
    assert result is not None and result.confirm_fidelity == "full" and not result.failed


@pytest.mark.slow
def test_an_export_holds_checkpoint_card_report_trials_and_script(made: tuple[pp.Study, Path]) -> None:
    study, folder = made
    out = study.export(folder / "winner")
    card = (out / "model" / "README.md").read_text(encoding="utf-8")
    assert card.count("## How this layer was found") == 1 and "strategy exhaustive" in card
    assert study.result is not None
    first = card.index("> Plugging in ")
    assert card.index("\n# ") < first < card.index("## Donor"), "the answer is the first thing below the title"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page and page.index("The answer") < page.index("How sure the choice is")
    record = json.loads((out / "search.json").read_text(encoding="utf-8"))
    assert record["settings"]["budget"] == "6 C" and len(record["trials"]) >= 3
    model = pp.PiFiForSequenceClassification.from_pretrained(out / "model")
    assert model.config.num_labels == 2
    study.export(folder / "winner")
    assert (out / "model" / "README.md").read_text(encoding="utf-8") == card


@pytest.mark.slow
def test_a_study_is_exported_to_onnx_from_the_command_line(
    made: tuple[pp.Study, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    study, _ = made
    assert main(["export", str(study.store.address), "--out", str(tmp_path / "deployed"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] < 1e-4
    assert (tmp_path / "deployed" / "model.onnx").stat().st_size > 1000


@pytest.mark.slow
def test_the_script_trains_the_choice_as_the_export_did(made: tuple[pp.Study, Path], tmp_path: Path) -> None:
    study, folder = made
    out = study.export(folder / "winner")
    (tmp_path / "train.py").write_text(study.to_code(), encoding="utf-8")
    ended = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    ours, theirs = (json.loads((at / "result.json").read_text()) for at in (tmp_path / "winner", out))
    assert ours["tests"] == theirs["tests"]


def test_a_choice_before_any_trial_is_refused(stub: Valley) -> None:
    def leave(event: events.Event) -> None:
        if isinstance(event, events.Started):
            event.study.pause()

    study = search(on_event=leave)
    assert study.best is None and study.result is None
    with pytest.raises(SearchError, match="nothing was chosen yet"):
        study.to_code()
    assert isinstance(study.trials, list) and not [t for t in study.trials if isinstance(t, Trial) and t.outcome]
