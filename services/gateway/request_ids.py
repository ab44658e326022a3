"""Ids of requests, unique among all gateways' and cheap."""

from __future__ import annotations

import secrets
from itertools import count


class RequestIds:
    """A random beginning for this process and a counter, 32 hexadecimal digits: as unique as a UUID, at a tenth of its price. They name
    requests in logs; nothing is protected by their being hard to guess."""

    __slots__ = ("_count", "_prefix")

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(10)
        self._count = count(secrets.randbits(24))

    def next(self) -> str:
        return f"{self._prefix}{next(self._count):012x}"
