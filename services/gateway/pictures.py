"""Pictures that are given out by URL: in memory, for a while, under names that can't be guessed."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable


class Pictures:
    """Keeps at most `limit_bytes`, each picture at most `keep_s`; the oldest go first. `clock` gives monotonic seconds."""

    def __init__(self, limit_bytes: int, keep_s: float, clock: Callable[[], float]) -> None:
        self._limit_bytes = limit_bytes
        self._keep_s = keep_s
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, bytes, str | None]] = OrderedDict()
        self._size = 0

    def keep(self, png: bytes, owner: str | None) -> str:
        """The name under which its owner can have it: 256 random bits. `owner`: the id of a key, None where there are no keys."""
        name = secrets.token_urlsafe(32)
        self._kept[name] = (self._clock() + self._keep_s, png, owner)
        self._size += len(png)
        self._forget()
        return name

    def get(self, name: str, asker: str | None) -> bytes | None:
        """The picture, None when there is none of that name (any more), or it is somebody else's."""
        self._forget()
        found = self._kept.get(name)
        return found[1] if found and found[2] == asker else None

    def _forget(self) -> None:
        now = self._clock()
        while self._kept:
            name, (until, png, _) = next(iter(self._kept.items()))
            if until > now and self._size <= self._limit_bytes:
                return
            del self._kept[name]
            self._size -= len(png)
