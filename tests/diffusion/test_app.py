"""The HTTP side on a fake pipeline: answers, who may ask, errors, and that the loop stays free while a job runs."""

from __future__ import annotations

import asyncio
import base64

import pytest

from services.diffusion.contract import DeviceLost, NotFinite, OutOfMemory
from tests.diffusion.conftest import Connect
from tests.diffusion.painter import PNG, FakePainter

ROUTE = "/v1/images/generations"


async def metric(client, name: str) -> float:
    text = (await client.get("/metrics")).text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"rigserve_diffusion_{name} "))


async def test_an_answer_has_images_seeds_and_usage(connect: Connect) -> None:
    answer = await connect(FakePainter()).post(ROUTE, json={"model": "digits-sd", "prompt": "seven", "n": 2, "seed": 40, "steps": 3})
    assert answer.status_code == 200
    body = answer.json()
    assert [d["seed"] for d in body["data"]] == [40, 41]
    assert all(base64.b64decode(d["b64_json"]) == PNG for d in body["data"])
    assert (body["size"], body["output_format"]) == ("32x32", "png")
    assert body["usage"] == {"images": 2, "steps": 6, "denoise_s": 0.02, "vae_s": 0.003, "total_s": 0.024}
    assert isinstance(body["created"], int)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer wrong", "s3cret-token", "bearer s3cret-token", "Bearer s3cret-token2",
                                    "Bearer s3cret-toke", "Bearer ' OR 1=1 --", "Bearer é".encode("latin-1"), "Bearer " + "x" * 100_000])
@pytest.mark.parametrize("route", [("POST", ROUTE), ("GET", "/v1/models"), ("GET", "/metrics")])
async def test_without_the_token_nothing_is_told(connect: Connect, header: str, route: tuple[str, str]) -> None:
    painter = FakePainter()
    answer = await connect(painter).request(*route, headers={"authorization": header}, json={"prompt": "seven"})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert painter.jobs == []


async def test_without_a_token_file_everybody_on_loopback_may_ask(connect: Connect) -> None:
    client = connect(FakePainter(), token=None)
    assert (await client.post(ROUTE, json={"prompt": "seven"}, headers={"authorization": ""})).status_code == 200


async def test_health_asks_for_no_token_and_models_lists_one(connect: Connect) -> None:
    client = connect(FakePainter())
    assert (await client.get("/health", headers={"authorization": ""})).json() == {"status": "ok"}
    assert [m["id"] for m in (await client.get("/v1/models")).json()["data"]] == ["digits-sd"]


@pytest.mark.parametrize(("method", "path", "status", "code"), [
    ("GET", "/", 404, "route_not_found"), ("GET", "/docs", 404, "route_not_found"), ("GET", "/openapi.json", 404, "route_not_found"),
    ("GET", ROUTE, 405, "method_not_allowed"), ("DELETE", ROUTE, 405, "method_not_allowed"), ("POST", "/health", 405, "method_not_allowed"),
])
async def test_unknown_routes_have_the_error_shape(connect: Connect, method: str, path: str, status: int, code: str) -> None:
    answer = await connect(FakePainter()).request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_bad_body_is_a_400_and_reaches_no_pipeline(connect: Connect) -> None:
    painter = FakePainter()
    client = connect(painter)
    for content in (b"{", b'{"prompt": "x", "size": "72x48"}', b'{"prompt": "x", "guidance_scale": NaN}'):
        answer = await client.post(ROUTE, content=content)
        assert answer.status_code == 400
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.headers["x-should-retry"] == "false"
    assert painter.jobs == []


async def test_a_large_body_is_cut_off(connect: Connect) -> None:
    sent = 0

    async def parts():
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b"x" * 64 * 1024

    answer = await connect(FakePainter()).post(ROUTE, content=parts())
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert sent <= 4


async def test_out_of_memory_is_said_counted_and_over(connect: Connect) -> None:
    client = connect(FakePainter(failures=[OutOfMemory("on cuda:0")]))
    answer = await client.post(ROUTE, json={"prompt": "seven", "size": "64x48", "n": 2})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], answer.headers["x-should-retry"]) == (500, "backend_out_of_memory", "false")
    assert "64x48 x 2" in error["message"]
    assert "cuda:0" in error["message"]
    assert (await client.post(ROUTE, json={"prompt": "seven"})).status_code == 200
    assert await metric(client, "out_of_memory_total") == 1
    assert await metric(client, "queue_depth") == 0


async def test_nan_images_are_not_sent(connect: Connect) -> None:
    client = connect(FakePainter(failures=[NotFinite("float16 on cuda:0")]))
    answer = await client.post(ROUTE, json={"prompt": "seven"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "backend_failed")
    assert "float16" in answer.json()["error"]["message"]


async def test_a_lost_device_ends_the_engine_and_its_health(connect: Connect) -> None:
    client = connect(FakePainter(failures=[DeviceLost("CUDA error: unspecified launch failure")]))
    answer = await client.post(ROUTE, json={"prompt": "seven"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "backend_failed")
    assert client.lost == [True]
    assert (await client.get("/health")).status_code == 502


async def test_an_engine_that_is_told_to_stop_sends_its_clients_elsewhere(connect: Connect) -> None:
    client = connect(FakePainter(gate_open=False))
    job = asyncio.create_task(client.post(ROUTE, json={"prompt": "seven"}))
    while await metric(client, "queue_depth") == 0:
        await asyncio.sleep(0.001)
    client.queue.stop()
    answer = await job
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) == (503, "no_available_worker", "5")


async def test_a_bug_is_a_500_that_tells_nothing(connect: Connect) -> None:
    client = connect(FakePainter(failures=[RuntimeError("secret /path/inside")]))
    answer = await client.post(ROUTE, json={"prompt": "seven"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert (await client.post(ROUTE, json={"prompt": "seven"})).status_code == 200


async def test_health_answers_while_a_job_runs(connect: Connect) -> None:
    painter = FakePainter(gate_open=False)
    client = connect(painter)
    job = asyncio.create_task(client.post(ROUTE, json={"prompt": "seven"}))
    while not painter.running:
        await asyncio.sleep(0.001)
    assert (await client.get("/health")).status_code == 200
    assert await metric(client, "queue_depth") == 1
    assert not job.done()
    painter.gate.set()
    assert (await job).status_code == 200


async def test_what_is_counted(connect: Connect) -> None:
    client = connect(FakePainter())
    for _ in range(2):
        await client.post(ROUTE, json={"prompt": "seven", "n": 3, "steps": 5})
    assert await metric(client, "images_total") == 6
    assert await metric(client, "denoise_steps_total") == 30
    assert await metric(client, "step_seconds_count") == 10
    assert await metric(client, "job_seconds_count") == 2
    assert await metric(client, "vae_seconds_sum") == pytest.approx(0.006)
    assert await metric(client, "peak_memory_bytes") == 123_000_000
