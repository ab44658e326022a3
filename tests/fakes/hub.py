"""A model hub on 127.0.0.1 that the unmodified huggingface_hub library accepts through HF_ENDPOINT, and that can misbehave.

It answers model info, file trees and resolve addresses with the headers of the real one. Large files are sent on to a second server on
another host (127.0.0.2), as the real hub sends them on to its storage; the log shows whether a token followed.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".gguf", ".bin", ".model")
BLOCK_BYTES = 64 * 1024


@dataclass(slots=True)
class Repository:
    """Files at one commit. `token`: only requests with it get anything; `gated`: the list is public, the files are not."""

    files: dict[str, bytes]
    token: str | None = None
    gated: bool = False
    branches: tuple[str, ...] = ("main",)
    listed_sha256: dict[str, str] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr([(name, _git_sha1(content)) for name, content in sorted(self.files.items())]).encode()).hexdigest()


@dataclass(slots=True)
class Faults:
    """What goes wrong. Counters go down by one each time; -1 never runs out."""

    cut_after_bytes: int | None = None
    cuts: int = -1
    flip_a_bit_in: tuple[str, ...] = ()
    statuses: list[int] = field(default_factory=list)
    retry_after_s: int | None = None
    ignore_range: bool = False
    drip_s: float = 0.0
    more_than_announced: bool = False
    silent_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    method: str
    path: str
    range: str | None
    authorized: bool
    storage: bool


class HubStandIn:
    """`url` goes into HF_ENDPOINT. `seen` lists every request; `sent_bytes` counts body bytes of files by name."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults = Faults()
        self.seen: list[Seen] = []
        self.sent_bytes: dict[str, int] = {}
        self._servers = [_Server(("127.0.0.1", 0), self, storage=False), _Server(("127.0.0.2", 0), self, storage=True)]
        self.url, self.storage_url = (f"http://{s.server_address[0]!s}:{s.server_address[1]}" for s in self._servers)

    def add(self, name: str, files: dict[str, bytes], **more: Any) -> Repository:
        self.repositories[name] = Repository(files, **more)
        return self.repositories[name]

    def requests(self, part: str) -> list[Seen]:
        return [seen for seen in self.seen if part in seen.path]

    @contextmanager
    def running(self) -> Iterator[HubStandIn]:
        threads = [threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}) for server in self._servers]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            for server, thread in zip(self._servers, threads, strict=True):
                server.shutdown()
                thread.join()
                server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], hub: HubStandIn, storage: bool) -> None:
        self.hub = hub
        self.storage = storage
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: without this each answer waits 40 ms for an ACK
    server: _Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        authorization = self.headers.get("Authorization")
        hub.seen.append(Seen(self.command, path, self.headers.get("Range"), authorization is not None, self.server.storage))
        time.sleep(hub.faults.silent_s)
        if hub.faults.statuses and (status := hub.faults.statuses.pop(0)) != 200:
            extra = {} if hub.faults.retry_after_s is None else {"Retry-After": str(hub.faults.retry_after_s)}
            return self._json(status, {"error": "an injected fault"}, extra)
        name, repository = self._repository(path)
        if repository is None or (repository.token and authorization != f"Bearer {repository.token}" and not self.server.storage
                                  and not (repository.gated and path.startswith("/api/"))):
            return self._refuse(repository)
        if path.startswith("/api/models/"):
            return self._api(name, repository, path.removeprefix(f"/api/models/{name}"))
        _, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        if revision != repository.commit and revision not in repository.branches:
            return self._json(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
        if file not in repository.files:
            return self._json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        self._file(name, repository, file)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def _repository(self, path: str) -> tuple[str, Repository | None]:
        found = [n for n in self.server.hub.repositories if path.removeprefix("/api/models").startswith(f"/{n}")]
        return (found[0], self.server.hub.repositories[found[0]]) if found else ("", None)

    def _refuse(self, repository: Repository | None) -> None:
        if repository is not None and repository.gated:
            status = 403 if self.headers.get("Authorization") else 401
            return self._json(status, {"error": "Access to model is restricted"}, {"X-Error-Code": "GatedRepo"})
        self._json(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def _api(self, name: str, repository: Repository, rest: str) -> None:
        _, kind, revision = rest.split("/", 2) if rest.count("/") >= 2 else ("", "revision", "main")
        if revision != repository.commit and revision not in repository.branches:
            return self._json(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        if kind == "tree":
            return self._json(200, [_tree_entry(repository, file) for file in repository.files], {})
        self._json(200, {
            "id": name, "modelId": name, "sha": repository.commit, "private": False, "gated": "manual" if repository.gated else False,
            "siblings": [_sibling(repository, file) for file in repository.files],
        }, {})

    def _file(self, name: str, repository: Repository, file: str) -> None:
        content = repository.files[file]
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{_git_sha1(content)}"', "Accept-Ranges": "bytes"}
        if file.endswith(LFS_SUFFIXES) and not self.server.storage:
            sha256 = _sha256(repository, file)
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{sha256}"', "ETag": f'"{sha256}"'}
            location = f"{self.server.hub.storage_url}/{name}/resolve/{repository.commit}/{file}?signature=1"
            return self._json(302, {}, headers | {"Location": location})
        if file in self.server.hub.faults.flip_a_bit_in:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self._body(file, content, headers)

    def _body(self, file: str, content: bytes, headers: dict[str, str]) -> None:
        faults, status, first, last = self.server.hub.faults, 200, 0, len(content) - 1
        asked = self.headers.get("Range")
        if asked and not faults.ignore_range:
            low, _, high = asked.removeprefix("bytes=").partition("-")
            status, first, last = 206, int(low), min(int(high), last) if high else last
            if first >= len(content):
                return self._json(416, {}, {"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        part = content[first : last + 1] + (b"!" * 100 if faults.more_than_announced else b"")
        self._head(status, {**headers, "Content-Length": str(len(part)), "Content-Type": "application/octet-stream"})
        if self.command == "GET":
            self._send_part(file, part)

    def _send_part(self, file: str, part: bytes) -> None:
        hub, faults = self.server.hub, self.server.hub.faults
        cut = faults.cut_after_bytes is not None and faults.cuts != 0 and len(part) > faults.cut_after_bytes
        if cut:
            part = part[: faults.cut_after_bytes]
            faults.cuts -= 1
        for start in range(0, len(part), BLOCK_BYTES):
            block = part[start : start + BLOCK_BYTES]
            hub.sent_bytes[file] = hub.sent_bytes.get(file, 0) + len(block)
            self.wfile.write(block)
            self.wfile.flush()
            time.sleep(faults.drip_s)
        if cut:
            self.close_connection = True

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _json(self, status: int, value: Any, headers: dict[str, str]) -> None:
        body = json.dumps(value).encode()
        self._head(status, {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))})
        if self.command == "GET":
            self.wfile.write(body)


@lru_cache(maxsize=512)
def _git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha256(repository: Repository, file: str) -> str:
    return repository.listed_sha256.get(file) or _content_sha256(repository.files[file])


@lru_cache(maxsize=512)
def _content_sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sibling(repository: Repository, file: str) -> dict[str, Any]:
    content = repository.files[file]
    entry: dict[str, Any] = {"rfilename": file, "size": len(content), "blobId": _git_sha1(content)}
    if file.endswith(LFS_SUFFIXES):
        entry["lfs"] = {"sha256": _sha256(repository, file), "size": len(content), "pointerSize": 130}
    return entry


def _tree_entry(repository: Repository, file: str) -> dict[str, Any]:
    content = repository.files[file]
    entry: dict[str, Any] = {"type": "file", "path": file, "size": len(content), "oid": _git_sha1(content)}
    if file.endswith(LFS_SUFFIXES):
        entry["lfs"] = {"oid": _sha256(repository, file), "size": len(content), "pointerSize": 130}
    return entry
