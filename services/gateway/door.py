"""Who asks, and may they? In memory only: the keys are handed in (ledger.py reads them), so that no request waits for a database.

Cost of one look: a SHA-256 of 46 bytes, one dict lookup, one comparison in constant time.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable, Mapping
from enum import Enum
from hashlib import sha256

from services.gateway.throttle import Throttle
from services.keys.key import Key, Limits, Role, Unit
from services.keys.meter import Meter, Over
from services.wire.errors import ApiError, InvalidApiKey, KeysUnavailable, PermissionDenied, QuotaExceeded, RateLimited

NO_DIGEST = bytes(32)
SDK_WAITS_S = 120.0  # the OpenAI SDKs give up at once on a longer Retry-After
REFUSED = "The API key is missing, unknown, expired or revoked; send a valid one as `Authorization: Bearer rs-...`."
CLOSED = "This gateway can't read its keys now, so it serves nobody until it can; its log says why."
NO_KEYS = "This gateway has no keys yet; its operator makes one with `rigserve keys create`."


class Mode(Enum):
    """CLOSED: the keys were never read. UNKEYED: there are none, and whoever reaches the gateway may ask. KEYED: a key is asked for.
    NO_KEYS: there are none, and that opens nothing here."""

    CLOSED = "closed"
    UNKEYED = "unkeyed"
    KEYED = "keyed"
    NO_KEYS = "no_keys"


class Caller:
    """Who asks: a key with what it has used, or anybody (`key` None). One object per key for as long as the key is active."""

    __slots__ = ("digest", "expires_at", "id", "key", "meter", "models", "role", "salt")

    def __init__(self, key: Key | None, meter: Meter) -> None:
        self.key, self.meter = key, meter
        self.id = key.id if key else None
        self.role = key.role if key else Role.USER
        self.models = key.models if key else None
        self.digest = key.digest if key else NO_DIGEST
        self.expires_at = key.expires_at if key and key.expires_at is not None else float("inf")
        self.salt = f',"cache_salt":"{key.cache_salt}"}}'.encode() if key else None

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models


class Door:
    """`unkeyed_allowed`: without any key, whoever reaches the gateway may ask: it is on loopback, or was opened on purpose."""

    def __init__(self, unkeyed_allowed: bool) -> None:
        self._unkeyed_allowed = unkeyed_allowed
        self._callers: dict[bytes, Caller] = {}
        self._meters: dict[str, Meter] = {}
        self._throttle = Throttle()
        self.mode = Mode.CLOSED
        self.anyone = Caller(None, Meter(Limits()))
        self.refused: dict[str, int] = {}

    def replace(self, keys: Iterable[Key], used_today: Mapping[str, Mapping[Unit, int]]) -> bool:
        """All keys that were ever made, as the database has them now. False: there are none any more, so something is wrong with it;
        the last known keys stay."""
        keys = list(keys)
        if not keys:
            if self.mode is Mode.KEYED:
                return False
            self.mode = Mode.UNKEYED if self._unkeyed_allowed else Mode.NO_KEYS
            return True
        now = time.time()
        callers = {}
        for key in keys:
            if key.revoked_at is not None:
                self._meters.pop(key.id, None)
                continue
            meter = self._meters.setdefault(key.id, Meter(key.limits))
            meter.set_limits(key.limits)
            meter.seed(now, used_today.get(key.id, {}))
            callers[key.digest] = Caller(key, meter)
        self._callers, self.mode = callers, Mode.KEYED
        return True

    def plain(self, authorization: bytes, model: str) -> Caller | None:
        """Who may ask this model, when that is beyond doubt; None: let `enter` and `use` say what is wrong."""
        if self.mode is Mode.KEYED:
            caller = self._find(authorization)
            return caller if caller is not None and caller.role is Role.USER and caller.may_use(model) else None
        return self.anyone if self.mode is Mode.UNKEYED else None

    def enter(self, authorization: list[bytes], address: str) -> Caller:
        """1. The keys were never read: 503. 2. There are none: anyone, or 401. 3. A good key. 4. Many wrong ones from that address: 429.
        5. 401, the same words for all that is wrong with a key."""
        if self.mode is Mode.CLOSED:  # 1
            raise self._refuse(KeysUnavailable(CLOSED, retry_after_s=5.0))
        if self.mode is Mode.UNKEYED:  # 2
            return self.anyone
        if self.mode is Mode.NO_KEYS:
            raise self._refuse(InvalidApiKey(NO_KEYS))
        caller = self._find(authorization[0]) if len(authorization) == 1 else None
        if caller is not None:  # 3
            return caller
        wait_s = self._throttle.failed(address, time.monotonic()) if authorization else None
        if wait_s is not None:  # 4
            raise self._refuse(RateLimited("Too many wrong API keys came from this address; try again later.", retry_after_s=wait_s))
        raise self._refuse(InvalidApiKey(REFUSED))  # 5

    def _find(self, authorization: bytes) -> Caller | None:
        """The same steps whether the key is unknown or known."""
        if authorization[:7].lower() != b"bearer ":
            return None
        digest = sha256(authorization[7:].strip()).digest()
        caller = self._callers.get(digest)
        same = hmac.compare_digest(NO_DIGEST if caller is None else caller.digest, digest)
        return caller if same and caller is not None and caller.expires_at > time.time() else None

    def use(self, caller: Caller, name: str, served_id: str | None) -> None:
        """May it use the model that the request names? Raises PermissionDenied, in the same words whether such a model is here or not."""
        if not (caller.may_use(name) or (served_id is not None and caller.may_use(served_id))):
            listed = ", ".join(sorted(caller.models or ())[:20])
            raise self._refuse(PermissionDenied(f"This key may use only: {listed}.", param="model"))

    def take(self, caller: Caller, images: int = 0) -> None:
        """Counts a request against the key's limits. Raises RateLimited or QuotaExceeded."""
        over = caller.meter.take(time.time(), images)
        if over is not None:
            raise self._refuse(limit_error(over))

    def _refuse(self, error: ApiError) -> ApiError:
        self.refused[error.code] = self.refused.get(error.code, 0) + 1
        return error

    @property
    def active_keys(self) -> int:
        return len(self._callers)


def limit_error(over: Over) -> RateLimited:
    """The 429. 1. Too many at once: again in a second. 2. A window that ends soon: Retry-After. 3. Later than a client waits: a quota."""
    if over.window is None or over.wait_s is None:  # 1
        message = f"This key may have {over.most} requests under way at once, and has {over.used}; wait for one to end."
        return RateLimited(message, retry_after_s=1.0, limit_headers={"x-ratelimit-limit-concurrency": str(over.most)})
    left = max(0, over.most - over.used)
    headers = {
        f"x-ratelimit-limit-{over.unit}": str(over.most), f"x-ratelimit-remaining-{over.unit}": str(left),
        f"x-ratelimit-reset-{over.unit}": f"{over.wait_s:.0f}s",
    }  # fmt: skip
    next_in = f"the next {over.window} begins in {over.wait_s:.0f} s"
    message = f"This key may use {over.most} {over.unit} per {over.window} and has used {over.used}; {next_in}."
    if over.wait_s <= SDK_WAITS_S:  # 2
        return RateLimited(message, retry_after_s=over.wait_s, limit_headers=headers)
    return QuotaExceeded(message, retry_after_s=over.wait_s, limit_headers=headers)  # 3
