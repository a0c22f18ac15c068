"""A plugged model: what is trained, what is frozen, and what its modes mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments, pipeline

import pifi_probe as pp
from pifi_probe.encoders import pool
from pifi_probe.errors import CheckpointError, FrozenLayerError, LicenceError, PlugInError
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin import PlugIn
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.plugin.pooling import resolved_pooling
from tests import slm, tiny


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_checkpoint("llama", tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def layer(llm: Path) -> FrozenLayer:
    made = pp.extract(f"{llm}[1]")
    assert isinstance(made, FrozenLayer)
    return made


def batch(side: str = "right") -> dict[str, torch.Tensor]:
    texts = ["the film was good", "the plot was very very awful and sad not happy", "good"]
    return dict(slm.tiny_tokenizer(side)(texts, padding=True, return_tensors="pt"))


def build(bert: Path, layer: FrozenLayer, **options: object) -> PiFiForSequenceClassification:
    if options.get("scale") == "matched" or options.get("wiring") == "matched":
        options.setdefault("target_rms", 2.0)
    return pp.plug_in(str(bert), layer, task=slm.tiny_task(), **options)


@pytest.mark.parametrize("family", slm.ENCODERS + slm.DECODERS)
@pytest.mark.parametrize("how", ["cls", "mean", "last"])
def test_left_and_right_padding_give_equal_logits(family: str, how: str, bert: Path, layer: FrozenLayer) -> None:
    model = build(bert, layer, pooling=how)
    model.encoder = slm.tiny_slm(family)
    model.config.pooling = resolved_pooling(how, model.encoder.config, None).how
    batches = [batch("left"), batch("right")]
    if family == "mpnet":  # its padding id is 1, whatever the configuration says
        for data in batches:
            ids = data["input_ids"]
            data["input_ids"] = torch.where(ids < 2, 1 - ids, ids)
    with torch.no_grad():
        left, right = (model(**data).logits for data in batches)
    assert torch.allclose(left, right, atol=1e-5)


@pytest.mark.parametrize("family", slm.ENCODERS + slm.DECODERS)
@pytest.mark.parametrize("feed", ["pooled", "sequence"])
def test_gradients_reach_encoder_projections_and_head_but_not_the_layer(
    family: str, feed: str, tmp_path: Path, layer: FrozenLayer
) -> None:
    folder = slm.tiny_slm_folder(tmp_path, family)
    model = build(folder, layer, feed=feed).train()
    model(**batch(), labels=torch.tensor([1, 0, 1])).loss.backward()
    assert isinstance(model.plugin, PlugIn)
    for part in (model.plugin.L_in, model.plugin.L_out, model.head, model.encoder):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    assert all(p.grad is None and not p.requires_grad for p in model.plugin.layers.parameters())


def test_a_frozen_layer_stays_frozen_under_trainer(bert: Path, layer: FrozenLayer, tmp_path: Path) -> None:
    model = build(bert, layer)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = batch()
    rows = [{**{key: value[i] for key, value in data.items()}, "labels": torch.tensor(i % 2)} for i in range(3)]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=3, learning_rate=1e-2, report_to=[], use_cpu=True, disable_tqdm=True
    )
    Trainer(model, arguments, train_dataset=rows).train()
    changed = {
        name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed == {"encoder", "plugin", "head"}
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items() if n.startswith("plugin.layers"))


def test_a_layer_that_became_trainable_is_an_error_not_a_silent_change(bert: Path, layer: FrozenLayer) -> None:
    model = build(bert, layer)
    model.requires_grad_(True)
    with pytest.raises(FrozenLayerError, match="trainable"):
        model(**batch())
    model.freeze_layers()
    model(**batch())


def test_step_zero_with_a_bypass_is_plain_fine_tuning(bert: Path, layer: FrozenLayer) -> None:
    plugged, vanilla = (
        build(bert, layer, wiring="matched"),
        build(bert, layer, wiring="matched", control="vanilla"),
    )
    with torch.no_grad():
        assert torch.equal(plugged(**batch()).logits, vanilla(**batch()).logits)


def test_matched_scale_gives_the_layer_its_own_input_scale(bert: Path, layer: FrozenLayer) -> None:
    model = build(bert, layer, wiring="matched", target_rms=3.0)
    task = slm.tiny_task()
    data = slm.tiny_tokenizer()(list(task.splits["train"].texts), padding=True, return_tensors="pt")
    states, mask = model.encode(data["input_ids"], data["attention_mask"])
    h = pool(states, mask, model.config.pooling)
    assert isinstance(model.plugin, PlugIn)
    x = model.plugin.scale_in * model.plugin.L_in(h)
    y = model.plugin.scale_out * model.plugin.core(x[:, None], None)
    assert float(x.square().mean().sqrt()) == pytest.approx(3.0, rel=0.05)
    assert float(y.square().mean() / h.square().mean()) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("kind", ["pair", "multiple-choice"])
def test_the_scale_is_matched_on_what_training_reads(kind: str, bert: Path, layer: FrozenLayer) -> None:
    task = slm.tiny_task(n=8)
    factors = []
    for second in ("good", "the music was very very sad"):
        splits = {}
        for name, split in task.splits.items():
            seconds = (second,) * len(split)
            items = tuple((one, "bad") for one in seconds)
            splits[name] = replace(split, pairs=seconds) if kind == "pair" else replace(split, items=items)
        made = replace(task, kind=kind, splits=splits, label_names=task.label_names if kind == "pair" else ())
        plugin = pp.plug_in(str(bert), layer, task=made, wiring="matched", target_rms=2.0).plugin
        factors.append(float(plugin.scale_in))
    assert factors[0] != factors[1]


def test_a_task_without_training_texts_matches_no_scale(bert: Path, layer: FrozenLayer) -> None:
    task = slm.tiny_task()
    tested = replace(task, splits={"test": task.splits["test"]})
    with pytest.raises(PlugInError, match="no train split.*task 'words'.*next: "):
        pp.plug_in(str(bert), layer, task=tested, wiring="matched")
    assert pp.plug_in(str(bert), layer, task=tested).config.scale == "none"


def test_arms_with_one_seed_share_head_and_projections(bert: Path, layer: FrozenLayer) -> None:
    arms = [build(bert, layer, control=control, seed=3) for control in (None, "linear", "random", "shuffled", "mlp")]
    for arm in arms[1:]:
        assert torch.equal(arm.head[0].weight, arms[0].head[0].weight)
        assert torch.equal(arm.plugin.L_in.weight, arms[0].plugin.L_in.weight)
    other = build(bert, layer, seed=4)
    assert not torch.equal(other.head[0].weight, arms[0].head[0].weight)


def test_the_paper_wiring_is_the_full_layer_called_on_one_token(bert: Path, layer: FrozenLayer) -> None:
    model = build(bert, layer)
    with torch.no_grad():
        states, mask = model.encode(batch()["input_ids"], batch()["attention_mask"])
        h = states[:, 0]
        expected = model.head(model.plugin.L_out(layer(model.plugin.L_in(h)[:, None])[:, 0]))
        assert torch.allclose(model(**batch()).logits, expected, atol=1e-5)


def test_the_shuffled_control_keeps_each_tensors_values_and_the_random_one_its_spread(
    layer: FrozenLayer,
) -> None:
    from pifi_probe.layers.variants import make_variant

    real = dict(layer.tensors())
    shuffled = dict(make_variant(layer, "shuffled", single_token=False).tensors())
    random = dict(make_variant(layer, "random", single_token=False).tensors())
    for name, tensor in real.items():
        assert torch.equal(shuffled[name].flatten().sort().values, tensor.flatten().sort().values)
        if tensor.dim() > 1:
            assert not torch.equal(shuffled[name], tensor)
            assert float(random[name].std()) == pytest.approx(float(tensor.std()), rel=0.15)


def test_the_unfrozen_control_trains_the_layer(bert: Path, layer: FrozenLayer) -> None:
    model = build(bert, layer, control="unfrozen").train()
    model(**batch(), labels=torch.tensor([1, 0, 1])).loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.plugin.layers.parameters())


@pytest.mark.parametrize("mask", ["causal", "bidirectional", "none"])
def test_each_mask_lets_a_token_see_what_its_name_says(mask: str, bert: Path, layer: FrozenLayer) -> None:
    plugin = build(bert, layer, feed="sequence", mask=mask).plugin
    assert plugin is not None
    h = torch.randn(1, 6, slm.WIDTH, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[1, 1, 1, 1, 0, 0]])
    with torch.no_grad():
        base = plugin(h, tokens)
        later, padding = h.clone(), h.clone()
        later[0, 3] += 1.0
        padding[0, 5] += 1.0
        sees_later = not torch.allclose(plugin(later, tokens)[0, 0], base[0, 0], atol=1e-6)
        sees_padding = not torch.allclose(plugin(padding, tokens)[0, 0], base[0, 0], atol=1e-6)
    assert (sees_later, sees_padding) == {
        "causal": (False, False),
        "bidirectional": (True, False),
        "none": (True, True),
    }[mask]


@pytest.mark.parametrize("options", [{}, {"feed": "sequence"}, {"wiring": "matched"}, {"control": "random"}])
@pytest.mark.parametrize("save_layer", [True, False])
def test_a_saved_model_comes_back_equal(
    options: dict[str, str], save_layer: bool, bert: Path, layer: FrozenLayer, tmp_path: Path
) -> None:
    model = build(bert, layer, save_layer=save_layer, **options)
    torch.nn.init.normal_(model.plugin.L_out.weight)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path, allow_external=not save_layer)
    assert type(again) is PiFiForSequenceClassification
    assert all(layer.frozen for layer in again.frozen_layers)
    with torch.no_grad():
        assert torch.equal(again(**batch()).logits, model(**batch()).logits)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert (size > model.frozen_layers[0].nbytes + 4 * sum(p.numel() for p in model.encoder.parameters())) == save_layer


def test_a_reference_to_a_layer_that_changed_is_refused(bert: Path, tmp_path: Path) -> None:
    llm = tiny.tiny_checkpoint("llama", tmp_path / "llm")
    model = pp.plug_in(str(bert), f"{llm}[0]", task=slm.tiny_task(), save_layer=False)
    model.save_pretrained(tmp_path / "saved")
    tiny.tiny_model("llama", seed=1).save_pretrained(llm)
    with pytest.raises(CheckpointError, match="sha256"):
        PiFiForSequenceClassification.from_pretrained(tmp_path / "saved", allow_external=True)


def test_the_text_classification_pipeline_works_with_label_names(
    bert: Path, layer: FrozenLayer, tmp_path: Path
) -> None:
    build(bert, layer).save_pretrained(tmp_path)
    slm.tiny_tokenizer().save_pretrained(tmp_path)
    answer = pipeline("text-classification", model=str(tmp_path), device="cpu")("the film was good")
    assert answer[0]["label"] in ("bad", "good")


def test_the_model_card_names_donor_licence_and_modes(bert: Path, layer: FrozenLayer, tmp_path: Path) -> None:
    model = build(bert, layer.with_card(licence="apache-2.0"))
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card and model.config.layers[0]["card"]["sha256"] in card
    assert "| wiring | pifi |" in card


@pytest.mark.parametrize("state", [{"licence": None}, {"licence": "llama3.1", "gated": True}])
def test_weights_of_unknown_or_gated_licence_are_not_uploaded(state: dict[str, object], bert: Path, llm: Path) -> None:
    donor = pp.extract(f"{llm}[1]")
    assert isinstance(donor, FrozenLayer)
    model = build(bert, donor.with_card(**state))
    with pytest.raises(LicenceError, match="licence"):
        model.push_to_hub("me/model")
    with pytest.raises(LicenceError, match="licence"):
        model.fold().push_to_hub("me/model")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("wiring", "papr"),
        ("control", "none"),
        ("feed", "all"),
        ("mask", "full"),
        ("scale", "big"),
        ("pooling", "max"),
    ],
)
def test_an_unknown_mode_is_named_with_the_valid_ones(option: str, value: str, bert: Path, layer: FrozenLayer) -> None:
    with pytest.raises(PlugInError, match=f"unknown {option}.*next: use"):
        build(bert, layer, **{option: value})


def test_layers_in_series_are_called_one_after_the_other(bert: Path, llm: Path) -> None:
    first, second = pp.extract(f"{llm}[0]"), pp.extract(f"{llm}[1]")
    chained = pp.plug_in(str(bert), first >> second, task=slm.tiny_task())
    ranged = pp.plug_in(str(bert), f"{llm}[0:2]", task=slm.tiny_task())
    assert chained.config.layer_specs == f"{llm}[0] >> {llm}[1]"
    with torch.no_grad():
        assert torch.equal(chained(**batch()).logits, ranged(**batch()).logits)
        x = torch.randn(2, 1, first.hidden_size)
        assert torch.allclose(chained.plugin.core(x, None), second(first(x)), atol=1e-5)
