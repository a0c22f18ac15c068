"""``pooling="auto"``: what a checkpoint states is what is built, whatever wrote it and wherever it lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModel

import pifi_probe as pp
from pifi_probe.errors import CorruptFileError, PlugInError
from pifi_probe.escaping import markdown_cell
from pifi_probe.plugin.pooling import resolved_pooling
from pifi_probe.probing.encoder_vectors import slm_features
from tests import slm
from tests.hub_server import running_hub

TASK, CONFIG = slm.tiny_task(16), slm.tiny_slm("bert").config
FLAGS = (
    "pooling_mode_cls_token",
    "pooling_mode_mean_tokens",
    "pooling_mode_max_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
)
OLD = "sentence_transformers.models."
NEW = "sentence_transformers.sentence_transformer.modules."


def flags(*true: str) -> dict[str, Any]:
    """The setting as versions before 5.4 write it."""
    return {"word_embedding_dimension": slm.WIDTH, **{flag: flag in true for flag in FLAGS}, "include_prompt": True}


def mode(value: Any) -> dict[str, Any]:
    """The setting as versions from 5.4 on write it."""
    return {"embedding_dimension": slm.WIDTH, "pooling_mode": value, "include_prompt": True}


def modules(*types: str, path: str = "1_Pooling") -> list[dict[str, Any]]:
    paths = [path if name.endswith("Pooling") else "" if n == 0 else f"{n}_{name}" for n, name in enumerate(types)]
    return [{"idx": n, "name": str(n), "path": p, "type": t} for n, (p, t) in enumerate(zip(paths, types, strict=True))]


def checkpoint(folder: Path, setting: Any, listed: Any = None, path: str = "1_Pooling") -> Path:
    return files(slm.tiny_slm_folder(folder), setting, listed, path)


def files(folder: Path, setting: Any, listed: Any = None, path: str = "1_Pooling") -> Path:
    folder.mkdir(exist_ok=True)
    if setting is not None:
        (folder / path).mkdir(exist_ok=True)
        (folder / path / "config.json").write_text(json.dumps(setting), encoding="utf-8")
    if listed is not None:
        (folder / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    return folder


def stated(folder: Path) -> Any:
    return resolved_pooling("auto", CONFIG, folder)


def built(source: Any) -> Any:
    return pp.plug_in(source, None, task=TASK, control="vanilla", pooling="auto").config


@pytest.mark.parametrize(
    ("setting", "how"),
    [
        (flags("pooling_mode_cls_token"), "cls"),
        (flags("pooling_mode_mean_tokens"), "mean"),
        (flags("pooling_mode_lasttoken"), "last"),
        (flags(), "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        (mode("cls"), "cls"),
        (mode("mean"), "mean"),
        (mode("lasttoken"), "last"),
        (mode(["mean"]), "mean"),
        (mode("mean") | flags("pooling_mode_cls_token"), "mean"),
        ({"embedding_dimension": 24}, "mean"),
    ],
)
def test_every_way_to_state_a_pooling_is_read(tmp_path: Path, setting: dict[str, Any], how: str) -> None:
    found = stated(files(tmp_path, setting))
    assert found.how == how
    assert "1_Pooling/config.json" in found.why


@pytest.mark.parametrize(
    "setting",
    [
        flags("pooling_mode_max_tokens"),
        flags("pooling_mode_mean_sqrt_len_tokens"),
        flags("pooling_mode_weightedmean_tokens"),
        flags("pooling_mode_cls_token", "pooling_mode_mean_tokens"),
        {"pooling_mode_attention": True},
        {"pooling_mode_mean_tokens": "true"},
        mode("max"),
        mode("weightedmean"),
        mode("attention"),
        mode(["cls", "mean"]),
        mode([]),
        mode(None),
        mode(3),
        [],
        "mean",
    ],
)
def test_what_is_not_built_is_refused_with_what_is(tmp_path: Path, setting: Any) -> None:
    folder = files(tmp_path, setting)
    with pytest.raises(PlugInError) as caught:
        stated(folder)
    assert "cls, mean, lasttoken" in caught.value.next and "1_Pooling" in caught.value.where
    assert resolved_pooling("mean", CONFIG, folder).how == "mean"


@pytest.mark.parametrize(
    ("types", "path"),
    [
        ((f"{OLD}Transformer", f"{OLD}Pooling", f"{OLD}Normalize"), "1_Pooling"),
        ((f"{NEW}Transformer", f"{NEW}Pooling"), "1_Pooling"),
        ((f"{OLD}Transformer", f"{OLD}Dense", f"{OLD}Pooling", f"{OLD}Dense", f"{OLD}Normalize"), "2_Pooling"),
        (("sentence_transformers.base.modules.transformer.Transformer", f"{NEW}pooling.Pooling"), "1_Pooling"),
        (("custom_st.Transformer", f"{OLD}Pooling"), "pooled"),
    ],
)
def test_modules_json_says_where_the_pooling_is(tmp_path: Path, types: tuple[str, ...], path: str) -> None:
    folder = files(tmp_path, mode("lasttoken"), modules(*types, path=path), path)
    if path != "1_Pooling":  # left over from another version: modules.json decides
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(mode("cls")), encoding="utf-8")
    found = stated(folder)
    assert found.how == "last" and f"{path}/config.json" in found.why


@pytest.mark.parametrize(
    "listed",
    [
        modules(f"{OLD}Transformer"),
        modules("sentence_transformers.sparse_encoder.models.MLMTransformer", f"{OLD}SpladePooling"),
        modules(f"{OLD}Transformer", f"{OLD}Pooling", f"{OLD}Pooling"),
        modules(f"{OLD}Transformer", f"{OLD}Pooling", path="../elsewhere"),
        modules(f"{OLD}Transformer", f"{OLD}Pooling", path="/etc"),
        modules(f"{OLD}Transformer", f"{OLD}Pooling", path="9_Pooling"),
        [{"type": f"{OLD}Pooling"}],
        [{"path": "1_Pooling"}],
        {"Pooling": "1_Pooling"},
        [],
    ],
)
def test_modules_that_cannot_be_read_are_refused(tmp_path: Path, listed: Any) -> None:
    folder = files(tmp_path / "model", mode("mean"), listed)
    with pytest.raises(PlugInError) as caught:
        stated(folder)
    assert 'pooling="cls"' in caught.value.next


@pytest.mark.parametrize("text", ["{", "", "[1,", "\ufeff{}", "x" * (2 << 20)])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    folder = files(tmp_path, mode("mean"))
    (folder / "1_Pooling" / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(CorruptFileError) as caught:
        stated(folder)
    assert "1_Pooling/config.json" in caught.value.where


def test_without_such_files_an_encoder_has_its_first_and_a_decoder_its_last_token(tmp_path: Path) -> None:
    encoder = built(str(slm.tiny_slm_folder(tmp_path / "bert")))
    decoder = built(str(slm.tiny_slm_folder(tmp_path / "gpt2", "gpt2")))
    assert (encoder.pooling, decoder.pooling) == ("cls", "last")
    assert all("states none" in config.pooling_from for config in (encoder, decoder))
    assert built(slm.tiny_slm("bert")).pooling == "cls"


def test_a_hub_id_a_folder_and_an_object_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    types = (f"{OLD}Transformer", f"{OLD}Dense", f"{OLD}Pooling")
    folder = checkpoint(tmp_path / "model", mode("mean"), modules(*types, path="2_Pooling"), "2_Pooling")
    with running_hub(monkeypatch, tmp_path / "cache") as server:
        server.add_repo("org/encoder", folder)
        loaded = AutoModel.from_pretrained("org/encoder")
        found = [built(source) for source in ("org/encoder", str(folder), loaded, AutoModel.from_pretrained(folder))]
        assert [config.pooling for config in found] == ["mean"] * 4
        assert slm_features("org/encoder", TASK.splits["train"], cache=False).info["pooling"] == "mean"
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert built("org/encoder").pooling == "mean"  # what was read once is known without a connection


def test_without_a_connection_an_unknown_listing_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_hub(monkeypatch, tmp_path / "cache") as server:
        server.add_repo("org/encoder", checkpoint(tmp_path / "model", mode("mean")))
        loaded = AutoModel.from_pretrained("org/encoder")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(PlugInError) as caught:
            built(loaded)
        assert 'pooling="cls"' in caught.value.next
        assert pp.plug_in(loaded, None, task=TASK, control="vanilla", pooling="cls").config.pooling == "cls"


def test_card_and_repr_say_what_auto_means(tmp_path: Path) -> None:
    model = pp.plug_in(
        str(checkpoint(tmp_path / "a", mode("mean"))), None, task=TASK, control="vanilla", pooling="auto"
    )
    model.save_pretrained(tmp_path / "saved")
    said = "mean (auto: as sentence-transformers saved it in 1_Pooling/config.json)"
    assert markdown_cell(said) in (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    assert said.replace("mean", "'mean'", 1) in repr(model)
    assert pp.PiFiForSequenceClassification.from_pretrained(tmp_path / "saved").config.pooling == "mean"


def test_kinds_that_pool_nothing_need_no_setting(tmp_path: Path) -> None:
    from tests.kinds import task_of

    folder = checkpoint(tmp_path, mode("max"))
    model = pp.plug_in(str(folder), None, task=task_of("qa"), control="vanilla", pooling="auto")
    assert "pooling" not in repr(model).split("\n")[1]
