"""Tests of how a study is named: files with odd names, and database URLs whose passwords are never shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pifi_probe.errors import PifiProbeError, SearchError
from pifi_probe.provenance import shorten_paths
from pifi_probe.selection.database import Address
from pifi_probe.selection.store import Store

NAMES = [
    "why?.db",
    "a?b=c&timeout=1.db",
    "{SCHEMA_VERSION}.db",
    "100%.db",
    "a%20b.db",
    "run#3.db",
    "#1/s.db",
    "with space.db",
    "Übung — 試験.db",
    'it\'s "quoted".db',
    "a+b&c;d@e:f.db",
    "no_suffix",
]


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_the_one_that_was_named_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, absolute: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    given = str(tmp_path / name) if absolute else name
    Store.open(given).note("mine", name)
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [name], "another file was opened, or a stray one was left"
    for again in (given, Path(given), Address.parse(given)):
        assert Store(Address.parse(again), create=False).noted("mine") == name
    assert str(Address.parse(given)) == name


@pytest.mark.parametrize(
    ("text", "file", "study"),
    [
        ("s.db#first", "s.db", "first"),
        ("s.db#v1.2", "s.db", "v1.2"),
        ("s.db#", "s.db", "search"),
        ("run#3.db#first", "run#3.db", "first"),
        ("a#b/s.db#x", "a#b/s.db", "x"),
        ("plain#name", "plain", "name"),
    ],
)
def test_what_follows_the_last_hash_names_one_of_several_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, file: str, study: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = Address.parse(text)
    assert (found.file, found.name) == (tmp_path / file, study)
    assert Address.parse(Path(text)).file == tmp_path / text, "a Path is always a file"


def test_an_existing_file_counts_for_more_than_a_name(tmp_path: Path) -> None:
    (tmp_path / "a#b").touch()
    assert Address.parse(str(tmp_path / "a#b")).file == tmp_path / "a#b"
    (tmp_path / "s.db").touch()
    assert Address.parse(str(tmp_path / "s.db#x.db")).name == "x.db"


@pytest.mark.parametrize("query", ["?timeout=60", "?timeout=0.5&cached_statements=5"])
def test_options_of_sqlite_are_no_part_of_the_file_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.open(f"sqlite:///s.db{query}#mine")
    assert [path.name for path in tmp_path.iterdir()] == ["s.db"]
    assert store.address.name == "mine"
    waits = store.storage._backend.engine.connect().exec_driver_sql("pragma busy_timeout").scalar()
    assert waits == 1000 * float(query.partition("=")[2].partition("&")[0])


def test_a_sqlite_url_and_a_path_are_one_study(tmp_path: Path) -> None:
    Store.open(f"sqlite:///{tmp_path / 's.db'}").note("mine", 1)
    assert Store.open(tmp_path / "s.db", create=False).noted("mine") == 1
    assert Store.open("sqlite://").address.url is None
    assert Store.open("sqlite:///:memory:").address.url is None


@pytest.mark.parametrize(
    ("study", "says"),
    [
        ("sqlite:///s.db?timeout=soon", "not a number of seconds"),
        ("sqlite:///s.db?timeout=-1", "not a number of seconds"),
        ("sqlite:///file:s.db?mode=ro&uri=true", "give the path of the file"),
        ("", "not the name of a file"),
        ("a\0b.db", "not the name of a file"),
        ("a\nb.db", "not the name of a file"),
        (os.fsdecode(b"\xff.db"), "not the name of a file"),
        (".", "is a folder"),
        ("postgresql://host:port/db", "not the address of a database"),
        ("://", "not the address of a database"),
    ],
)
def test_what_names_no_study_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SearchError, match=says):
        Store.open(study)
    assert list(tmp_path.iterdir()) == []


PASSWORDS = ["p#w", "p@w", "p%w", "p%23w", "a:b", "p@s#s%w@rd", "#", "@", "ü{0}?", "p?w"]


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "POSTGRES", "mysql+pymysql"])
@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_with_odd_signs_works_and_is_never_shown(scheme: str, password: str) -> None:
    address = Address.parse(f"{scheme}://me:{password}@db.example.org:5432/studies?connect_timeout=3#first")
    url = address.url
    assert url is not None
    assert url.password == ("p#w" if password == "p%23w" else password)
    assert (url.username, url.host, url.port, url.database) == ("me", "db.example.org", 5432, "studies")
    assert (url.query["connect_timeout"], address.name) == ("3", "first")
    assert url.get_backend_name() in ("postgresql", "mysql")
    assert str(address).endswith("://me:***@db.example.org:5432/studies?connect_timeout=3#first")
    assert "me:***@" in repr(address)


@pytest.mark.parametrize(
    "text",
    [
        "postgres://host/db?user=me&password=hunter22",
        "postgresql://me:hunter22@/db?host=/run/pg",
        "postgresql://me:hunter22@[::1]:5432/db",
        "postgresql://me:hunter22@one:1,two:2/db",
        "postgresql://me:hunter22@host",
        "mysql://me:hunter22@host/db#name",
        "nonsense://me:hunter22@host/db",
        "postgres://me:hunter22@host:port/db",
    ],
)
def test_no_error_repr_or_record_shows_a_password(text: str) -> None:
    assert "hunter22" not in shorten_paths(f"pifi-probe search --study {text} --budget 3")
    try:
        address = Address.parse(text)
        assert "hunter22" not in f"{address} {address!r}"
        Store(address, create=False)
    except PifiProbeError as error:
        assert "hunter22" not in f"{error} {error!r}"
    else:
        pytest.fail("there is no such database")


def test_a_command_that_is_recorded_keeps_what_is_no_password() -> None:
    line = "search --study postgresql://me:p#w@s@host/db?sslpassword=abc --task https://example.org/a@b --n 3"
    assert shorten_paths(line) == (
        "search --study postgresql://me:***@host/db?sslpassword=*** --task https://example.org/a@b --n 3"
    )
