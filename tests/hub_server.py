"""A local server that speaks the hub's protocol, so that the real client can be tested without a network.

It is two servers on two ports: the *hub* (API, small files, redirects) and the *storage* that a redirect of a
large file points to, under another host name. Both record what they were asked and how many bytes they sent.

    with HubServer() as server:
        server.add_repo("org/model", {"config.json": b"{}", "model.safetensors": data})
        use_hub(monkeypatch, server, tmp_path)  # for a child process: env=server.environment(tmp_path)
        server.fail("config.json", status=500, times=2)
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".parquet", ".pt", ".arrow")
KINDS = {
    "models": "",
    "datasets": "datasets/",
    "spaces": "spaces/",
}  # name in the API -> prefix of a web address


@dataclass
class Seen:
    """One request as it arrived, and what was sent back."""

    host: str  # "hub" or "storage"
    method: str
    path: str
    headers: dict[str, str]  # lower-case names
    status: int = 0
    sent: int = 0  # bytes of the body


@dataclass
class Fault:
    match: str
    times: int
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    delay: float = 0.0
    method: str | None = None
    change: Callable[[Answer], Answer] | None = None  # makes another answer of the right one
    endless: bool = False  # the body goes on with zeros, its length not stated, until the client hangs up
    trickle: float = 0.0  # seconds between two bytes


@dataclass
class Repo:
    kind: str
    name: str
    gated: bool | str = False
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    granted: set[str] = field(default_factory=set)  # tokens that may read although it is gated or private

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        listing = "".join(f"{path}\0{git_oid(data)}\n" for path, data in sorted(files.items()))
        sha = hashlib.sha1(f"{self.branches.get(branch)}{len(self.commits)}{listing}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str:
        if revision in self.commits:
            return revision
        sha = self.branches.get(revision) or self.tags.get(revision)
        if sha is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha


class Refusal(Exception):
    """An answer other than success, in the hub's own words."""

    def __init__(self, status: int, code: str | None = None, message: str = "", body: Any = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.body = status, code, message, body


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@functools.lru_cache(maxsize=64)
def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_lfs(path: str) -> bool:
    return path.endswith(LFS_SUFFIXES)


def file_entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
    if is_lfs(path):
        entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
    return entry


class HubServer:
    """The two servers and their state; a context manager."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}  # sha256 -> content of large files
        self.tokens: dict[str, str] = {"hf_owner": "owner"}
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.ignore_range = False
        self.signature = 1  # of the addresses in the storage; older ones have expired
        self.lock = threading.RLock()
        self._servers = [_Listener("hub", self), _Listener("storage", self)]
        self.endpoint = f"http://127.0.0.1:{self._servers[0].server_port}"
        self.storage = f"http://localhost:{self._servers[1].server_port}"

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add_repo(
        self,
        name: str,
        files: Mapping[str, bytes] | Path,
        *,
        kind: str = "models",
        licence: str | None = "apache-2.0",
        gated: bool | str = False,
        private: bool = False,
    ) -> Repo:
        """Publish `files` (a mapping or a folder) as the first commit of branch ``main``."""
        if isinstance(files, Path):
            paths = [path for path in files.rglob("*") if path.is_file()]
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        card = {"license": licence} if licence else {}
        repo = Repo(kind, name, gated=gated, private=private, card=card)
        repo.commit(dict(files))
        self.repos[kind, name] = repo
        return repo

    def fail(self, match: str, *, times: int = 1, **what: Any) -> None:
        """Plan a fault for the next `times` requests whose path contains `match`: see `Fault`."""
        self.faults.append(Fault(match, times, **what))

    def requests(self, match: str = "", *, host: str | None = None, method: str | None = None) -> list[Seen]:
        return [
            seen
            for seen in self.seen
            if match in seen.path and host in (None, seen.host) and method in (None, seen.method)
        ]

    def bytes_sent(self, match: str = "") -> int:
        return sum(seen.sent for seen in self.requests(match, method="GET"))

    def environment(self, cache: Path, token: str | None = None) -> dict[str, str]:
        """Return the environment of a child process whose client talks to this server."""
        hub = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(cache / "huggingface"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PIFI_PROBE_CACHE": str(cache / "pifi_probe"),
            "NO_PROXY": "127.0.0.1,localhost",
        }
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        return kept | hub | ({"HF_TOKEN": token} if token else {})

    # --- what the servers ask -------------------------------------------------------------------------------

    def take_fault(self, seen: Seen) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.match in seen.path and fault.method in (None, seen.method):
                    fault.times -= 1
                    return fault
        return None

    def repo(self, kind: str, name: str, token: str | None, *, write: bool = False) -> Repo:
        if token is not None and token not in self.tokens:
            raise Refusal(401, None, "Invalid credentials in Authorization header")
        repo = self.repos.get((kind, name))
        hidden = repo is not None and repo.private and token not in repo.granted | {"hf_owner"}
        if repo is None or hidden:
            raise Refusal(404 if token else 401, "RepoNotFound", "Repository not found")
        if write and token is None:
            raise Refusal(401, None, "Invalid username or password.")
        return repo

    def readable(self, kind: str, name: str, token: str | None) -> Repo:
        """Return the repository if this token may read its files."""
        repo = self.repo(kind, name, token)
        if repo.gated and token not in repo.granted:
            reason = "you are not in the authorized list" if token else "you must be authenticated to access it"
            message = f"Access to model {name} is restricted and {reason}."
            raise Refusal(403 if token else 401, "GatedRepo", message)
        return repo

    def signed(self, oid: str) -> str:
        return f"{self.storage}/objects/{oid}?signature={self.signature}"


class _Listener(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, role: str, hub: HubServer) -> None:
        self.role, self.hub = role, hub
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are expected here."""


Route = tuple[str, re.Pattern[str], Callable[..., Answer]]
ROUTES: dict[str, list[Route]] = {"hub": [], "storage": []}
REPO = r"(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
WEB = r"(?P<kind>(?:datasets/|spaces/)?)(?P<name>[^/]+/[^/]+?)"


def route(role: str, method: str, pattern: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    def register(function: Callable[..., Answer]) -> Callable[..., Answer]:
        ROUTES[role].append((method, re.compile(pattern), function))
        return function

    return register


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are recorded, not printed."""

    def handle_one(self) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        seen = Seen(self.server.role, self.command, self.path, headers)
        hub = self.server.hub
        hub.seen.append(seen)
        self.payload = self.read_body()
        fault = hub.take_fault(seen)
        if fault is not None:
            threading.Event().wait(fault.delay)  # not time.sleep, which tests replace
        if fault is not None and fault.status is not None:
            answer = Answer(fault.status, b'{"error":"planned fault"}', dict(fault.headers))
        else:
            answer = self.answer()
            if fault is not None and fault.change is not None:
                answer = fault.change(answer)
        if fault is not None and (fault.endless or fault.trickle):
            self.send_on(seen, answer, fault)
        else:
            self.send(seen, answer, fault.cut_after if fault else None)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self) -> Answer:
        path = urlsplit(self.path).path
        method = "GET" if self.command == "HEAD" else self.command
        for wanted, pattern, function in ROUTES[self.server.role]:
            if wanted == method and (match := pattern.fullmatch(path)):
                values = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                try:
                    return function(self, self.server.hub, **values)
                except Refusal as refusal:
                    return refused(refusal)
        return refused(Refusal(404, None, "Sorry, we can't find the page you are looking for."))

    def send(self, seen: Seen, answer: Answer, cut_after: int | None) -> None:
        seen.status = answer.status
        self.send_response(answer.status)
        length = answer.headers.pop("Content-Length", str(len(answer.body)))
        for key, value in {**answer.headers, "Content-Length": length}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        body = answer.body if cut_after is None else answer.body[:cut_after]
        with contextlib.suppress(OSError):
            seen.sent = len(body)
            self.wfile.write(body)
            self.wfile.flush()
            if cut_after is not None:
                self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = self.close_connection or cut_after is not None

    def send_on(self, seen: Seen, answer: Answer, fault: Fault) -> None:
        """Send a body that has no end, or one byte after the other, until the client has had enough."""
        seen.status = answer.status
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        if self.command == "HEAD":
            return
        size = 1 if fault.trickle else 1 << 16
        pieces = (answer.body[i : i + size] for i in range(0, len(answer.body), size))
        filler = itertools.repeat(bytes(size)) if fault.endless else ()
        with contextlib.suppress(OSError):
            for piece in itertools.chain(pieces, filler):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                self.wfile.flush()
                seen.sent += len(piece)
                threading.Event().wait(fault.trickle)
            self.wfile.write(b"0\r\n\r\n")

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)

    def ranged(self, data: bytes, headers: dict[str, str]) -> Answer:
        """Answer a GET of a file, whole or in part, as RFC 9110 says."""
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if match is None or self.server.hub.ignore_range:
            return Answer(200, data, headers)
        first, last = match.groups()
        start = int(first) if first else max(0, len(data) - int(last))
        stop = min(int(last) + 1, len(data)) if first and last else len(data)
        if start >= stop:
            return Answer(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        return Answer(206, data[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})


def as_json(value: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


def refused(refusal: Refusal) -> Answer:
    answer = as_json(refusal.body or {"error": refusal.message}, refusal.status)
    if refusal.code:
        answer.headers["X-Error-Code"] = refusal.code
    if refusal.message:
        answer.headers["X-Error-Message"] = refusal.message
    return answer


# --- reading ------------------------------------------------------------------------------------------------


@route("hub", "GET", rf"/api/{REPO}(?:/revision/(?P<revision>[^/]+))?")
def repo_info(handler: _Handler, hub: HubServer, kind: str, name: str, revision: str = "main") -> Answer:
    repo = hub.repo(kind, name, handler.token)
    sha = repo.resolve(revision)
    siblings: list[dict[str, Any]] = []
    for path, data in sorted(repo.commits[sha].items()):
        sibling: dict[str, Any] = {"rfilename": path}
        if "blobs" in handler.query:
            sibling |= {"size": len(data), "blobId": git_oid(data)}
            if is_lfs(path):
                sibling["lfs"] = {
                    "sha256": sha256(data),
                    "size": len(data),
                    "pointerSize": 134,
                }
        siblings.append(sibling)
    info = {"_id": "0", "id": name, "author": name.split("/")[0], "sha": sha, "private": repo.private}
    tags = [f"license:{repo.card['license']}"] if "license" in repo.card else []
    info |= {
        "gated": repo.gated,
        "tags": tags,
        "cardData": repo.card,
        "siblings": siblings,
        "disabled": False,
    }
    return as_json({**info, "downloads": 0, "likes": 0, "lastModified": "2025-01-01T00:00:00.000Z"})


@route("hub", "GET", rf"/api/{REPO}/refs")
def refs(handler: _Handler, hub: HubServer, kind: str, name: str) -> Answer:
    repo = hub.repo(kind, name, handler.token)

    def listed(items: dict[str, str], folder: str) -> list[dict[str, str]]:
        return [{"name": key, "ref": f"refs/{folder}/{key}", "targetCommit": sha} for key, sha in items.items()]

    found = {"branches": listed(repo.branches, "heads"), "tags": listed(repo.tags, "tags")}
    return as_json({**found, "converts": [], "pullRequests": []})


@route("hub", "GET", rf"/api/{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?")
def tree(handler: _Handler, hub: HubServer, kind: str, name: str, revision: str, folder: str = "") -> Answer:
    repo = hub.repo(kind, name, handler.token)
    prefix = folder.rstrip("/") + "/" if folder else ""
    files = {path: data for path, data in repo.commits[repo.resolve(revision)].items() if path.startswith(prefix)}
    if folder and not files:
        raise Refusal(404, "EntryNotFound", f"{folder} does not exist on {revision!r}")
    recursive = handler.query.get("recursive", ["false"])[0].lower() == "true"
    folders = {str(parent) for path in files for parent in Path(path).parents} - {".", folder}
    entries: list[dict[str, Any]] = [
        {"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)
    ]
    entries += [file_entry(path, data) for path, data in sorted(files.items())]
    here = [entry for entry in entries if recursive or "/" not in entry["path"].removeprefix(prefix)]
    return as_json([entry for entry in here if entry["path"].startswith(prefix)])


@route("hub", "POST", rf"/api/{REPO}/paths-info/(?P<revision>[^/]+)")
def paths_info(handler: _Handler, hub: HubServer, kind: str, name: str, revision: str) -> Answer:
    repo = hub.repo(kind, name, handler.token)
    files = repo.commits[repo.resolve(revision)]
    wanted = parse_qs(handler.payload.decode()).get("paths", [])
    entries = [file_entry(path, files[path]) for path in wanted if path in files]
    folders = [path for path in wanted if any(file.startswith(path.rstrip("/") + "/") for file in files)]
    return as_json(entries + [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders])


@route("hub", "GET", rf"/{WEB}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(handler: _Handler, hub: HubServer, kind: str, name: str, revision: str, path: str) -> Answer:
    """A small file is sent by the hub; a large one is a redirect to the storage, described in its headers."""
    repo = hub.readable(kind.rstrip("/") or "models", name, handler.token)
    sha = repo.resolve(revision)
    data = repo.commits[sha].get(path)
    if data is None:
        answer = refused(Refusal(404, "EntryNotFound", "Entry not found"))
        answer.headers["X-Repo-Commit"] = sha
        return answer
    headers = {"X-Repo-Commit": sha, "ETag": f'"{git_oid(data)}"'}
    if not is_lfs(path):
        return handler.ranged(data, headers)
    oid = sha256(data)
    hub.objects[oid] = data
    linked = {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{oid}"', "Accept-Ranges": "bytes"}
    return Answer(302, b"Found. Redirecting", {**headers, **linked, "Location": hub.signed(oid)})


@route("storage", "GET", r"/objects/(?P<oid>[0-9a-f]{64})")
def download(handler: _Handler, hub: HubServer, oid: str) -> Answer:
    check_signature(handler, hub)
    return handler.ranged(hub.objects[oid], {"ETag": f'"{oid}"'})


def check_signature(handler: _Handler, hub: HubServer) -> None:
    """As object stores do: a signed address, and no second way to authenticate besides it."""
    if handler.token is not None:
        raise Refusal(400, None, "Only one auth mechanism allowed")
    if handler.query.get("signature") != [str(hub.signature)]:
        raise Refusal(403, None, "Request has expired")


# --- writing ------------------------------------------------------------------------------------------------


@route("hub", "GET", r"/api/whoami-v2")
def whoami(handler: _Handler, hub: HubServer) -> Answer:
    if handler.token not in hub.tokens:
        raise Refusal(401, None, "Invalid username or password.")
    return as_json({"type": "user", "name": hub.tokens[handler.token], "orgs": [], "auth": {"type": "access_token"}})


@route("hub", "POST", r"/api/validate-yaml")
def validate_yaml(handler: _Handler, hub: HubServer) -> Answer:
    return as_json({"errors": [], "warnings": []})


@route("hub", "POST", r"/api/repos/create")
def create_repo(handler: _Handler, hub: HubServer) -> Answer:
    if handler.token not in hub.tokens:
        raise Refusal(401, None, "Invalid username or password.")
    wanted = json.loads(handler.payload)
    kind = wanted.get("type", "model") + "s"
    name = f"{wanted.get('organization') or hub.tokens[handler.token]}/{wanted['name']}"
    created = {"url": f"{hub.endpoint}/{KINDS[kind]}{name}", "name": name}
    if (kind, name) in hub.repos:
        return as_json({"error": "You already created this model repo", **created}, 409)
    private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
    repo = hub.add_repo(name, {".gitattributes": b""}, kind=kind, licence=None, private=private)
    repo.granted.add(handler.token)
    return as_json(created)


@route("hub", "POST", rf"/api/{REPO}/branch/(?P<branch>[^/]+)")
def create_branch(handler: _Handler, hub: HubServer, kind: str, name: str, branch: str) -> Answer:
    repo = hub.repo(kind, name, handler.token, write=True)
    if branch in repo.branches:
        raise Refusal(409, None, f"Reference already exists: {branch}")
    start = json.loads(handler.payload or b"{}").get("startingPoint", "main")
    repo.branches[branch] = repo.resolve(start)
    return as_json({})


@route("hub", "POST", rf"/api/{REPO}/preupload/(?P<revision>[^/]+)")
def preupload(handler: _Handler, hub: HubServer, kind: str, name: str, revision: str) -> Answer:
    repo = hub.repo(kind, name, handler.token, write=True)
    present = repo.commits[repo.resolve(revision)]
    files = []
    for item in json.loads(handler.payload)["files"]:
        path = item["path"]
        oid = None
        if path in present:
            data = present[path]
            oid = sha256(data) if is_lfs(path) else git_oid(data)
        mode = "lfs" if is_lfs(path) else "regular"
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return as_json({"files": files})


@route("hub", "POST", rf"/{WEB}\.git/info/lfs/objects/batch")
def lfs_batch(handler: _Handler, hub: HubServer, kind: str, name: str) -> Answer:
    hub.repo(kind.rstrip("/") or "models", name, handler.token, write=True)
    objects = []
    for item in json.loads(handler.payload)["objects"]:
        entry = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in hub.objects:
            verify = {"href": f"{hub.endpoint}/api/lfs/verify"}
            entry["actions"] = {"upload": {"href": hub.signed(item["oid"]), "header": {}}, "verify": verify}
        objects.append(entry)
    return as_json({"transfer": "basic", "objects": objects})


@route("hub", "POST", r"/api/lfs/verify")
def lfs_verify(handler: _Handler, hub: HubServer) -> Answer:
    item = json.loads(handler.payload)
    if len(hub.objects.get(item["oid"], b"")) != item["size"]:
        raise Refusal(404, None, "Object does not exist")
    return as_json({})


@route("storage", "PUT", r"/objects/(?P<oid>[0-9a-f]{64})")
def upload(handler: _Handler, hub: HubServer, oid: str) -> Answer:
    check_signature(handler, hub)
    if sha256(handler.payload) != oid:
        raise Refusal(400, None, "The content does not have the sha256 that was announced")
    hub.objects[oid] = handler.payload
    return Answer(200, b"", {"ETag": f'"{oid}"'})


@route("hub", "POST", rf"/api/{REPO}/commit/(?P<revision>[^/]+)")
def commit(handler: _Handler, hub: HubServer, kind: str, name: str, revision: str) -> Answer:
    repo = hub.repo(kind, name, handler.token, write=True)
    files = dict(repo.commits[repo.resolve(revision)])
    for line in handler.payload.splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[value["path"]] = hub.objects[value["oid"]]
        elif key == "deletedFile":
            files.pop(value["path"], None)
        elif key == "deletedFolder":
            files = {path: data for path, data in files.items() if not path.startswith(value["path"])}
    sha = repo.commit(files, revision)
    address = f"{hub.endpoint}/{KINDS[kind]}{quote(name)}/commit/{sha}"
    return as_json({"success": True, "commitUrl": address, "commitOid": sha, "hookOutput": ""})


# --- the client ---------------------------------------------------------------------------------------------


def use_hub(monkeypatch: Any, server: HubServer, cache: Path, token: str | None = None) -> None:
    """Point the client in this process to `server`: what HF_ENDPOINT and its kin would do at import."""
    import huggingface_hub
    from huggingface_hub import constants, hf_api

    huggingface_hub.close_session()
    home = cache / "huggingface"
    changed = {
        "ENDPOINT": server.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }
    for key, value in changed.items():
        monkeypatch.setattr(constants, key, value)
    monkeypatch.setattr(hf_api.api, "endpoint", server.endpoint)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # made at its first use, for the endpoint of then
    for key in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(key, raising=False)
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(cache / "pifi_probe"))


@contextlib.contextmanager
def running_hub(monkeypatch: Any, cache: Path, token: str | None = None) -> Iterator[HubServer]:
    """Start a server, point the client to it, and stop it at the end."""
    with HubServer() as server:
        use_hub(monkeypatch, server, cache, token)
        yield server
