"""Every route of /openapi.json asked anything, by anybody: never a 500, and status, media type and body are what the document says.

The application in this process. `make fuzz N=100000` gives it more inputs, as it does test_fuzz.py, which asks a process over
sockets and watches its loop: here the garbage of pytest and hypothesis would be counted to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from services.gateway.openapi import document
from tests.gateway.inprocess import InProcess
from tests.reliability.schema_inputs import ANYTHING, near, values
from tests.reliability.test_fuzz import FUZZED, OF_ANY_ROUTE

pytestmark = pytest.mark.reliability
DOCUMENT: dict[str, Any] = json.loads(document())
OPERATIONS = sorted((method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item)
JSON = "application/json"
OF_ADMINS = ("admin", "operator", "scraper")
SERVED = ["smollm2-135m-instruct", "qwen2.5-0.5b-instruct", "digits-sd"]
NAMES = [*SERVED, "llama-3.1-8b-instruct", "qwen2.5-32b-instruct", "nowhere", "../x", "%00"]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PIXEL = {"image_url": f"data:image/png;base64,{PNG}"}
A_KEY = "key_0"  # stands for one that is there
IN_PATHS = [*NAMES, A_KEY, "load", "pin", "index.html", "x" * 43 + ".png"]
ODD = [("host", "evil.example"), ("origin", "http://evil.example"), ("content-encoding", "gzip"), ("content-type", "multipart/form-data"),
       ("content-type", "multipart/form-data; boundary=b"), ("idempotency-key", "once"), ("if-none-match", '"x"'), ("x-request-id", "a b"),
       ("content-type", "application/x-www-form-urlencoded")]  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    served = InProcess(tmp_path_factory.mktemp("openapi"))
    yield served
    served.stop()


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, dict[str, Any]]:
    """Method, path of the document, and what httpx takes: `path` as it is asked, `caller`, `headers`, `params`, `content`."""
    method, path = draw(st.sampled_from(OPERATIONS))
    operation = DOCUMENT["paths"][path][method.lower()]
    asked = path
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            asked = asked.replace(f"{{{parameter['name']}}}", draw(st.sampled_from(IN_PATHS)))
    params = {}
    for parameter in operation["parameters"]:
        if parameter["in"] == "query" and draw(st.booleans()):
            params[parameter["name"]] = draw(values(parameter["schema"]) | st.text(max_size=12))
    right = "admin" if operation["x-audience"] in OF_ADMINS else "user"
    caller = draw(st.sampled_from([right] * 6 + ["user", "admin", "wrong", "none"]))
    headers = dict([draw(st.sampled_from(ODD))]) if draw(st.integers(0, 7)) == 0 else {}
    content = b""
    if "requestBody" in operation:
        content = draw(bodies(operation["requestBody"]["content"][JSON]["schema"]))
    return method, path, {"path": asked, "caller": caller, "headers": headers, "params": params, "content": content}


@st.composite
def bodies(draw: st.DrawFn, schema: dict[str, Any]) -> bytes:
    """Near what the schema says, with names that exist more often than chance would have it; seldom no JSON at all."""
    body = draw(near(schema))
    if isinstance(body, dict):
        if draw(st.integers(0, 3)) == 0:
            body[draw(st.sampled_from(OF_ANY_ROUTE))] = draw(ANYTHING)
        if "model" in schema["properties"] and draw(st.integers(0, 3)):
            body["model"] = draw(st.sampled_from(NAMES[:5]))
        if "messages" in schema["required"] and draw(st.booleans()):
            body["messages"] = [{"role": "user", "content": "x"}]
        if "images" in schema["properties"] and draw(st.booleans()):
            body |= {"images": [PIXEL]}
    raw = json.dumps(body, ensure_ascii=draw(st.booleans())).encode("utf8", "surrogatepass")
    return raw[: draw(st.integers(0, len(raw)))] if draw(st.integers(0, 15)) == 0 else raw


@cache
def validator(method: str, path: str, status: str, media: str) -> Draft202012Validator:
    schema = DOCUMENT["paths"][path][method.lower()]["responses"][status]["content"][media]["schema"]
    return Draft202012Validator({"allOf": [schema], "components": DOCUMENT["components"]})


@cache
def takes(method: str, path: str) -> Draft202012Validator:
    return Draft202012Validator(DOCUMENT["paths"][path][method.lower()]["requestBody"]["content"][JSON]["schema"])


@FUZZED
@given(asked=requests())
def test_answers_are_as_documented(served: InProcess, asked: tuple[str, str, dict[str, Any]]) -> None:
    method, path, more = asked
    answer = served.ask(method, **more | {"path": more["path"].replace(A_KEY, served.key_id)})
    status, media = str(answer.status_code), answer.headers.get("content-type", "").partition(";")[0]
    documented = DOCUMENT["paths"][path][method.lower()]["responses"]
    assert status in documented, answer.text[:500]
    assert status != "500", answer.text
    assert media in documented[status]["content"], media
    if media == JSON:
        validator(method, path, status, media).validate(answer.json())
    if answer.is_success and more["content"] and "content-type" not in more["headers"]:
        takes(method, path).validate(json.loads(more["content"]))


def test_every_route_can_be_asked_as_documented(served: InProcess) -> None:
    """The examples, by who may: what is random above may never have got past the checks."""
    for method, path in OPERATIONS:
        operation = DOCUMENT["paths"][path][method.lower()]
        content = None
        if "requestBody" in operation:
            body = dict(operation["requestBody"]["content"][JSON]["example"])
            if "model" in body and path != "/v1/fit":
                body["model"] = SERVED[2] if "images" in path else SERVED[0]
            content = json.dumps(body | ({"images": [PIXEL]} if "images" in body else {}))
        asked = path.replace("{name}", SERVED[0] if "models" in path else "index.html").replace("{key_id}", "key_none")
        if path in ("/v1/embeddings", "/v1/rerank"):
            continue  # no model here makes any
        answer = served.ask(method, asked, "admin" if operation["x-audience"] in OF_ADMINS else "user", content=content)
        there_is_none = "{key_id}" in path or "{what}" in path or "/files/" in path
        wanted = 404 if there_is_none else next(int(status) for status in operation["responses"] if status < "300")
        assert answer.status_code == wanted, f"{method} {path}: {answer.text[:300]}"
        media = answer.headers["content-type"].partition(";")[0]
        if media == JSON:
            validator(method, path, str(wanted), media).validate(answer.json())
