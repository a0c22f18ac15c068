"""Bytes of the hub that are not the ones asked for are refused, and none of them stay in the cache."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pifi_probe.cli import main
from pifi_probe.errors import CheckpointError, HubError
from pifi_probe.files import cache_root
from pifi_probe.layers import hub_answer
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.hub import open_hub_checkpoint
from pifi_probe.layers.hub_cache import clear_hub_cache, hub_cache_entries, hub_folder
from pifi_probe.layers.hub_client import Patience
from pifi_probe.layers.open import open_checkpoint
from tests.hub_server import Answer, HubServer, Repo, running_hub
from tests.tiny import tiny_checkpoint

NAME = "org/model"
PATIENCE = Patience(tries=2, sleep=lambda seconds: None)
LOGIN = b"<!DOCTYPE html><html><body>Please log in to the hotel's network</body></html>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def local(folder: Path) -> Checkpoint:
    return open_checkpoint(str(folder))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    with running_hub(monkeypatch, tmp_path) as server:
        yield server


@pytest.fixture
def repo(server: HubServer, folder: Path) -> Repo:
    return server.add_repo(NAME, folder)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_answer.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.5)


def read_layer(index: int = 1) -> dict[str, torch.Tensor]:
    return open_hub_checkpoint(NAME, patience=PATIENCE).read_layer(index)


def parts() -> list[Path]:
    return [path for path in hub_folder(NAME).rglob("*") if path.suffix in (".bin", ".part")]


def assert_right(got: dict[str, torch.Tensor], local: Checkpoint, index: int = 1) -> None:
    expected = local.read_layer(index)
    assert got.keys() == expected.keys() and all(torch.equal(got[name], expected[name]) for name in expected)


def with_headers(**headers: str) -> Callable[[Answer], Answer]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda answer: replace(answer, headers={**answer.headers, **named})


def compressed(answer: Answer) -> Answer:
    return replace(answer, body=gzip.compress(answer.body), headers={**answer.headers, "Content-Encoding": "gzip"})


def same_length_but_compressed(answer: Answer) -> Answer:
    return replace(answer, headers={**answer.headers, "Content-Encoding": "br"})


def shifted(answer: Answer) -> Answer:
    first, last, size = map(int, re.findall(r"\d+", answer.headers["Content-Range"]))
    return with_headers(Content_Range=f"bytes {first + 1}-{last + 1}/{size}")(answer)


def said_to_be_longer(answer: Answer) -> Answer:
    first, last, size = map(int, re.findall(r"\d+", answer.headers["Content-Range"]))
    return with_headers(Content_Range=f"bytes {first}-{last + 8}/{size}")(replace(answer, body=answer.body + bytes(8)))


def longer(answer: Answer) -> Answer:
    return replace(answer, body=answer.body + bytes(8))


def shorter(answer: Answer) -> Answer:
    return replace(answer, body=answer.body[:-8])


def of_another_size(answer: Answer) -> Answer:
    return with_headers(Content_Range=re.sub(r"/\d+", "/77", answer.headers["Content-Range"]))(answer)


def without_a_range(answer: Answer) -> Answer:
    return replace(answer, headers={k: v for k, v in answer.headers.items() if k != "Content-Range"})


def in_several_parts(answer: Answer) -> Answer:
    return with_headers(Content_Type="multipart/byteranges; boundary=X")(without_a_range(answer))


def no_content(answer: Answer) -> Answer:
    return replace(answer, status=203)


def login_page(answer: Answer) -> Answer:
    return Answer(200, LOGIN, {"Content-Type": "text/html; charset=utf-8"})


def login_page_as_a_part(answer: Answer) -> Answer:
    return with_headers(Content_Type="text/html")(answer)


WRONG = [
    compressed,
    same_length_but_compressed,
    shifted,
    said_to_be_longer,
    longer,
    shorter,
    of_another_size,
    without_a_range,
    in_several_parts,
    no_content,
    login_page,
    login_page_as_a_part,
    with_headers(Content_Range="bytes 0-" + "9" * 5000 + "/1"),
]


@pytest.mark.parametrize("first_good", [0, 1, 2])
@pytest.mark.parametrize("change", WRONG)
def test_wrong_bytes_are_refused_and_what_was_kept_of_the_file_is_dropped(
    change: Callable[[Answer], Answer], first_good: int, server: HubServer, repo: Repo, local: Checkpoint
) -> None:
    server.fail("/objects/", times=first_good, method="GET", change=lambda answer: answer)
    server.fail("/objects/", times=9, method="GET", change=change)
    with pytest.raises(HubError, match="next:") as caught:
        read_layer()
    assert "check HF_ENDPOINT" in caught.value.next or "full download" in str(caught.value)
    assert parts() == []
    server.faults.clear()
    assert_right(read_layer(), local)


def test_a_file_that_changes_while_it_is_read_is_refused_and_dropped(
    server: HubServer, repo: Repo, local: Checkpoint
) -> None:
    checkpoint = open_hub_checkpoint(NAME, patience=PATIENCE)
    checkpoint.read_layer(0)
    assert parts()
    server.fail("/objects/", times=9, method="GET", change=with_headers(ETag='"another"'))
    with pytest.raises(HubError, match="changed at the server"):
        checkpoint.read_layer(1)
    assert parts() == []
    server.faults.clear()
    assert_right(read_layer(), local)


def test_a_file_that_changed_since_an_earlier_process_is_refused_and_dropped(
    server: HubServer, repo: Repo, local: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_layer(0)
    server.fail("/resolve/", times=9, method="HEAD", change=with_headers(X_Linked_Etag=f'"{"a" * 64}"'))
    with pytest.raises(HubError, match="not the one that was listed"):
        read_layer(1)
    assert parts() == []
    server.faults.clear()
    assert_right(read_layer(), local)


def test_an_endless_body_is_read_to_the_asked_end(server: HubServer, repo: Repo, local: Checkpoint) -> None:
    server.fail("/objects/", times=99, method="GET", endless=True)
    assert_right(read_layer(), local)
    assert max(seen.sent for seen in server.requests("/objects/", method="GET")) < 64 << 20


@pytest.mark.parametrize("what", ["config.json", "/objects/", "/api/models/"])
def test_a_trickling_body_is_given_up(what: str, server: HubServer, repo: Repo, impatient: None) -> None:
    server.fail(what, times=9, method="GET", trickle=0.1)
    start = time.monotonic()
    with pytest.raises(HubError, match="bytes a second"):
        read_layer()
    assert time.monotonic() - start < 30


def test_a_trickling_answer_is_asked_for_again(
    server: HubServer, repo: Repo, local: Checkpoint, impatient: None
) -> None:
    server.fail("/objects/", times=1, method="GET", trickle=0.1)
    assert_right(read_layer(), local)


@pytest.mark.parametrize("status", [None, 404, 500])
@pytest.mark.parametrize("what", ["config.json", "/api/models/"])
def test_small_answers_without_an_end_are_given_up(
    what: str, status: int | None, server: HubServer, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pifi_probe.layers.hub_client._MOST_JSON", 1 << 20)
    right = status is None and what == "config.json"
    server.fail(
        what, times=9, method="GET", endless=True, change=lambda answer: replace(answer, status=status or answer.status)
    )
    if right:  # its end is known
        open_hub_checkpoint(NAME, patience=PATIENCE)
    else:
        with pytest.raises(HubError):
            open_hub_checkpoint(NAME, patience=PATIENCE)
    assert max(seen.sent for seen in server.requests(what, method="GET")) < 64 << 20


SMALL = [
    compressed,
    login_page,
    longer,
    shorter,
    lambda answer: replace(answer, body=answer.body.replace(b"e", b"f", 1)),
    lambda answer: Answer(200, b"", {}),
]


@pytest.mark.parametrize("change", SMALL)
def test_a_configuration_that_is_not_the_listed_one_is_refused_and_not_kept(
    change: Callable[[Answer], Answer], server: HubServer, repo: Repo, local: Checkpoint
) -> None:
    server.fail("config.json", times=9, method="GET", change=change)
    with pytest.raises(HubError, match="next:"):
        read_layer()
    assert not [path for path in hub_folder(NAME).rglob("*config*")]
    server.faults.clear()
    assert_right(read_layer(), local)


@pytest.mark.parametrize(
    "body",
    [
        LOGIN,
        b"",
        b"null",
        b"[]",
        b'{"id": 3}',
        b'{"id": "a", "siblings": 7}',
        b"{" * 10**6,
        b"\xff\xfe",
        b'{"sha": [1]}',
    ],
)
def test_an_answer_of_the_api_that_is_none_is_a_line(body: bytes, server: HubServer, repo: Repo) -> None:
    server.fail("/api/models/", times=9, change=lambda answer: Answer(200, body, {"Content-Type": "text/html"}))
    with pytest.raises(HubError, match="next:"):
        open_hub_checkpoint(NAME, patience=PATIENCE)


@pytest.mark.parametrize(
    "change",
    [
        with_headers(X_Linked_Size="many"),
        with_headers(X_Linked_Size="-5"),
        with_headers(X_Linked_Size="9" * 5000),
        with_headers(Location="http://[::bad"),
        with_headers(Location="gopher://localhost/x"),
        login_page,
    ],
)
def test_headers_that_cannot_be_read_are_a_line(
    change: Callable[[Answer], Answer], server: HubServer, repo: Repo, local: Checkpoint
) -> None:
    server.fail("/resolve/", times=99, method="HEAD", change=change)
    try:
        assert_right(read_layer(), local)  # a size that is listed elsewhere, too, is not needed
    except (HubError, CheckpointError) as error:
        assert "next:" in str(error)


ODD_WAITS: list[dict[str, str]] = [
    {"Retry-After": value}
    for value in (
        "-5",
        "abc",
        "1e9",
        "\u00b2".encode().decode("latin-1"),
        "9" * 5000,
        "inf",
        "nan",
        "",
        " ",
        "0x10",
        "Fri, 31 Dec 99999 23:59:59 GMT",
        "Fri, 31 Dec 0000 23:59:59 GMT",
        "Wed, 21 Oct 2015 07:28:00 GMT",
    )
] + [
    {"RateLimit": value}
    for value in (
        '"api";r=0;t=' + "9" * 5000,
        '"api";r=0;t=-1',
        '"api";r=x;t=y',
        '"api"',
        ";;;",
        '"api";r=0;t=99999999',
    )
]


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("headers", ODD_WAITS, ids=lambda headers: next(iter(headers.values()))[:20])
@pytest.mark.parametrize("what", ["/api/models/", "config.json", "/objects/"])
def test_odd_times_to_wait_are_a_line_and_nobody_waits_for_ever(
    what: str, headers: dict[str, str], status: int, server: HubServer, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    server.fail(what, times=99, status=status, headers=headers)
    with pytest.raises(HubError, match="HTTP|headers cannot be read") as caught:
        open_hub_checkpoint(NAME, patience=Patience(tries=3, sleep=waits.append)).read_layer(1)
    assert "inf s" not in str(caught.value) and len(str(caught.value)) < 600
    assert all(0 <= seconds <= 300 for seconds in waits)


def test_weights_that_cannot_be_are_dropped_and_fetched_again(server: HubServer, repo: Repo, local: Checkpoint) -> None:
    """What was kept by an earlier version, or damaged on the disk, does not stay for ever."""
    read_layer(1)
    for path in parts():
        path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(CheckpointError):
        read_layer(1)
    assert parts() == []
    assert_right(read_layer(1), local)


def test_the_cache_of_the_hub_is_listed_and_cleared(
    server: HubServer, repo: Repo, local: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    read_layer(1)
    assert main(["cache", "list", "--hub"]) == 0
    assert NAME in capsys.readouterr().out
    assert hub_cache_entries()[NAME] > 0
    with pytest.raises(HubError, match="nothing is kept"):
        clear_hub_cache(["org/other"])
    assert main(["cache", "clear", "--hub", NAME]) == 0
    assert "MB freed" in capsys.readouterr().out
    assert parts() == [] and hub_cache_entries() == {}
    assert_right(read_layer(1), local)
    assert main(["cache", "clear", "--hub", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] > 0
    assert not any(path.is_file() for path in (cache_root() / "hub").rglob("*"))


@pytest.mark.parametrize("name", ["../../escaped.json", "/tmp/escaped.json", "a\\..\\b.json"])
def test_a_listed_file_stays_below_its_repository(name: str, server: HubServer, folder: Path) -> None:
    from pifi_probe.layers.hub import HubRepo
    from pifi_probe.layers.hub_client import HubClient

    server.add_repo(NAME, folder)
    opened = HubRepo.open(HubClient(NAME, patience=PATIENCE))
    listed: dict[str, Any] = {**opened.files, name: 4}
    with pytest.raises(HubError, match="cannot be one|not a valid name"):
        replace(opened, files=listed).path(name)
