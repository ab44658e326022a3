"""Embeddings: what a request may be, whom it may ask, and that it goes the way of text: seat, retry, usage, metrics."""

from __future__ import annotations

import base64
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.gateway.admission import View, admit, check_text
from services.gateway.backends import Backend, from_placement
from services.gateway.context import proven_need
from services.gateway.directory import Directory
from services.gateway.heartbeat import heartbeat_request
from services.gateway.settings import Limits
from services.gateway.text_request import SPECIAL_TOKENS, TextRequest, read_text_request
from services.sizing.cards import simulated_cpu_card
from services.sizing.catalogue import MODELS_FOLDER, Catalogue, load_model
from services.sizing.fit import fit
from services.sizing.types import Engine, Plan, TextWorkload
from services.sizing.types import Placement as Place
from services.wire.errors import InvalidValue
from services.wire.worker import WorkerState
from tests.fakes.process import FakeEngineProcess
from tests.gateway.conftest import as_new
from tests.gateway.rig import HOST, GatewayProcess, chat, start_engines, start_gateway

ROUTE = "/v1/embeddings"
VLLM, LLAMACPP = "all-minilm-l6-v2", "bge-small-en-v1.5"
CARD = simulated_cpu_card(8 * 2**30)
CATALOGUE = Catalogue(tuple(load_model(MODELS_FOLDER / f"{ident}.yaml") for ident in (VLLM, LLAMACPP, "smollm2-135m-instruct")))


def asked(**more: Any) -> TextRequest:
    return read_text_request(ROUTE, json.dumps({"model": VLLM, "input": "one two", **more}).encode())


@pytest.mark.parametrize("given", ["x", ["x"], ["x", "y"], [1, 2], [[1], [2, 3]], ["x"] * 2048])
def test_inputs(given: Any) -> None:
    assert len(asked(input=given).prompts) == (len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1)


@pytest.mark.parametrize("given", [
    None, "", [], [""], ["x", ""], ["x", 1], [1, "x"], [[]], [[1], "x"], [-1], [10**7], [True], [1.5], {}, 5, [[[1]]], ["x"] * 2049,
])
def test_inputs_that_are_none(given: Any) -> None:
    with pytest.raises(InvalidValue) as refused:
        asked(input=given)
    assert refused.value.param == "input"


@pytest.mark.parametrize(("field", "value"), [
    ("encoding_format", "int8"), ("dimensions", 0), ("dimensions", 1.5), ("dimensions", "5"), ("user", 5), ("priority", 10),
    ("model", ""), ("lora_path", "/x"), ("prompt_embeds", "x"),
])
def test_fields_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as refused:
        asked(**{field: value})
    assert refused.value.param == field


def test_what_the_engine_gets() -> None:
    """The client's own bytes; what no table names (a stream, an output length) is left out."""
    plain = asked(dimensions=384, encoding_format="base64", user="u")
    assert plain.for_engine(VLLM) is plain.raw
    odd = asked(stream=True, max_tokens="many", normalize=True)
    assert (odd.dropped, odd.stream, odd.max_tokens) == (("stream", "max_tokens", "normalize"), False, None)
    assert json.loads(odd.for_engine(VLLM)) == {"model": VLLM, "input": "one two"}


def test_worked_bound() -> None:
    """The longest text by itself, not the sum of them: 3 + 1 bytes, and what a tokenizer sets around it."""
    assert proven_need(asked(input=["x", "xé" + "y"])) == 4 + SPECIAL_TOKENS
    assert proven_need(asked(input=[[1, 2], [1, 2, 3]])) == 3 + SPECIAL_TOKENS


def place(ident: str, model: str, engine: Engine, context_tokens: int = 32) -> Place:
    workload = TextWorkload(context_tokens, 2)
    report = fit(CARD, CATALOGUE.get(model), HOST, workload=workload, engine=engine)
    assert report.choice is not None, report.reason
    assert report.variant_id is not None
    return Place(ident, CARD.id, model, report.variant_id, report.choice, workload, report)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(1, HOST, (CARD,), (place("embed-vllm", VLLM, Engine.VLLM), place("embed-llamacpp", LLAMACPP, Engine.LLAMACPP),
                                   place("chat", "smollm2-135m-instruct", Engine.LLAMACPP, 256)))


def backends_of(plan: Plan) -> list[Backend]:
    ends = {"engine_url": "http://h:1", "worker_url": "http://h:2", "token_file": None}
    backends = [from_placement(p, CARD, ends, CATALOGUE.get(p.model_id)) for p in plan.placements]
    for backend in backends:
        backend.state, backend.lane.ready = WorkerState.READY, True
    return backends


def test_each_kind_has_its_route(plan: Plan) -> None:
    directory = Directory(backends_of(plan), CATALOGUE, Limits())
    view = {name: View(name, directory.get(name), list(directory.models)) for name in directory.models}
    assert admit(view[VLLM], "embedding", 0) is directory.get(VLLM)
    smol = "smollm2-135m-instruct"
    for name, kind, right in ((VLLM, "text", ROUTE), (VLLM, "image", ROUTE), (smol, "embedding", "/v1/chat/completions")):
        with pytest.raises(InvalidValue, match=right) as refused:
            admit(view[name], kind, 0)  # type: ignore[arg-type]
        assert refused.value.param == "model"


def test_dimensions(plan: Plan) -> None:
    directory = Directory(backends_of(plan), CATALOGUE, Limits())
    on_vllm, on_llamacpp = directory.get(VLLM), directory.get(LLAMACPP)
    assert on_vllm
    assert on_llamacpp
    for served in (on_vllm, on_llamacpp):
        check_text(asked(dimensions=384), served)
        with pytest.raises(InvalidValue, match="at most 384"):
            check_text(asked(dimensions=385), served)
    check_text(asked(dimensions=128), on_vllm)
    with pytest.raises(InvalidValue, match=r"llama\.cpp"):
        check_text(asked(dimensions=128), on_llamacpp)


def test_the_heartbeat_asks_for_what_the_model_does(plan: Plan) -> None:
    assert [heartbeat_request(backend, False)[0] for backend in backends_of(plan)] == [ROUTE, ROUTE, "/v1/completions"]


class Stack:
    def __init__(self, folder: Path, plan: Plan) -> None:
        (folder / "models").mkdir()
        for ident in (VLLM, LLAMACPP):
            shutil.copy(MODELS_FOLDER / f"{ident}.yaml", folder / "models")
        flags, self.engines = start_engines(folder, plan)
        for engine in self.engines.values():
            engine.set(context=32)
        self.gateway = start_gateway(folder, *flags, "--breaker-open-s", "0.1")


@pytest.fixture(scope="module")
def _stack(tmp_path_factory: pytest.TempPathFactory, plan: Plan) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("embeddings"), plan)
    stack.gateway.wait_ready()
    yield stack
    stack.gateway.stop()
    for engine in stack.engines.values():
        engine.stop()


@pytest.fixture
def stack(_stack: Stack) -> Iterator[Stack]:
    yield from as_new(_stack, _stack.gateway, list(_stack.engines.values()))


def seen(engine: FakeEngineProcess) -> list[dict[str, Any]]:
    return [entry["body"] for entry in engine.state()["seen"]]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "place_id"), [(VLLM, "embed-vllm"), (LLAMACPP, "embed-llamacpp")])
def test_through_the_sdk_with_usage_and_metrics(stack: Stack, model: str, place_id: str) -> None:
    """The SDK asks for base64 by itself and unpacks it."""
    gateway: GatewayProcess = stack.gateway
    with gateway.sdk() as client:
        answer = client.embeddings.create(model=model, input=["one two three", "four"])
    assert [entry.embedding for entry in answer.data] == [[3.0, 0.0], [1.0, 1.0]]
    assert (answer.model, answer.usage.prompt_tokens) == (model, 4)
    assert seen(stack.engines[place_id])[0]["encoding_format"] == "base64"
    line = gateway.last_request()
    assert (line["route"], line["ending"], line["backend"], line["prompt_tokens"]) == (ROUTE, "served", place_id, 4)
    metrics = gateway.http.get("/metrics").text.splitlines()
    counts = [metric for metric in metrics if metric.startswith("gen_ai_server_request_duration_seconds_count{") and model in metric]
    assert len(counts) == 1
    assert 'gen_ai_operation_name="embeddings"' in counts[0]
    listed = {entry["id"]: entry["kind"] for entry in gateway.http.get("/v1/models").json()["data"]}
    assert listed == {VLLM: "embedding", LLAMACPP: "embedding", "smollm2-135m-instruct": "text"}


@pytest.mark.slow
@pytest.mark.parametrize(("model", "place_id"), [(VLLM, "embed-vllm"), (LLAMACPP, "embed-llamacpp")])
def test_what_is_too_long_never_reaches_the_engine(stack: Stack, model: str, place_id: str) -> None:
    """Long in bytes, but not in tokens: the engine counts, and it goes on."""
    long = "word " * 40
    error = stack.gateway.error(ROUTE, {"model": model, "input": ["x", long]}, 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
    assert "32 tokens" in error["message"]
    assert "40 tokens" in error["message"]
    assert stack.gateway.error(ROUTE, {"model": model, "input": list(range(40))}, 400)["code"] == "context_length_exceeded"
    assert seen(stack.engines[place_id]) == []
    assert stack.gateway.post(ROUTE, {"model": model, "input": "longwords " * 30}).status_code == 200


@pytest.mark.slow
def test_failures_go_the_way_of_text(stack: Stack) -> None:
    gateway, engine = stack.gateway, stack.engines["embed-vllm"]
    for mode, status, code in (("error_500", 502, "backend_failed"), ("out_of_memory", 500, "backend_out_of_memory"),
                               ("error_400", 400, "invalid_value")):
        gateway.wait_ready("embed-vllm")
        engine.fault(mode, times=1)
        assert gateway.error(ROUTE, {"model": VLLM, "input": "x"}, status)["code"] == code
    gateway.wait_ready("embed-vllm")
    answer = gateway.post(ROUTE, {"model": VLLM, "input": "x", "encoding_format": "base64"}).json()
    assert struct.unpack("<2f", base64.b64decode(answer["data"][0]["embedding"])) == (1.0, 0.0)


@pytest.mark.slow
def test_the_wrong_route_says_the_right_one(stack: Stack) -> None:
    error = stack.gateway.error("/v1/chat/completions", chat(VLLM), 400)
    assert (error["param"], ROUTE in error["message"]) == ("model", True)
    error = stack.gateway.error(ROUTE, {"model": "smollm2-135m-instruct", "input": "x"}, 400)
    assert (error["param"], "/v1/chat/completions" in error["message"]) == ("model", True)
    assert stack.gateway.error(ROUTE, {"model": "nobody", "input": "x"}, 404)["code"] == "model_not_found"
