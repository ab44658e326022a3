"""Every image model of the catalogue is one that this engine runs, with defaults that it does not refuse itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from services.diffusion.folder import PIPELINES, PipelineFolder, abilities
from services.diffusion.settings import check
from services.diffusion.validation import generation_from
from services.sizing.catalogue import load_catalogue
from services.sizing.types import ModelSpec
from tests.diffusion.conftest import SETTINGS

MODELS = [model for model in load_catalogue().models if model.image is not None]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_a_request_that_names_nothing_is_a_job(model: ModelSpec) -> None:
    shape = model.image
    assert shape is not None
    assert shape.pipeline in PIPELINES
    settings = check(replace(
        SETTINGS, native_px=shape.native_px, max_width_px=shape.native_px, max_height_px=shape.native_px, multiple_px=shape.multiple_px,
        default_steps=shape.default_steps, default_guidance_scale=shape.default_guidance_scale, distilled=not shape.uses_cfg,
    ))
    able = abilities(PipelineFolder(Path("x"), shape.pipeline, (), ()), settings)
    assert able.guidance_limit is None or shape.default_guidance_scale <= able.guidance_limit
    job, _ = generation_from(b'{"prompt": "x"}', settings, able)
    assert (job.width_px, job.steps, job.guidance_scale) == (shape.native_px, shape.default_steps, shape.default_guidance_scale)
