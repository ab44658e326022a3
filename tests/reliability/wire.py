"""Bytes on a socket: what no HTTP client would send, and what comes back."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from typing import Any

from tests.gateway.rig import GatewayProcess
from tests.reliability.stack import connect

HOST = b"host: localhost\r\n"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error


def read_answer(client: socket.socket, bodiless: bool = False) -> Answer:
    """One whole answer, not a byte more."""
    reader = client.makefile("rb")
    status = int(reader.readline().split()[1])
    headers = {}
    while line := reader.readline().strip():
        name, _, value = line.decode("latin1").partition(":")
        headers[name.strip().lower()] = value.strip()
    body = b""
    if headers.get("transfer-encoding") == "chunked":
        while size := int(reader.readline(), 16):
            body += reader.read(size)
            reader.readline()
        reader.readline()
    elif not bodiless:
        body = reader.read(int(headers.get("content-length", 0)))
    return Answer(status, headers, body)


def ask(gateway: GatewayProcess, raw: bytes, bodiless: bool = False) -> Answer:
    """The answer to these bytes, and that a refusal of the edge closes the connection."""
    with connect(gateway) as client:
        client.sendall(raw)
        answer = read_answer(client, bodiless)
        if answer.headers.get("connection") == "close":
            assert client.recv(1) == b""
        return answer


def seconds_until_closed(client: socket.socket, at_most_s: float = 8.0) -> float:
    """How long the gateway keeps this connection."""
    start = time.monotonic()
    client.settimeout(at_most_s)
    try:
        while client.recv(65536):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - start
