"""Donors of every family and kind of file can be aligned to, or are refused by what they lack before anything runs."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

import pifi_probe as pp
from pifi_probe.alignment.chain import run_chain
from pifi_probe.compat import quiet_transformers
from pifi_probe.errors import PlugInError, TokenizerError, UnsupportedFamilyError
from pifi_probe.layers.families import FAMILIES
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.tokenizer import donor_tokenizer
from pifi_probe.plugin.aligned import AlignedPlugIn
from tests import causal, slm, tiny
from tests.hub_server import running_hub
from tests.quantised import SCHEMES, save_quantised
from tests.states import whole_states
from tests.test_chain_tokenizers import bytes_bpe
from tests.tiny_gguf import tiny_gguf

TASK = slm.tiny_task(24)
WORDS: dict[str, Any] = {"n_words": 12, "length": 5, "n_fit": 6, "n_test": 3, "n_align": 8, "progress": False}
TYPES = tuple(name for name in causal.causal_types() if causal.CONFIG_MAPPING[name].model_type in FAMILIES)
QUICK = ("gemma3_text", "falcon_alibi", "qwen3_next")  # scaled embeddings and post-norms; alibi; hybrid with experts


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIFI_PROBE_FEATURES", str(tmp_path / "features"))
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(slm.tiny_slm_folder(tmp_path_factory.mktemp("slm")))


def with_words(folder: Path) -> str:
    """Put a tokenizer next to a donor: words, or bytes where transformers has one class for all models of a type."""
    slm.tiny_tokenizer().save_pretrained(folder)
    with contextlib.suppress(TokenizerError):
        donor_tokenizer(open_checkpoint(str(folder)))
        return str(folder)
    bytes_bpe().save_pretrained(folder)
    return str(folder)


def measured(bert: str, llm: str, last: int, *, whole: bool = True) -> None:
    """Chain of a donor with its twins; as a whole its headroom and control, too."""
    if whole:
        found = pp.headroom(bert, llm, TASK, progress=False)
        assert len(found.r2) == len(found.donor) - 1
        control = pp.positive_control(llm, f"0-{last}", foreign=True, **WORDS)
        assert control.rows[0].layers == tuple(range(last + 1))
    table = pp.probe_chain(bert, llm, TASK, f"0-{last}", progress=False)
    assert set(table.scores["arm"]) == {"encoder", "interface", "real", "shuffled", "random"}
    assert table.scores["nll"].notna().all()


def plugged(
    bert: str, llm: str, last: int, tmp_path: Path, reads: tuple[str, ...] = ("beside", "back"), *, whole: bool = True
) -> None:
    """The chain starts exactly at the encoder alone, is frozen, and comes back from its folder; so do its twins."""
    vanilla = slm.logits(pp.plug_in(bert, control="vanilla", task=TASK, wiring="aligned"))
    for read in reads:
        for control in (
            (None, "shuffled", "random") if read == "beside" else (None,)
        ):  # the twins differ in layers alone
            model = pp.plug_in(bert, f"{llm}[0:{last + 1}]", task=TASK, wiring="aligned", read=read, control=control)
            assert torch.equal(slm.logits(model), vanilla)
            assert not any(weight.requires_grad for layer in model.frozen_layers for weight in layer.parameters())
            assert isinstance(model.plugin, AlignedPlugIn)
            with torch.no_grad():
                if read == "beside":
                    model.plugin.L_out.weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(0))
                else:
                    model.plugin.gates.fill_(0.5)
            said = slm.logits(model)
            assert bool(torch.isfinite(said).all()) and not torch.equal(said, vanilla)
            model.save_pretrained(tmp_path / "saved")
            assert torch.equal(slm.logits(type(model).from_pretrained(tmp_path / "saved")), said)
            shutil.rmtree(tmp_path / "saved")
            coded = slm.tiny_tokenizer()(["the film was good", "bad"], padding=True, return_tensors="pt")
            model.train()(**coded, labels=torch.tensor([1, 0])).loss.backward()
            assert all(weight.grad is None for layer in model.frozen_layers for weight in layer.parameters())


@pytest.mark.parametrize("family", QUICK)
def test_a_family_is_aligned_to_and_measured(family: str, bert: str, tmp_path: Path):
    llm = with_words(tiny.tiny_checkpoint(family, tmp_path / "llm"))
    measured(bert, llm, tiny.N_LAYERS - 1)
    plugged(bert, llm, tiny.N_LAYERS - 1, tmp_path, ("beside",))


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_is_aligned_to_and_measured(family: str, bert: str, tmp_path: Path):
    llm = with_words(tiny.tiny_checkpoint(family, tmp_path / "llm", vocab_size=400, max_position_embeddings=256))
    whole = tiny.FAMILIES.index(family) % 3 == 0  # every family has its chain and twins; minutes are saved on the rest
    measured(bert, llm, tiny.N_LAYERS - 1, whole=whole)
    plugged(bert, llm, tiny.N_LAYERS - 1, tmp_path, ("beside", "back") if whole else ("beside",), whole=whole)
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32).eval()
    ids = torch.randint(5, 24, (2, 12), generator=torch.Generator().manual_seed(0))
    states = whole_states(model, ids, torch.ones_like(ids))
    layers = [pp.extract(f"{llm}[{i}]", dtype="float32") for i in range(tiny.N_LAYERS)]
    with torch.no_grad():
        left = run_chain(layers, states[0], torch.ones_like(ids))  # type: ignore[arg-type]
    torch.testing.assert_close(left, states[-1], atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", TYPES[::16])  # a sample: all families are walked over above
def test_a_type_is_aligned_to_or_refused_by_what_it_lacks(
    name: str, bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = causal.model_of(name, vocab_size=400)
    with quiet_transformers():
        model.save_pretrained(tmp_path / "llm")
    llm, last = with_words(tmp_path / "llm"), int(model.config.num_hidden_layers) - 1
    try:
        measured(bert, llm, last)
    except UnsupportedFamilyError as error:
        assert "needs more than the states that enter it" in str(error)
        nothing_runs(monkeypatch)
        for asked in (
            lambda: pp.headroom(bert, llm, TASK, progress=False),
            lambda: pp.probe_chain(bert, llm, TASK, f"0-{last}", progress=False),
            lambda: pp.positive_control(llm, **WORDS),
        ):
            with pytest.raises(UnsupportedFamilyError, match="needs more than the states that enter it"):
                asked()
    else:
        plugged(bert, llm, last, tmp_path, ("beside",))


def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "features.chain_parts.token_states",
        "features.headroom.llm_features",
        "probing.control.Stem",
        "probing.chain.extract_from",
    ):
        monkeypatch.setattr(f"pifi_probe.{name}", None)
    monkeypatch.setattr("pifi_probe.plugin.aligning.token_states", None)


def test_a_donor_whose_layers_need_more_is_refused_before_anything_is_computed(
    bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its last layers read the keys and values of others; those before them can be plugged in."""
    shared = causal.model_of("gemma4_text", hidden_size_per_layer_input=0, num_kv_shared_layers=1)
    with quiet_transformers():
        shared.save_pretrained(tmp_path / "llm")
    llm = with_words(tmp_path / "llm")
    last = int(shared.config.num_hidden_layers) - 1
    pp.probe_chain(bert, llm, TASK, f"0-{last - 1}", arms=["real"], progress=False)
    nothing_runs(monkeypatch)
    for asked in (
        lambda: pp.headroom(bert, llm, TASK, progress=False),
        lambda: pp.probe_chain(bert, llm, TASK, f"1-{last}", progress=False),
        lambda: pp.positive_control(llm, **WORDS),
    ):
        with pytest.raises(UnsupportedFamilyError, match="keys and values of a layer before"):
            asked()


# --- kinds of files -----------------------------------------------------------------------------------------------


def quantised(folder: Path, scheme: str) -> str:
    save_quantised(folder, SCHEMES[scheme])
    return with_words(folder)


@pytest.mark.parametrize("scheme", ["gptq 4-bit", "fp8"])
def test_a_quantised_donor_is_measured_and_aligned_to(scheme: str, bert: str, tmp_path: Path):
    llm = quantised(tmp_path / "llm", scheme)
    measured(bert, llm, 1)
    plugged(bert, llm, 1, tmp_path, ("beside",))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", sorted(SCHEMES)[::6])  # a sample: test_formats has all
def test_quantised_donors_are_measured_and_aligned_to(scheme: str, bert: str, tmp_path: Path):
    llm = quantised(tmp_path / "llm", scheme)
    measured(bert, llm, 1)
    plugged(bert, llm, 1, tmp_path, ("beside",))


def test_a_donor_in_shards_is_measured_as_one_in_a_piece(bert: str, tmp_path: Path):
    whole = with_words(tiny.tiny_checkpoint("llama", tmp_path / "whole"))
    parts = with_words(tiny.tiny_checkpoint("llama", tmp_path / "parts", max_shard_size="20KB"))
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    found = [pp.headroom(bert, llm, TASK, progress=False) for llm in (whole, parts)]
    assert found[0].both == found[1].both and found[0].r2 == found[1].r2
    tables = [pp.probe_chain(bert, llm, TASK, "1-2", progress=False) for llm in (whole, parts)]
    assert tables[0].scores.equals(tables[1].scores)
    controls = [pp.positive_control(llm, "1-2", **WORDS) for llm in (whole, parts)]
    assert controls[0].rows == controls[1].rows


def test_a_gguf_donor_is_measured_and_aligned_to(bert: str, tmp_path: Path):
    """Its tokenizer is in its header; of this one no tokenizer can be made, so it is refused by name."""
    llm = str(tiny_gguf("llama", tmp_path / "llm.gguf", quantised=True))
    assert pp.positive_control(llm, [1], **WORDS)[1].of == 4
    with pytest.raises(pp.errors.TokenizerError):
        pp.headroom(bert, llm, TASK, progress=False)


def test_a_donor_on_the_hub_is_measured_and_aligned_to(bert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = Path(with_words(tiny.tiny_checkpoint("llama", tmp_path / "llm")))
    with running_hub(monkeypatch, tmp_path / "hub") as server:
        server.add_repo("someone/donor", folder)
        measured(bert, "someone/donor", 1)
        plugged(bert, "someone/donor", 1, tmp_path, ("beside",))
        local = pp.headroom(bert, str(folder), TASK, progress=False)
        assert pp.headroom(bert, "someone/donor", TASK, progress=False).both == local.both


# --- adapters -----------------------------------------------------------------------------------------------------


@pytest.fixture
def adapted(tmp_path: Path) -> tuple[str, str, str]:
    """A donor, an adapter of it, and the model that peft makes of both."""
    base = with_words(tiny.tiny_checkpoint("llama", tmp_path / "base"))
    torch.manual_seed(0)
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(base)
    made = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_" in name:
                weight.add_(torch.rand_like(weight), alpha=0.3)
    made.save_pretrained(str(tmp_path / "adapter"))
    merged: Any = made.merge_and_unload  # typed as a tensor
    merged().save_pretrained(tmp_path / "merged")
    return base, str(tmp_path / "adapter"), with_words(tmp_path / "merged")


def test_an_interface_is_aligned_to_the_donor_with_its_adapter(adapted: tuple[str, str, str], bert: str):
    base, adapter, merged = adapted
    plain = pp.plug_in(bert, f"{base}[1:3]", task=TASK, wiring="aligned")
    model = pp.plug_in(bert, pp.extract(f"{base}[1:3]", adapter=adapter), task=TASK, wiring="aligned")
    whole = pp.plug_in(bert, f"{merged}[1:3]", task=TASK, wiring="aligned")
    assert not torch.allclose(model.plugin.L_in.weight, plain.plugin.L_in.weight, atol=1e-3)
    torch.testing.assert_close(model.plugin.L_in.weight, whole.plugin.L_in.weight, atol=1e-3, rtol=1e-3)


def test_another_adapter_at_the_same_place_is_aligned_to_anew(adapted: tuple[str, str, str], bert: str):
    base, adapter, _ = adapted
    first = pp.plug_in(bert, pp.extract(f"{base}[1:3]", adapter=adapter), task=TASK, wiring="aligned")
    file = Path(adapter) / "adapter_model.safetensors"
    weights = {name: 2 * weight for name, weight in safetensors.torch.load_file(file).items()}
    safetensors.torch.save_file(weights, file)
    again = pp.plug_in(bert, pp.extract(f"{base}[1:3]", adapter=adapter), task=TASK, wiring="aligned")
    assert again.config.aligned["digest"] != first.config.aligned["digest"]


def test_a_chain_is_of_one_adapter(adapted: tuple[str, str, str], bert: str):
    base, adapter, _ = adapted
    mixed = pp.FrozenChain([pp.extract(f"{base}[1]", adapter=adapter), pp.extract(f"{base}[2]")])  # type: ignore[list-item]
    with pytest.raises(PlugInError, match="one chain"):
        pp.plug_in(bert, mixed, task=TASK, wiring="aligned")
