"""Saved models, layers and results that only name a donor or an encoder: what is opened on their word."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pifi_probe as pp
from pifi_probe.efficiency.arms import build_arms
from pifi_probe.errors import HubError, ModelNotFoundError, PlugInError, TokenizerError
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.residual import residual_rms
from pifi_probe.plugin.tokenizer import tokenizer_for
from tests import runs, slm, tiny
from tests.hub_server import HubServer, running_hub

TOKEN = "hf_owner"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with running_hub(monkeypatch, tmp_path / "hub", TOKEN) as server:
        yield server


@pytest.fixture
def llm(tmp_path: Path) -> Path:
    return tiny.tiny_checkpoint("llama", tmp_path / "llm")


@pytest.fixture
def saved(llm: Path, tmp_path: Path) -> Path:
    """A folder with a model that refers to `llm` by its path."""
    encoder = str(slm.tiny_slm_folder(tmp_path / "slm"))
    model = pp.plug_in(encoder, f"{llm}[0]", task=slm.tiny_task(), save_layer=False)
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def name_donor(saved: Path, name: str) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["layers"][0]["card"]["model"] = name
    (saved / "config.json").write_text(json.dumps(config))


def load(saved: Path, **options: Any) -> pp.PiFiForSequenceClassification:
    model = pp.PiFiForSequenceClassification.from_pretrained(saved, **options)
    assert isinstance(model, pp.PiFiForSequenceClassification)
    return model


def test_a_path_outside_of_the_folder_is_opened_only_when_that_is_allowed(
    saved: Path, llm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(PlugInError, match="allow_external=True") as caught:
        load(saved)
    assert str(llm) in caught.value.what
    with caplog.at_level(logging.WARNING):
        model = load(saved, allow_external=True)  # as the error says
    assert model.frozen_layers[0].digest() == model.frozen_layers[0].card.sha256
    assert str(llm) in caplog.text


@pytest.mark.parametrize("name", ["donor", "./donor", "sub/../donor", "absolute"])
def test_a_path_inside_of_the_folder_is_opened(name: str, saved: Path, llm: Path) -> None:
    llm.rename(saved / "donor")
    (saved / "sub").mkdir()
    name_donor(saved, str(saved / "donor") if name == "absolute" else name)
    assert load(saved).frozen_layers[0].card.sha256


@pytest.mark.parametrize("name", ["../llm", "donor/../../llm", "link", "/", "..", "~", "~/llm", "org/../../x"])
def test_what_leads_out_of_the_folder_is_not_opened(name: str, saved: Path, llm: Path) -> None:
    (saved / "donor").mkdir()
    (saved / "link").symlink_to(llm)
    name_donor(saved, name)
    with pytest.raises((PlugInError, ModelNotFoundError)):
        load(saved)


def test_a_donor_on_the_hub_is_asked_for_without_the_token(saved: Path, llm: Path, hub: HubServer) -> None:
    hub.add_repo("org/donor", llm)
    name_donor(saved, "org/donor")
    assert load(saved).frozen_layers[0].card.sha256
    asked = hub.requests()
    assert asked and not [seen for seen in asked if "authorization" in seen.headers]


def test_a_gated_donor_is_opened_with_the_token_on_request(saved: Path, llm: Path, hub: HubServer) -> None:
    hub.add_repo("owner/donor", llm, private=True)
    name_donor(saved, "owner/donor")
    with pytest.raises(HubError, match="without your token") as caught:
        load(saved)
    assert "allow_external=True" in caught.value.next
    assert not [seen for seen in hub.requests() if "authorization" in seen.headers]
    assert load(saved, allow_external=True).frozen_layers[0].card.sha256  # as the error says
    assert [seen for seen in hub.requests() if seen.headers.get("authorization") == f"Bearer {TOKEN}"]


def test_a_model_of_the_hub_opens_no_path(saved: Path, llm: Path, hub: HubServer) -> None:
    hub.add_repo("org/model", saved)
    with pytest.raises(PlugInError, match="allow_external=True"):
        pp.PiFiForSequenceClassification.from_pretrained("org/model")
    again = pp.PiFiForSequenceClassification.from_pretrained("org/model", allow_external=True)
    assert torch.isfinite(slm.logits(again)).all()


def layer_of_a_donor(llm: Path, tmp_path: Path) -> Path:
    """A saved layer whose card names `llm`, which has a tokenizer."""
    slm.tiny_tokenizer().save_pretrained(llm)
    layer = pp.extract(f"{llm}[1]", dtype="float32")
    assert isinstance(layer, FrozenLayer)
    return layer.save(tmp_path / "layer")


@pytest.mark.parametrize("wiring", ["matched", "aligned"])
def test_a_saved_layer_opens_its_donor_only_when_that_is_allowed(wiring: str, llm: Path, tmp_path: Path) -> None:
    folder = layer_of_a_donor(llm, tmp_path)
    encoder = str(slm.tiny_slm_folder(tmp_path / "slm"))
    layer = FrozenLayer.load(folder)
    with pytest.raises(PlugInError, match="allow_external=True") as caught:
        pp.plug_in(encoder, layer, task=slm.tiny_task(), wiring=wiring)
    assert str(llm) in caught.value.what
    pp.plug_in(encoder, layer, task=slm.tiny_task())  # the paper's wiring needs nothing of the donor
    trusted = FrozenLayer.load(folder, allow_external=True)  # as the error says
    assert pp.plug_in(encoder, trusted, task=slm.tiny_task(), wiring=wiring).frozen_layers
    assert pp.plug_in(encoder, f"{llm}[1]", task=slm.tiny_task(), wiring=wiring).frozen_layers  # the user's own word


def test_a_saved_layers_donor_on_the_hub_is_asked_without_the_token(llm: Path, tmp_path: Path, hub: HubServer) -> None:
    hub.add_repo("owner/donor", llm, private=True)
    folder = layer_of_a_donor(llm, tmp_path)
    stored = json.loads((folder / "layer.json").read_text())
    stored["card"]["model"] = "owner/donor"
    (folder / "layer.json").write_text(json.dumps(stored))
    with pytest.raises(HubError, match="without your token"):
        residual_rms(FrozenLayer.load(folder).card, FrozenLayer.load(folder).named_by)
    assert not [seen for seen in hub.requests() if "authorization" in seen.headers]


@pytest.fixture
def plain(llm: Path, tmp_path: Path) -> Path:
    """A folder with a model that holds its layer, and whose encoder is a path."""
    slm.tiny_tokenizer().save_pretrained(llm)
    encoder = str(slm.tiny_slm_folder(tmp_path / "slm"))
    pp.plug_in(encoder, f"{llm}[0]", task=slm.tiny_task()).save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def without_tokenizer(folder: Path, slm_name: str) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"slm": slm_name}))


def test_a_model_whose_encoder_is_a_path_takes_its_tokenizer_with_it(plain: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "slm")
    assert tokenizer_for(load(plain)).get_vocab() == slm.tiny_tokenizer().get_vocab()


def test_a_model_without_a_tokenizer_opens_no_path_for_one(plain: Path, tmp_path: Path) -> None:
    without_tokenizer(plain, str(tmp_path / "slm"))
    with pytest.raises(TokenizerError, match="saved without its tokenizer") as caught:
        tokenizer_for(load(plain))
    assert "tokenizer=" in caught.value.next and "allow_external=True" in caught.value.next
    assert tokenizer_for(load(plain, allow_external=True)).get_vocab()  # as the error says
    load(plain).save_pretrained(tmp_path / "again")
    assert not list((tmp_path / "again").glob("tokenizer*")), "saving opens nothing else, too"


def test_a_model_without_a_tokenizer_asks_the_hub_without_the_token(
    plain: Path, tmp_path: Path, hub: HubServer
) -> None:
    hub.add_repo("owner/encoder", tmp_path / "slm", private=True)
    without_tokenizer(plain, "owner/encoder")
    with pytest.raises((TokenizerError, HubError)):
        tokenizer_for(load(plain))
    assert not [seen for seen in hub.requests() if "authorization" in seen.headers]


def test_a_diagnosis_opens_no_donor_that_only_a_file_names(plain: Path, llm: Path) -> None:
    def language(model: Any, **options: Any) -> str:
        return pp.diagnose(model, task=slm.tiny_task(), **options)["language of the donor"].finding

    assert "allow_external=True" in language(load(plain))
    assert "allow_external" not in language(load(plain, allow_external=True))
    run = runs.made_up()
    run.model["layers"][0]["model"] = str(llm)
    assert "allow_external=True" in language(run)
    assert "allow_external" not in language(run, allow_external=True)


def test_a_benchmark_opens_no_donor_that_only_a_file_names(plain: Path, llm: Path, tmp_path: Path) -> None:
    _, left_out = build_arms(load(plain), torch.device("cpu"))
    assert "allow_external=True" in left_out["layer trained too"]
    arms, _ = build_arms(load(plain, allow_external=True), torch.device("cpu"))
    assert "layer trained too" in arms
