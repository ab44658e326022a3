"""What somebody asks of a key, read and checked: the same for the command line and the admin routes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import get_args

from services.keys.key import UNITS, Limit, Limits, Role, Unit, Window

MOST = 2**53  # what JSON carries exactly
MAX_NAME = 100
MAX_MODELS = 200
MAX_LIFE_S = 10 * 366 * 86400
_LIMIT = re.compile(r"(requests|tokens|images)=([0-9]{1,16})/(minute|hour|day)", re.ASCII)
_LIFE = re.compile(r"([0-9]{1,6})([mhdw])", re.ASCII)
_LIFE_S = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class WishError(ValueError):
    """A sentence that says what to write, and which field it is about."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Wish:
    """A key to be made. `life_s` None: it never expires."""

    name: str
    role: Role = Role.USER
    models: frozenset[str] | None = None
    limits: Limits = field(default_factory=Limits)
    life_s: float | None = None


def name_of(value: object) -> str:
    """A name for people. Raises WishError."""
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_NAME or not value.isprintable():
        raise WishError(f"name must be 1 to {MAX_NAME} printable characters.", "name")
    return value.strip()


def role_of(value: object) -> Role:
    if value not in tuple(Role):
        raise WishError(f"role must be one of {', '.join(Role)}.", "role")
    return Role(str(value))


def models_of(value: object) -> frozenset[str] | None:
    """None: every model. Raises WishError."""
    if value is None:
        return None
    good = isinstance(value, list | tuple) and 0 < len(value) <= MAX_MODELS
    if not good or not all(isinstance(one, str) and 0 < len(one) <= 256 and one.isprintable() for one in value):  # type: ignore[attr-defined]
        raise WishError(f"models must be a list of 1 to {MAX_MODELS} model ids, or null for all.", "models")
    return frozenset(value)  # type: ignore[call-overload,no-any-return]


def limits_of(value: object) -> Limits:
    """From {"requests": {"minute": 60}, "concurrency": 4}; null: none. Raises WishError."""
    if value is None:
        return Limits()
    if not isinstance(value, Mapping) or not set(value) <= {*UNITS, "concurrency"}:
        raise WishError('limits must be like {"requests": {"minute": 60}, "tokens": {"day": 100000}, "concurrency": 4}.', "limits")
    windows = []
    for unit in UNITS:
        of_unit = {} if value.get(unit) is None else value[unit]  # 0 or false must not pass for "no limit"
        if not isinstance(of_unit, Mapping) or not set(of_unit) <= set(get_args(Window)):
            raise WishError(f"limits.{unit} must be an object with minute, hour or day.", "limits")
        windows += [Limit(unit, window, _most(of_unit[window], f"limits.{unit}.{window}"))
                    for window in get_args(Window) if of_unit.get(window) is not None]
    at_once = value.get("concurrency")
    return Limits(tuple(windows), None if at_once is None else _most(at_once, "limits.concurrency", 1))


def limits_of_words(words: Iterable[str], concurrency: int | None) -> Limits:
    """From `requests=60/minute` and the like. Raises WishError. Worked example: ("tokens=1000/day",) is at most 1,000 tokens a day."""
    found: dict[tuple[Unit, Window], Limit] = {}
    for word in words:
        match = _LIMIT.fullmatch(word)
        if match is None:
            raise WishError(f"{word[:60]!r}: write UNIT=N/WINDOW, like requests=60/minute, tokens=100000/day, images=20/hour.", "limit")
        limit = Limit(match[1], match[3], _most(int(match[2]), word))  # type: ignore[arg-type]
        found[limit.unit, limit.window] = limit
    return Limits(tuple(found.values()), None if concurrency is None else _most(concurrency, "concurrency", 1))


def life_of(value: object) -> float | None:
    """Seconds. Raises WishError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_LIFE_S:
        raise WishError(f"expires_in_s must be seconds, more than 0 and at most {MAX_LIFE_S}, or null for never.", "expires_in_s")
    return float(value)


def life_of_word(word: str | None) -> float | None:
    """`90m`, `24h`, `30d` or `8w` in seconds; None: never. Raises WishError. Worked example: life_of_word("30d") == 2592000."""
    if word is None:
        return None
    match = _LIFE.fullmatch(word)
    if match is None or not 0 < int(match[1]) * _LIFE_S[match[2]] <= MAX_LIFE_S:
        raise WishError(f"{word[:30]!r}: write a time like 90m, 24h, 30d or 8w, at most ten years.", "expires")
    return float(int(match[1]) * _LIFE_S[match[2]])


def _most(value: object, name: str, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= MOST:
        raise WishError(f"{name} must be a whole number from {least} to {MOST}.", "limits")
    return value
