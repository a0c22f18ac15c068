"""The paper's experiments as data: read, run, resumed, and set next to what the paper reports."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import CorruptFileError, RecipeError, TaskError
from pifi_probe.experiments import extras, reproduce, runner
from pifi_probe.experiments.findings import Finding, finding_of
from pifi_probe.experiments.plan import Claim, experiments, load_experiment
from pifi_probe.experiments.runner import Runs
from pifi_probe.experiments.whole import WholeModel
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin.build import tokenizer_for
from pifi_probe.tasks import EMBEDDED, HUB_TASKS, Task
from pifi_probe.training import RunResult
from tests import kinds, slm, tiny

RECIPE = {"learning_rate": 1e-3, "batch_size": 8, "epochs": 1, "max_tokens": 32, "device": "cpu"}
NAMES = {
    "base-vs-instruct", "decoder-as-slm", "domain-shift", "frozen-vs-tuned", "hard-benchmarks", "language-alignment",
    "layer-position", "llm-size", "main-nlu", "multi-layer", "nlg",
}  # fmt: skip


def rows_of(task: Task) -> list[dict[str, Any]]:
    rows = []
    for name, split in task.splits.items():
        for text, label in zip(split.texts, split.labels, strict=True):
            rows.append({"text": text, "label": task.label_names[label], "split": name})
    return rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny encoder, a tiny language model with the same tokenizer, and two files of texts."""
    folder = tmp_path_factory.mktemp("world")
    slm.tiny_slm_folder(folder / "bert")
    words = len(slm.WORDS) + len(slm.SPECIAL)
    tiny.tiny_checkpoint("llama", folder / "llm", vocab_size=words)
    slm.tiny_tokenizer().save_pretrained(folder / "llm")
    (folder / "data").mkdir()
    for name in ("words", "others"):
        task = slm.tiny_task(24 if name == "words" else 32, name)
        lines = "\n".join(json.dumps(row) for row in rows_of(task))
        with gzip.open(folder / "data" / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.write(lines)
    return folder


def plan(world: Path, path: Path, **changes: Any) -> str:
    """Write an experiment on the tiny models and return its path."""
    values: dict[str, Any] = {
        "title": "Does it work?",
        "arms": {"vanilla": {"control": "vanilla"}, "pifi": {"layer": "last"}},
        "claims": [{"says": "it helps", "arm": "pifi", "against": "vanilla", "value": 2.3, "source": "table 1"}],
        "scales": {
            "small": {
                "stands_for": "tiny models",
                "layers": {"last": f"{world / 'llm'}[-1]"},
                "blocks": {"one": {"slm": str(world / "bert"), "task": {"file": "words.jsonl.gz", "split": "split"}}},
                "seeds": 2,
                "recipe": RECIPE,
                "sizes": {"test": 16},
            }
        },
    }
    path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("finished")
    name = plan(world, folder / "mine.yaml")
    pp.reproduce(name, out=folder / "out", data=world / "data")
    return name, folder / "out"


def test_every_experiment_of_the_paper_is_there_and_names_only_what_exists() -> None:
    assert set(experiments()) == NAMES
    for name in experiments():
        experiment = load_experiment(name)
        assert set(experiment.scales) == {"small", "paper"}
        for scale in experiment.scales.values():
            assert scale.stands_for and experiment.claims_at(scale)
            for block in scale.blocks.values():
                for task in (block.task, *block.also):
                    assert task in {*EMBEDDED, *HUB_TASKS} if isinstance(task, str) else "file" in task
        assert set(experiment.extras) <= set(extras.EXTRAS)
        assert all(claim.value is None or claim.source for claim in experiment.claims)


def test_a_claim_belongs_to_the_scales_that_have_its_arms_and_tests() -> None:
    alignment = load_experiment("language-alignment")
    arms = {scale: {claim.arm for claim in alignment.claims_at(alignment.scale(scale))} for scale in ("small", "paper")}
    assert arms["small"] == {"multilingual"} and "korean" in arms["paper"]
    shift = load_experiment("domain-shift")
    assert [claim.test for claim in shift.claims_at(shift.scale("paper"))] == ["cr"]


def test_an_experiment_says_what_the_paper_reports_and_what_was_measured(finished: tuple[str, Path]) -> None:
    record = json.loads((finished[1] / "summary.json").read_text(encoding="utf-8"))
    (finding,) = record["findings"]
    assert finding["paper"] == 2.3 and finding["source"] == "table 1" and finding["unit"] == "points"
    assert finding["low"] <= finding["measured"] <= finding["high"]
    runs = [RunResult.from_json(file) for file in sorted((finished[1] / "runs").glob("*/result.json"))]
    accuracy = {run.model["control"]: 0.0 for run in runs}
    for run in runs:
        accuracy[run.model["control"]] += 100 * run.tests[run.task["name"]].metrics["accuracy"] / 2
    assert finding["measured"] == pytest.approx(accuracy[None] - accuracy["vanilla"])
    assert record["answers"]["one"].startswith("Plugging in ")
    for page in ("summary.md", "summary.html"):
        text = (finished[1] / page).read_text(encoding="utf-8")
        assert "+2.30 points" in text and "tiny models" in text and finding["verdict"] in text
        assert text.index("Plugging in ") < text.index("tiny models"), "the answer stands first"


def test_a_finished_experiment_trains_nothing_again(
    finished: tuple[str, Path], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "fine_tune", lambda *args, **kwargs: pytest.fail("trained again"))
    seen: list[tuple[int, int]] = []
    found = pp.reproduce(
        finished[0], out=finished[1], data=world / "data", on_run=lambda done, total, run: seen.append((done, total))
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert "it helps" in str(found) and "<table>" in found._repr_html_() and len(found.frame) == 1


def test_with_fewer_labels_an_experiment_runs_again_in_folders_below(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[int, Path]] = []

    def run(experiment: object, scale: str, size: Any, folder: Path, data: object, on_run: object) -> SimpleNamespace:
        ran.append((size.sizes["train"], folder))
        return SimpleNamespace(fewer={})

    monkeypatch.setattr("pifi_probe.experiments.reproduce._run", run)
    found = pp.reproduce("layer-position", out=tmp_path, fractions=[0.5, 100])
    whole = ran[0][0]
    assert ran[1:] == [(n, tmp_path / f"labels-{n}") for n in (whole // 2, 100)] and set(found.fewer) == {
        100,
        whole // 2,
    }
    ran.clear()
    with pytest.raises(TaskError, match="labelled texts were asked for"):
        pp.reproduce("layer-position", out=tmp_path, fractions=[whole + 1])
    assert not ran  # refused before anything runs


def test_an_aligned_chain_is_an_arm_like_others_with_fewer_labels_too(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {
        "stands_for": "tiny models",
        "layers": {"middle": f"{world / 'llm'}[1:3]"},
        "blocks": {"one": {"slm": str(world / "bert"), "task": {"file": "words.jsonl.gz", "split": "split"}}},
        "seeds": 1,
        "recipe": RECIPE,
        "sizes": {"train": 16, "test": 16},
    }
    chain = {"layer": "middle", "wiring": "aligned"}
    arms = {"vanilla": {"control": "vanilla"}, "chain": chain, "twin": chain | {"control": "shuffled"}}
    claims = [{"says": "it helps", "arm": "chain", "against": "vanilla"}]
    name = plan(world, tmp_path / "chain.yaml", arms=arms, claims=claims, scales={"small": small})
    found = pp.reproduce(name, out=tmp_path / "out", data=world / "data", fractions=[8])
    monkeypatch.setattr(runner, "fine_tune", None)  # the second time nothing is trained
    again = pp.reproduce(name, out=tmp_path / "out", data=world / "data", fractions=[8])
    for first, second, n in ((found, again, 16), (found.fewer[8], again.fewer[8], 8)):
        (run,), (twin,) = first.runs.results["one"]["chain"], first.runs.results["one"]["twin"]
        assert run.model["wiring"] == twin.model["wiring"] == "aligned" and run.task["sizes"]["train"] == n
        assert run.model["layers"] != twin.model["layers"] or run.layer_digests != twin.layer_digests
        assert second.findings == first.findings


def test_an_interrupted_experiment_goes_on_with_the_runs_that_are_missing(
    finished: tuple[str, Path], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = finished[1] / "runs" / "one-pifi-seed1" / "result.json"
    before = RunResult.from_json(removed)
    removed.unlink()
    trained: list[int] = []
    own = runner.fine_tune
    monkeypatch.setattr(runner, "fine_tune", lambda *args, **more: trained.append(1) or own(*args, **more))  # type: ignore[func-returns-value]
    pp.reproduce(finished[0], out=finished[1], data=world / "data")
    assert trained == [1] and RunResult.from_json(removed).metrics == before.metrics


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("scales", "small", "recipe", "epochs"), 2, "recipe.epochs: 1 there, 2 here"),
        (("scales", "small", "recipe", "learning_rate"), 0.5, "recipe.learning_rate"),
        (("scales", "small", "sizes", "test"), 14, "task"),
        (("scales", "small", "layers", "last"), "LLM[0]", "layer 1 index: "),
        (("scales", "small", "layers", "last"), "LLM[0] | LLM[1]", "layers: 1 there, 2 here"),
        (("arms", "pifi", "wiring"), "matched", "wiring: 'pifi' there, 'matched' here"),
        (("arms", "pifi", "control"), "random", "control: None there, 'random' here"),
        (("arms", "vanilla", "wiring"), "matched", "wiring"),
        (("arms", "vanilla", "tuned"), True, "tuned: False there, True here"),
        (("arms", "vanilla"), {"layer": "last", "control": "linear"}, "control: 'vanilla' there, 'linear' here"),
        (("scales", "small", "blocks", "one", "also"), [{"file": "others.jsonl.gz", "split": "split"}], "tests"),
    ],
    ids=str,
)
def test_a_changed_plan_never_returns_old_numbers_and_what_differs_is_named(
    finished: tuple[str, Path], world: Path, tmp_path: Path, place: tuple[str, ...], value: Any, named: str
) -> None:
    values = yaml.safe_load(Path(finished[0]).read_text(encoding="utf-8"))
    *path, last = place
    target = values
    for step in path:
        target = target[step]
    target[last] = value.replace("LLM", str(world / "llm")) if isinstance(value, str) else value
    other = tmp_path / "mine.yaml"
    other.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(RecipeError, match="the folder holds another run") as caught:
        pp.reproduce(str(other), out=finished[1], data=world / "data")
    assert named in str(caught.value)


def test_a_layer_of_one_name_with_other_weights_is_another_run(
    finished: tuple[str, Path], world: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(finished[1], tmp_path / "out")
    file = out / "runs" / "one-pifi-seed0" / "result.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    values["model"]["layers"][0]["sha256"] = "0" * 64
    file.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(RecipeError, match="layer 1 sha256: '0000"):
        pp.reproduce(finished[0], out=out, data=world / "data")


def test_a_part_whose_file_is_missing_is_left_out_and_named(world: Path, tmp_path: Path) -> None:
    small = yaml.safe_load(Path(plan(world, tmp_path / "a.yaml")).read_text(encoding="utf-8"))["scales"]["small"]
    small["seeds"] = 1
    small["blocks"]["absent"] = {"slm": str(world / "bert"), "task": {"file": "absent.jsonl.gz"}}
    claims = [
        {"says": "all", "arm": "pifi", "against": "vanilla"},
        {"says": "absent", "arm": "pifi", "against": "vanilla", "blocks": ["absent"]},
    ]
    name = plan(world, tmp_path / "b.yaml", scales={"small": small}, claims=claims)
    found = pp.reproduce(name, out=tmp_path / "out", data=world / "data")
    assert list(found.runs.skipped) == ["absent"] and "absent.jsonl.gz" in found.runs.skipped["absent"]
    assert found.findings[0].measured is not None
    assert found.findings[1].measured is None and "absent" in found.findings[1].verdict
    with pytest.raises(RecipeError, match="no part"):
        pp.reproduce(name, out=tmp_path / "none")


@pytest.mark.slow
def test_a_tuned_layer_is_put_back_into_its_language_model(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "load_task", lambda name: slm.tiny_task())
    arms = {"vanilla": {"control": "vanilla"}, "tuned": {"layer": "last", "control": "unfrozen"}}
    claims = [{"says": "tuning helps", "arm": "tuned", "against": "vanilla"}]
    name = plan(world, tmp_path / "a.yaml", arms=arms, claims=claims, extras=["forgetting", "tokenizer fertility"])
    found = pp.reproduce(name, out=tmp_path / "out", data=world / "data")
    (row,) = found.extras["forgetting"]
    assert (
        row["arm"] == "tuned" and row["seeds"] == 2 and row["low"] <= row["change with the tuned layer"] <= row["high"]
    )
    assert row["change with the tuned layer"] != 0.0
    encoder, donor = found.extras["tokenizer fertility"]
    assert encoder["tokens per 100 characters"] == donor["tokens per 100 characters"] > 0
    assert "Forgetting" in (tmp_path / "out" / "summary.html").read_text(encoding="utf-8")


def whole(world: Path) -> WholeModel:
    return WholeModel(AutoModelForCausalLM.from_pretrained(world / "llm").eval(), slm.tiny_tokenizer())


def test_the_loss_of_a_language_model_is_that_of_transformers_and_comes_back_with_its_layer(world: Path) -> None:
    llm, texts = whole(world), slm.tiny_task().splits["test"].texts[:3]
    losses = llm.text_losses(texts)
    for text, loss in zip(texts, losses, strict=True):
        ids = llm.tokenizer(text, return_tensors="pt")["input_ids"]
        assert loss == pytest.approx(float(llm.model(input_ids=ids, labels=ids).loss.detach()), rel=1e-5)
    layer = pp.extract(f"{world / 'llm'}[1]")
    assert isinstance(layer, FrozenLayer)
    with llm.with_layer(layer):
        np.testing.assert_allclose(llm.text_losses(texts), losses, rtol=1e-6)
    layer.unfreeze()
    with torch.no_grad():
        next(iter(layer.block.parameters())).mul_(2.0)
    with llm.with_layer(layer):
        assert not np.allclose(llm.text_losses(texts), losses)
    np.testing.assert_allclose(llm.text_losses(texts), losses, rtol=1e-6)


def test_a_language_model_alone_is_asked_for_the_letter_of_its_choice(world: Path, tmp_path: Path) -> None:
    task = kinds.task_of("multiple-choice")
    scale = load_experiment(plan(world, tmp_path / "a.yaml")).scales["small"]
    runs = Runs({}, {"one": task}, {})
    context = extras.Context(load_experiment("hard-benchmarks"), scale, runs, tmp_path)
    (row,) = extras.EXTRAS["chance and the LLM alone"](context)
    sizes = [len(choices) for choices in task.splits["test"].items or ()]
    assert row["who"] == "guessing" and row["accuracy"] == pytest.approx(sum(1 / n for n in sizes) / len(sizes))
    file = tmp_path / "alone.json"
    correct = extras._answers(file, str(world / "llm"), task, task.splits["test"])
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert kept["fingerprint"] == task.fingerprint and kept["correct"] == correct.tolist()
    assert set(correct) <= {0.0, 1.0} and len(correct) == len(task.splits["test"])


def difference(measured: dict[str, tuple[float, float]], **options: Any) -> Finding:
    """Return the finding of a claim about blocks in which arm and baseline are right so often."""
    results: dict[str, dict[str, list[Any]]] = {}
    for block, (own, other) in measured.items():
        results[block] = {name: [Stub(share, seed) for seed in range(3)] for name, share in (("a", own), ("b", other))}
    return finding_of(Claim("says", "a", "b", **options), Runs(results, {}, {}))


class Stub:
    """A run whose test has 400 examples, a share of which is right."""

    def __init__(self, share: float, seed: int) -> None:
        correct = np.zeros(400)
        correct[: round(400 * share)] = 1.0
        self.tests = {"test": self}
        self.score_names = ["accuracy"]
        self.correct = np.roll(correct, seed)
        self.seed = seed

    def per_example(self, metric: str) -> np.ndarray[Any, Any]:
        return self.correct


def test_runs_of_a_claim_are_paired_by_their_seeds_and_not_by_their_places() -> None:
    arms = {"a": [Stub(0.8, seed) for seed in (0, 1, 2)], "b": [Stub(0.7, seed) for seed in (0, 1, 2)]}
    moved = {"a": arms["a"], "b": arms["b"][::-1]}
    found, same = (finding_of(Claim("says", "a", "b"), Runs({"one": own}, {}, {})) for own in (arms, moved))
    assert (found.low, found.high) == (same.low, same.high)
    fewer = {"a": arms["a"][1:], "b": arms["b"]}  # the first run of one arm is missing
    assert finding_of(Claim("says", "a", "b"), Runs({"one": fewer}, {}, {})).measured == pytest.approx(10.0)


def test_similar_is_judged_by_two_one_sided_tests() -> None:
    found = difference({"one": (0.72, 0.70)})
    assert found.high is not None and found.high > 2 > found.low > 0
    within = difference({"one": (0.72, 0.70)}, expects="similar", margin=0.99 * found.high)
    assert within.verdict.startswith("holds here: within"), "the limits of 90 % are nearer than those of 95 %"
    assert difference({"one": (0.72, 0.70)}, expects="similar", margin=2.0).verdict.startswith("open")


def test_a_difference_of_differences_takes_one_block_off_another() -> None:
    found = difference({"ko": (0.80, 0.70), "en": (0.90, 0.86)}, blocks=("ko",), minus=("en",))
    assert found.measured == pytest.approx(6.0)
    plain = difference({"ko": (0.80, 0.70)})
    assert found.low is not None and plain.low is not None and plain.high is not None and found.high is not None
    assert found.high - found.low > plain.high - plain.low
    assert difference({"ko": (0.80, 0.70), "en": (0.90, 0.86)}).measured == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("shares", "options", "words"),
    [
        ((0.80, 0.70), {}, "holds here"),
        ((0.70, 0.80), {}, "the opposite"),
        ((0.70, 0.70), {}, "includes zero"),
        ((0.70, 0.70), {"expects": "similar", "margin": 1.0}, "holds here: within 1"),
        ((0.80, 0.60), {"expects": "similar", "margin": 1.0}, "further apart than 1"),
    ],
)
def test_a_verdict_follows_from_the_interval(shares: tuple[float, float], options: dict[str, Any], words: str) -> None:
    assert words in difference({"one": shares}, **options).verdict


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"claims": [{"says": "x", "arm": "nobody", "against": "vanilla"}]}, "nobody"),
        ({"claims": [{"says": "x", "arm": "pifi", "against": "vanilla", "blocks": ["nowhere"]}]}, "nowhere"),
        ({"claims": [{"says": "x", "arm": "pifi", "against": "vanilla", "expects": "worse"}]}, "expects one of"),
        ({"arms": {"vanilla": {"control": "vanilla"}, "pifi": {"layer": "unknown"}}}, "unknown"),
        ({"arms": {"vanilla": {"colour": "blue"}}}, "colour"),
        ({"scales": {"small": {"wheels": 4, "blocks": {}}}}, "wheels"),
        ({"scales": 3}, "not an experiment"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused_in_one_line(
    changes: dict[str, Any], words: str, world: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        load_experiment(plan(world, tmp_path / "bad.yaml", **changes))
    assert "\n" not in str(caught.value)


def test_an_unknown_name_or_scale_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="layer-position"):
        pp.reproduce("layer-positon")
    with pytest.raises(RecipeError, match="small or paper"):
        pp.reproduce("layer-position", "huge")


def test_the_command_lists_and_runs_experiments(
    finished: tuple[str, Path], world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "list", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == NAMES
    call = ["reproduce", finished[0], "--out", str(finished[1]), "--data", str(world / "data")]
    assert main([*call, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"][0]["says"] == "it helps"
    assert main(call) == 0
    assert "[4/4]" in capsys.readouterr().out
    assert main(["reproduce", "layer-positon"]) == 2


def test_groups_of_a_file_can_be_kept_and_held_out(world: Path, tmp_path: Path) -> None:
    task = kinds.task_of("multiple-choice", n=60)
    split = task.splits["train"]
    assert split.items is not None
    lines = [
        json.dumps({"question": text, "options": list(items), "label": label, "exam": "abc"[row % 3]})
        for row, (text, items, label) in enumerate(zip(split.texts, split.items, split.labels, strict=True))
    ]
    (tmp_path / "exams.jsonl").write_text("\n".join(lines), encoding="utf-8")
    scale = load_experiment(plan(world, tmp_path / "a.yaml")).scales["small"]
    source = {"file": "exams.jsonl", "group": "exam", "only": ["a", "b"], "held_out": ["b"]}
    found = runner.task_of(source, scale, tmp_path)
    assert set(found.splits["test"].groups or ()) == {"b"} and set(found.splits["train"].groups or ()) == {"a"}


def test_a_reproduction_without_a_folder_lies_under_runs(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "run_blocks", lambda *args, **kwargs: Runs({}, {}, {}))
    found = pp.reproduce(plan(world, tmp_path / "mine.yaml"))
    assert found.folder == Path("runs/mine-small") and (found.folder / "summary.json").is_file()


@pytest.mark.slow
@pytest.mark.assets
def test_a_decoder_from_a_gguf_file_can_be_the_small_model() -> None:
    model = pp.plug_in("smollm2-135m", task=slm.tiny_task(), control="vanilla")
    ids = tokenizer_for(model)("a film", return_tensors="pt")["input_ids"]
    assert torch.isfinite(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).all()
    assert model.encoder.config.num_hidden_layers == 30


def test_one_seed_decides_nothing_about_seeds(finished: tuple[str, Path]) -> None:
    record = json.loads((finished[1] / "summary.json").read_text(encoding="utf-8"))
    assert "nothing about seed noise" in record["findings"][0]["verdict"]  # two seeds
    assert "seed noise" not in difference({"one": (0.8, 0.7)}).verdict  # three


def test_label_priors_name_test_set_and_shares(finished: tuple[str, Path], world: Path, tmp_path: Path) -> None:
    found = pp.reproduce(finished[0], out=finished[1], data=world / "data")
    context = extras.Context(found.experiment, found.experiment.scale("small"), found.runs, found.folder)
    (row,) = extras.EXTRAS["label priors"](context)
    assert row["block"] == "one" and row["test"] == "words"
    assert "good 50.0%" in row["shares in training"] and row["accuracy of the class frequent in training"] == 0.5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"before": [1.0]}',
        '{"before": [1.0], "after": [1.0, 2.0]}',
        '{"before": [], "after": []}',
        '{"before": ["1"], "after": [1.0]}',
        '{"before": [1.0], "after": [NaN]}',
        '{"before": 1.0, "after": 2.0}',
        '{"before": [[1.0]], "after": [[1.0]]}',
    ],
)
def test_losses_on_plain_text_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "forgetting.json"
    file.write_text('{"before": [1.0, 2.0], "after": [1.5, 2.5]}', encoding="utf-8")
    assert extras._read_forgetting(file).after == [1.5, 2.5]
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CorruptFileError):
        extras._read_forgetting(file)
