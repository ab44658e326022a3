"""`rigserve models load|unload|pin|unpin` against a stand-in gateway."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.cli.main import main

SEEN: list[tuple[str, str | None, object]] = []


class Gateway(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        SEEN.append((self.path, self.headers["authorization"], body))
        known = body["model"] == "sd-1.5"
        answer = {"id": "sd-1.5", "state": "unloaded", "loaded_in_s": 31.2} if known else {"error": {"message": "There is no such model."}}
        data = json.dumps(answer).encode()
        self.send_response(202 if known else 404)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    SEEN.clear()
    server = HTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_order_and_its_answer(url: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("rs-secret\n")
    done = CliRunner().invoke(main, ["models", "load", "sd-1.5", "--url", url, "--key-file", str(key)])
    assert (done.exit_code, done.output) == (0, "sd-1.5: unloaded; in memory in about 31 s\n")
    assert SEEN == [("/admin/models/load", "Bearer rs-secret", {"model": "sd-1.5"})]
    done = CliRunner().invoke(main, ["models", "unpin", "sd-1.5", "--url", url])
    assert (done.exit_code, done.output) == (0, "sd-1.5: unloaded\n")
    assert SEEN[1:] == [("/admin/models/unpin", None, {"model": "sd-1.5"})]


def test_what_can_not_be_done_is_a_sentence(url: str) -> None:
    done = CliRunner().invoke(main, ["models", "pin", "nothing", "--url", url])
    assert (done.exit_code, done.output) == (1, "Error: There is no such model.\n")
    done = CliRunner().invoke(main, ["models", "pin", "sd-1.5", "--url", "http://127.0.0.1:9"])
    assert done.exit_code == 1
    assert "no gateway answers" in done.output
    assert CliRunner().invoke(main, ["models", "pin", "sd-1.5", "--url", "ftp://x"]).exit_code == 2


def test_the_list_is_as_it_was() -> None:
    done = CliRunner().invoke(main, ["models", "--card", "P106-100", "--host-ram", "8GiB"])
    assert done.exit_code == 0
    assert "models, best first" in done.output
