"""One gateway over three fake engines, with deadlines short enough to be waited for, and what is read off it."""

from __future__ import annotations

import concurrent.futures
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes import process
from tests.fakes.process import FakeEngineProcess
from tests.gateway.rig import CHAT, GatewayProcess, start_gateway, until

WAYS = ("short", "plain")
FLAGS = (
    "--deadline-first-byte-s=1", "--deadline-inter-token-s=1", "--deadline-queue-s=4", "--deadline-write-s=1.5", "--limit-queue=4",
    "--limit-backend-slots=4", "--breaker-open-s=0.3", "--breaker-longest-s=0.6", "--breaker-of=100000",
)  # fmt: skip
T = TypeVar("T")


class Metrics:
    """One scrape: `metrics.sum("rigserve_requests_total", ending="failed")` adds up all series with these labels."""

    def __init__(self, text: str) -> None:
        self._samples = [s for family in text_string_to_metric_families(text) for s in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        return sum(s.value for s in self._samples if s.name == name and labels.items() <= s.labels.items())


def scrape(gateway: GatewayProcess) -> Metrics:
    return Metrics(gateway.http.get("/metrics").text)


def way_flags(way: str) -> tuple[str, ...]:
    return ("--plain-path",) if way == "plain" else ()


class Stack:
    """`solo` is served by one engine, `twin` by `one` and `two`."""

    def __init__(self, folder: Path, way: str, *more: str) -> None:
        self.way = way
        self.solo, self.one, self.two = process.start("solo"), process.start("twin"), process.start("twin")
        flags = [f"--backend={model}={engine.url}/v1" for model, engine in (("solo", self.solo), ("twin", self.one), ("twin", self.two))]
        self.gateway = start_gateway(folder, *flags, *FLAGS, *way_flags(way), *more)
        self.gateway.wait_ready()
        self._before = scrape(self.gateway)

    @property
    def engines(self) -> list[FakeEngineProcess]:
        return [self.solo, self.one, self.two]

    def as_new(self) -> None:
        for engine in self.engines:
            engine.reset()
        self._before = scrape(self.gateway)

    def settle(self) -> None:
        """Every seat is free again, every engine well and in use."""
        dirty = [engine for engine in self.engines if engine.dirty]
        for engine in dirty:
            engine.reset()
        until(lambda: self.gateway.seats() == 0, "all seats back to 0")
        if dirty:
            self.gateway.wait_ready()

    def stop(self) -> None:
        self.gateway.stop()
        for engine in self.engines:
            engine.stop()

    def rose(self, name: str, **labels: str) -> float:
        """By how much a metric has risen since the test began."""
        return scrape(self.gateway).sum(name, **labels) - self._before.sum(name, **labels)

    def seats_free(self) -> int:
        """Waits until no seat is taken and nobody waits; 0, for the table."""
        until(lambda: self.gateway.seats() == 0, "all seats back to 0")
        return 0


class Streamed:
    """A stream read to its end. `events`: payloads. `whole`: the body ended in order. `error`: of the last event, or of the body."""

    def __init__(self, gateway: GatewayProcess, body: dict[str, Any], **headers: str) -> None:
        self.events: list[str] = []
        self.whole = True
        self.error: dict[str, Any] | None = None
        with gateway.http.stream("POST", CHAT, json={"stream": True, **body}, headers=headers) as answer:
            self.status, self.headers = answer.status_code, answer.headers
            if answer.status_code != 200:
                self.error = json.loads(answer.read())["error"]
                return
            try:
                self.events.extend(line[6:] for line in answer.iter_lines() if line.startswith("data: "))
            except httpx.RemoteProtocolError:
                self.whole = False
        if self.events and '"error"' in self.events[-1][:10]:
            self.error = json.loads(self.events[-1])["error"]

    @property
    def words(self) -> list[str]:
        said = [json.loads(e)["choices"][0]["delta"].get("content") for e in self.events if e.startswith('{"id"')]
        return [word for word in said if word]

    @property
    def done(self) -> bool:
        return bool(self.events) and self.events[-1] == "[DONE]"


def at_once(count: int, call: Callable[[], T]) -> list[T]:
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(call) for _ in range(count)]]


def connect(gateway: GatewayProcess, receive_bytes: int | None = None) -> socket.socket:
    host, port = gateway.url.removeprefix("http://").split(":")
    client = socket.socket()
    if receive_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(5)
    client.connect((host, int(port)))
    return client


def send(gateway: GatewayProcess, body: dict[str, Any], path: str = CHAT, receive_bytes: int | None = None) -> socket.socket:
    """Sends a request on a socket of its own, and reads nothing."""
    raw = json.dumps(body).encode()
    client = connect(gateway, receive_bytes)
    client.sendall(f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(raw)}\r\n\r\n".encode() + raw)
    return client


def reset(client: socket.socket) -> None:
    """Leaves with RST instead of FIN."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()

