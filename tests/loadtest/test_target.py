"""What the kit asks a server before it loads it, on a server of the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from loadtest.cli import main
from loadtest.target import TargetError, lacks, look_at, read_key

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that answers GET with a status and JSON, POST to `routes` with 400, else 404."""
    running: list[ThreadingHTTPServer] = []

    def begin(said: Any, status: int = 200, routes: tuple[str, ...] = ()) -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self, code: int, body: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.answer(status, json.dumps(said).encode())

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(400 if self.path in routes else 404, b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield begin
    for server in running:
        server.shutdown()
        server.server_close()


def models(*rows: tuple[str, str | None]) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name} | ({"kind": kind} if kind else {}) for name, kind in rows]}


def test_the_first_model_of_each_kind_unless_one_is_named(serve: Serve) -> None:
    url = serve(models(("pictures", "image"), ("talk", "chat"), ("more", "chat")))
    assert (look_at(url, None).chat_model, look_at(url, None).image_model) == ("talk", "pictures")
    assert (look_at(url, None, "more").chat_model, look_at(url, None, "more").image_model) == ("more", None)
    assert (look_at(url, None, "pictures").chat_model, look_at(url, None, "pictures").image_model) == (None, "pictures")
    with pytest.raises(TargetError, match=r"no model 'x'. It serves: pictures, talk, more"):
        look_at(url, None, "x")


def test_servers_without_a_list(serve: Serve) -> None:
    assert look_at(serve({"detail": "Not Found"}, 404), None, "m").models is None
    for said, status in (({}, 404), ([], 200), ({"data": 3}, 200), ("x", 500)):
        with pytest.raises(TargetError, match="no list of models"):
            look_at(serve(said, status), None)
    with pytest.raises(TargetError, match="serves no model now"):
        look_at(serve(models()), None)
    with pytest.raises(TargetError, match="wants an API key"):
        look_at(serve({}, 401), None)


def test_a_route_that_is_not_there(serve: Serve) -> None:
    url = serve(models(("m", None)), routes=("/v1/completions",))
    assert not lacks(url, "/v1/completions", None)
    assert lacks(url, "/v1/embeddings", None)


def test_keys(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-1\n")
    assert read_key(str(tmp_path / "key")) == "sk-1"
    for text in ("", "a\nb", "ключ"):
        (tmp_path / "key").write_text(text, encoding="utf8")
        with pytest.raises(TargetError, match="holds no key"):
            read_key(str(tmp_path / "key"))


@pytest.mark.parametrize(
    "words",
    ["run --duration 0", "run --url x", "run --output-tokens many", "run --warmup 9 --duration 5", "run --fail-if x", "run --drill x",
     "run --image-sizes big", "run --trace /no/such", "run --slo /no/such", "sweep --rates 0", "calibrate --streams 0", "compare a b",
     "report /no/such"],
)  # fmt: skip
def test_bad_options_are_a_sentence_and_code_2(words: str) -> None:
    ended = CliRunner().invoke(main, words.split())
    assert ended.exit_code == 2, ended.output
    assert "Error: " in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.parametrize("command", ["", "run", "sweep", "calibrate", "compare", "report"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    ended = CliRunner().invoke(main, [*command.split(), "--help"])
    assert ended.exit_code == 0
    assert "Example: " in ended.output or not command
