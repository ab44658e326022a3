"""`rigserve top` against a stand-in that tells what a real gateway's meters told."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from services.cli import top as command
from services.cli.main import main
from services.cli.top_table import rate, remarks, seconds, table_of
from services.gateway.throughput_report import report
from tests.gateway.metered import NOW, made, stream, watch


class Stand:
    """What the stand-in answers next, and which keys it was shown."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []


@pytest.fixture
def told(tmp_path: Path) -> dict[str, Any]:
    gateway, backends = made(tmp_path)
    watch(gateway, backends["alone"], 100.0)
    stream(gateway, backends["alone"], 5.0, 4.0, 200)
    for number in range(3):
        stream(gateway, backends["slow"], 8.0 - number, 1.0, 10)
    found: dict[str, Any] = json.loads(json.dumps(report(gateway, "10s", NOW)))
    return found


@pytest.fixture
def stand(told: dict[str, Any]) -> Iterator[tuple[Stand, str]]:
    stand = Stand()
    stand.answers = [(200, json.dumps(told).encode())]

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stand.keys.append(self.headers["authorization"])
            stand.paths.append(self.path)
            status, data = stand.answers.pop(0) if len(stand.answers) > 1 else stand.answers[0]
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield stand, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def shown(told: dict[str, Any], width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(table_of(told, "http://x", width))
    return out.getvalue()


def test_a_row_for_each_card_and_model(told: dict[str, Any]) -> None:
    lines = shown(told, 240).splitlines()
    columns = lines[3].split()
    assert columns[:4] == ["card", "id", "model", "state"]
    rows = {word: line for line in lines[4:8] for word in line.split() if word in {one["model"] for one in told["backends"]}}
    assert set(rows) == {one["model"] for one in told["backends"]}
    assert "Simulated" in rows["smollm2-135m-instruct"]
    alone = rows["llama-3.1-8b-instruct"]
    assert "100 ms (1)" in alone, "TTFT p95 and its n"
    assert f" {rate(200 / 400)} " in alone, "200 tokens for 400 J"
    assert "starting" in alone, "the state is a word"
    assert "100 ms (3)" in rows["smollm2-135m-instruct"]
    assert rows["smollm2-135m-instruct"].split()[-5:] == ["0", "-", "-", "-", "-"], "queue; no watts, joules, degrees, prediction"


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 240])
def test_it_fits_the_terminal(told: dict[str, Any], width: int) -> None:
    text = shown(told, width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "tok/s" in text


def test_what_is_wrong_is_said(told: dict[str, Any]) -> None:
    assert remarks(told) == []
    told["totals"]["refused"] = {"model_does_not_fit": 3}
    told["cards"][1] |= {"state": "throttled", "state_reason": "hot\x1b[2J"}
    told["models"][0]["capacity"] |= {"load": 1.2, "knee_rps": 2.0}
    said = remarks(told)
    assert said[0] == "refused: model_does_not_fit 3"
    assert said[1].endswith("throttled: hot?[2J"), "a driver's text does not steer the terminal"
    assert said[2].endswith("past its knee: 120 % of 2 requests/s")
    assert "card throttled" in shown(told, 240)


def test_figures() -> None:
    assert [rate(value) for value in (None, 0.0, 0.1234, 12.34, 1234.5)] == ["-", "0", "0.123", "12.3", "1234"]
    assert [seconds(value) for value in (None, 0.0421, 1.234)] == ["-", "42 ms", "1.23 s"]


def test_once(stand: tuple[Stand, str], told: dict[str, Any], tmp_path: Path) -> None:
    stood, url = stand
    key = tmp_path / "key"
    key.write_text("rs-secret\n")
    done = CliRunner().invoke(main, ["top", "--once", "--json", "--url", url, "--key-file", str(key), "--window", "5m"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == told
    assert (stood.keys, stood.paths) == (["Bearer rs-secret"], ["/v1/throughput?window=5m"])
    piped = CliRunner().invoke(main, ["top", "--url", url])
    assert piped.exit_code == 0
    assert "llama-3.1-8b-instruct" in piped.output
    assert "\x1b" not in piped.output


def test_json_lines_until_the_gateway_is_gone(stand: tuple[Stand, str], told: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    stood, url = stand
    stood.answers = [*stood.answers * 3, (503, b'{"error": {"message": "This gateway is stopping."}}')]
    monkeypatch.setattr(command.time, "sleep", lambda seconds: None)
    done = CliRunner().invoke(main, ["top", "--json", "--url", url])
    assert done.exit_code == 1
    assert [json.loads(line) for line in done.stdout.splitlines()] == [told] * 3
    assert "answered 503: This gateway is stopping" in done.stderr


def test_live_looks_on_while_the_gateway_is_silent(
    stand: tuple[Stand, str], told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stood, url = stand
    stood.answers = [(503, b"{}"), *stood.answers]
    looks = iter([None, None])

    def sleep(seconds: float) -> None:
        try:
            next(looks)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(command.time, "sleep", sleep)
    out = Console(file=io.StringIO(), force_terminal=True, width=120, height=40)
    command._live(command.Source(url, "10s", None), told, 1.0, out)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "below is what was said last" in text
    assert text.count("llama-3.1-8b-instruct") >= 2


@pytest.mark.parametrize(("status", "body", "words"), [
    (401, b'{"error": {"message": "An API key is needed."}}', "An API key is needed; name a file with an API key with --key-file"),
    (404, b"<html>", "answered 404: Not Found"), (200, b"[]", "is no rigserve gateway"), (200, b"{", "no gateway answers"),
    (200, b'{"object": "throughput"}', "is no rigserve gateway of this version"),
])  # fmt: skip
def test_what_answers_otherwise_is_a_sentence(stand: tuple[Stand, str], status: int, body: bytes, words: str) -> None:
    stood, url = stand
    stood.answers = [(status, body)]
    done = CliRunner().invoke(main, ["top", "--once", "--url", url])
    assert done.exit_code == 1
    assert words in done.output


def test_nobody_answers_and_bad_urls(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["top", "--once", "--url", "http://127.0.0.1:9"])
    assert done.exit_code == 1
    assert "no gateway answers at http://127.0.0.1:9" in done.output
    assert CliRunner().invoke(main, ["top", "--url", "ftp://x"]).exit_code == 2
    assert CliRunner().invoke(main, ["top", "--window", "2d"]).exit_code == 2
    for url in ("http://", "http://a b", "http://[", "http://x:99999999"):
        assert CliRunner().invoke(main, ["top", "--once", "--url", url]).exit_code == 1, url
    broken = tmp_path / "key"
    broken.write_bytes(b"\xff\xfe")
    done = CliRunner().invoke(main, ["top", "--once", "--url", "http://127.0.0.1:9", "--key-file", str(broken)])
    assert (done.exit_code, "holds no API key" in done.output) == (1, True)
    broken.write_text("two\nlines")
    done = CliRunner().invoke(main, ["top", "--once", "--url", "http://127.0.0.1:9", "--key-file", str(broken)])
    assert done.exit_code == 1
    assert not isinstance(done.exception, ValueError)
