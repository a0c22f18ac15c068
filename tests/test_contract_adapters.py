"""Adapters of peft: head and projections are trained and saved with them, a frozen layer is never touched."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model

from pifi_probe.errors import FrozenLayerError, PlugInError
from pifi_probe.plugin.adapters import trained_whole
from tests.contract import CASES, WITH_LAYER, Shelf, answer, batch_of, frozen_state

TASK_TYPES = {
    "single": "SEQ_CLS",
    "pair": "SEQ_CLS",
    "regression": "SEQ_CLS",
    "multi-label": "SEQ_CLS",
    "multiple-choice": None,
    "qa": "QUESTION_ANS",
    "token-classification": "TOKEN_CLS",
    "seq2seq": "SEQ_2_SEQ_LM",
}
TARGETS = {"t5": ["q", "v"], "bart": ["q_proj", "v_proj"]}


def lora(name: str, **options: Any) -> LoraConfig:
    case, options = CASES[name], copy.deepcopy(options)  # peft extends lists in place
    options.setdefault("target_modules", TARGETS.get(case.family, ["query", "value"]))
    return LoraConfig(task_type=TASK_TYPES[case.kind], r=2, **options)


def trained(model: Any) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def step(model: Any, name: str) -> None:
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # LoRA starts at zero
        optimizer.zero_grad()
        model(**batch_of(name)).loss.backward()
        optimizer.step()
    model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_LAYER)
def test_head_and_projections_are_trained_and_saved_with_an_adapter(name: str, shelf: Shelf, tmp_path: Path) -> None:
    model = shelf.model(name)
    whole, before = trained_whole(model), {n: t.clone() for n, t in model.state_dict().items()}
    assert "aligned" in name or {"plugin.L_in", "plugin.L_out"} <= set(whole)
    assert ("head" in whole) == (CASES[name].kind != "seq2seq")
    adapted = get_peft_model(model, lora(name))
    step(adapted, name)
    now = {n.replace(".modules_to_save.default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    for part in whole:
        copies = [n for n in now if n.startswith(f"{part}.")]
        assert copies and any(not torch.equal(now[n], before[n]) for n in copies)
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items() if ".layers.0.shell" in n)
    assert not any("plugin.layers" in n for n in trained(adapted)) and any("lora_" in n for n in trained(adapted))
    adapted.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(shelf.model(name), tmp_path)
    assert torch.allclose(answer(again, batch_of(name)), answer(adapted, batch_of(name)), atol=1e-6)
    assert not trained(again)
    merged = again.merge_and_unload()
    assert type(merged) is type(model) and not hasattr(merged, "peft_config")
    assert torch.allclose(answer(merged, batch_of(name)), answer(adapted, batch_of(name)), atol=1e-4)


@pytest.mark.parametrize(
    ("options", "reaches"),
    [
        ({"target_modules": "all-linear"}, True),
        ({"target_modules": ["query", "down_proj", "gate_proj"]}, True),
        ({"target_modules": r".*(query|up_proj|L_in)"}, True),
        ({"modules_to_save": ["plugin"]}, True),
        ({"modules_to_save": ["mlp", "classifier"]}, True),
        ({"modules_to_save": ["plugin.layers.0", "head"]}, True),
        ({"modules_to_save": ["shell"]}, True),
        ({"target_modules": ["query", "head.0", "L_out"]}, False),
        ({"bias": "all"}, False),
    ],
)
@pytest.mark.parametrize("name", ["classes", "classes, sequence", "tags", "unshared", "gated"])
def test_a_frozen_layer_is_out_of_reach(
    name: str, options: dict[str, Any], reaches: bool, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    model = shelf.model(name)
    before, weights = frozen_state(model), [n for layer in model.frozen_layers for n, _ in layer.named_parameters()]
    adapted = get_peft_model(model, lora(name, **options))
    said = [record.message for record in caplog.records if "stay as they are" in record.message]
    assert len(said) == 1 or (not said and not reaches)
    assert [n for layer in model.frozen_layers for n, _ in layer.named_parameters()] == weights
    step(adapted, name)
    after = frozen_state(model)
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)
    assert all(any(f".{part}." in n for n in trained(adapted)) for part in trained_whole(shelf.model(name)))


def test_an_adapter_for_the_frozen_layer_alone_is_refused(shelf: Shelf) -> None:
    with pytest.raises(PlugInError, match="down_proj.*next: name modules of the encoder: .*query"):
        get_peft_model(shelf.model("classes"), lora("classes", target_modules=["down_proj"]))


def test_a_later_adapter_leaves_nothing_as_it_was_drawn_and_reaches_nothing_frozen(shelf: Shelf) -> None:
    adapted = get_peft_model(shelf.model("classes"), lora("classes"))
    adapted.train()
    adapted.add_adapter("other", lora("classes"))
    with pytest.raises(
        PlugInError, match=r"'other'.*L_in.*untrained.*next: name them in it, modules_to_save=\['plugin"
    ):
        adapted.train()
    adapted = get_peft_model(shelf.model("classes"), lora("classes"))
    options = {"modules_to_save": trained_whole(adapted.base_model.model), "target_modules": ["query", "down_proj"]}
    adapted.add_adapter("other", lora("classes", **options))
    adapted.train().set_adapter("other")
    with pytest.raises(FrozenLayerError, match="trainable"):
        adapted(**batch_of("classes"))


@pytest.mark.parametrize("name", ["aligned", "aligned, tags", "aligned, back", "folded"])
def test_what_was_fitted_or_folded_is_out_of_reach(name: str, shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    model = shelf.model(name)
    adapted = get_peft_model(model, lora(name, target_modules="all-linear", modules_to_save=["plugin"]))
    assert sum("stay as they are: " in record.message for record in caplog.records) >= 1
    step(adapted, name)
    reached = {n for n in trained(model) if n.startswith("plugin.")}
    readout = {f"plugin.L_out.modules_to_save.default.{part}" for part in ("weight", "bias")}
    assert reached == (readout if name.startswith("aligned") and "back" not in name and "tags" not in name else set())


def test_other_kinds_of_adapters_train_the_head_too(shelf: Shelf) -> None:
    config = IA3Config(task_type="SEQ_CLS", target_modules=["query", "down_proj"], feedforward_modules=["down_proj"])
    adapted = get_peft_model(shelf.model("classes"), config)
    names = trained(adapted)
    assert any("L_in" in n for n in names) and any("head" in n for n in names)
    assert not any("plugin.layers" in n for n in names)


def test_the_adapter_of_transformers_itself_does_the_same(shelf: Shelf) -> None:
    model = shelf.model("classes")
    model.add_adapter(lora("classes"))
    assert any("L_in" in n for n in trained(model)) and any("head" in n for n in trained(model))
    step(model, "classes")


def test_weights_that_no_adapter_can_hold_are_named(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    get_peft_model(shelf.model("mix"), lora("mix"))
    assert "combine='mix'" in caplog.text


def test_a_writer_with_an_adapter_writes(shelf: Shelf) -> None:
    adapted = get_peft_model(shelf.model("writing, T5"), lora("writing, T5"))
    batch = batch_of("writing, T5", labels=False)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert len(adapted.generate(input_ids=ids, attention_mask=mask, max_new_tokens=3)) == len(ids)
