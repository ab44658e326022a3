"""One execution for each Idempotency-Key: a client that sends a request again, because it lost the connection, does not pay twice. Pure.

Nothing is replayed: answers are not kept. While the first runs, and for a while after it was served, the same key gets a 409.
"""

from __future__ import annotations

from services.wire.errors import IdempotencyConflict, InvalidValue

KEPT_S = 600.0
MOST = 4096
LONGEST = 255

Key = tuple[str | None, str]


class Once:
    """`_keys`: (whose, key) -> until when (monotonic) it is remembered; None while its request runs. Oldest first."""

    def __init__(self) -> None:
        self._keys: dict[Key, float | None] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, whose: str | None, given: str | None, now: float) -> Key | None:
        """What to `end` later; None when no key was given.

        1. Too long or not printable: 400. 2. Its request runs: 409, try again. 3. Its request was served: 409, don't. 4. Remembered; the
        oldest is forgotten when there are too many.
        """
        if given is None:
            return None
        if not given or len(given) > LONGEST or not given.isprintable():  # 1
            raise InvalidValue(f"The Idempotency-Key header must be 1 to {LONGEST} printable characters.", param="Idempotency-Key")
        key = (whose, given)
        if key in self._keys:
            until_s = self._keys[key]
            if until_s is None:  # 2
                raise IdempotencyConflict("A request with this Idempotency-Key is still running.", retry_after_s=1.0)
            if now < until_s:  # 3
                message = "A request with this Idempotency-Key has been answered; answers are not kept. Send a new key to ask again."
                raise IdempotencyConflict(message, answered=True)
            del self._keys[key]
        if len(self._keys) >= MOST:  # 4
            del self._keys[next(iter(self._keys))]
        self._keys[key] = None
        return key

    def end(self, key: Key, served: bool, now: float) -> None:
        """Its request has ended; one that was not served may be sent again."""
        self._keys.pop(key, None)
        if served:
            self._keys[key] = now + KEPT_S
