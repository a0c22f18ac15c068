"""An aligned chain starts as its encoder alone, keeps what was fitted, and is saved and trained as any other model."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors

import pifi_probe as pp
from pifi_probe.alignment.chain import chain_features
from pifi_probe.alignment.interface import Interface
from pifi_probe.alignment.tokens import token_states
from pifi_probe.cli import main
from pifi_probe.errors import PlugInError
from pifi_probe.plugin.aligned import AlignedPlugIn
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from tests import kinds, slm

TASK = slm.tiny_task(60)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIFI_PROBE_FEATURES", str(tmp_path / "features"))
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(slm.tiny_slm_folder(tmp_path_factory.mktemp("slm")))


def build(bert: str, llm: str, **options: Any) -> PiFiForSequenceClassification:
    layer = options.pop("layer", f"{llm}[1:3]")
    return pp.plug_in(bert, layer, task=options.pop("task", TASK), wiring="aligned", **options)


def plugin_of(model: Any) -> AlignedPlugIn:
    assert isinstance(model.plugin, AlignedPlugIn)
    return model.plugin


def disturb(model: Any) -> Any:
    """Let the chain speak, as after training."""
    plugin = plugin_of(model)
    with torch.no_grad():
        if plugin.read == "beside":
            plugin.L_out.weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(0))
        else:
            plugin.gates.fill_(0.5)
    return model


def batch(side: str = "right") -> dict[str, torch.Tensor]:
    texts = ["the film was good", "the plot was very very awful and sad not happy", "good", ""]
    return dict(slm.tiny_tokenizer(side)(texts, padding=True, return_tensors="pt"))


@pytest.mark.parametrize("read", ["beside", "back"])
@pytest.mark.parametrize("control", [None, "linear", "shuffled", "random", "unfrozen", "mlp"])
def test_step_zero_is_plain_fine_tuning_bit_for_bit(bert: str, llm: str, read: str, control: str | None):
    model = build(bert, llm, read=read, control=control, seed=3)
    vanilla = build(bert, llm, control="vanilla", seed=3)
    assert torch.equal(slm.logits(model), slm.logits(vanilla))
    assert not torch.equal(slm.logits(disturb(model)), slm.logits(vanilla))


@pytest.mark.parametrize("read", ["beside", "back"])
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "gpt2"])
def test_left_and_right_padding_give_equal_logits(family: str, read: str, bert: str, llm: str):
    model = disturb(build(bert, llm, read=read))
    model.encoder = slm.tiny_slm(family)
    with torch.no_grad():
        left, right = (model(**batch(side)).logits for side in ("left", "right"))
    assert torch.allclose(left, right, atol=1e-3)


def test_a_text_reads_the_same_in_a_batch_as_alone(bert: str, llm: str):
    model = disturb(build(bert, llm))
    texts = ["the film was good", "the plot was very very awful and sad not happy"]
    assert torch.allclose(slm.logits(model, texts)[:1], slm.logits(model, texts[:1]), atol=1e-4)


def test_the_model_reads_what_the_frozen_evaluation_reads(bert: str, llm: str):
    model = build(bert, llm)
    plugin, texts = plugin_of(model), list(TASK.splits["test"].texts[:9])
    coded = slm.tiny_tokenizer()(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = plugin.features(model.encode_deeply(coded["input_ids"], coded["attention_mask"]))
    interface = Interface(plugin.L_in.weight, plugin.L_in.bias, plugin.first, float(plugin.scale_in), 0.0, 1)
    states = token_states(model.encoder, slm.tiny_tokenizer(), texts)
    np.testing.assert_allclose(found.numpy(), chain_features(states, interface, model.frozen_layers), atol=1e-3)


def test_the_alignment_sees_no_label_and_no_test_text(bert: str, llm: str):
    train, test = TASK.splits["train"], TASK.splits["test"]
    other = {
        **TASK.splits,
        "train": replace(train, labels=tuple(1 - label for label in train.labels)),
        "test": replace(test, texts=tuple(f"{text} film" for text in test.texts)),
    }
    first, second = (build(bert, llm, task=task).config.aligned for task in (TASK, replace(TASK, splits=other)))
    assert first["digest"] == second["digest"]
    assert first["interface"]["saw"]["labels"] == "none" and first["interface"]["saw"]["texts of tests"] == "none"


def test_what_was_fitted_stays_unless_it_is_to_be_trained(bert: str, llm: str, tmp_path: Path):
    recipe = pp.Recipe(epochs=1, batch_size=16, learning_rate=1e-2)
    for trained in (False, True):
        model = build(bert, llm, train_projections=trained)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        pp.fine_tune(model, TASK, recipe, out=tmp_path / str(trained))
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert ("plugin.L_in.weight" in changed) == trained and ("plugin.first" in changed) == trained
        assert "plugin.L_out.weight" in changed and not any("plugin.layers" in name for name in changed)


@pytest.mark.parametrize("save_layer", [True, False])
@pytest.mark.parametrize("read", ["beside", "back"])
def test_a_model_comes_back_from_its_folder_as_it_was(bert: str, llm: str, read: str, save_layer: bool, tmp_path: Path):
    model = disturb(build(bert, llm, read=read, save_layer=save_layer))
    model.save_pretrained(tmp_path / "model")
    again = PiFiForSequenceClassification.from_pretrained(tmp_path / "model", allow_external=True)
    assert torch.equal(slm.logits(again), slm.logits(model))
    assert not plugin_of(again).L_in.weight.requires_grad and again.config.aligned == model.config.aligned


def test_the_controls_keep_the_interface_and_change_the_layers_alone(bert: str, llm: str):
    real, twin = build(bert, llm), build(bert, llm, control="shuffled")
    assert twin.config.aligned["digest"] == real.config.aligned["digest"]
    assert [layer.card.variant for layer in twin.frozen_layers] == ["shuffled", "shuffled"]
    own = build(bert, llm, control="shuffled", own_interface=True)
    assert own.config.aligned["digest"] != real.config.aligned["digest"]
    assert build(bert, llm, control="linear").frozen_layers == []


def test_one_layer_is_a_chain_too_and_a_model_alone_gets_the_chain_of_its_headroom(bert: str, llm: str):
    assert len(build(bert, llm, layer=f"{llm}[2]").frozen_layers) == 1
    found = pp.headroom(bert, llm, TASK, progress=False)
    indices = [layer.card.index for layer in build(bert, llm, layer=llm).frozen_layers]
    assert indices == list(range(found.span[0], found.span[1] + 1))


def test_where_the_donor_adds_nothing_that_is_said_before_any_training(
    bert: str, llm: str, caplog: pytest.LogCaptureFixture
):
    found = pp.headroom(bert, llm, TASK, progress=False)
    for low in (1.0, -1.0):
        caplog.clear()
        assert replace(found, low=low).suggested() == found.span
        assert ("Nothing to gain can be seen" in caplog.text) == (low < 0)


def test_the_suggested_chain_is_measured_with_the_tokenizer_that_is_given(llm: str):
    model = pp.plug_in(slm.tiny_slm("bert"), llm, task=TASK, wiring="aligned", tokenizer=slm.tiny_tokenizer())
    found = pp.headroom(slm.tiny_slm("bert"), llm, TASK, tokenizer=slm.tiny_tokenizer(), progress=False)
    assert [layer.card.index for layer in model.frozen_layers] == list(range(found.span[0], found.span[1] + 1))


def test_a_donor_alone_is_refused_where_no_headroom_can_be_measured(bert: str, llm: str):
    with pytest.raises(PlugInError, match="name the chain"):
        build(bert, llm, layer=llm, task=kinds.task_of("token-classification"))


def test_features_are_standardised_over_all_parts_of_a_split_that_is_sorted(
    bert: str, llm: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pifi_probe.plugin.aligning.N_STANDARD", 20)
    train = TASK.splits["train"]
    by_class = train.take(sorted(range(len(train)), key=lambda row: train.labels[row]))
    model = build(bert, llm, task=replace(TASK, splits={**TASK.splits, "train": by_class}))
    plugin = plugin_of(model)
    coded = slm.tiny_tokenizer()(list(by_class.texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        z = plugin.features(model.encode_deeply(coded["input_ids"], coded["attention_mask"]))
    z = (z - plugin.center) * (plugin.spread > 0) / z.std(0).clamp_min(1e-6)
    labels = torch.tensor(by_class.labels)
    first, second = (z[labels == label].mean(0) for label in (0, 1))
    assert 0.5 < float(first.norm() / second.norm()) < 2, "the centre lies between the classes"


def test_texts_without_a_token_stay_numbers(llm: str, tmp_path: Path):
    bare = slm.tiny_tokenizer()
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
    slm.tiny_slm("gpt2").save_pretrained(tmp_path / "decoder")
    bare.save_pretrained(tmp_path / "decoder")
    train = TASK.splits["train"]
    task = replace(TASK, splits={**TASK.splits, "train": replace(train, texts=("", *train.texts[1:]))})
    for read in ("beside", "back"):
        model = disturb(pp.plug_in(str(tmp_path / "decoder"), f"{llm}[1:3]", task=task, wiring="aligned", read=read))
        assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
        empty = torch.zeros(1, 4, dtype=torch.long)
        with torch.no_grad():
            tokens = model.encode_deeply(torch.ones_like(empty), empty)
            said = plugin_of(model).beside(tokens) if read == "beside" else plugin_of(model).back(tokens)
        assert bool(torch.isfinite(said).all()), "a row of padding alone, too"


def test_other_tokenizers_and_pairs_make_other_interfaces(bert: str, llm: str, tmp_path: Path):
    own = tmp_path / "donor"
    shutil.copytree(llm, own)
    first = build(bert, str(own)).config.aligned["digest"]
    file = own / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"good"', '"gooood"'), encoding="utf-8")
    assert build(bert, str(own)).config.aligned["digest"] != first
    pairs = kinds.task_of("pair")
    lines = {
        name: replace(part, texts=tuple(map("\n".join, zip(part.texts, part.pairs or (), strict=True))), pairs=None)
        for name, part in pairs.splits.items()
    }
    single = replace(pairs, kind="single", splits=lines)
    digests = [build(bert, llm, task=task).config.aligned["digest"] for task in (pairs, single)]
    assert digests[0] != digests[1], "two texts are not one text of two lines"


def test_a_readout_by_stacking_does_not_harm_and_helps_where_the_chain_knows_more(bert: str, llm: str):
    model = build(bert, llm)
    recipe = pp.Recipe(epochs=2, batch_size=16, learning_rate=1e-3)
    pp.fine_tune(model, TASK, recipe)
    with torch.no_grad():
        plugin_of(model).L_out.weight.zero_()
        plugin_of(model).L_out.bias.zero_()
    weights = model.fit_readout(TASK)
    assert weights["head"] >= 0 and weights["chain"] >= 0
    texts, labels = TASK.splits["test"].texts, torch.tensor(TASK.splits["test"].labels)
    assert (slm.logits(model, texts).argmax(1) == labels).float().mean() > 0.9  # the words alone decide


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multiple-choice", "qa", "token-classification", "regression", "pair", "seq2seq"])
def test_every_kind_of_head_takes_a_chain(kind: str, bert: str, llm: str):
    task = kinds.task_of(kind)
    model = pp.plug_in(bert, f"{llm}[1:3]", task=task, wiring="aligned")
    vanilla = pp.plug_in(bert, None, task=task, wiring="aligned", control="vanilla")
    for one in (model, vanilla):
        result = pp.fine_tune(one, task, pp.Recipe(epochs=1, batch_size=8))
        assert result.metrics


def test_an_arm_is_named_by_what_it_is(bert: str, llm: str):
    from pifi_probe.training.describe import describe_model

    said = describe_model(build(bert, llm, read="back"))
    assert said["label"] == f"aligned: {llm}[1] >> {llm}[2] (read=back)"
    assert said["interface"]["entry"] == 1 and 0 < said["interface"]["r2"] <= 1
    assert describe_model(build(bert, llm, control="linear"))["label"] == "aligned: linear"


def test_a_diagnosis_finds_nothing_wrong_with_its_dimensions(bert: str, llm: str):
    checks = {check.name: check for check in pp.diagnose(build(bert, llm), task=TASK).checks}
    assert checks["dimensions"].status == "ok" and checks["branch and skip"].status != "skipped"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer": "{llm}[1] | {llm}[2]"}, "one chain"),
        ({"layer": "{llm}[0] >> {llm}[2]"}, "one chain"),
        ({"layer": "{llm}[2] >> {llm}[1]"}, "one chain"),
        ({"feed": "pooled"}, "does not go with an aligned chain"),
        ({"read": "aside"}, "is not possible"),
        ({"layer": None}, "no layer was given"),
    ],
)
def test_what_is_no_aligned_chain_is_refused(options: dict[str, Any], words: str, bert: str, llm: str):
    if options.get("layer"):
        options = options | {"layer": options["layer"].format(llm=llm)}
    with pytest.raises(PlugInError, match=words):
        build(bert, llm, **options)


def test_options_of_aligned_chains_are_refused_elsewhere(bert: str, llm: str):
    with pytest.raises(PlugInError, match="are for aligned chains"):
        pp.plug_in(bert, f"{llm}[1]", task=TASK, read="back")


def test_the_command_trains_an_aligned_chain(bert: str, llm: str, tmp_path: Path):
    rows = TASK.splits["train"]
    lines = [f"{text},{('bad', 'good')[label]}" for text, label in zip(rows.texts, rows.labels, strict=True)]
    file = tmp_path / "words.csv"
    file.write_text("text,label\n" + "\n".join(lines), encoding="utf-8")
    args = ["train", "--task", str(file), "--slm", bert, "--layer", f"{llm}[1:3]", "--wiring", "aligned"]
    assert main([*args, "--epochs", "1", "-o", str(tmp_path / "run")]) == 0
    result = pp.RunResult.from_json(tmp_path / "run" / "result.json")
    assert result.label.startswith("aligned: ")


class _Asked(Exception):
    pass


@pytest.mark.parametrize(("wiring", "layer"), [("pifi", "smollm2-135m[-1]"), ("aligned", "smollm2-135m")])
def test_the_command_has_a_layer_where_none_is_named(wiring: str, layer: str, monkeypatch: pytest.MonkeyPatch):
    def asked(slm: str, given: str, **_: Any) -> None:
        raise _Asked(given)

    monkeypatch.setattr(pp, "plug_in", asked)
    monkeypatch.setattr("pifi_probe.cli.runs.load_task", lambda *_: TASK)
    with pytest.raises(_Asked, match=re.escape(layer) + "$"):
        main(["train", "--task", "x", "--wiring", wiring, "-o", "never"])


def test_a_question_about_a_donor_is_asked_of_the_chain_that_headroom_suggests(
    llm: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def asked(slm: str, donor: str, task: pp.Task, **_: Any) -> Any:
        raise _Asked(donor)

    monkeypatch.setattr("pifi_probe.plugin.build.headroom", asked)
    monkeypatch.setattr("pifi_probe.cli.runs.load_task", lambda *_: TASK)
    with pytest.raises(_Asked, match=re.escape(llm)):
        pp.decide("x", llm, TASK, wiring="aligned", out=tmp_path)
    arms = ["train", "--task", "x", "--layer", llm, "--wiring", "aligned", "--arms", "all", "-o", str(tmp_path)]
    with pytest.raises(_Asked, match=re.escape(llm)):
        main(arms)
