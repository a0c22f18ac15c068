"""A saved model that only names its donor: what is opened on its word, and with whose token."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pifi_probe as pp
from pifi_probe.errors import HubError, ModelNotFoundError, PlugInError
from tests import slm, tiny
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
