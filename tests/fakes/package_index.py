"""A package index on 127.0.0.1 (PEP 503) with tiny wheels made on the spot, for tests that run the real pip without a network."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def wheel(name: str, version: str, source: str = "", requires: tuple[str, ...] = ()) -> tuple[str, bytes]:
    """File name and bytes of a wheel that holds one module, `name`."""
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return f"{name}-{version}-py3-none-any.whl", buffer.getvalue()


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


class PackageIndex:
    """`add(folder, wheel)` puts a wheel on /<folder>/; `asked` lists the paths that were requested."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.address = f"http://127.0.0.1:{server.server_address[1]}"
        self.asked: list[str] = []
        self.wheels: dict[str, tuple[str, bytes]] = {}

    def add(self, folder: str, made: tuple[str, bytes]) -> None:
        file_name, data = made
        self.wheels[f"/{folder}/{file_name.split('-')[0]}/"] = (file_name, data)

    def url(self, folder: str) -> str:
        return f"{self.address}/{folder}"

    def answer(self, path: str) -> tuple[int, bytes, str]:
        self.asked.append(path)
        if path in self.wheels:
            file_name, data = self.wheels[path]
            link = f'<a href="{path}{file_name}#sha256={hashlib.sha256(data).hexdigest()}">{file_name}</a>'
            return 200, f"<!DOCTYPE html><html><body>{link}</body></html>".encode(), "text/html"
        folder, _, name = path.rpartition("/")
        if (held := self.wheels.get(f"{folder}/")) and held[0].replace("+", "%2B") == name.replace("+", "%2B"):
            return 200, held[1], "application/octet-stream"
        return 404, b"no such package", "text/plain"


@contextmanager
def package_index() -> Iterator[PackageIndex]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body, kind = index.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index = PackageIndex(server)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
