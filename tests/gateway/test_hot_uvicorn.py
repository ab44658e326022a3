"""The insides of uvicorn that the short way leans on, and what must hold on one connection whichever way its requests go.

Fails when a new uvicorn has moved them: then look at hot_protocol.py before raising the pin.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from services.gateway.answer import AnswerParser
from services.gateway.core import Gateway, Inputs
from services.gateway.hot_protocol import HotProtocol, hot_protocol
from services.gateway.settings import Settings
from services.gateway.upstream import Connection
from tests.gateway.rig import CHAT, GatewayProcess, chat

ANSWER = b'{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
REPLY = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)


def asked(*lines: bytes, body: bytes | None = None, first: bytes = b"POST /v1/chat/completions HTTP/1.1") -> bytes:
    content = json.dumps(chat(max_tokens=2)).encode() if body is None else body
    return b"\r\n".join((first, b"host: localhost", b"content-length: %d" % len(content), *lines)) + b"\r\n\r\n" + content


# --- what uvicorn is --------------------------------------------------------------------------------------------------------


def test_names_and_signatures() -> None:
    for name in ("data_received", "on_message_begin", "on_headers_complete", "on_message_complete", "on_response_complete", "shutdown",
                 "timeout_keep_alive_handler", "_unset_keepalive_if_required", "connection_lost", "pause_writing", "resume_writing",
                 "send_400_response"):  # fmt: skip
        assert callable(getattr(HttpToolsProtocol, name)), name
    assert list(inspect.signature(HttpToolsProtocol.__init__).parameters) == ["self", "config", "server_state", "app_state", "_loop"]
    assert list(inspect.signature(HttpToolsProtocol.data_received).parameters) == ["self", "data"]
    assert list(inspect.signature(RequestResponseCycle.__init__).parameters) == [
        "self", "scope", "transport", "flow", "logger", "access_logger", "access_log", "default_headers", "message_event",
        "expect_100_continue", "keep_alive", "on_response",
    ]  # fmt: skip
    assert isinstance(ServerState().default_headers, list)
    assert ServerState().total_requests == 0


# --- one connection in hand ---------------------------------------------------------------------------------------------------


class Wire:
    """A transport that only notes what happens to it."""

    def __init__(self) -> None:
        self.written, self.closed, self.paused, self.protocol = b"", False, False, None

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Desk:
    """A HotProtocol with its client's wire, an engine's wire, and an app that notes which requests came its way."""

    def __init__(self, keep_alive_s: float = 5.0) -> None:
        self.gateway = Gateway(Inputs(Settings(backends=(("solo", "http://127.0.0.1:1"),)), None, None))
        self.backend = self.gateway.directory.backends[0]
        self.backend.lane.ready = True
        self.to_app: list[dict[str, Any]] = []
        self.client, self.engine = Wire(), Wire()
        config = uvicorn.Config(self.app, ws="none", log_config=None, timeout_keep_alive=keep_alive_s, interface="asgi3")  # type: ignore[arg-type]
        self.state = ServerState()
        self.protocol = hot_protocol(self.gateway)(config, self.state, {})
        assert isinstance(self.protocol, HotProtocol)
        self.protocol.connection_made(self.client)  # type: ignore[arg-type]
        self.connection = Connection()
        self.connection.connection_made(self.engine)  # type: ignore[arg-type]
        self.offer()

    def offer(self) -> None:
        self.backend.upstream.give_back(self.connection)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.to_app.append({"path": scope["path"], "body": body, "state": scope["state"]})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
        await send({"type": "http.response.body", "body": b"app"})

    def answers(self) -> list[bytes]:
        """The bodies of the answers, in order; each must be whole HTTP."""
        data, found = self.client.written, []
        while data:
            parser = AnswerParser()
            end = data.find(b"\r\n\r\n") + 4
            parser.feed(data[:end])
            assert parser.head is not None
            size = parser.head.length or 0
            found.append(data[end : end + size])
            data = data[end + size :]
        return found


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_plain_request_never_meets_the_parser_or_the_app() -> None:
    desk = Desk()
    desk.protocol.data_received(asked())
    assert b"POST /v1/chat/completions HTTP/1.1\r\n" in desk.engine.written
    desk.connection.data_received(REPLY)
    assert desk.answers() == [ANSWER]
    assert desk.to_app == []
    assert desk.protocol.cycle is None
    assert desk.state.total_requests == 1
    assert not desk.gateway.running
    assert not desk.gateway.sweep.watched
    assert desk.backend.lane.in_flight == 0


async def test_a_body_in_pieces_stays_on_the_short_way() -> None:
    desk = Desk()
    data = asked()
    end = data.index(b"\r\n\r\n") + 4
    desk.protocol.data_received(data[:end])
    for at in range(end, len(data), 20):
        desk.protocol.data_received(data[at : at + 20])
    desk.connection.data_received(REPLY)
    assert desk.answers() == [ANSWER]
    assert desk.to_app == []


async def test_a_body_that_does_not_come_goes_to_the_application_as_far_as_it_came() -> None:
    desk = Desk()
    data = asked()
    desk.protocol.data_received(data[:-5])
    await asyncio.sleep(0.25)
    desk.protocol.data_received(data[-5:])
    await turns()
    assert [one["body"] for one in desk.to_app] == [data[data.index(b"\r\n\r\n") + 4 :]]
    assert desk.answers() == [b"app"]


async def test_answers_keep_the_order_of_pipelined_requests() -> None:
    desk = Desk()
    desk.protocol.data_received(asked() + asked(b"connection: keep-alive", first=b"POST /other HTTP/1.1", body=b"x") + asked())
    desk.protocol.data_received(asked(first=b"POST /last HTTP/1.1", body=b"y"))
    await turns()
    assert desk.to_app == []
    desk.connection.data_received(REPLY)
    await turns()
    assert [one["path"] for one in desk.to_app] == ["/other", CHAT, "/last"], "uvicorn's pipeline holds what came behind its own"
    assert desk.answers() == [ANSWER, b"app", b"app", b"app"]
    desk.protocol.data_received(asked())
    desk.connection.data_received(REPLY)
    assert desk.answers()[-1] == ANSWER, "and then the short way is open again"


async def test_one_keep_alive_timer_serves_many_requests_and_closes_the_idle() -> None:
    desk = Desk(keep_alive_s=0.15)
    for _ in range(5):
        desk.protocol.data_received(asked())
        desk.connection.data_received(REPLY)
        timers = desk.protocol.timeout_keep_alive_task
        await asyncio.sleep(0.05)
        assert not desk.client.closed
    assert timers is not None
    await asyncio.sleep(0.2)
    assert desk.client.closed


async def test_a_long_answer_is_not_idle() -> None:
    desk = Desk(keep_alive_s=0.05)
    desk.protocol.data_received(asked())
    desk.connection.data_received(REPLY)
    desk.protocol.data_received(asked())
    await asyncio.sleep(0.12)
    assert not desk.client.closed
    desk.connection.data_received(REPLY)
    assert len(desk.answers()) == 2


async def test_a_server_that_shuts_down_lets_the_answer_end() -> None:
    desk = Desk()
    desk.protocol.data_received(asked())
    desk.protocol.shutdown()
    assert not desk.client.closed
    desk.connection.data_received(REPLY)
    assert b"connection: close" in desk.client.written
    assert desk.client.closed
    idle = Desk()
    idle.protocol.shutdown()
    assert idle.client.closed


async def test_the_client_leaves_in_the_middle() -> None:
    desk = Desk()
    desk.protocol.data_received(asked())
    desk.protocol.connection_lost(None)
    assert desk.engine.closed
    assert desk.backend.lane.in_flight == 0
    assert desk.protocol not in desk.state.connections


async def test_back_pressure_reaches_the_engine_and_ends_with_the_answer() -> None:
    desk = Desk()
    stream = asked(body=json.dumps(chat(max_tokens=2, stream=True)).encode())
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    chunk = b"%x\r\n%b\r\n" % (len(event), event)
    desk.protocol.data_received(stream)
    desk.connection.data_received(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk)
    desk.protocol.pause_writing()
    assert desk.engine.paused
    desk.connection.data_received(chunk)
    desk.protocol.resume_writing()
    assert not desk.engine.paused
    desk.protocol.pause_writing()
    desk.connection.data_received(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    assert not desk.engine.paused, "the next request on it must be answered"
    assert desk.client.written.endswith(b"0\r\n\r\n")
    assert desk.client.written.count(b'"content":"a"') == 2


async def test_a_retry_goes_to_the_application_with_what_was_tried() -> None:
    desk = Desk()
    other = Settings(backends=(("solo", "http://127.0.0.1:1"), ("solo", "http://127.0.0.1:2")))
    desk.gateway = Gateway(Inputs(other, None, None))
    desk.backend = desk.gateway.directory.backends[0]
    for backend in desk.gateway.directory.backends:
        backend.lane.ready = True
    type(desk.protocol).gateway = desk.gateway  # type: ignore[attr-defined]
    desk.offer()
    data = asked()
    desk.protocol.data_received(data)
    desk.connection.data_received(b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno")
    await turns()
    assert len(desk.to_app) == 1
    assert desk.to_app[0]["state"]["tried"] == {"backend-0"}
    assert desk.to_app[0]["body"] == data[data.index(b"\r\n\r\n") + 4 :]
    desk.protocol.data_received(asked(first=b"POST /next HTTP/1.1", body=b"x"))
    await turns()
    assert "tried" not in desk.to_app[1]["state"]


# --- over a socket: what goes to the application ------------------------------------------------------------------------------


def exchange(gateway: GatewayProcess, *parts: bytes) -> bytes:
    """All that comes back until the gateway closes the connection, or a quarter of a second after the last byte."""
    with socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=2) as client:
        for part in parts:
            client.sendall(part)
        data = client.recv(65536)
        client.settimeout(0.25)
        try:
            while more := client.recv(65536):
                data += more
        except TimeoutError:
            return data
        return data + b"<closed>"


def test_http_1_0_and_close_end_the_connection(gateway: GatewayProcess) -> None:
    old = exchange(gateway, asked(first=b"POST /v1/chat/completions HTTP/1.0"))
    close = exchange(gateway, asked(b"Connection: close"))
    for data in (old, close):
        assert data.startswith(b"HTTP/1.1 200")
        assert data.endswith(b"<closed>")
    assert not exchange(gateway, asked()).endswith(b"<closed>")


def test_expect_gets_its_100(gateway: GatewayProcess) -> None:
    data = exchange(gateway, asked(b"expect: 100-continue"))
    assert data.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200")


def test_chunked_bodies_are_read(gateway: GatewayProcess) -> None:
    body = json.dumps(chat(max_tokens=2)).encode()
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:9], body[9:])) + b"0\r\n\r\n"
    data = exchange(gateway, b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n" + framed)
    assert data.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("cut", [3, 30, 60])
def test_a_head_in_pieces(gateway: GatewayProcess, cut: int) -> None:
    data = asked()
    assert exchange(gateway, data[:cut], data[cut:]).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_of_both_kinds_over_a_socket(gateway: GatewayProcess) -> None:
    health = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    data = exchange(gateway, asked() + health + asked() + health + asked())
    assert data.count(b"HTTP/1.1 200") == 5
    assert data.rindex(b'"object"') > data.rindex(b'"status"')
