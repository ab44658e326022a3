"""Images through the gateway: forms, URLs, seeds, meters."""

from __future__ import annotations

import base64
import struct

import pytest

from tests.gateway.rig import Rig, until

IMAGES = "/v1/images/generations"


def make(rig: Rig, **more):
    answer = rig.gateway.post(IMAGES, {"model": "digits-sd", "prompt": "a seven", **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def size_of(png: bytes) -> tuple[int, int]:
    return struct.unpack(">II", png[16:24])


def test_b64_and_url_are_the_same_picture(rig: Rig):
    base = make(rig, seed=5, response_format="b64_json")["data"][0]
    link = make(rig, seed=5, response_format="url")["data"][0]
    assert set(base) == {"b64_json", "seed"}
    assert set(link) == {"url", "seed"}
    got = rig.gateway.http.get(link["url"])
    assert got.content == base64.b64decode(base["b64_json"])
    assert got.headers["content-type"] == "image/png"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert link["url"].startswith(rig.gateway.url + "/v1/images/files/")


def test_without_a_form_both_are_there(rig: Rig):
    picture = make(rig)["data"][0]
    assert rig.gateway.http.get(picture["url"]).content == base64.b64decode(picture["b64_json"])


def test_urls_cannot_be_guessed(rig: Rig):
    urls = [picture["url"] for picture in make(rig, n=3, response_format="url")["data"]]
    names = {url.rpartition("/")[2] for url in urls}
    assert len(names) == 3
    assert all(len(name) == 43 + len(".png") for name in names)
    for name in names:
        changed = ("A" if name[0] != "A" else "B") + name[1:]
        assert rig.gateway.http.get(f"/v1/images/files/{changed}").status_code == 404


@pytest.mark.parametrize(("size", "pixels"), [(None, (32, 32)), ("auto", (32, 32)), ("32x32", (32, 32)), ("16x24", (16, 24))])
def test_sizes(rig: Rig, size, pixels):
    more = {"size": size} if size else {}
    assert size_of(base64.b64decode(make(rig, **more)["data"][0]["b64_json"])) == pixels


def test_usage_comes_from_the_engine_and_is_metered(rig: Rig):
    assert make(rig, n=2, steps=7)["usage"]["steps"] == 14
    line = rig.gateway.last_request()
    assert (line["images"], line["steps"], line["card"]) == (2, 14, "sim-0")
    until(lambda: rig.gateway.http.get("/v1/throughput?window=10s").json()["cards"][0]["images_per_s"], "the images are counted")
    card = rig.gateway.http.get("/v1/throughput?window=10s").json()["cards"][0]
    assert card["simulated"] is True
    assert card["images_per_s"] > 0
    assert card["denoise_steps_per_s"] >= card["images_per_s"] * 7 * 0.999  # both are rounded
    metrics = rig.gateway.http.get("/metrics").text
    assert 'rigserve_images_total{card="sim-0",model="digits-sd"}' in metrics
    assert 'rigserve_denoise_steps_total{card="sim-0",model="digits-sd"}' in metrics


def test_unknown_harmless_fields_are_left_out(rig: Rig):
    answer = rig.gateway.post(IMAGES, {"model": "digits-sd", "prompt": "x", "quality": "hd", "style": "vivid", "user": "u"})
    assert answer.headers["x-rigserve-dropped-fields"] == "quality, style"
    assert set(rig.engines["digits"].state()["seen"][-1]["body"]) == {"model", "prompt", "user", "response_format", "size"}


def test_one_job_at_a_time(rig: Rig):
    """Two images of 0.2 s each take 0.4 s: the second waits in the gateway's queue, not in the engine."""
    import concurrent.futures

    rig.engines["digits"].set(step_s=0.05)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: rig.gateway.post(IMAGES, {"model": "digits-sd", "prompt": "x", "steps": 4}), range(2)))
    waits = sorted(int(a.headers["x-rigserve-queue-ms"]) for a in answers)
    assert waits[0] < 100 < waits[1]


@pytest.mark.parametrize(("fault", "status", "code"), [
    ("error_500", 502, "backend_failed"), ("out_of_memory", 500, "backend_out_of_memory"), ("die_before_first", 502, "backend_failed"),
    ("error_503", 503, "no_available_worker"), ("not_a_png", 502, "backend_failed"),
])
def test_broken_image_engines(rig: Rig, fault, status, code):
    rig.engines["digits"].fault(fault)
    answer = rig.gateway.post(IMAGES, {"model": "digits-sd", "prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (answer.headers.get("x-should-retry") == "false") == (code == "backend_out_of_memory")
