"""Keys as values: secrets, states, limits, salts."""

from __future__ import annotations

import hashlib

import pytest

from services.keys.key import Key, Limit, Limits, Role, digest_of, new_secret
from services.keys.wish import WishError, life_of, life_of_word, limits_of, limits_of_words, models_of, name_of, role_of


def key(secret: str = "rs-a", **more: object) -> Key:
    return Key("key_1", "alice", secret[:9], digest_of(secret.encode()), **more)  # type: ignore[arg-type]


def test_secrets_are_256_random_bits() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(secret.startswith("rs-") and len(secret) == 3 + 43 for secret in secrets), "43 characters of base64 hold 256 bits"


def test_only_the_sha_256_is_kept_and_it_is_not_printed() -> None:
    one = key("rs-secret")
    assert one.digest == hashlib.sha256(b"rs-secret").digest()
    assert "digest" not in repr(one)
    assert one.digest.hex() not in str(one.to_json(0))


def test_states() -> None:
    assert key().state(1e12) == "active"
    assert key(expires_at=10.0).state(9.9) == "active"
    assert key(expires_at=10.0).state(10.0) == "expired"
    assert key(expires_at=10.0, revoked_at=5.0).state(1.0) == "revoked"


def test_salts_differ_by_key_and_stay() -> None:
    assert key("rs-a").cache_salt == key("rs-a").cache_salt != key("rs-b").cache_salt
    assert key("rs-a").digest.hex()[:16] not in key("rs-a").cache_salt


def test_limits_both_ways() -> None:
    limits = limits_of_words(("requests=60/minute", "tokens=1000/day", "tokens=2000/day"), 4)
    assert limits.to_json() == {"requests": {"minute": 60}, "tokens": {"day": 2000}, "concurrency": 4}
    assert limits_of(limits.to_json()) == limits
    assert limits_of(None) == Limits() == limits_of({})
    assert limits_of({"images": {"hour": 0}}) == Limits((Limit("images", "hour", 0),)), "0: none at all"


@pytest.mark.parametrize("word", ["", "requests", "requests=60", "requests=-1/minute", "requests=1/second", "watts=1/day", "tokens=1e3/day",
                                  "tokens=9999999999999999/day", "requests=٦/minute"])
def test_words_that_are_no_limit(word: str) -> None:
    with pytest.raises(WishError):
        limits_of_words((word,), None)


@pytest.mark.parametrize("value", [[], 5, "x", {"watts": {"day": 1}}, {"requests": 5}, {"requests": {"second": 1}},
                                   {"requests": {"day": "1"}},
                                   {"requests": {"day": True}}, {"requests": {"day": 1.5}}, {"requests": {"day": -1}},
                                   {"requests": {"day": 2**60}}, {"concurrency": 0}, {"concurrency": "4"}])
def test_values_that_are_no_limits(value: object) -> None:
    with pytest.raises(WishError):
        limits_of(value)


def test_names_roles_models_lives() -> None:
    assert name_of("  alice ") == "alice"
    assert role_of("admin") is Role.ADMIN
    assert models_of(["a", "a"]) == {"a"}
    assert models_of(None) is None
    assert [life_of_word(word) for word in ("90m", "24h", "30d", "8w", None)] == [5400, 86400, 2592000, 4838400, None]
    assert life_of(10) == 10.0
    for check, bad in ((name_of, ("", " ", "a\nb", "x" * 101, 5)), (role_of, ("root", None)), (models_of, ([], "a", [1], [""], ["a\n"])),
                       (life_of_word, ("", "0d", "1y", "-1d", "999999w")), (life_of, (0, -1, "1", True, float("nan"), 1e12))):
        for value in bad:
            with pytest.raises(WishError):
                check(value)  # type: ignore[operator]
