"""Reranking: what a request may be, and one form of the answer from every engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.gateway.context import proven_need
from services.gateway.rerank import in_one_form
from services.gateway.text_request import SPECIAL_TOKENS, TextRequest, read_text_request
from services.wire.errors import InvalidValue
from tests.fakes import answers, process
from tests.gateway.rig import GatewayProcess, start_gateway, until

ROUTE = "/v1/rerank"
DOCUMENTS = ["two", "three words here", "four five"]


def body(**more: Any) -> dict[str, Any]:
    return {"model": "m", "query": "one", "documents": DOCUMENTS, **more}


def asked(**more: Any) -> TextRequest:
    return read_text_request(ROUTE, json.dumps(body(**more)).encode())


@pytest.mark.parametrize(("field", "value"), [
    ("query", None), ("query", ""), ("query", ["x"]), ("documents", None), ("documents", []), ("documents", "x"), ("documents", [""]),
    ("documents", [{"text": "x"}]), ("documents", ["x"] * 1001), ("top_n", 0), ("top_n", 1001), ("top_n", True), ("return_documents", 1),
])
def test_fields_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as refused:
        asked(**{field: value})
    assert refused.value.param == field


def test_a_document_goes_in_with_the_query() -> None:
    request = asked(documents=["a", "longest"])
    assert (request.kind, request.prompts) == ("rerank", ["one a", "one longest"])
    assert proven_need(request) == len("one longest") + SPECIAL_TOKENS


@pytest.mark.parametrize("flavour", ["vllm", "llama.cpp"])
@pytest.mark.parametrize(("more", "indexes"), [({}, [1, 2, 0]), ({"top_n": 2}, [1, 2]), ({"return_documents": True}, [1, 2, 0])])
def test_one_form(flavour: str, more: dict[str, Any], indexes: list[int]) -> None:
    given = body(**more)
    made = answers.reranking(flavour, "m", given, [answers.count(text) for text in answers.pooled_texts(given)])
    ranked = in_one_form(made, given)
    assert ranked is not None
    assert [one["index"] for one in ranked["results"]] == indexes
    shown = [one.get("document") for one in ranked["results"]]
    assert shown == [{"text": DOCUMENTS[i]} if given.get("return_documents") else None for i in indexes]


@pytest.mark.parametrize("results", [
    None, {}, [1], [{}], [{"index": 3, "relevance_score": 1.0}], [{"index": -1, "relevance_score": 1.0}],
    [{"index": True, "relevance_score": 1.0}], [{"index": 0, "relevance_score": None}], [{"index": 0, "relevance_score": "1"}],
])
def test_what_is_no_reranking(results: Any) -> None:
    assert in_one_form({"results": results}, body()) is None


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    engine = process.start("m")
    made = start_gateway(Path(tmp_path_factory.mktemp("rerank")), f"--backend=m={engine.url}")
    made.wait_ready()
    yield made
    made.stop()
    engine.stop()


@pytest.mark.slow
def test_through_the_gateway(gateway: GatewayProcess) -> None:
    answer = gateway.post(ROUTE, body(top_n=1, return_documents=True, stream=True))
    assert answer.status_code == 200, answer.text
    assert answer.json()["results"] == [{"index": 1, "relevance_score": 0.04, "document": {"text": "three words here"}}]
    assert answer.headers["x-rigserve-dropped-fields"] == "stream"
    line = until(gateway.last_request, "the request is logged")
    assert (line["route"], line["ending"], line["prompt_tokens"], line["output_tokens"]) == (ROUTE, "served", 9, 0)
    assert 'gen_ai_operation_name="rerank"' in gateway.http.get("/metrics").text
