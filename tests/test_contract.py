"""A plugged model keeps what transformers promises of every model; in the manner of its own common tests."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import set_seed

from pifi_probe.errors import CheckpointError, FrozenLayerError, PlugInError
from pifi_probe.plugin.base import PiFiPreTrainedModel
from pifi_probe.plugin.plugin import PlugIn
from tests import kinds, slm
from tests.contract import CASES, PLUGGED, WITH_LAYER, Shelf, answer, batch_of, close, frozen_state, gradients, same

CLASSIFIERS = [name for name in CASES if CASES[name].kind in ("single", "pair", "token-classification")]
every_case = pytest.mark.parametrize("name", CASES)


def saved(model: PiFiPreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def equal(model: Any, other: Any, name: str) -> bool:
    return torch.equal(answer(model, batch_of(name)), answer(other, batch_of(name)))


@pytest.mark.slow
@every_case
def test_the_gradients_of_small_batches_add_up_to_those_of_a_large_one(name: str, shelf: Shelf) -> None:
    model, batch = shelf.model(name).train(), batch_of(name)
    labels = batch.get("labels")
    whole = gradients(model, batch)
    n = None if labels is None else (labels != -100).sum()
    model.zero_grad()
    for rows in torch.arange(8).split(2):
        part = {key: value[rows] for key, value in batch.items()}
        loss = model(**part, num_items_in_batch=n).loss
        (loss if n is not None else loss / 4).backward()
    assert close({k: p.grad for k, p in model.named_parameters() if p.grad is not None}, whole, 1e-5)


@pytest.mark.slow
@every_case
def test_copies_pickles_and_state_dicts_give_the_same_numbers(name: str, shelf: Shelf) -> None:
    model = shelf.model(name)
    model.encoder(input_ids=batch_of(name)["input_ids"].flatten(0, -2), output_hidden_states=True)  # leaves hooks
    stream = io.BytesIO()
    torch.save(model.state_dict(), stream)
    stream.seek(0)
    fresh = shelf.model(name) if CASES[name].fold else type(model)(model.config).eval()
    fresh.load_state_dict(torch.load(stream, weights_only=True))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), fresh):
        assert equal(other, model, name)
        assert all(a is not b for a, b in zip(other.parameters(), model.parameters(), strict=True))
        assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in model.parameters()]


@every_case
def test_saving_and_loading_gives_the_same_numbers_wherever_it_is_loaded(
    name: str, shelf: Shelf, tmp_path: Path
) -> None:
    model = shelf.model(name)
    folder = saved(model, tmp_path / "saved")
    parts = {part: "cpu" for part, _ in model.named_children()}
    for options in ({}, {"device_map": "auto"}, {"device_map": parts, "low_cpu_mem_usage": True}):
        again, info = type(model).from_pretrained(folder, output_loading_info=True, **options)
        assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert same(again, model, name)
        assert not any(t.is_meta for t in (*again.parameters(), *again.buffers()))
        assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]


@every_case
def test_parts_that_must_stay_on_one_device_are_named(name: str, shelf: Shelf) -> None:
    from accelerate import infer_auto_device_map

    model = shelf.model(name)
    devices = infer_auto_device_map(
        model, max_memory={0: 60_000, "cpu": "1GB"}, no_split_module_classes=model._no_split_modules
    )
    layers = [name for name, part in model.named_modules() if type(part).__name__ == "FrozenLayer"]
    assert model.plugin is None or type(model.plugin).__name__ in model._no_split_modules
    assert not any(key.startswith(f"{layer}.") for key in devices for layer in layers)


@every_case
def test_a_model_on_the_meta_device_has_the_same_weights_by_name(name: str, shelf: Shelf) -> None:
    model = shelf.model(name)
    with torch.device("meta"):
        empty = type(model)(model.config)
    assert {n: t.shape for n, t in empty.state_dict().items()} == {n: t.shape for n, t in model.state_dict().items()}
    assert all(p.is_meta for p in empty.parameters())


@pytest.mark.slow
@every_case
def test_short_types_at_loading_and_afterwards_change_little(name: str, shelf: Shelf, tmp_path: Path) -> None:
    model = shelf.model(name)
    expected, folder = answer(model, batch_of(name)), saved(model, tmp_path / "saved")
    loaded = type(model).from_pretrained(folder, dtype="bfloat16")
    outside = [p.dtype for n, p in loaded.named_parameters() if not n.startswith("plugin.layers.")]
    assert set(outside) == {torch.bfloat16} and loaded.dtype == torch.bfloat16
    half = copy.deepcopy(model).half()
    again = type(model).from_pretrained(saved(half, tmp_path / "half"), dtype=torch.float16)
    for other in (loaded, model.to(torch.bfloat16), half, again):
        got = answer(other, batch_of(name))
        assert torch.isfinite(got).all() and float((got - expected).norm() / expected.norm()) < 0.1


@pytest.mark.slow
@every_case
@pytest.mark.parametrize("door", ["model", "encoder"])
def test_a_resized_vocabulary_is_saved_and_loaded(name: str, door: str, shelf: Shelf, tmp_path: Path) -> None:
    model = shelf.model(name)
    before, old = answer(model, batch_of(name)), model.get_input_embeddings().num_embeddings
    if door == "encoder":
        whole = model.encoder if CASES[name].family == "encoder-decoder" else model.small_model
        whole.resize_token_embeddings(old + 7)
    else:
        assert model.resize_token_embeddings(old + 7, pad_to_multiple_of=16) is model.get_input_embeddings()
        assert model.config.vocab_size > old + 7 and model.config.vocab_size % 16 == 0
    if CASES[name].kind != "seq2seq":
        assert torch.equal(answer(model, batch_of(name)), before)
    again = type(model).from_pretrained(saved(model, tmp_path))
    assert again.get_input_embeddings().num_embeddings == model.get_input_embeddings().num_embeddings > old
    assert again.config.vocab_size == again.get_input_embeddings().num_embeddings
    assert same(again, model, name)
    model.resize_token_embeddings(old)
    assert model.resize_token_embeddings() is model.get_input_embeddings()
    assert torch.equal(answer(model, batch_of(name)), before)


@every_case
def test_input_embeddings_can_be_set(name: str, shelf: Shelf) -> None:
    model = shelf.model(name)
    table = copy.deepcopy(model.get_input_embeddings())
    torch.nn.init.zeros_(table.weight)
    before = answer(model, batch_of(name))
    model.set_input_embeddings(table)
    assert model.get_input_embeddings() is table
    assert not torch.equal(answer(model, batch_of(name)), before)


@every_case
def test_checkpointing_changes_no_gradient(name: str, shelf: Shelf) -> None:
    model, batch = shelf.model(name).train(), batch_of(name)
    calls: list[int] = []
    for layer in model.frozen_layers:
        layer.block.register_forward_pre_hook(lambda *_: calls.append(1))
    plain, once = gradients(model, batch), len(calls)
    for options in (None, {"use_reentrant": name != "writing, T5"}):  # T5's own layers cannot
        model.activation_checkpointing_enable(options)
        calls.clear()
        assert close(gradients(model, batch), plain, 1e-5)
        assert len(calls) == (2 * once if isinstance(model.plugin, PlugIn) else 0), "the layer is computed again"
        model.activation_checkpointing_disable()
    calls.clear()
    assert close(gradients(model, batch), plain, 1e-5) and len(calls) == once


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in CASES if CASES[name].kind in ("single", "pair", "token-classification")]
)
def test_another_number_of_labels_gives_a_head_that_is_drawn(name: str, shelf: Shelf, tmp_path: Path) -> None:
    model = shelf.model(name)
    folder = saved(model, tmp_path)
    made = []
    for seed in (0, 0, 1):
        set_seed(seed)
        other = type(model).from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)
        last = other.head[-1]
        assert last.weight.shape == (3, slm.WIDTH) and other.config.num_labels == 3
        bound = slm.WIDTH**-0.5  # PyTorch's default for a linear map
        for drawn in (last.weight, last.bias):
            assert 0 < float(drawn.detach().abs().max()) <= bound and len(drawn.unique()) == drawn.numel()
        kept, stored = other.state_dict(), model.state_dict()
        same = [key for key in stored if kept[key].shape == stored[key].shape]
        assert all(torch.equal(kept[key], stored[key]) for key in same)
        readout = {"plugin.L_out.weight", "plugin.L_out.bias"} if name == "aligned" else set()
        assert stored.keys() - same == {"head.3.weight", "head.3.bias"} | readout
        assert not any(kept[key].any() for key in readout), "a readout starts at zero"
        made.append(last.weight.detach())
        batch = batch_of(name)
        assert torch.isfinite(other(**batch).loss)
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


@pytest.mark.parametrize("name", PLUGGED)
def test_every_weight_that_a_checkpoint_lacks_is_drawn_as_plug_in_draws_it(name: str, shelf: Shelf) -> None:
    model = shelf.model(name)
    fitted = {id(tensor) for tensor in model.plugin.fitted()}
    new = [n for n, p in model.named_parameters() if n.startswith(("head.", "plugin.")) and id(p) not in fitted]
    new = [n for n in new if ".layers." not in n]
    for n, tensor in (*model.named_parameters(), *model.named_buffers()):
        if n in new:
            tensor.data.fill_(torch.nan)
        tensor._is_hf_initialized = n not in new
    set_seed(0)
    model._initialize_missing_keys(False)  # as from_pretrained does
    assert all(torch.isfinite(p).all() for p in model.parameters())
    fresh = shelf.model(name)
    assert frozen_state(model).keys() == frozen_state(fresh).keys()
    assert close(frozen_state(model), frozen_state(fresh), 0)
    for n, tensor in model.named_parameters():
        if n in new and tensor.dim() == 2 and tensor.any():
            assert float(tensor.detach().abs().max()) <= tensor.shape[1] ** -0.5
    untouched = fresh.plugin.set_start() or dict(fresh.plugin.named_parameters())
    starts = [n for n, p in untouched.items() if not p.any() or n == "gates.bias"]
    assert all(torch.equal(dict(model.plugin.named_parameters())[n], untouched[n]) for n in starts)


def test_weights_of_a_folded_plug_in_are_never_drawn(shelf: Shelf, tmp_path: Path) -> None:
    model = shelf.model("folded")
    folder = saved(model, tmp_path)
    shapes = model.config.folded | {"width": 7}
    with pytest.raises(CheckpointError, match="folded or fitted.*next: load the model as it was saved"):
        type(model).from_pretrained(folder, folded=shapes, ignore_mismatched_sizes=True)


@pytest.mark.parametrize("name", WITH_LAYER)
def test_a_frozen_layer_stays_in_evaluation_and_without_gradients(name: str, shelf: Shelf) -> None:
    model = shelf.model(name)
    for mode in (True, False, True):
        model.train(mode)
        assert model.training == mode and not any(
            part.training for layer in model.frozen_layers for part in layer.modules()
        )
    assert all(
        key.split(".")[1:2] != ["layers"] or not key.startswith("plugin.") for key in gradients(model, batch_of(name))
    )
    assert torch.isfinite(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
    model.requires_grad_(True)
    with pytest.raises(FrozenLayerError, match="trainable"):
        model(**batch_of(name))
    model.freeze_layers()
    model(**batch_of(name))


@every_case
def test_tied_weights_stay_tied(name: str, shelf: Shelf, tmp_path: Path) -> None:
    model = shelf.model(name)
    again = type(model).from_pretrained(saved(model, tmp_path))
    for one in (model, copy.deepcopy(model), again):
        one.tie_weights()
        out = one.get_output_embeddings()
        assert (out is None) == (CASES[name].kind != "seq2seq")
        assert len(list(one.parameters())) == len(list(model.parameters()))


def test_labels_that_do_not_fit_are_refused(shelf: Shelf) -> None:
    model = shelf.model("regression")
    model.head[-1] = torch.nn.Linear(slm.WIDTH, 3)
    with pytest.raises(PlugInError, match=r"3 outputs needs labels of shape \(8, 3\).*next: "):
        model(**batch_of("regression"))
    with pytest.raises(PlugInError, match="neither labels nor decoder_input_ids.*next: "):
        shelf.model("writing, T5")(**batch_of("writing, T5", labels=False))


def test_losses_of_every_problem_type_are_those_of_transformers(shelf: Shelf) -> None:
    from transformers.loss.loss_utils import ForSequenceClassificationLoss

    model, batch = shelf.model("classes"), batch_of("classes")
    labels = {
        "single_label_classification": batch["labels"],
        "multi_label_classification": torch.nn.functional.one_hot(batch["labels"], 2).float(),
        "regression": torch.randn(8, 2, generator=torch.Generator().manual_seed(0)),
    }
    for problem, targets in labels.items():
        model.config.problem_type = problem
        out = model(**batch | {"labels": targets})
        assert torch.allclose(out.loss, ForSequenceClassificationLoss(targets, out.logits, model.config))


@pytest.mark.parametrize("name", ["tags", "answers", "writing, T5"])
def test_a_batch_without_any_label_has_no_loss(name: str, shelf: Shelf) -> None:
    model, batch = shelf.model(name), batch_of(name)
    names = [key for key in batch if key == "labels" or key.endswith("positions")]
    if name.startswith("writing"):
        batch["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    loss = model(**batch | {key: torch.full_like(batch[key], -100) for key in names}).loss
    assert float(loss) == 0


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].kind == "seq2seq"])
def test_a_writer_writes_as_its_generation_config_says(name: str, shelf: Shelf, tmp_path: Path) -> None:
    model, batch = shelf.model(name), batch_of(name, labels=False)
    batch.pop("token_type_ids", None)
    model.generation_config.max_new_tokens = 3
    model.generation_config.num_beams = 2
    written = model.generate(**batch)
    assert written.shape[1] <= 4
    ids = batch.pop("input_ids")
    assert torch.equal(model.generate(inputs=ids, **batch), written)
    again = type(model).from_pretrained(saved(model, tmp_path))
    assert again.generation_config.num_beams == 2 and torch.equal(again.generate(ids, **batch), written)


def test_padding_of_one_row_moves_no_position_of_another(shelf: Shelf) -> None:
    model, tokenizer = shelf.model("classes"), slm.tiny_tokenizer("left")
    rows = tokenizer(["good", "the film was good"], padding=True, return_tensors="pt")
    alone = {key: value[1:] for key, value in rows.items()}
    assert torch.allclose(answer(model, dict(rows))[2:], answer(model, alone), atol=1e-6)
    assert kinds.KINDS  # every kind of task has a case
    assert {case.kind for case in CASES.values()} == set(kinds.KINDS)
