"""A hub on loopback: the part of the Hub's API that `huggingface_hub` uses, over real HTTP.

>>> with HubServer() as hub:
...     repo = hub.add("someone/model", {"config.json": b"{}"})
...     repo.head

Large files are served as the Hub serves them: the API's host redirects to a storage host. Faults
are asked for by file: `hub.fail("pytorch_model.bin", Cut(1000), Status(503))` breaks the next
downloads of it, one after the other; requests for a part of known length are no downloads.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest

#: Files of at least this size, and all weights, are kept outside of git.
LARGE = 10_000
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|commits|refs)(?:/([^/]+))?)?"
)


@dataclass(frozen=True)
class Status:
    """Answer with an error status."""

    code: int


@dataclass(frozen=True)
class Asked:
    """Answer with an error status and a header that asks to wait; `date` is in two seconds."""

    code: int
    header: str
    value: str


@dataclass(frozen=True)
class Cut:
    """Promise all, send `after` bytes, break the connection."""

    after: int


@dataclass(frozen=True)
class Shorter:
    """Serve the file as if it had only `size` bytes."""

    size: int


@dataclass(frozen=True)
class Other:
    """Serve other bytes of the same size."""


@dataclass(frozen=True)
class Whole:
    """Ignore the range that was asked for."""


Fault = Status | Asked | Cut | Shorter | Other | Whole
Content = bytes | Path


@dataclass
class Repo:
    """A repository: commits in order, each a table of files; `head` is what main stands at."""

    name: str
    commits: list[str] = field(default_factory=list)
    files: dict[str, dict[str, Content]] = field(default_factory=dict)
    gated: bool = False
    card: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return self.commits[-1]

    def commit(self, files: dict[str, Content]) -> str:
        """Add a commit that holds exactly these files; main moves to it."""
        seed = f"{self.name} {len(self.commits)} {sorted(files)}"
        sha = hashlib.sha1(seed.encode()).hexdigest()
        self.commits.append(sha)
        self.files[sha] = dict(files)
        return sha

    def resolve(self, revision: str) -> str | None:
        """The commit that a name or a full commit id means; short ids are not understood."""
        if revision == "main":
            return self.head
        revision = self.tags.get(revision, revision)
        return revision if revision in self.files else None


@dataclass(frozen=True)
class Request:
    """What was asked: method, path, the range, and whether a token came with it."""

    method: str
    host: str
    path: str
    byte_range: str
    token: str


@contextmanager
def reachable_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[HubServer]:
    """The hub that everything asks while the block runs, without a token."""
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(cache))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


class HubServer:
    """Two HTTP servers on loopback, the hub and its storage."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.renamed: dict[str, str] = {}
        self.requests: list[Request] = []
        self.sent = 0
        self.ranges = True  # whether a part of a file can be had
        self.pages = False  # whether a page for people answers in place of the API
        self.sizes = True  # whether the API states them
        self.page_size = 1000  # entries of a list in one answer
        self.page_link = ""  # the server to which its pages lead, if not this one
        self._faults: dict[str, list[Fault]] = {}
        self._lock = threading.Lock()
        self._hub = _server(self, "127.0.0.1")
        self._storage = _server(self, "127.0.0.1")
        self.url = f"http://127.0.0.1:{self._hub.server_port}"
        self.storage_url = f"http://localhost:{self._storage.server_port}"

    def __enter__(self) -> Self:
        for server in (self._hub, self._storage):
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._hub, self._storage):
            server.shutdown()
            server.server_close()

    def add(self, name: str, files: dict[str, Content], *, gated: bool = False) -> Repo:
        """A repository with one commit."""
        repo = self.repos[name] = Repo(name, gated=gated)
        repo.commit(files)
        return repo

    def add_folder(self, name: str, folder: Path) -> Repo:
        """A repository of the files in a folder."""
        return self.add(
            name,
            {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()},
        )

    def fail(self, file: str, *faults: Fault) -> None:
        """Break the next requests for the bytes of the file of this name."""
        self._faults.setdefault(file, []).extend(faults)

    def take_fault(self, file: str) -> Fault | None:
        with self._lock:
            waiting = self._faults.get(Path(file).name, [])
            return waiting.pop(0) if waiting else None

    def note(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def bytes_of(self, file: str) -> list[Request]:
        """The requests for the bytes of a file."""
        return [
            r
            for r in self.requests
            if r.method == "GET"
            and r.path.endswith(file)
            and ("/resolve/" in r.path or "/blob" in r.path)
        ]


def _server(hub: HubServer, host: str) -> ThreadingHTTPServer:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    return _Quiet((host, 0), Handler)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Clients break connections on purpose."""


def size_of(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def read_part(content: Content, first: int, stop: int) -> bytes:
    if isinstance(content, bytes):
        return content[first:stop]
    with content.open("rb") as file:
        file.seek(first)
        return file.read(stop - first)


def sha256_of(content: Content) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    status = content.stat()
    return _sha256_of_file(content, status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _sha256_of_file(path: Path, size: int, _: int) -> str:
    if size > 2**40:
        return "f" * 64  # nobody has a day
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_large(path: str, content: Content) -> bool:
    return path.endswith((".bin", ".safetensors")) or size_of(content) >= LARGE


def git_id(content: Content) -> str:
    data = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(parts.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.hub.note(
            Request(self.command, self.headers["Host"], path, self.headers.get("Range", ""), token)
        )
        if match := re.fullmatch(r"/blob/(\w+)/(.+)", path):
            self._blob(match.group(1), match.group(2))
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match.group(2), match.group(3), match.group(4), token)
        elif match := _API.fullmatch(path):
            self._api(match.group(2), match.group(3) or "", match.group(4) or "main", token)
        else:
            self._error(404, "", "not here")

    def _repo(self, name: str, token: str) -> Repo | None:
        if name in self.hub.renamed:
            location = self.path.replace(name, self.hub.renamed[name])
            self._answer(307, b"", {"Location": location})
            return None
        repo = self.hub.repos.get(name)
        if repo is None:
            self._error(401 if not token else 404, "RepoNotFound", "Repository not found")
        elif repo.gated and not token:
            self._error(401, "GatedRepo", "Access to this repository is restricted")
            return None
        return repo

    def _resolve(self, name: str, revision: str, path: str, token: str) -> None:
        repo = self._repo(name, token)
        if repo is None:
            return
        commit = repo.resolve(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        content = repo.files[commit].get(path)
        if content is None:
            self._error(404, "EntryNotFound", "Entry not found")
            return
        headers = {"X-Repo-Commit": commit}
        if is_large(path, content):
            sha256 = sha256_of(content)
            headers |= {
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(size_of(content)),
                "Location": f"{self.hub.storage_url}/blob/{commit}/{urllib.parse.quote(path)}",
            }
            self._answer(302, b"", headers)
        else:
            self._content(path, content, headers | {"ETag": f'"{git_id(content)}"'})

    def _blob(self, commit: str, path: str) -> None:
        for repo in self.hub.repos.values():
            if path in repo.files.get(commit, {}):
                self._content(path, repo.files[commit][path], {})
                return
        self._error(404, "", "no such blob")

    def _content(self, path: str, content: Content, headers: dict[str, str]) -> None:
        stated = self.headers.get("Range", "") if self.hub.ranges else ""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", stated)
        download = self.command == "GET" and not (asked and asked.group(2))
        fault = self.hub.take_fault(path) if download else None
        if isinstance(fault, Status):
            self._error(fault.code, "", "try later")
            return
        if isinstance(fault, Asked):
            now = time.time()
            value = formatdate(now + 2, usegmt=True) if fault.value == "date" else fault.value
            more = {fault.header: value, "Date": formatdate(now, usegmt=True)}
            self._error(fault.code, "", "try later", more)
            return
        if isinstance(fault, Other):
            content = bytes(byte ^ 1 for byte in read_part(content, 0, size_of(content)))
        size = min(size_of(content), fault.size) if isinstance(fault, Shorter) else size_of(content)
        status, first, stop = 200, 0, size
        if asked and not isinstance(fault, Whole):
            first, stop = int(asked.group(1)), min(size, int(asked.group(2) or size - 1) + 1)
            if first >= size:
                self._answer(416, b"", {"Content-Range": f"bytes */{size}"})
                return
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{size}"
            status = 206
        self._start(status, headers, stop - first)
        if self.command == "GET":
            self._send(content, first, stop, fault.after if isinstance(fault, Cut) else None)

    def _send(self, content: Content, first: int, stop: int, cut: int | None) -> None:
        end = stop if cut is None else min(stop, first + cut)
        try:
            for position in range(first, end, 1 << 20):
                piece = read_part(content, position, min(end, position + (1 << 20)))
                self.wfile.write(piece)
                self.hub.sent += len(piece)
            if cut is not None:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
        except OSError:
            self.close_connection = True

    def _api(self, name: str, what: str, revision: str, token: str) -> None:
        repo = self._repo(name, token)
        if repo is None:
            return
        commit = repo.resolve(revision)
        if self.hub.pages:
            self._answer(200, b"<!doctype html><p>Welcome", {"Content-Type": "text/html"})
        elif commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif what == "tree":
            entries = [_entry(path, content) for path, content in repo.files[commit].items()]
            for entry in entries if not self.hub.sizes else []:
                del entry["size"]
            self._page(entries)
        elif what == "commits":
            known = repo.commits[: repo.commits.index(commit) + 1]
            self._page([_commit(sha) for sha in reversed(known)])
        else:
            siblings = [{"rfilename": path} for path in repo.files[commit]]
            about = {"id": name, "sha": commit, "gated": repo.gated, "cardData": repo.card}
            self._json(about | {"siblings": siblings})

    def _page(self, entries: list[Any]) -> None:
        parts = urllib.parse.urlsplit(self.path)
        start = int(urllib.parse.parse_qs(parts.query).get("cursor", ["0"])[0])
        stop = start + self.hub.page_size
        link = f"{self.hub.page_link or self.hub.url}{parts.path}?recursive=true&cursor={stop}"
        more = {"Link": f'<{link}>; rel="next"'} if stop < len(entries) else {}
        self._json(entries[start:stop], more)

    def _json(self, value: Any, more: dict[str, str] | None = None) -> None:
        headers = {"Content-Type": "application/json"} | (more or {})
        self._answer(200, json.dumps(value).encode(), headers)

    def _error(
        self, status: int, code: str, message: str, more: dict[str, str] | None = None
    ) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        headers |= more or {}
        self._answer(status, json.dumps({"error": message}).encode(), headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self._start(status, headers, len(body))
        if self.command == "GET":
            self._send(body, 0, len(body), None)

    def _start(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response_only(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


def _entry(path: str, content: Content) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": size_of(content), "oid": git_id(content)}
    if is_large(path, content):
        lfs = {"oid": sha256_of(content), "size": size_of(content), "pointerSize": 134}
        entry |= {"lfs": lfs, "oid": git_id(f"pointer to {lfs['oid']}".encode())}
    return entry


def _commit(sha: str) -> dict[str, Any]:
    date = "2023-08-28T12:00:00.000Z"
    return {"id": sha, "authors": [], "date": date, "title": "a commit", "message": ""}
