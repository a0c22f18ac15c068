"""One layer read from the hub by byte ranges, against a local server that speaks the hub's protocol."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants, snapshot_download
from safetensors.torch import load_file, save
from transformers import AutoTokenizer

from pifi_probe.errors import CheckpointError, HubError
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.content import content_of
from pifi_probe.layers.extract import extract
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.hub import open_hub_checkpoint
from pifi_probe.layers.hub_cache import whole_files
from pifi_probe.layers.hub_client import HubUnreachable, Patience
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.safetensors_io import read_header
from pifi_probe.layers.sources import FileSource
from pifi_probe.layers.tokenizer import donor_tokenizer
from tests.hub_server import HubServer, Repo, running_hub
from tests.slm import tiny_slm_folder
from tests.tiny import tiny_checkpoint, tiny_model
from tests.tiny_gguf import tiny_gguf

N_LAYERS = 8
NAME = "org/model"
TOKEN = "hf_owner"
LAYER = 3  # lies in two shards

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of 8 layers in 5 shards."""
    path = tmp_path_factory.mktemp("llama")
    return tiny_checkpoint("llama", path, num_hidden_layers=N_LAYERS, max_shard_size="60KB")


@pytest.fixture(scope="module")
def local(folder: Path) -> Checkpoint:
    return open_checkpoint(str(folder))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with running_hub(monkeypatch, tmp_path, TOKEN) as server:
        yield server


@pytest.fixture
def repo(server: HubServer, folder: Path) -> Repo:
    return server.add_repo(NAME, folder, licence="mit")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the client wanted to wait; nobody waits them."""
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


def open_patiently(waits: list[float]) -> Checkpoint:
    return open_hub_checkpoint(NAME, patience=Patience(sleep=waits.append))


def assert_same(got: Tensors, expected: Tensors) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name


def header_bytes(folder: Path, shards: set[str]) -> int:
    return sum(min(info.offset for info in read_header(FileSource(folder / shard)).values()) for shard in shards)


def layer_bytes(local: Checkpoint, index: int) -> int:
    return sum(local.tensors[name].nbytes for name in local.layer_names(index))


def shards_of(local: Checkpoint, index: int) -> set[str]:
    return {Path(local.tensors[name].source.name).name for name in local.layer_names(index)}


def read_headers(checkpoint: Checkpoint) -> None:
    for name in checkpoint.layer_names(LAYER):
        checkpoint.tensors[name]


# --- only the layer travels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("index", range(N_LAYERS))
def test_every_layer_equals_the_local_one_and_nothing_else_travels(
    index: int, server: HubServer, repo: Repo, folder: Path, local: Checkpoint
) -> None:
    checkpoint = open_hub_checkpoint(NAME)
    assert_same(checkpoint.read_layer(index), local.read_layer(index))
    sent = server.bytes_sent("/objects/")
    assert sent == checkpoint.bytes_read
    assert sent <= header_bytes(folder, shards_of(local, index)) + 1.01 * layer_bytes(local, index)


def test_neighbouring_tensors_are_fetched_with_one_request_a_shard(
    server: HubServer, repo: Repo, local: Checkpoint
) -> None:
    checkpoint = open_hub_checkpoint(NAME)
    read_headers(checkpoint)
    before = len(server.requests("/objects/"))
    checkpoint.read_layer(LAYER)
    assert len(server.requests("/objects/")) - before == len(shards_of(local, LAYER)) == 2


def test_a_single_file_without_an_index_is_read_by_ranges(server: HubServer, tmp_path: Path, local: Checkpoint) -> None:
    whole = tiny_checkpoint("llama", tmp_path / "whole", num_hidden_layers=N_LAYERS)
    server.add_repo(NAME, whole)
    assert_same(open_hub_checkpoint(NAME).read_layer(5), local.read_layer(5))
    header = header_bytes(whole, {"model.safetensors"})
    assert server.bytes_sent("/objects/") <= header + 1.01 * layer_bytes(local, 5)


def test_extract_takes_a_hub_name_and_its_card_names_commit_and_licence(
    server: HubServer, repo: Repo, folder: Path
) -> None:
    layer = extract(f"{NAME}[{LAYER}]")
    assert isinstance(layer, FrozenLayer)
    assert (layer.card.revision, layer.card.licence, layer.card.gated) == (
        repo.branches["main"],
        "mit",
        False,
    )
    states = torch.randn(1, 5, 32)
    assert torch.equal(layer(states), extract(f"{folder}[{LAYER}]")(states))


@pytest.mark.assets
def test_a_layer_of_a_gguf_file_travels_alone(server: HubServer, smollm2: Path) -> None:
    server.add_repo(NAME, {"model-q4.gguf": smollm2.read_bytes()})
    checkpoint = open_hub_checkpoint(f"{NAME}/model-q4.gguf")
    reference = open_checkpoint(str(smollm2))
    header_only = reference.bytes_read
    assert_same(checkpoint.read_layer(29), reference.read_layer(29))
    assert server.bytes_sent("/objects/") <= header_only + 1.01 * layer_bytes(reference, 29)


@pytest.mark.slow
@pytest.mark.assets
def test_the_tokenizer_of_a_gguf_file_is_read_out_of_its_header(server: HubServer, smollm2: Path) -> None:
    server.add_repo(NAME, {"model-q4.gguf": smollm2.read_bytes()})
    reference = open_checkpoint(str(smollm2))
    checkpoint = open_hub_checkpoint(f"{NAME}/model-q4.gguf")
    tokenizer, expected = donor_tokenizer(checkpoint), donor_tokenizer(reference)
    text = "Naïve façades, 42 of them."
    assert tokenizer(text)["input_ids"] == expected(text)["input_ids"]
    assert len(tokenizer) == len(expected)
    assert server.bytes_sent("/objects/") <= 2.2 * reference.bytes_read, "the header, and no weights"


def test_two_gguf_files_of_one_repository_are_two_models(server: HubServer, tmp_path: Path) -> None:
    files = {name: tiny_gguf("llama", tmp_path / name).read_bytes() for name in ("a.gguf", "b.gguf")}
    server.add_repo(NAME, files)
    one, other = (open_hub_checkpoint(f"{NAME}/{name}") for name in files)
    assert content_of(one) != content_of(other)
    assert one.identity == f"{NAME}@{one.revision}/a.gguf"


def test_a_tokenizer_of_the_hub_is_fetched_with_the_same_care(server: HubServer, folder: Path, tmp_path: Path) -> None:
    small = tiny_slm_folder(tmp_path / "slm")
    names = [path.name for path in small.iterdir() if path.name.startswith(("tokenizer", "vocab", "special"))]
    extra = {name: (small / name).read_bytes() for name in names}
    weights = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    server.add_repo(NAME, {**weights, **extra})
    checkpoint = open_hub_checkpoint(NAME)
    tokenizer = donor_tokenizer(checkpoint)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(small).get_vocab()
    assert server.bytes_sent("/objects/") == 0, "and no weights"


def test_a_repository_without_a_tokenizer_says_so(server: HubServer, repo: Repo) -> None:
    with pytest.raises((CheckpointError, ValueError, OSError), match="tokenizer"):
        donor_tokenizer(open_hub_checkpoint(NAME))


# --- once ---------------------------------------------------------------------------------------------------


def test_the_same_layer_is_not_fetched_twice(server: HubServer, repo: Repo, local: Checkpoint) -> None:
    open_hub_checkpoint(NAME).read_layer(LAYER)
    before = len(server.seen)
    again = open_hub_checkpoint(NAME)
    assert_same(again.read_layer(LAYER), local.read_layer(LAYER))
    assert again.bytes_read == 0
    assert [seen.path.split("?")[0] for seen in server.seen[before:]] == [f"/api/models/{NAME}"]


def test_a_cached_layer_is_read_in_offline_mode(
    server: HubServer, repo: Repo, local: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_hub_checkpoint(NAME).read_layer(LAYER)
    before = len(server.seen)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same(open_hub_checkpoint(NAME).read_layer(LAYER), local.read_layer(LAYER))
    assert len(server.seen) == before


def test_another_layer_in_offline_mode_is_an_error_that_says_so(
    server: HubServer, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_hub_checkpoint(NAME).read_layer(LAYER)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachable, match="not in the cache.*HF_HUB_OFFLINE"):
        open_hub_checkpoint(NAME).read_layer(LAYER + 2)


def test_an_unknown_model_in_offline_mode_is_an_error_that_says_so(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE"):
        open_hub_checkpoint(NAME)


def test_without_a_connection_the_known_commit_is_used(
    server: HubServer, repo: Repo, local: Checkpoint, waits: list[float]
) -> None:
    open_hub_checkpoint(NAME).read_layer(LAYER)
    server.fail("/api/", times=99, cut_after=0)
    checkpoint = open_patiently(waits)
    assert checkpoint.revision == repo.branches["main"]
    assert_same(checkpoint.read_layer(LAYER), local.read_layer(LAYER))


def test_a_model_in_the_clients_own_cache_is_read_there(
    server: HubServer, repo: Repo, local: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot_download(NAME)
    before = len(server.seen)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    checkpoint = open_hub_checkpoint(NAME)
    assert checkpoint.identity == f"{NAME}@{repo.branches['main']}"
    assert_same(checkpoint.read_layer(LAYER), local.read_layer(LAYER))
    assert len(server.seen) == before


def test_a_branch_is_resolved_once_and_a_moved_branch_is_seen_next_time(
    server: HubServer, repo: Repo, local: Checkpoint, tmp_path: Path
) -> None:
    old = repo.branches["main"]
    checkpoint = open_hub_checkpoint(NAME)
    other = tiny_checkpoint("llama", tmp_path / "other", num_hidden_layers=N_LAYERS, seed=1)
    new = repo.commit({path.name: path.read_bytes() for path in other.iterdir()})
    assert_same(checkpoint.read_layer(LAYER), local.read_layer(LAYER))
    assert (checkpoint.revision, open_hub_checkpoint(NAME).revision) == (old, new)
    assert open_hub_checkpoint(NAME, old).identity == f"{NAME}@{old}"


def test_a_cache_that_cannot_be_written_costs_nothing_but_the_cache(
    server: HubServer, repo: Repo, local: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "file"))
    assert_same(open_hub_checkpoint(NAME).read_layer(LAYER), local.read_layer(LAYER))


@pytest.mark.slow
def test_the_clients_own_variables_are_all_that_a_new_process_needs(
    server: HubServer, repo: Repo, tmp_path: Path, local: Checkpoint
) -> None:
    command = [sys.executable, "-c", READ_TWICE, NAME, str(LAYER), str(tmp_path / "layer")]
    subprocess.run(command, env=server.environment(tmp_path / "new"), check=True, timeout=300)
    assert_same(load_file(tmp_path / "layer"), local.read_layer(LAYER))
    assert len(server.requests(f"/api/models/{NAME}")) == 1
    assert {seen.status for seen in server.requests(host="storage")} == {206}


READ_TWICE = """
import importlib, os, sys
import huggingface_hub
from safetensors.torch import save_file
from pifi_probe.layers.hub import open_hub_checkpoint
name, index, path = sys.argv[1:]
open_hub_checkpoint(name).read_layer(int(index))
os.environ["HF_HUB_OFFLINE"] = "1"
importlib.reload(huggingface_hub.constants)
save_file(open_hub_checkpoint(name).read_layer(int(index)), path)
"""


# --- transient faults ---------------------------------------------------------------------------------------

PLACES = {
    "the repository": f"/api/models/{NAME}",
    "a small file": "config.json",
    "the address of a shard": "00003-of-00005.safetensors",
    "the bytes of a shard": "/objects/",
}
FAULTS: dict[str, dict[str, object]] = {
    "500 twice": {"status": 500, "times": 2},
    "503": {"status": 503},
    "429 with Retry-After": {"status": 429, "headers": {"Retry-After": "7"}},
    "a cut connection": {"cut_after": 1},
    "no answer in time": {"delay": 0.5},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", PLACES)
def test_a_transient_fault_is_survived(
    place: str,
    fault: str,
    server: HubServer,
    repo: Repo,
    local: Checkpoint,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.setattr(constants, name, 0.2)
    server.fail(PLACES[place], **{"times": 1, **FAULTS[fault]})  # type: ignore[arg-type]
    assert_same(open_patiently(waits).read_layer(LAYER), local.read_layer(LAYER))
    assert all(planned.times == 0 for planned in server.faults)
    if "Retry-After" in fault and place != "a small file":  # the client itself waits there
        assert max(waits) >= 7


def test_waiting_grows_with_jitter_and_ends(server: HubServer, repo: Repo, waits: list[float]) -> None:
    checkpoint = open_patiently(waits)
    server.fail("/objects/", status=502, times=99)
    with pytest.raises(HubError, match="HTTP 502.*what was fetched is kept"):
        checkpoint.read_layer(LAYER)
    assert len(server.requests("/objects/")) == 5
    assert all(full / 2 <= waited <= full for full, waited in zip((1, 2, 4, 8), waits, strict=True))
    assert waits != [1, 2, 4, 8]


def test_a_server_that_asks_for_an_hour_gets_an_error_that_says_so(
    server: HubServer, repo: Repo, waits: list[float]
) -> None:
    server.fail("/api/", status=429, headers={"Retry-After": "3600"})
    with pytest.raises(HubError, match="HTTP 429.*3600 s"):
        open_patiently(waits)
    assert waits == []


def test_what_was_fetched_is_kept_after_a_failure(
    server: HubServer, repo: Repo, folder: Path, local: Checkpoint, waits: list[float]
) -> None:
    checkpoint = open_patiently(waits)
    read_headers(checkpoint)
    server.fail("/objects/", cut_after=9000)  # in the middle of a tensor
    server.fail("/objects/", cut_after=0, times=99)
    with pytest.raises(HubError, match="kept"):
        checkpoint.read_layer(LAYER)
    assert checkpoint.bytes_read > 9000
    server.faults.clear()
    again = open_patiently(waits)
    assert_same(again.read_layer(LAYER), local.read_layer(LAYER))
    everything = header_bytes(folder, shards_of(local, LAYER)) + layer_bytes(local, LAYER)
    assert checkpoint.bytes_read + again.bytes_read == everything


def test_an_expired_address_is_asked_for_again(
    server: HubServer, repo: Repo, local: Checkpoint, waits: list[float]
) -> None:
    checkpoint = open_patiently(waits)
    checkpoint.read_layer(LAYER)
    server.signature += 1
    assert_same(checkpoint.read_layer(LAYER + 1), local.read_layer(LAYER + 1))
    assert [seen.status for seen in server.requests("signature=1")].count(403) >= 1


# --- the token ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [None, "500 twice", "a cut connection", "429 with Retry-After"])
def test_the_token_goes_to_the_hub_and_never_to_the_storage(
    fault: str | None, server: HubServer, repo: Repo, waits: list[float]
) -> None:
    repo.gated = "manual"
    repo.granted.add(TOKEN)
    if fault is not None:
        server.fail("/objects/", **{"times": 1, **FAULTS[fault]})  # type: ignore[arg-type]
    checkpoint = open_patiently(waits)
    checkpoint.read_layer(LAYER)
    server.signature += 1
    checkpoint.read_layer(LAYER + 2)
    assert checkpoint.gated
    hub, storage = server.requests(host="hub"), server.requests(host="storage")
    assert {seen.headers.get("authorization") for seen in hub} == {f"Bearer {TOKEN}"}
    assert len(storage) > 4
    assert all(TOKEN not in json.dumps([seen.headers, seen.path]) for seen in storage)


def test_no_token_is_sent_when_none_is_wanted(server: HubServer, repo: Repo) -> None:
    open_hub_checkpoint(NAME, token=False).read_layer(LAYER)
    assert all("authorization" not in seen.headers for seen in server.seen)


# --- permanent faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [TOKEN, False], ids=["not granted (403)", "anonymous (401)"])
def test_a_gated_model_is_an_error_that_says_how_to_get_access(
    token: str | bool, server: HubServer, repo: Repo, waits: list[float]
) -> None:
    repo.gated = "manual"
    with pytest.raises(HubError, match=f"gated.*accept the terms on {server.endpoint}/{NAME}.*hf auth login"):
        open_hub_checkpoint(NAME, token=token, patience=Patience(sleep=waits.append))
    assert waits == []


@pytest.mark.parametrize("token", [TOKEN, False], ids=["404", "401"])
def test_a_missing_model_is_an_error_that_names_it(token: str | bool, server: HubServer) -> None:
    with pytest.raises(HubError, match="no such model, or it is private.*org/modle"):
        open_hub_checkpoint("org/modle", token=token)


def test_a_missing_revision_is_an_error_that_names_some_that_exist(server: HubServer, repo: Repo) -> None:
    repo.tags["v1.0"] = repo.branches["main"]
    with pytest.raises(HubError, match="no such revision.*org/model@v9.*main, v1.0"):
        open_hub_checkpoint(NAME, "v9")
    assert open_hub_checkpoint(NAME, "v1.0").revision == repo.branches["main"]


def test_a_refused_token_is_an_error_that_says_so(server: HubServer, repo: Repo) -> None:
    with pytest.raises(HubError, match="refuses the token.*hf auth login"):
        open_hub_checkpoint(NAME, token="hf_wrong")


def test_an_impossible_name_is_an_error(server: HubServer) -> None:
    with pytest.raises(HubError, match="not a valid name"):
        open_hub_checkpoint("org//model")


def test_a_shard_that_is_not_there_is_an_error_that_names_it(server: HubServer, folder: Path) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    del files["model-00002-of-00005.safetensors"]
    server.add_repo(NAME, files)
    with pytest.raises(CheckpointError, match="1 of 5 shards are missing: model-00002-of-00005"):
        open_hub_checkpoint(NAME)


def test_a_model_without_configuration_is_an_error_that_says_so(server: HubServer) -> None:
    server.add_repo(NAME, {"model.safetensors": save({"a": torch.zeros(2)})})
    with pytest.raises(HubError, match="no file 'config.json'"):
        open_hub_checkpoint(NAME)


def test_a_repository_of_gguf_files_is_an_error_that_names_one(server: HubServer) -> None:
    server.add_repo(NAME, {"model-q4.gguf": b"GGUF"})
    with pytest.raises(HubError, match="no safetensors.*org/model/model-q4.gguf"):
        open_hub_checkpoint(NAME)
    with pytest.raises(HubError, match="no file 'model-q5.gguf'.*model-q4.gguf"):
        open_hub_checkpoint(f"{NAME}/model-q5.gguf")


def test_legacy_weights_need_two_flags_and_the_error_states_the_size(
    server: HubServer, folder: Path, local: Checkpoint, tmp_path: Path
) -> None:
    torch.save(tiny_model("llama", num_hidden_layers=N_LAYERS).state_dict(), tmp_path / "pytorch_model.bin")
    weights = (tmp_path / "pytorch_model.bin").read_bytes()
    config = (folder / "config.json").read_bytes()
    server.add_repo(NAME, {"config.json": config, "pytorch_model.bin": weights})
    size = f"{len(weights) / 1e9:.3g} GB"
    for pickle, full in ((False, False), (True, False), (False, True)):
        with pytest.raises(HubError, match=f"full download of {size}.*allow_full_download=True and allow_pickle"):
            open_hub_checkpoint(NAME, allow_pickle=pickle, allow_full_download=full)
    assert server.requests("/objects/") == []
    checkpoint = open_hub_checkpoint(NAME, allow_pickle=True, allow_full_download=True)
    assert_same(checkpoint.read_layer(LAYER), local.read_layer(LAYER))


def test_a_server_without_ranges_is_an_error_that_states_size_and_flag(
    server: HubServer, repo: Repo, folder: Path
) -> None:
    server.ignore_range = True
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e9
    with pytest.raises(HubError, match=rf"full download is {size:.3g} GB \(5 files\).*--allow-full-download"):
        open_hub_checkpoint(NAME).read_layer(LAYER)


def test_a_server_without_ranges_is_read_when_the_full_download_is_allowed(
    server: HubServer, repo: Repo, local: Checkpoint
) -> None:
    server.ignore_range = True
    checkpoint = open_hub_checkpoint(NAME, allow_full_download=True)
    assert_same(checkpoint.read_layer(LAYER), local.read_layer(LAYER))
    downloaded = {Path(path).name for path in shards_of(local, LAYER)}
    cached = whole_files(NAME, repo.branches["main"])
    assert {path.name for path in cached.glob("*.safetensors")} == downloaded


@pytest.mark.parametrize("content_range", ["bytes 1-8/57384", "bytes 0-7/9999999", "nonsense"])
def test_other_bytes_than_asked_for_are_not_taken(content_range: str, server: HubServer, repo: Repo) -> None:
    checkpoint = open_hub_checkpoint(NAME)
    server.fail("/objects/", status=206, headers={"Content-Range": content_range})
    with pytest.raises(HubError, match="other bytes than asked for"):
        checkpoint.read_layer(LAYER)


# --- the server itself: what the real client pushes, it reads back ------------------------------------------


def test_a_folder_pushed_by_the_client_is_read_back_by_the_client(server: HubServer, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    files = {
        "README.md": b"---\nlicense: mit\n---\n# Card\n",
        "model.safetensors": save({"a": torch.arange(50_000.0)}),
        "sub/notes.json": b"{}",
    }
    for name, data in files.items():
        (source / name).write_bytes(data)
    api = HfApi()
    api.create_repo("owner/pushed", private=True)
    api.create_repo("owner/pushed", private=True, exist_ok=True)
    commit = api.upload_folder(repo_id="owner/pushed", folder_path=source)
    back = Path(snapshot_download("owner/pushed"))
    assert back.name == commit.oid
    assert {name: (back / name).read_bytes() for name in files} == files
    assert [seen.host for seen in server.requests(method="PUT")] == ["storage"]
    assert all("authorization" not in seen.headers for seen in server.requests(host="storage"))
    assert api.upload_folder(repo_id="owner/pushed", folder_path=source).oid == commit.oid


def test_a_model_pushed_by_transformers_is_read_back_as_one_layer(server: HubServer, local: Checkpoint) -> None:
    tiny_model("llama", num_hidden_layers=N_LAYERS).push_to_hub("owner/tiny", max_shard_size="60KB")
    checkpoint = open_hub_checkpoint("owner/tiny")
    assert_same(checkpoint.read_layer(LAYER), local.read_layer(LAYER))


def test_pushing_without_a_token_is_refused(server: HubServer) -> None:
    with pytest.raises(OSError, match="401"):
        HfApi(token=False).create_repo("owner/pushed")
