"""Checks of tests/security_checks.py that no other file makes: nothing is fetched, nothing is told of the inside, no prompt stays."""

from __future__ import annotations

import json
import logging
import re
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.fields import CHAT as CHAT_FIELDS
from services.gateway.fields import COMPLETION, REFUSED, check_fields
from services.gateway.image_fields import IMAGE
from services.gateway.text_request import Route, read_text_request
from services.wire.errors import ApiError
from tests.gateway.inprocess import InProcess
from tests.gateway.rig import CHAT, chat

ROOT = Path(__file__).parents[2]
SMOL, DIGITS = "smollm2-135m-instruct", "digits-sd"
IMAGES = "/v1/images/generations"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    served = InProcess(tmp_path_factory.mktemp("security"))
    yield served
    served.stop()


# --- 9: fields ---

@settings(max_examples=200, deadline=None)
@given(others=st.dictionaries(st.sampled_from([*REFUSED, *CHAT_FIELDS, "use_cache", "top_a", "x"]) | st.text(max_size=12),
                              st.none() | st.booleans() | st.integers(0, 2) | st.text(max_size=5), max_size=6))
def test_an_engine_never_sees_a_field_that_is_in_no_table(others: dict[str, Any]) -> None:
    routes: list[tuple[Route, Any, dict[str, Any]]] = [
        ("/v1/chat/completions", CHAT_FIELDS, chat("m")), ("/v1/completions", COMPLETION, {"model": "m", "prompt": "x"}),
    ]  # fmt: skip
    for route, table, least in routes:
        try:
            asked = read_text_request(route, json.dumps({**others, **least}).encode())
        except ApiError:
            continue
        assert set(json.loads(asked.for_engine("m"))) <= set(table)


# --- 10: nothing is fetched ---

ADDRESS_FIELDS = (
    "api_base", "base_url", "url", "image_url", "callback_url", "webhook", "proxy", "endpoint", "file", "model_path", "adapter",
    "init_image", "chat_template", "tokenizer", "hf_repo", "extra_body", "media_io_kwargs", "user", "model", "lora",
)  # fmt: skip


def test_no_field_makes_the_gateway_connect_anywhere(served: InProcess) -> None:
    """A listener stands where every URL leads: by name, by number, over IPv6, by a redirect's or a rebound name's last step."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "localhost", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]", "0"):
            url = f"http://{host}:{port}/x.png"
            part = {"type": "image_url", "image_url": {"url": url}}
            bodies = [(CHAT, chat(SMOL, messages=[{"role": "user", "content": [part]}])), ("/v1/images/edits", {
                "model": DIGITS, "prompt": "x", "images": [{"image_url": url}], "mask": {"image_url": url}})]
            for field in ADDRESS_FIELDS:
                bodies += [(CHAT, chat(SMOL, max_tokens=1) | {field: url}), (IMAGES, {"model": DIGITS, "prompt": url, field: url}),
                           ("/v1/fit", {"model": SMOL, field: url})]
            for path, body in bodies:
                assert served.ask("POST", path, "user", json=body).status_code < 500
        time.sleep(0.05)
        with pytest.raises(BlockingIOError):
            listener.accept()


# --- 20: other sites ---

@pytest.mark.parametrize("origin", ["null", "http://evil.example", "http://localhost:3000", "*", "file://"])
def test_no_page_is_given_leave_by_cors(served: InProcess, origin: str) -> None:
    """None by default: not even the loopback pages that may ask are told that they may read across origins."""
    wish = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    for path in (CHAT, "/v1/models", "/admin/keys", "/healthz", "/v1/usage"):
        for method, headers in (("OPTIONS", wish), ("GET", {"origin": origin})):
            answer = served.ask(method, path, "admin", headers)
            assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert served.ask("OPTIONS", path, headers=wish).status_code == 405


# --- 24, 25: prompts ---

def test_nothing_of_a_prompt_or_an_answer_stays(served: InProcess, caplog: pytest.LogCaptureFixture) -> None:
    """Not in the log, metrics, usage, refusals or the database; nor is it repeated by an error."""
    canary = "canary-7d1e"
    caplog.set_level(logging.DEBUG)
    asked = [
        (CHAT, chat(SMOL, messages=[{"role": "user", "content": canary}], max_tokens=1, user=canary)),
        (CHAT, chat(SMOL, messages=[{"role": "user", "content": canary * 5000}])), (CHAT, chat(SMOL, messages=canary)),
        (CHAT, chat(SMOL, stop=[canary] * 99)), ("/v1/completions", {"model": SMOL, "prompt": canary, "temperature": canary}),
        (IMAGES, {"model": DIGITS, "prompt": canary}), (IMAGES, {"model": DIGITS, "prompt": canary * 9999}),
    ]  # fmt: skip
    for path, body in asked:
        assert canary not in served.ask("POST", path, "user", json=body).text
    for path in ("/metrics", "/v1/usage", "/v1/throughput?window=all", "/v1/cards", "/admin/audit", "/admin/keys"):
        answer = served.ask("GET", path, "admin")
        assert answer.status_code == 200
        assert canary not in answer.text
    database = served.gateway.settings.database
    assert database is not None
    with sqlite3.connect(database) as connection:
        assert canary not in "\n".join(connection.iterdump())
    assert canary not in caplog.text


# --- 28: regular expressions on what a client sends ---

EVIL = {"underscores": "_" * 10**6, "words": "a_" * 500_000, "constraint": "guided_" + "a" * 10**6 + "!", "almost": "lor" * 300_000,
        "accents": "é" * 10**6}  # fmt: skip


@pytest.mark.parametrize("kind", EVIL)
def test_field_names_are_looked_at_in_linear_time(kind: str) -> None:
    name = EVIL[kind]
    start = time.process_time()
    check_fields({name: "x"}, CHAT_FIELDS)
    for field, value in (("size", "9" * 10**6), ("lora", "a" * 10**6)):
        with pytest.raises(ApiError):
            IMAGE[field].test(field, value)
    assert time.process_time() - start < 0.1


# --- 30: what errors tell ---

INSIDE = re.compile(r"Traceback|File \"|line \d+, in |\.py\b|site-packages|/services/|/home/|/root/|/tmp/|uvicorn|starlette|fastapi|"
                    r"pydantic|sqlalchemy|orjson|httptools|python/?3|0x[0-9a-f]{6}", re.IGNORECASE)  # fmt: skip


def test_no_error_tells_of_the_inside(served: InProcess) -> None:
    bodies: list[Any] = [
        b"", b"{", b"[]", b'"x"', b"\xff", b'{"model":5}', b'{"model":"\\ud800"}', b'{"a":' * 500, json.dumps(chat(SMOL, n=99)),
        json.dumps(chat("../../etc/passwd")), json.dumps({"model": DIGITS, "prompt": "x", "size": "x"}),
    ]  # fmt: skip
    paths = [CHAT, "/v1/completions", IMAGES, "/v1/images/edits", "/v1/fit", "/admin/keys"]
    answers = [served.ask("POST", path, "admin" if "admin" in path else "user", content=body) for path in paths for body in bodies]
    paths = ["/nowhere", "/docs", "/redoc", "/debug", "/v1/models/x", "/v1/images/files/x", "/v1/throughput?window=x", "/admin/keys/x"]
    answers += [served.ask("GET", path, who) for who in ("none", "user", "admin") for path in paths]
    refused = [answer for answer in answers if answer.is_error]
    assert len(refused) > 60
    for answer in refused:
        assert INSIDE.search(answer.text) is None, answer.text
        assert not {"server", "x-powered-by"} & set(answer.headers)
    assert served.ask("GET", "/openapi.json").status_code == 401


# --- 32: what is supported ---

def test_security_md_names_the_versions_that_are_pinned() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf8")
    cells = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.count("|") == 5]
    rows = {row[1]: (row[2], row[3]) for row in cells}
    pins = {"vLLM": ("vllm-cuda.txt", "vllm"), "llama.cpp": ("llamacpp-cpu.txt", "xllamacpp"), "PyTorch": ("diffusion-cpu.txt", "torch")}
    for engine, (file, package) in pins.items():
        pinned, floor = rows[engine]
        lock = (ROOT / "requirements" / file).read_text(encoding="utf8")
        found = re.search(rf"^{package}==([0-9.]+)", lock, re.MULTILINE)
        assert found is not None
        assert found[1].startswith(pinned.split()[-1]), f"{engine}: {pinned} in SECURITY.md, {found[1]} pinned"
        if re.fullmatch(r"[0-9.]+", floor):
            assert tuple(map(int, found[1].split("."))) >= tuple(map(int, floor.split(".")))
