"""What an API key is: values, and the one place where a secret is made."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

Unit = Literal["requests", "tokens", "images"]
Window = Literal["minute", "hour", "day"]
State = Literal["active", "expired", "revoked"]
UNITS: tuple[Unit, ...] = ("requests", "tokens", "images")
WINDOWS_S: dict[Window, int] = {"minute": 60, "hour": 3600, "day": 86400}
SECRET_PREFIX = "rs-"  # noqa: S105 - how every key begins, so that people and secret scanners know one
SHOWN_CHARACTERS = len(SECRET_PREFIX) + 6


class Role(StrEnum):
    """Two kinds that never mix: a user key infers and sees its own usage, an admin key administers and never infers."""

    USER = "user"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `most` units in each window. Windows begin on full minutes, hours and days of UTC."""

    unit: Unit
    window: Window
    most: int


@dataclass(frozen=True, slots=True)
class Limits:
    """None set: no limit. `concurrency`: requests under way at once."""

    windows: tuple[Limit, ...] = ()
    concurrency: int | None = None

    def to_json(self) -> dict[str, object]:
        """{"requests": {"minute": 60}, "concurrency": 4}; what is not limited is left out."""
        found: dict[str, object] = {}
        for unit in UNITS:
            of_unit = {limit.window: limit.most for limit in self.windows if limit.unit == unit}
            if of_unit:
                found[unit] = of_unit
        if self.concurrency is not None:
            found["concurrency"] = self.concurrency
        return found


@dataclass(frozen=True, slots=True)
class Key:
    """Times are unix seconds. `models` None: every model. `digest`: the SHA-256 of the secret, all that is kept of it."""

    id: str
    name: str
    prefix: str
    digest: bytes = field(repr=False)
    role: Role = Role.USER
    models: frozenset[str] | None = None
    limits: Limits = field(default_factory=Limits)
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None

    def state(self, now: float) -> State:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and now >= self.expires_at else "active"

    @property
    def cache_salt(self) -> str:
        """What keeps this key's prefix cache its own: two keys with the same prompt share no block, so none can time the other's prompts
        (CVE-2025-46570). Derived, so that a restart keeps the cache; one way, so that an engine's log gives nothing away."""
        return hmac.new(self.digest, b"rigserve cache_salt", hashlib.sha256).hexdigest()[:32]

    def to_json(self, now: float) -> dict[str, object]:
        """For people and admin programs: all but the digest."""
        return {
            "id": self.id, "name": self.name, "prefix": self.prefix, "role": self.role, "state": self.state(now),
            "models": None if self.models is None else sorted(self.models), "limits": self.limits.to_json(),
            "created_at": self.created_at, "expires_at": self.expires_at, "revoked_at": self.revoked_at,
        }  # fmt: skip


def new_secret() -> str:
    """`rs-` and 256 random bits."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def new_key_id() -> str:
    return "key_" + secrets.token_hex(8)


def digest_of(secret: bytes) -> bytes:
    """SHA-256. A slow hash is for words that people choose; 256 random bits can't be tried through."""
    return hashlib.sha256(secret).digest()
