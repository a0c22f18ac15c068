"""A sample passes through a model layer by layer as it passes through the whole model."""

from __future__ import annotations

import errno
import io
import logging
import sys
import weakref
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from pifi_probe.errors import CheckpointError, FeatureError, SaveError
from pifi_probe.layers import sources, states
from pifi_probe.layers import stream as module
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.stream import Batch, stream
from tests import tiny, tiny_gguf
from tests.folders import rewrite
from tests.hub_server import HubServer
from tests.states import whole_states

TOLERANCE = 1e-4
SEQ = 17
N_LAYERS = 5
Found = dict[tuple[int, int], torch.Tensor]


def padded(side: str, seed: int = 0, rows: int = 5) -> Batch:
    """Random texts of 1, 4, 9, 13 and 17 tokens, padded on one side."""
    lengths = torch.tensor([1, 4, 9, 13, SEQ][:rows])
    ids = torch.randint(3, 99, (rows, SEQ), generator=torch.Generator().manual_seed(seed))
    place = torch.arange(SEQ) if side == "right" else torch.arange(SEQ).flip(0)
    return Batch(ids, (place < lengths[:, None]).long())


def split(batch: Batch, rows: int) -> list[Batch]:
    """The same texts in smaller batches."""
    pieces = zip(batch.input_ids.split(rows), batch.attention_mask.split(rows), strict=True)
    return [Batch(ids, mask) for ids, mask in pieces]


def run(checkpoint: Checkpoint, batches: Sequence[Batch], **options: Any) -> Found:
    found: Found = {}

    def visit(point: int, batch: int, states: torch.Tensor) -> None:
        assert (point, batch) not in found
        found[point, batch] = states.clone()

    stream(checkpoint, batches, visit, model="model", **options)
    return found


def assert_equal(found: Found, batches: Sequence[Batch], full: PreTrainedModel) -> None:
    """Compare every point at every token with the whole model."""
    n_points = full.config.num_hidden_layers + 1
    assert list(found) == [(point, i) for point in range(n_points) for i in range(len(batches))]
    for i, batch in enumerate(batches):
        kept = batch.attention_mask.bool()
        for point, expected in enumerate(whole_states(full, batch.input_ids, batch.attention_mask)):
            error = (found[point, i] - expected)[kept].norm() / expected[kept].norm()
            assert found[point, i].dtype == torch.float32 and error <= TOLERANCE, (point, i)


# --- equality with the whole model --------------------------------------------------------------------------

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in tiny.FAMILIES} | {
    "opt_projected": ("opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "untied": ("llama", {"tie_word_embeddings": False}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_point_equals_the_whole_model_padded_on_either_side_in_any_batch_in_memory_and_on_disk(
    name: str, tmp_path: Path
) -> None:
    family, overrides = VARIANTS[name]
    folder = tiny.tiny_checkpoint(family, tmp_path / "model", max_shard_size="40KB", **overrides)
    full = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    whole = [padded("left"), padded("right", seed=1)]
    assert_equal(run(open_checkpoint(str(folder)), whole), whole, full)
    pieces = [piece for batch in whole for piece in split(batch, 2)]
    assert_equal(run(open_checkpoint(str(folder)), pieces, memory=0), pieces, full)


@pytest.mark.parametrize("family", tiny_gguf.FAMILIES)
def test_a_gguf_file_gives_the_states_of_the_model_it_was_made_from(family: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(tiny_gguf.tiny_gguf(family, tmp_path / "x.gguf")))
    batches = [padded("left"), padded("right")]
    assert_equal(run(checkpoint, batches), batches, tiny_gguf.tiny_gguf_model(family))


def test_a_model_on_the_hub_travels_once_without_its_head(server: HubServer, tmp_path: Path) -> None:
    folder = tiny.tiny_checkpoint("llama", tmp_path / "model", max_shard_size="40KB", tie_word_embeddings=False)
    server.add_repo("org/model", folder)
    checkpoint = open_checkpoint("org/model")
    full = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    batches = [padded("left"), padded("right")]
    assert_equal(run(checkpoint, batches), batches, full)
    sizes = {name: tensor.nbytes for name, tensor in full.state_dict().items()}
    headers = sum(
        min(info.offset for info in checkpoint.tensors.values() if info.source.name == name)
        for name in {info.source.name for info in checkpoint.tensors.values()}
    )
    assert server.bytes_sent("/objects/") <= sum(sizes.values()) - sizes["lm_head.weight"] + headers


def test_a_legacy_checkpoint_is_streamed_too(llama: Path, reference: Found) -> None:
    tensors = AutoModelForCausalLM.from_pretrained(llama).state_dict()
    torch.save(tensors, llama / "pytorch_model.bin")
    (llama / "model.safetensors").unlink()
    found = run(open_checkpoint(str(llama), allow_pickle=True), BATCHES)
    assert all(torch.equal(found[place], states) for place, states in reference.items())


# --- one pass, one layer ------------------------------------------------------------------------------------

BATCHES = [padded("right"), padded("left", seed=1)]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return tiny.tiny_checkpoint("llama", tmp_path / "llama", num_hidden_layers=N_LAYERS, tie_word_embeddings=False)


@pytest.fixture
def reference(llama: Path) -> Found:
    return run(open_checkpoint(str(llama)), BATCHES)


@pytest.fixture
def layers_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the layers that are read, in order; every one is gone before the next is read."""
    read: list[int] = []
    alive: list[weakref.ref[FrozenLayer]] = []
    original = module.extract_from

    def spy(checkpoint: Checkpoint, index: int, **options: Any) -> FrozenLayer:
        assert not any(layer() for layer in alive)
        read.append(index)
        layer = original(checkpoint, index, **options)
        alive.append(weakref.ref(layer))
        return layer

    monkeypatch.setattr(module, "extract_from", spy)
    return read


def test_each_layer_is_read_once_and_gone_before_the_next(llama: Path, layers_read: list[int]) -> None:
    run(open_checkpoint(str(llama)), BATCHES)
    assert layers_read == list(range(N_LAYERS))


def test_each_byte_is_read_once_and_the_head_never(llama: Path) -> None:
    checkpoint = open_checkpoint(str(llama))
    header = checkpoint.bytes_read
    run(checkpoint, BATCHES)
    stored = sum(info.nbytes for name, info in checkpoint.tensors.items() if name != "lm_head.weight")
    assert checkpoint.bytes_read == header + stored


def test_of_the_embeddings_only_the_pieces_with_tokens_of_the_sample_are_read(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(str(llama))
    whole = checkpoint.read(["model.embed_tokens.weight"])["model.embed_tokens.weight"]
    monkeypatch.setattr(sources, "_ROWS_AT_ONCE", 10 * 4 * tiny.WIDTH)
    before = checkpoint.bytes_read
    rows = torch.tensor([0, 9, 25, 98])
    assert torch.equal(checkpoint.read_stem(rows)["model.embed_tokens.weight"], whole[rows])
    norm = checkpoint.tensors["model.norm.weight"].nbytes
    assert checkpoint.bytes_read - before == (10 + 10 + 9) * 4 * tiny.WIDTH + norm


def test_a_token_without_an_embedding_is_one_line(llama: Path) -> None:
    batch = Batch(torch.tensor([[5, 99]]), torch.tensor([[1, 1]]))
    with pytest.raises(CheckpointError, match=r"token 99, and 'model.embed_tokens.weight' has 99 rows"):
        run(open_checkpoint(str(llama)), [batch])


def test_a_checkpoint_without_embeddings_is_one_line(llama: Path) -> None:
    rewrite(llama, {"model.embed_tokens.weight": None})
    with pytest.raises(CheckpointError, match="embed_tokens.weight.*next:"):
        run(open_checkpoint(str(llama)), BATCHES)


# --- killed and resumed -------------------------------------------------------------------------------------


class Stop(Exception):
    pass


def run_until(point: int, checkpoint: Checkpoint, folder: Path, budget: int | None) -> None:
    def visit(at: int, batch: int, states: torch.Tensor) -> None:
        if (at, batch) == (point, 1):
            raise Stop

    with pytest.raises(Stop):
        stream(checkpoint, BATCHES, visit, model="model", folder=folder, memory=budget)


@pytest.mark.parametrize("budget", [None, 0], ids=["in memory", "on disk"])
@pytest.mark.parametrize("point", [0, 1, 3, N_LAYERS])
def test_a_pass_goes_on_after_its_last_finished_layer(
    point: int, budget: int | None, llama: Path, reference: Found, layers_read: list[int], tmp_path: Path
) -> None:
    checkpoint, folder = open_checkpoint(str(llama)), tmp_path / "states"
    run_until(point, checkpoint, folder, budget)
    layers_read.clear()
    found = run(checkpoint, BATCHES, folder=folder, memory=budget)
    assert layers_read == list(range(max(0, point - 1), N_LAYERS))
    assert list(found) == [place for place in reference if place[0] >= point]
    assert all(torch.equal(states, reference[place]) for place, states in found.items())
    assert not folder.exists()


def damage(folder: Path) -> None:
    file = next(folder.glob("states-*.bin"))
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)


def truncate(folder: Path) -> None:
    file = next(folder.glob("states-*.bin"))
    file.write_bytes(file.read_bytes()[:-1])


def drop(folder: Path) -> None:
    next(folder.glob("states-*.bin")).unlink()


def garble(folder: Path) -> None:
    (folder / "journal.json").write_text('{"point":')


@pytest.mark.parametrize("harm", [damage, truncate, drop, garble])
@pytest.mark.parametrize("budget", [None, 0], ids=["in memory", "on disk"])
def test_damaged_states_are_not_used(
    harm: Callable[[Path], None], budget: int | None, llama: Path, reference: Found, tmp_path: Path
) -> None:
    checkpoint, folder = open_checkpoint(str(llama)), tmp_path / "states"
    run_until(3, checkpoint, folder, budget)
    harm(folder)
    found = run(checkpoint, BATCHES, folder=folder, memory=budget)
    assert list(found) == list(reference)
    assert all(torch.equal(states, reference[place]) for place, states in found.items())


def test_states_of_other_texts_are_not_used(llama: Path, tmp_path: Path) -> None:
    checkpoint, folder = open_checkpoint(str(llama)), tmp_path / "states"
    run_until(3, checkpoint, folder, None)
    found = run(checkpoint, [padded("right", seed=7), BATCHES[1]], folder=folder)
    assert (0, 0) in found


def test_states_of_other_weights_at_the_same_place_are_not_used(tmp_path: Path) -> None:
    model, folder = tiny.tiny_checkpoint("llama", tmp_path / "model"), tmp_path / "states"
    run_until(3, open_checkpoint(str(model)), folder, None)
    tiny.tiny_model("llama", seed=7).save_pretrained(model)
    found = run(open_checkpoint(str(model)), BATCHES, folder=folder)
    assert (0, 0) in found


# --- faults -------------------------------------------------------------------------------------------------


def fail_writing(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the disk be full after so many pieces."""
    written = 0

    class Full(FileIO):
        def write(self, data: Any) -> int:
            nonlocal written
            written += 1
            if written > after:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    monkeypatch.setattr(states, "FileIO", Full)


@pytest.mark.parametrize("after", [0, 3])
def test_a_full_disk_costs_resuming_and_nothing_else(
    after: int,
    llama: Path,
    reference: Found,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fail_writing(monkeypatch, after)
    found = run(open_checkpoint(str(llama)), BATCHES, folder=tmp_path / "states")
    assert all(torch.equal(found[place], states) for place, states in reference.items())
    assert caplog.text.count("No space left on device") == 1
    assert not list((tmp_path / "states").glob("*.partial"))


def test_a_full_disk_ends_a_pass_that_does_not_fit_in_memory(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_writing(monkeypatch, 3)
    with pytest.raises(SaveError, match=r"No space left on device.*memory="):
        run(open_checkpoint(str(llama)), BATCHES, folder=tmp_path / "states", memory=0)


def test_activations_that_overflow_are_an_error_that_names_the_layer(llama: Path) -> None:
    huge = torch.full((48, tiny.WIDTH), 1e38)
    rewrite(llama, {f"model.layers.2.mlp.{name}_proj.weight": huge.clone() for name in ("up", "gate")})
    with pytest.raises(FeatureError, match=r"output of layer 2 holds NaN or infinite values .* model\[2\]"):
        run(open_checkpoint(str(llama)), BATCHES)


def test_whatever_stands_at_padded_positions_is_no_error(
    llama: Path, reference: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = FrozenLayer.forward

    def spoil(self: FrozenLayer, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return original(self, states, mask).masked_fill(~mask.bool()[..., None], float("nan"))

    monkeypatch.setattr(FrozenLayer, "forward", spoil)
    found = run(open_checkpoint(str(llama)), BATCHES)
    for (point, i), states_ in reference.items():
        kept = BATCHES[i].attention_mask.bool()
        torch.testing.assert_close(found[point, i][kept], states_[kept])


def limit_texts(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Let the device run out of memory with more than `most` texts; return how many it was given."""
    original, given = FrozenLayer.forward, []

    def forward(self: FrozenLayer, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        given.append(len(states))
        if len(states) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, states, mask)

    monkeypatch.setattr(FrozenLayer, "forward", forward)
    return given


def test_a_device_out_of_memory_gets_smaller_batches_and_says_so(
    llama: Path, reference: Found, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = limit_texts(monkeypatch, 2)
    with caplog.at_level(logging.WARNING):
        found = run(open_checkpoint(str(llama)), BATCHES)
    for place, expected in reference.items():
        torch.testing.assert_close(found[place], expected)
    assert "out of memory: continuing with 2 texts" in caplog.text
    assert given.count(5) == 1, "what did not fit once is not tried again"


def test_one_text_that_does_not_fit_is_an_error(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_texts(monkeypatch, 0)
    with pytest.raises(FeatureError, match=r"one text of 17 tokens does not fit into the memory of cpu.*next:"):
        run(open_checkpoint(str(llama)), BATCHES)


# --- progress -----------------------------------------------------------------------------------------------


def test_progress_shows_layers_and_bytes_in_a_terminal_and_is_quiet_elsewhere(
    llama: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    run(open_checkpoint(str(llama)), BATCHES)
    assert capfd.readouterr() == ("", "")
    for progress in (True, False):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        run(open_checkpoint(str(llama)), BATCHES, progress=progress)
        shown = terminal.getvalue()
        assert ("/5 [" in shown and "MB read" in shown) == progress
        assert shown == "" or progress
