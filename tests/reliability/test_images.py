"""R7: images."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway.conftest import as_new
from tests.gateway.rig import CHAT, Rig, chat, start_rig, until
from tests.reliability.scenarios import Seen, scenario
from tests.reliability.stack import WAYS, Metrics, scrape, send, way_flags

pytestmark = pytest.mark.reliability
IMAGES = "/v1/images/generations"
SMOL = "smollm2-135m-instruct"


@pytest.fixture(scope="module", params=WAYS)
def _started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = start_rig(tmp_path_factory.mktemp("rig"), *way_flags(request.param))
    rig.gateway.wait_ready()
    yield rig
    rig.stop()


@pytest.fixture
def rig(_started: Rig) -> Iterator[Rig]:
    yield from as_new(_started, _started.gateway, list(_started.engines.values()))


@pytest.fixture
def before(rig: Rig) -> Metrics:
    return scrape(rig.gateway)


def image(**more: Any) -> dict[str, Any]:
    return {"model": "digits-sd", "prompt": "a seven", **more}


def rose(rig: Rig, before: Metrics, name: str, **labels: str) -> float:
    return scrape(rig.gateway).sum(name, **labels) - before.sum(name, **labels)


@scenario(70)
@pytest.mark.parametrize(("more", "param"), [
    ({"size": "8192x8192"}, "size"), ({"size": "513x511"}, "size"), ({"size": "0x0"}, "size"), ({"size": "-1x5"}, "size"),
    ({"size": "9999999x8"}, "size"), ({"size": "large"}, "size"), ({"size": [32, 32]}, "size"), ({"n": 100}, "n"), ({"n": 0}, "n"),
])  # fmt: skip
def test_sizes_and_counts(rig: Rig, before: Metrics, seen: Seen, more: dict[str, Any], param: str) -> None:
    error = rig.gateway.error(IMAGES, image(**more), 400)
    assert error["param"] == param
    if more.get("size") == "8192x8192":
        assert error["code"] == "image_too_large"
        assert "32x32" in error["message"], "the largest that fits"
    assert rig.engines["digits"].state()["seen"] == []
    assert rose(rig, before, "rigserve_requests_total", ending="refused") == 1
    seen(status=400, body="image_too_large with the largest size and the arithmetic, or the allowed sides",
         metric="requests{ending=refused} +1", seats=rig.gateway.seats())  # fmt: skip


@scenario(71)
@pytest.mark.parametrize("more", ['"steps":0', '"steps":-1', '"steps":1000000', '"steps":1.5', '"guidance_scale":NaN',
    '"guidance_scale":-1',
    '"guidance_scale":1e999', '"seed":-1', '"seed":4294967296', '"steps":"5"'])  # fmt: skip
def test_steps_and_guidance(rig: Rig, before: Metrics, seen: Seen, more: str) -> None:
    error = rig.gateway.error(IMAGES, f'{{"model":"digits-sd","prompt":"x",{more}}}', 400)
    assert error["param"] == json.loads("{" + more.partition(":")[0] + ":0}").popitem()[0]
    assert rig.engines["digits"].state()["seen"] == []
    assert rose(rig, before, "rigserve_requests_total", ending="refused") == 1
    seen(status=400, body="param names the field", metric="requests{ending=refused} +1", seats=rig.gateway.seats())


@scenario(72)
def test_out_of_memory(rig: Rig, before: Metrics, seen: Seen) -> None:
    rig.engines["digits"].fault("out_of_memory", times=1)
    answer = rig.gateway.post(IMAGES, image())
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "backend_out_of_memory")
    assert answer.headers["x-should-retry"] == "false"
    assert rose(rig, before, "rigserve_backend_failures_total", backend="digits", kind="out_of_memory") == 1
    assert rig.gateway.backends()["digits"]["failures"]["out_of_memory"] >= 1, "the card's state shows it"
    assert rig.gateway.post(IMAGES, image()).status_code == 200
    seen(status=500, body="backend_out_of_memory, no retry", metric="backend_failures{kind=out_of_memory} +1", next="200",
         seats=rig.gateway.seats())  # fmt: skip


@scenario(73)
def test_the_client_leaves_in_the_middle(rig: Rig, before: Metrics, seen: Seen) -> None:
    """50 steps of 0.1 s. That a pipeline stops at its next step when its connection ends is tested in tests/diffusion."""
    engine = rig.engines["digits"]
    engine.set(step_s=0.1)
    client = send(rig.gateway, image(steps=50), IMAGES)
    until(lambda: engine.state()["running"] == 1, "it paints")
    until(lambda: rig.gateway.seats() == 1, "a seat is taken")
    client.close()
    until(lambda: engine.state()["running"] == 0, "the engine's connection is closed", 1)
    until(lambda: rig.gateway.seats() == 0, "the seat is free", 1)
    until(lambda: rose(rig, before, "rigserve_requests_total", ending="client_gone") == 1, "counted")
    engine.set(step_s=0.0)
    assert rig.gateway.post(IMAGES, image()).status_code == 200
    seen(engine="its connection closed within 1 s", metric="requests{ending=client_gone} +1", seats=0)


@scenario(74)
def test_one_seed_twice_in_both_forms(rig: Rig, before: Metrics, seen: Seen) -> None:
    first, second = (rig.gateway.post(IMAGES, image(seed=7, response_format="b64_json")).json()["data"][0]["b64_json"] for _ in range(2))
    assert first == second
    url = rig.gateway.post(IMAGES, image(seed=7, response_format="url")).json()["data"][0]["url"]
    assert rig.gateway.http.get(url).content == base64.b64decode(first)
    name = url.rpartition("/")[2].removesuffix(".png")
    assert len(name) == 43, "256 bits"
    assert rig.gateway.http.get(url.replace(name, name[::-1])).status_code == 404
    assert rose(rig, before, "rigserve_images_total", model="digits-sd") == 3
    seen(seed="identical pictures", url="43 random characters (own key only: tests/gateway/test_keys.py)", metric="images_total +3",
         seats=rig.gateway.seats())  # fmt: skip


@scenario(57)
def test_prompts_longer_than_the_context(rig: Rig, before: Metrics, seen: Seen) -> None:
    """512 tokens of context: 408 words + 4 of the template + 100 fit, one more does not."""
    for words, most in ((600, 1), (408, 101)):
        body = {"model": SMOL, "messages": [{"role": "user", "content": "w " * words}], "max_tokens": most}
        error = rig.gateway.error(CHAT, body, 400)
        assert error["code"] == "context_length_exceeded"
        assert "512" in error["message"]
        assert str(words + 4 + most) in error["message"]
    assert rig.engines["llm-vllm"].state()["seen"] == []
    assert rose(rig, before, "rigserve_fit_rejected_total", reason="context_length_exceeded") == 2
    body = {"model": SMOL, "messages": [{"role": "user", "content": "w " * 408}], "max_tokens": 100}
    assert rig.gateway.post(CHAT, body).json()["usage"]["total_tokens"] == 512
    seen(status=400, body="context_length_exceeded with both numbers", metric="fit_rejected{reason=context_length_exceeded} +2",
         seats=rig.gateway.seats())  # fmt: skip


@scenario(59)
def test_the_wrong_kind_of_model(rig: Rig, before: Metrics, seen: Seen) -> None:
    for path, body in ((CHAT, chat("digits-sd")), (IMAGES, image(model=SMOL))):
        assert rig.gateway.error(path, body, 400)["param"] == "model"
    assert rose(rig, before, "rigserve_requests_total", ending="refused") == 2
    seen(wrong_kind="400, naming the route")
