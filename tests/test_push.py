"""A plugged model goes to the hub and comes back, with its card, and never without a licence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

import pifi_probe as pp
from pifi_probe.errors import LicenceError
from pifi_probe.layers.frozen import FrozenLayer
from tests import slm, tiny
from tests.hub_server import HubServer, running_hub
from tests.slm import logits

TOKEN = "hf_owner"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """One server for all tests here: the client keeps the first address it has uploaded to."""
    with pytest.MonkeyPatch.context() as patch, running_hub(patch, tmp_path_factory.mktemp("hub"), TOKEN) as server:
        yield server


def card_of(hub: HubServer, name: str) -> str:
    stored = hub.repo("models", name, TOKEN)
    return stored.commits[stored.resolve("main")]["README.md"].decode()


@pytest.fixture
def donor(tmp_path: Path) -> FrozenLayer:
    layer = pp.extract(f"{tiny.tiny_checkpoint('llama', tmp_path / 'llm')}[1]")
    assert isinstance(layer, FrozenLayer)
    return layer


def plugged(donor: FrozenLayer, tmp_path: Path, **options: bool) -> pp.PiFiForSequenceClassification:
    return pp.plug_in(str(slm.tiny_slm_folder(tmp_path / "slm")), donor, task=slm.tiny_task(), **options)


@pytest.mark.parametrize("folded", [False, True])
def test_a_pushed_model_comes_back_equal_with_its_card(
    folded: bool, hub: HubServer, donor: FrozenLayer, tmp_path: Path
) -> None:
    model = plugged(donor.with_card(licence="apache-2.0"), tmp_path)
    model = model.fold() if folded else model
    model.push_to_hub(f"owner/folded-{folded}")
    again = pp.PiFiForSequenceClassification.from_pretrained(f"owner/folded-{folded}")
    assert torch.allclose(logits(again), logits(model), atol=1e-6)
    card = card_of(hub, f"owner/folded-{folded}")
    assert "license: apache-2.0" in card and "layer 1 of 3" in card


def test_a_pushed_combination_of_two_models_comes_back_equal(
    hub: HubServer, donor: FrozenLayer, tmp_path: Path
) -> None:
    wide = pp.extract(f"{tiny.tiny_checkpoint('gemma', tmp_path / 'wide', hidden_size=48)}[0]")
    both = donor.with_card(licence="apache-2.0") | wide.with_card(licence="mit")
    model = pp.plug_in(str(slm.tiny_slm_folder(tmp_path / "slm")), both, task=slm.tiny_task())
    torch.nn.init.normal_(model.plugin.further[0].L_out.weight)
    model.push_to_hub("owner/combined")
    again = pp.PiFiForSequenceClassification.from_pretrained("owner/combined")
    assert torch.allclose(logits(again), logits(model), atol=1e-6)
    card = card_of(hub, "owner/combined")
    assert "license: other" in card and "[1] | " in card and "licence of the donor: mit" in card


def test_an_unknown_licence_is_refused_before_anything_is_sent(
    hub: HubServer, donor: FrozenLayer, tmp_path: Path
) -> None:
    model = plugged(donor, tmp_path)
    before = len(hub.requests())
    with pytest.raises(LicenceError, match="unknown"):
        model.push_to_hub("owner/stated")
    assert len(hub.requests()) == before
    model.push_to_hub("owner/stated", licence="mit")
    assert "license: mit" in card_of(hub, "owner/stated")


def test_transformers_ways_to_upload_ask_for_the_licence_and_keep_the_notice(
    hub: HubServer, donor: FrozenLayer, tmp_path: Path
) -> None:
    model = plugged(donor.with_card(licence=None, gated=True), tmp_path)
    before = len(hub.requests())
    with pytest.raises(LicenceError, match="gated"):
        model.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="owner/saved")
    assert len(hub.requests()) == before and not (tmp_path / "saved").exists()
    model.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="owner/saved", licence="mit")
    assert "license: mit" in card_of(hub, "owner/saved") and "gated" in card_of(hub, "owner/saved")

    def trainer(**options: str) -> Trainer:
        args = TrainingArguments(str(tmp_path / "run"), report_to=[], hub_model_id="owner/trained", use_cpu=True)
        return Trainer(model=model, args=args, callbacks=[pp.LicenceCheck(**options)])

    before = len(hub.requests())
    with pytest.raises(LicenceError, match="gated"):
        trainer().push_to_hub()
    assert len(hub.requests()) == before
    trainer(licence="mit").push_to_hub()
    stored = hub.repo("models", "owner/trained", TOKEN)
    files = stored.commits[stored.resolve("main")]
    assert b"access to the donor is gated" in files["NOTICE"] and "model.safetensors" in files


def test_a_reference_may_be_pushed_whatever_the_licence(hub: HubServer, donor: FrozenLayer, tmp_path: Path) -> None:
    model = plugged(donor.with_card(gated=True), tmp_path, save_layer=False)
    model.push_to_hub("owner/reference")
    again = pp.PiFiForSequenceClassification.from_pretrained("owner/reference", allow_external=True)
    assert torch.allclose(logits(again), logits(model), atol=1e-6), "the layer is read from its donor again"
