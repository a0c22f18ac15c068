"""Tags of the user on runs, comparisons and studies: kept, added to, shown, filtered by, and checked."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import CorruptFileError, PifiProbeError, RunInterrupted
from pifi_probe.experiments.crew import Crew
from pifi_probe.selection.study import Study
from pifi_probe.tags import LONGEST, tags_of, with_tags
from pifi_probe.training import fine_tune
from tests import slm, tiny
from tests.runs import RECIPE, TASK, Parts, made_up


class Stop(TrainerCallback):
    """Interrupts a run, as Ctrl-C does, after so many steps."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 4:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(
    "wrong", ["", " ", "a ", "a\nb", "a\x1b[2J", "a\u202eb", "a,b", "x" * (LONGEST + 1), 7, ["good", None]]
)
def test_a_tag_is_one_short_line_and_others_are_refused_before_any_work(wrong: Any) -> None:
    for refused in (
        lambda: tags_of(wrong),
        lambda: made_up().tagged(*(wrong if isinstance(wrong, list) else [wrong])),
        lambda: pp.compare([made_up(control="vanilla")], tags=wrong),
        lambda: pp.search("nothing", "nothing", TASK, tags=wrong, study=None),
        lambda: fine_tune(None, TASK, RECIPE, tags=wrong),  # type: ignore[arg-type]
    ):
        with pytest.raises(PifiProbeError, match=r"is not a tag: .*next: give words of at most 60") as found:
            refused()
        assert str(found.value).isprintable()


def test_tags_keep_their_order_and_are_there_once() -> None:
    assert tags_of("one") == ("one",) and tags_of(["b", "größe 2", "b"]) == ("b", "größe 2")
    assert with_tags(["b", 3, "\x07"], ["a", "b"]) == ("b", "a"), "what a file holds that is not a tag is left out"
    with pytest.raises(PifiProbeError, match="51 tags are too many.*at most 50"):
        tags_of(map(str, range(51)))


def test_a_result_keeps_its_tags_on_disk_and_they_are_no_part_of_what_it_is(tmp_path: Path) -> None:
    plain = made_up()
    run = plain.tagged("paper", "first try").tagged("paper")
    again = pp.RunResult.from_json(run.to_json(tmp_path / "result.json") and tmp_path / "result.json")
    assert again == run and again.tags == ("paper", "first try") and again.key == plain.key
    assert run.to_dict()["tags"] == ["paper", "first try"] and "paper, first try" in run._repr_html_()
    older = {name: value for name, value in run.to_dict().items() if name != "tags"}
    assert pp.RunResult.from_dict(older).tags == ()
    with pytest.raises(CorruptFileError, match="tags holds something that is not a tag"):
        pp.RunResult.from_json(json.dumps(run.to_dict() | {"tags": ["\x1b[2J"]}))


def test_a_run_that_goes_on_or_has_ended_gets_further_tags_and_loses_none(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "parts")
    options: dict[str, Any] = {"out": tmp_path / "run", "resume": True}
    with pytest.raises(RunInterrupted):
        fine_tune(parts.model(), TASK, RECIPE, tags="begun", callbacks=[Stop()], **options)
    assert fine_tune(parts.model(), TASK, RECIPE, tags=["ended"], **options).tags == ("begun", "ended")
    assert fine_tune(parts.model(), TASK, RECIPE, tags=["later", "begun"], **options).tags[2:] == ("later",)
    stored = fine_tune(parts.model(), TASK, RECIPE, **options)
    assert stored.tags == ("begun", "ended", "later") == pp.RunResult.from_json(tmp_path / "run" / "result.json").tags


def test_a_comparison_has_its_own_tags_and_those_that_all_runs_share() -> None:
    runs = [made_up(control=control).tagged("all", control or "real") for control in (None, "vanilla")]
    found = pp.compare(runs, tags=["of the table"])
    assert found.tags == ("of the table", "all") and "tags: of the table, all" in found.size
    by_arm = found.frame.set_index("arm")["tags"]
    assert by_arm.to_dict() == {run.label: ", ".join(run.tags) for run in runs}
    assert found.frame[by_arm.str.contains("vanilla").to_numpy()]["arm"].to_list() == [runs[1].label]
    assert "tags: of the table, all" in found._repr_html_() and found.to_dict()["tags"] == ["of the table", "all"]


def test_compare_on_the_command_line_takes_only_runs_with_a_tag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for number, control in enumerate((None, "vanilla", "linear")):
        files.append(str(tmp_path / f"{number}.json"))
        made_up(control=control).tagged(*(["kept"] if number < 2 else ["other"])).to_json(files[-1])
    assert main(["compare", *files, "--tagged", "kept", "--tag", "new", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["rows"]) == 2 and shown["tags"] == ["new", "kept"]
    assert main(["compare", *files, "--tagged", "missing"]) == 2
    assert "their tags: kept, other" in " ".join(capsys.readouterr().err.split())


def test_arms_of_one_command_get_its_tags_made_now_or_before(tmp_path: Path) -> None:
    def make(file: Path, arm: Any, *args: Any) -> pp.RunResult:
        return pp.RunResult.from_json(file) if file.is_file() else made_up(control=arm.control)

    crew = Crew(tmp_path, "slm", None, TASK, RECIPE, "pifi", tags=("one",), make=make)  # type: ignore[arg-type]
    assert crew.run("vanilla", 0).tags == ("one",)
    assert replace(crew, tags=("two",)).run("vanilla", 0).tags == ("one", "two")
    assert pp.RunResult.from_json(crew.file("vanilla", 0)).tags == ("one", "two")


def test_a_study_keeps_its_tags_and_a_search_that_goes_on_adds_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Study, "resume", lambda self, **options: None)
    donor, encoder = tiny.tiny_checkpoint("llama", tmp_path / "llm"), slm.tiny_slm_folder(tmp_path / "slm")
    file = tmp_path / "s.db"
    for tags, wanted in ((["paper"], ("paper",)), ("night", ("paper", "night")), ((), ("paper", "night"))):
        study = pp.search(str(encoder), str(donor), TASK, study=file, tags=tags)
        assert study.tags == wanted == Study.open(file).tags
    assert "tags paper, night" in repr(study) and "tags: paper, night" in study._repr_html_()
    assert main(["study", "show", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tags"] == ["paper", "night"]
