"""Each key's own prefix cache in vLLM, and its own pictures: what goes to the engines, seen from a fake engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.keys.database import Database
from services.keys.store import KeyStore
from services.keys.wish import Wish
from tests.gateway.keyed import bearer
from tests.gateway.rig import CHAT, Rig, chat, start_rig


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Rig, list[str]]]:
    folder: Path = tmp_path_factory.mktemp("salts")
    database = Database(str(folder / "rigserve.db"))
    database.prepare()
    secrets = [KeyStore(database).create(Wish(name), "test")[1] for name in ("alice", "bob")]
    rig = start_rig(folder, "--database", str(folder / "rigserve.db"), "--open-status")
    rig.gateway.wait_ready()
    yield rig, secrets
    rig.stop()


def body_of(rig: Rig, placement: str) -> dict[str, object]:
    found: dict[str, object] = rig.engines[placement].state()["seen"][-1]["body"]
    return found


@pytest.mark.parametrize("more", [
    {}, {"stream": True}, {"cache_salt": "mine"}, {"stream": True, "stream_options": {"include_usage": True}},
])
def test_vllm_gets_a_salt_of_the_key_and_no_other(rig: tuple[Rig, list[str]], more: dict[str, object]) -> None:
    stack, (alice, bob) = rig
    salts = []
    for secret in (alice, bob, alice):
        answer = stack.gateway.http.post(CHAT, json=chat("smollm2-135m-instruct", **more), headers=bearer(secret))
        assert answer.status_code == 200
        salts.append(body_of(stack, "llm-vllm")["cache_salt"])
    assert salts[0] == salts[2] != salts[1]
    assert "mine" not in salts
    assert all(isinstance(salt, str) and len(salt) == 32 for salt in salts)


def test_other_engines_get_none(rig: tuple[Rig, list[str]]) -> None:
    stack, (alice, _) = rig
    assert stack.gateway.http.post(CHAT, json=chat("qwen2.5-0.5b-instruct", cache_salt="x"), headers=bearer(alice)).status_code == 200
    assert "cache_salt" not in body_of(stack, "llm-llamacpp")


def test_a_picture_is_its_own_keys(rig: tuple[Rig, list[str]]) -> None:
    stack, (alice, bob) = rig
    asked = {"model": "digits-sd", "prompt": "7", "response_format": "url"}
    answer = stack.gateway.http.post("/v1/images/generations", json=asked, headers=bearer(alice))
    assert answer.status_code == 200, answer.text
    url = answer.json()["data"][0]["url"]
    assert stack.gateway.http.get(url, headers=bearer(alice)).headers["content-type"] == "image/png"
    assert stack.gateway.http.get(url, headers=bearer(bob)).status_code == 404
    assert stack.gateway.http.get(url).status_code == 401
