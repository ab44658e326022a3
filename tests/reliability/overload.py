"""An open-loop client: sends at a rate whatever comes back, and keeps what became of each request."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.gateway.rig import CHAT, GatewayProcess


@dataclass(frozen=True, slots=True)
class Shot:
    """`first_s`: until the head of the answer, from the moment at which the request was due."""

    status: int
    first_s: float
    total_s: float


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def shoot(gateway: GatewayProcess, body: dict[str, Any], per_s: float, seconds: float, secret: str | None = None) -> list[Shot]:
    """`per_s` requests a second, evenly, each on a connection of its own; returns when all have ended."""
    return asyncio.run(_shoot(gateway, body, per_s, int(per_s * seconds), secret))


async def _shoot(gateway: GatewayProcess, body: dict[str, Any], per_s: float, count: int, secret: str | None) -> list[Shot]:
    host, port = gateway.url.removeprefix("http://").split(":")
    raw = json.dumps(body).encode()
    key = f"authorization: Bearer {secret}\r\n" if secret else ""
    head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n{key}content-length: {len(raw)}\r\n\r\n".encode()
    begun = time.monotonic()

    async def one(number: int) -> Shot:
        due_s = begun + number / per_s
        await asyncio.sleep(due_s - time.monotonic())
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(head + raw)
            line = await reader.readline()
            first_s = time.monotonic() - due_s
            length = chunked = 0
            while (field := await reader.readline()) != b"\r\n":
                name, _, value = field.lower().partition(b":")
                length = int(value) if name == b"content-length" else length
                chunked = chunked or name == b"transfer-encoding"
            await (reader.readuntil(b"\r\n0\r\n\r\n") if chunked else reader.readexactly(length))
            return Shot(int(line.split()[1]), first_s, time.monotonic() - due_s)
        finally:
            writer.transport.abort()

    return list(await asyncio.gather(*(one(number) for number in range(count))))
