"""A process that is killed while it saves leaves what was there, or what it saved; at whatever point it is killed."""

from __future__ import annotations

import multiprocessing
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import pifi_probe as pp
from pifi_probe.errors import CheckpointError
from pifi_probe.folders import finish_replacing, replaced_together
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.training.folder import RunFolder
from tests import slm
from tests.kills import killed_at_every_step

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="a child that imports all anew takes too long"
)


def copied(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, target)


def weights(model: PiFiForSequenceClassification) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("old_options", "new_options", "auto"),
    [
        pytest.param({}, {}, False, id="one file"),
        pytest.param({}, {}, True, id="one file, by the Auto class", marks=pytest.mark.slow),
        *(
            pytest.param(*options, auto, id=f"{name}, {auto}", marks=pytest.mark.slow)
            for name, options in {
                "shards, then one file": ({"max_shard_size": "20KB"}, {}),
                "one file, then shards": ({}, {"max_shard_size": "20KB"}),
            }.items()
            for auto in (False, True)
        ),
    ],
)
def test_a_model_saved_over_another_is_the_old_or_the_new_one(
    old_options: dict[str, Any], new_options: dict[str, Any], auto: bool, bert: Path, donor: Path, tmp_path: Path
) -> None:
    old = pp.plug_in(str(bert), f"{donor}[0]", task=slm.tiny_task(), seed=1)
    new = pp.plug_in(str(bert), f"{donor}[1]", task=slm.tiny_task(), seed=2, feed="sequence")
    kept, folder = tmp_path / "kept", tmp_path / "model"
    old.save_pretrained(kept, **old_options)
    (kept / "notes.txt").write_text("mine", encoding="utf-8")
    load: Any = AutoModelForSequenceClassification if auto else PiFiForSequenceClassification
    found = []
    for _ in killed_at_every_step(
        lambda: new.save_pretrained(folder, **new_options), folder, lambda: copied(kept, folder)
    ):
        again = load.from_pretrained(folder)
        is_new = equal(weights(again), weights(new))
        assert is_new or equal(weights(again), weights(old))
        assert again.config.layer_specs == (new if is_new else old).config.layer_specs
        assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"
        found.append(is_new)
    assert found == sorted(found) and found[0] is False and found[-1] is True
    assert equal(weights(load.from_pretrained(folder)), weights(new))
    names = {path.name for path in folder.iterdir()}
    assert not any(name.startswith(".") for name in names), "nothing is left over"
    assert ("model.safetensors" in names) != ("model.safetensors.index.json" in names), (
        "no stale weights next to the new"
    )


@pytest.mark.slow
def test_a_model_is_saved_where_a_killed_process_has_left_its_files(bert: Path, donor: Path, tmp_path: Path) -> None:
    old = pp.plug_in(str(bert), f"{donor}[0]", task=slm.tiny_task(), seed=1)
    new = pp.plug_in(str(bert), f"{donor}[1]", task=slm.tiny_task(), seed=2)
    kept, folder = tmp_path / "kept", tmp_path / "model"
    old.save_pretrained(kept)
    for _ in killed_at_every_step(lambda: new.save_pretrained(folder), folder, lambda: copied(kept, folder)):
        old.save_pretrained(folder)
        assert equal(weights(PiFiForSequenceClassification.from_pretrained(folder)), weights(old))


@pytest.mark.slow
def test_a_layer_saved_over_another_is_the_old_or_the_new_one(donor: Path, tmp_path: Path) -> None:
    old, new = pp.extract(f"{donor}[0]"), pp.extract(f"{donor}[1]")
    kept, folder = old.save(tmp_path / "kept"), tmp_path / "layer"
    found = []
    for _ in killed_at_every_step(lambda: new.save(folder), folder, lambda: copied(kept, folder)):
        found.append(FrozenLayer.load(folder).card.sha256)
    assert set(found) == {old.card.sha256, new.card.sha256}
    assert {path.name for path in folder.iterdir()} == {"layer.json", "layer.safetensors"}


@pytest.mark.slow
def test_a_layer_saved_for_the_first_time_is_whole_or_not_there(donor: Path, tmp_path: Path) -> None:
    layer, folder = pp.extract(f"{donor}[0]"), tmp_path / "layer"
    for _ in killed_at_every_step(lambda: layer.save(folder), folder, lambda: copied(tmp_path / "none", folder)):
        try:
            FrozenLayer.load(folder)
        except CheckpointError as error:
            assert "no saved layer here" in error.what


@pytest.mark.slow
def test_a_run_killed_at_its_end_resumes_to_the_same_result(bert: Path, donor: Path, tmp_path: Path) -> None:
    """Also in the final clean-up, when the result is written and the checkpoints are being deleted."""
    task, recipe = slm.tiny_task(), pp.Recipe(epochs=1, batch_size=4)
    kept, folder = tmp_path / "kept", tmp_path / "run"
    make = partial(pp.plug_in, str(bert), f"{donor}[1]", task=task)
    expected = pp.fine_tune(make(), task, recipe, out=tmp_path / "whole", save_model=True)
    run = RunFolder(kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "end", lambda *args: None)
        pp.fine_tune(make(), task, recipe, out=kept, save_model=True)
    assert run.last_checkpoint() is not None and not run.result_file.exists()
    model, tokenizer = make(), AutoTokenizer.from_pretrained(bert)
    assert RunFolder(tmp_path / "whole").restore_model(model)
    n = 0
    for _ in killed_at_every_step(
        lambda: RunFolder(folder).end(expected, model, tokenizer), folder, lambda: copied(kept, folder)
    ):
        n += 1
        if n % (4 if (folder / "result.json").is_file() else 24):  # to load a run takes a while, to train one more
            continue
        again = pp.fine_tune(make(), task, recipe, out=folder, resume=True, save_model=True)
        assert again.metrics == expected.metrics
        assert equal(weights(PiFiForSequenceClassification.from_pretrained(folder / "model")), weights(model))
    assert n > 10


def test_a_checkpoint_of_which_a_part_is_gone_is_none_and_the_result_counts(
    bert: Path, donor: Path, tmp_path: Path
) -> None:
    """As a process left it that was killed while it deleted file after file."""
    task, recipe = slm.tiny_task(), pp.Recipe(epochs=1, batch_size=4)
    make = partial(pp.plug_in, str(bert), f"{donor}[1]", task=task)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "_remove_checkpoints", lambda self: None)
        expected = pp.fine_tune(make(), task, recipe, out=tmp_path)
    checkpoint = RunFolder(tmp_path).last_checkpoint()
    assert checkpoint is not None
    (checkpoint / "optimizer.pt").unlink()
    (tmp_path / "checkpoints" / "checkpoint-best").mkdir()
    assert RunFolder(tmp_path).last_checkpoint() is None
    assert pp.fine_tune(make(), task, recipe, out=tmp_path, resume=True).metrics == expected.metrics


def test_of_a_broken_off_save_nothing_outside_of_the_folder_is_touched(tmp_path: Path) -> None:
    """The files that wait in a folder may come from elsewhere, as those of a downloaded model do."""
    folder, outside = tmp_path / "model", tmp_path / "precious"
    outside.write_text("kept", encoding="utf-8")
    ready = folder / ".saved"
    ready.mkdir(parents=True)
    (ready / "stale.json").write_text('["../precious", 3, null, "..", "/etc/hostname"]', encoding="utf-8")
    finish_replacing(folder, "config.json")
    assert outside.read_text(encoding="utf-8") == "kept" and folder.is_dir()


def test_what_fails_while_files_are_written_leaves_the_old_ones(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old", encoding="utf-8")
    with pytest.raises(ZeroDivisionError), replaced_together(tmp_path, "a") as work:
        (work / "a").write_text("new", encoding="utf-8")
        raise ZeroDivisionError
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == {"a": "old"}
