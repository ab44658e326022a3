"""Edits: from a JSON body with pictures in it to a job, or one sentence with the field's name."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from services.diffusion.contract import Edit
from services.diffusion.validation import edit_from
from services.wire.errors import InvalidValue
from tests.diffusion.conftest import ABLE, SETTINGS, Connect
from tests.diffusion.painter import FakePainter

ROUTE = "/v1/images/edits"


def url(image: Image.Image, kind: str = "png") -> str:
    target = io.BytesIO()
    image.save(target, kind)
    return f"data:image/{kind};base64,{base64.b64encode(target.getvalue()).decode()}"


def picture(width_px: int = 32, height_px: int = 32, mode: str = "RGB", hole: bool = False) -> Image.Image:
    image = Image.new(mode, (width_px, height_px), "red")
    if hole:
        image.paste((0, 0, 0, 0), (0, 0, width_px // 2, height_px))
    return image


def body(**fields: Any) -> bytes:
    return json.dumps({"prompt": "seven", "images": [{"image_url": url(picture())}], **fields}).encode()


def edit(**fields: Any) -> Edit:
    made = edit_from(body(**fields), SETTINGS, ABLE)[0].edit
    assert made is not None
    return made


def refused(able: Any = ABLE, **fields: Any) -> InvalidValue:
    with pytest.raises(InvalidValue) as error:
        edit_from(body(**fields), SETTINGS, able)
    return error.value


def test_a_picture_alone_is_a_start() -> None:
    made = edit()
    assert (made.mask, made.strength, made.image.mode, made.image.size) == (None, 0.75, "RGB", (32, 32))
    assert np.asarray(made.image)[0, 0].tolist() == [255, 0, 0]


def test_a_mask_marks_what_is_painted_anew() -> None:
    made = edit(mask={"image_url": url(picture(mode="RGBA", hole=True))})
    assert made.strength == 1.0
    assert made.mask is not None
    marked = np.asarray(made.mask)
    assert (marked[:, :16] == 255).all()
    assert (marked[:, 16:] == 0).all()


def test_a_picture_with_a_hole_is_its_own_mask() -> None:
    made = edit(images=[{"image_url": url(picture(mode="RGBA", hole=True))}])
    assert made.mask is not None
    assert made.image.mode == "RGB"
    assert edit(images=[{"image_url": url(picture(mode="RGBA"))}]).mask is None


@pytest.mark.parametrize(("own", "asked", "made"), [
    ((32, 32), None, (32, 32)), ((500, 250), None, (64, 32)), ((40, 20), "auto", (40, 16)), ((500, 250), "24x48", (24, 48)),
    ((3, 3), None, (8, 8)),
])
def test_the_size_is_the_picture_s_own_cut_to_what_is_admitted(own: tuple[int, int], asked: str | None, made: tuple[int, int]) -> None:
    job, _ = edit_from(body(images=[{"image_url": url(picture(*own))}], size=asked), SETTINGS, ABLE)
    assert (job.width_px, job.height_px) == made
    assert job.edit is not None
    assert job.edit.image.size == made


@pytest.mark.parametrize(("fields", "param"), [
    ({"images": []}, "images"), ({"images": [{"image_url": url(picture())}] * 2}, "images"), ({"images": "x"}, "images"),
    ({"images": [{"file_id": "file-1"}]}, "images"), ({"images": [{"image_url": "https://elsewhere/x.png"}]}, "image"),
    ({"images": [{"image_url": "file:///etc/passwd"}]}, "image"), ({"images": [{"image_url": "data:image/png;base64,%%%"}]}, "image"),
    ({"images": [{"image_url": "data:image/png;base64,aGVsbG8="}]}, "image"),
    ({"images": [{"image_url": url(picture(), "gif").replace("gif", "png")}]}, "image"),
    ({"mask": {"image_url": url(picture(31, 32))}}, "mask"), ({"mask": {"image_url": url(Image.new("L", (32, 32)))}}, "mask"),
    ({"mask": "x"}, "mask"), ({"strength": 0}, "strength"), ({"strength": 1.1}, "strength"), ({"strength": "half"}, "strength"),
    ({"strength": 0.1, "steps": 5}, "strength"), ({"size": "72x48"}, "size"), ({"steps": 51}, "steps"), ({"lora": "other"}, "lora"),
])
def test_a_bad_value_names_its_field(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert 10 < len(error.message) < 500


def test_what_the_model_can_t_do_is_said() -> None:
    assert "from text only" in refused(replace(ABLE, edits=False)).message
    assert "leave the mask out" in refused(replace(ABLE, masks=False), mask={"image_url": url(picture(mode="RGBA", hole=True))}).message
    assert "at most 1" in refused(replace(ABLE, guidance_limit=1.0), guidance_scale=3.0).message
    assert "no negative prompt" in refused(replace(ABLE, negative_prompt=False), negative_prompt="blurry").message
    assert "its own only" in refused(replace(ABLE, schedulers=()), scheduler="euler").message
    assert "no adapter" in refused(replace(ABLE, loras=()), lora="bold").message


def test_every_field_arrives() -> None:
    job, stream = edit_from(
        body(strength=0.5, n=1, seed=3, scheduler="euler_a", lora="thin.v2", lora_scale=0.5, output_format="webp", output_compression=60,
             stream=True, partial_images=2, input_fidelity="high"), SETTINGS, ABLE)  # fmt: skip
    assert stream
    assert (job.scheduler, job.lora, job.lora_scale, job.seeds) == ("euler_a", "thin.v2", 0.5, (3,))
    assert (job.output.format, job.output.quality, job.output.partial_images) == ("webp", 60, 2)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80))
def test_no_picture_bytes_break_it(data: bytes) -> None:
    broken = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + data).decode()
    assert refused(images=[{"image_url": broken}]).param == "image"


async def test_the_route_answers_as_the_other_one(connect: Connect) -> None:
    painter = FakePainter()
    client = connect(painter)
    answer = await client.post(ROUTE, content=body(n=2, seed=4, steps=3))
    assert (answer.status_code, [entry["seed"] for entry in answer.json()["data"]]) == (200, [4, 5])
    assert painter.jobs[0].edit is not None
    assert (await client.post(ROUTE, content=body(mask={"image_url": "x"}))).json()["error"]["param"] == "mask"
    assert (await client.post(ROUTE, content=body(), headers={"authorization": "Bearer no"})).status_code == 401
    assert (await client.post(ROUTE, content=b"x" * 23_000_000)).status_code == 413
