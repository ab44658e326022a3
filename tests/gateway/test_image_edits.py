"""Edits and streams of images through the gateway: forms and JSON with pictures, limits, events, faults."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from services.gateway.image_form import MAX_PARTS, read_form
from services.gateway.image_request import definite_size, read_edit_request
from services.gateway.image_stream import ImageStream
from services.gateway.scheduler import Need
from services.wire.errors import InvalidValue
from tests.gateway.rig import Rig, catalogue, until

EDITS, IMAGES = "/v1/images/edits", "/v1/images/generations"


def png(width_px: int = 32, height_px: int = 24, mode: str = "RGB", kind: str = "PNG") -> bytes:
    target = io.BytesIO()
    Image.new(mode, (width_px, height_px)).save(target, kind)
    return target.getvalue()


def form(files: list[tuple[str, Any]], **fields: str) -> tuple[bytes, str]:
    request = httpx.Request("POST", "http://x", files=files, data=fields)
    return request.read(), request.headers["content-type"]


def edit(rig: Rig, files: list[tuple[str, Any]], **fields: str) -> httpx.Response:
    body, kind = form(files, **{"model": "digits-sd", "prompt": "a seven", **fields})
    return rig.gateway.http.post(EDITS, content=body, headers={"content-type": kind})


def seen(rig: Rig) -> dict[str, Any]:
    got: dict[str, Any] = rig.engines["digits"].state()["seen"][-1]
    return got


def test_a_form_reaches_the_engine_as_json(rig: Rig) -> None:
    picture, mask = png(), png(mode="RGBA", kind="WEBP")
    answer = edit(rig, [("image", ("a.png", picture)), ("mask", ("m.webp", mask))], n="2", strength="0.5", steps="4", seed="7",
                  quality="hd", scheduler="euler_a", output_format="webp", lora="bold")
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-rigserve-dropped-fields"] == "quality"
    got = seen(rig)
    assert got["path"] == EDITS
    body = got["body"]
    assert body.pop("images") == [{"image_url": "data:image/png;base64," + base64.b64encode(picture).decode()}]
    assert body.pop("mask") == {"image_url": "data:image/webp;base64," + base64.b64encode(mask).decode()}
    assert body == {"model": "digits-sd", "prompt": "a seven", "n": 2, "strength": 0.5, "steps": 4, "seed": 7, "scheduler": "euler_a",
                    "output_format": "webp", "lora": "bold", "response_format": "b64_json"}
    line = rig.gateway.last_request()
    assert (line["route"], line["images"], line["steps"]) == (EDITS, 2, 8)


def test_json_with_the_picture_in_it_is_the_same(rig: Rig) -> None:
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    answer = rig.gateway.post(EDITS, {"model": "digits-sd", "prompt": "x", "images": [{"image_url": url}], "size": "16x24"})
    assert answer.status_code == 200, answer.text
    assert seen(rig)["body"]["images"] == [{"image_url": url}]
    assert seen(rig)["body"]["size"] == "16x24"
    metrics = rig.gateway.http.get("/metrics").text
    assert 'gen_ai_server_request_duration_seconds_count{card="sim-0",gen_ai_operation_name="image_edit"' in metrics
    assert 'rigserve_requests_total{code="",ending="served",model="digits-sd",route="/v1/images/edits"}' in metrics


def test_openai_s_own_client(rig: Rig) -> None:
    with rig.gateway.sdk() as client:
        made = client.images.edit(model="digits-sd", image=("a.png", png()), prompt="a seven", response_format="b64_json", n=1)
        assert base64.b64decode(made.data[0].b64_json).startswith(b"\x89PNG")
        events = list(client.images.edit(model="digits-sd", image=[("a.png", png())], prompt="a seven", stream=True))
    assert [event.type for event in events] == ["image_edit.progress"] * 10 + ["image_edit.completed"]
    assert base64.b64decode(events[-1].b64_json).startswith(b"\x89PNG")


@pytest.mark.parametrize(("files", "fields", "param"), [
    ([], {}, "image"), ([("image", png()), ("image", png())], {}, "image"), ([("image[]", png()), ("image[]", png())], {}, "image"),
    ([("image", b"GIF89a" + bytes(100))], {}, "image"), ([("image", b"")], {}, "image"), ([("image", png()[:30])], {}, "image"),
    ([("image", png(kind="BMP"))], {}, "image"), ([("image", png()), ("mask", png(8, 8))], {}, "mask"),
    ([("image", png()), ("mask", b"no")], {}, "mask"), ([("image", png()), ("other", png())], {}, "other"),
    ([("image", png())], {"strength": "0"}, "strength"), ([("image", png())], {"strength": "nan"}, "strength"),
    ([("image", png())], {"strength": "1e0"}, "strength"), ([("image", png())], {"n": "two"}, "n"), ([("image", png())], {"n": "0"}, "n"),
    ([("image", png())], {"prompt": ""}, "prompt"), ([("image", png())], {"prompt": "x" * 40_000}, "prompt"),
    ([("image", png())], {"stream": "yes"}, "stream"), ([("image", png())], {"size": "33x32"}, "size"),
    ([("image", png())], {"size": "64x64"}, "size"), ([("image", png())], {"lora": "../../x"}, "lora"),
    ([("image", png())], {"scheduler": "magic"}, "scheduler"), ([("image", png())], {"lora_path": "/x"}, "lora_path"),
    ([("image", png())], {"stream": "true", "response_format": "url"}, "response_format"),
    ([("image", png())], {"partial_images": "2", "n": "2"}, "partial_images"),
])  # fmt: skip
def test_what_is_wrong_names_its_field_and_reaches_no_engine(rig: Rig, files: list[Any], fields: dict[str, str], param: str) -> None:
    before = len(rig.engines["digits"].state()["seen"])
    answer = edit(rig, [(name, ("f", data)) for name, data in files], **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert len(rig.engines["digits"].state()["seen"]) == before


def test_bombs_and_large_uploads(rig: Rig) -> None:
    bomb = bytearray(png())
    bomb[16:24] = (50_000).to_bytes(4, "big") * 2
    assert "50000 x 50000" in edit(rig, [("image", ("b.png", bytes(bomb)))]).json()["error"]["message"]
    assert "8,388,608" in edit(rig, [("image", ("b.png", png() + bytes(9_000_000)))]).json()["error"]["message"]
    assert edit(rig, [("image", ("b.png", png() + bytes(11_000_000)))]).status_code == 413


@pytest.mark.parametrize(("own", "fitted"), [((500, 100), (32, 8)), ((20, 20), (16, 16)), ((32, 24), (32, 24))])
def test_a_picture_of_any_size_is_fitted_by_the_engine(rig: Rig, own: tuple[int, int], fitted: tuple[int, int]) -> None:
    """The gateway sizes the job by it, for the choice of a card, and leaves the picture's turning to the engine."""
    assert edit(rig, [("image", ("a.png", png(*own)))]).status_code == 200
    assert "size" not in seen(rig)["body"]
    body, kind = form([("image", ("a.png", png(*own)))], prompt="x")
    geometry = catalogue().get("digits-sd").image
    assert definite_size(read_edit_request(body, kind), geometry, Need(width_px=32, height_px=32)) == fitted


def test_a_stream_tells_each_step_and_is_metered(rig: Rig) -> None:
    with rig.gateway.http.stream("POST", IMAGES, json={"model": "digits-sd", "prompt": "x", "steps": 3, "n": 2, "stream": True}) as answer:
        text = answer.read().decode()
    assert answer.headers["content-type"].startswith("text/event-stream")
    kinds = [line.removeprefix("event: image_generation.") for line in text.splitlines() if line.startswith("event:")]
    assert kinds == ["progress"] * 3 + ["completed"] * 2
    assert text.endswith("data: [DONE]\n\n")
    line = rig.gateway.last_request()
    assert (line["ending"], line["images"], line["steps"], line["stream"]) == ("served", 2, 6, True)


def test_a_client_that_leaves_a_stream_frees_the_engine(rig: Rig) -> None:
    rig.engines["digits"].set(step_s=0.1)
    with rig.gateway.http.stream("POST", IMAGES, json={"model": "digits-sd", "prompt": "x", "steps": 100, "stream": True}) as answer:
        next(answer.iter_bytes())
    until(lambda: rig.engines["digits"].state()["aborted"] == 1, "the engine sees it")
    assert rig.gateway.last_request()["ending"] == "client_gone"


@pytest.mark.parametrize(("fault", "code"), [
    ("die_mid_stream", "backend_failed"), ("eof_without_done", "backend_failed"), ("bad_chunk", "backend_failed"),
    ("error_event", "backend_out_of_memory"),
])
@pytest.mark.parametrize("after", [1, 3])
def test_a_stream_that_breaks_never_ends_as_if_it_were_whole(rig: Rig, fault: str, code: str, after: int) -> None:
    rig.engines["digits"].fault(fault, after_tokens=after)
    body = {"model": "digits-sd", "prompt": "x", "steps": 5, "stream": True}
    if after == 1:  # nothing was sent: an error with a status
        answer = rig.gateway.post(IMAGES, body)
        assert answer.status_code >= 500
        assert answer.json()["error"]["code"] == code
    else:
        pieces: list[bytes] = []
        with rig.gateway.http.stream("POST", IMAGES, json=body) as answer, pytest.raises(httpx.RemoteProtocolError):
            pieces.extend(answer.iter_bytes(1))
        assert json.loads(b"".join(pieces).decode().split("data: ")[-1])["error"]["code"] == code
    assert rig.gateway.last_request()["ending"] == "failed"
    rig.engines["digits"].fault(None)


@pytest.mark.parametrize("body", [
    b"", b"--b", b"--b\r\n\r\n--b--", b"--b\r\ncontent-disposition: form-data\r\n\r\nx\r\n--b--\r\n", b"--c\r\n\r\n\r\n--c--",
    b'--b\r\ncontent-disposition: form-data; name="prompt"\r\n\r\nhello',
    b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n\xff\r\n--b--\r\n',
    b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n' * 2 + b"--b--\r\n",
    b"--b\r\n" + b"x: " + b"y" * 5000 + b"\r\n\r\n\r\n--b--\r\n",
    b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n' * (MAX_PARTS + 1) + b"--b--\r\n",
])  # fmt: skip
def test_broken_forms_are_sentences(body: bytes) -> None:
    with pytest.raises(InvalidValue) as error:
        read_edit_request(body, "multipart/form-data; boundary=b")
    assert 10 < len(error.value.message) < 300


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "b" * 71,
                                  "multipart/form-data; boundary*=utf-8''b", "MULTIPART/FORM-DATA"])
def test_a_form_without_a_boundary(kind: str) -> None:
    with pytest.raises(InvalidValue, match="boundary"):
        read_edit_request(b"--b--", kind)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_break_the_reader(data: bytes, framed: bool) -> None:
    body = b'--b\r\ncontent-disposition: form-data; name="' + data + b"--b--" if framed else data
    try:
        read_form(body, "multipart/form-data; boundary=b")
    except InvalidValue:
        return


def test_a_stream_is_read_wherever_the_reads_fall() -> None:
    whole = (b'event: image_generation.progress\ndata: {"type":"image_generation.progress","step":1}\n\n: working\n\n'
             b'event: image_generation.completed\ndata: {"type":"image_generation.completed","usage":{"steps":1}}\n\ndata: [DONE]\n\n')
    for cut in range(len(whole)):
        stream = ImageStream()
        out = stream.feed(whole[:cut]) + (stream.feed(whole[cut:]) if not stream.done else b"")
        assert (out, stream.done, stream.pictures, stream.usage) == (whole, True, 1, {"steps": 1})
    empty = ImageStream()
    empty.feed(b"data: [DONE]\n\n")
    assert empty.broken == "the engine ended its answer without a picture"
