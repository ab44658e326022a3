"""What may be loaded: a diffusers folder of a known pipeline, with safetensors, without code."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from services.diffusion.contract import WeightsRefused
from services.diffusion.folder import PIPELINES, abilities, inspect
from services.wire.images import SCHEDULERS
from tests.diffusion.conftest import SETTINGS

DIGITS = Path(__file__).parents[2] / "models" / "digits-sd"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DIGITS, tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_model_of_this_project_may_be_loaded(folder: Path) -> None:
    seen = inspect(folder)
    assert (seen.pipeline, seen.absent) == ("StableDiffusionPipeline", ())
    assert sorted((part.name, part.library, part.class_name, part.variant) for part in seen.parts) == [
        ("text_encoder", "transformers", "CLIPTextModel", None), ("unet", "diffusers", "UNet2DConditionModel", None),
        ("vae", "diffusers", "AutoencoderKL", None),
    ]


def test_half_precision_files_are_found_by_their_suffix(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert {part.name: part.variant for part in inspect(folder).parts} == {"text_encoder": None, "unet": "fp16", "vae": None}


def test_a_part_that_was_not_fetched_is_left_out_only_if_it_is_optional(folder: Path) -> None:
    edit(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
         feature_extractor=["transformers", "CLIPImageProcessor"])
    assert inspect(folder).absent == ("feature_extractor", "safety_checker")
    shutil.rmtree(folder / "vae")
    with pytest.raises(WeightsRefused, match="no folder 'vae'"):
        inspect(folder)


def test_a_part_that_is_left_out_needs_not_be_there(folder: Path) -> None:
    shutil.rmtree(folder / "text_encoder")
    seen = inspect(folder, ("text_encoder",))
    assert seen.absent == ("text_encoder", "tokenizer")
    assert {part.name for part in seen.parts} == {"unet", "vae"}
    with pytest.raises(WeightsRefused, match="no part 'text_encoder_3'"):
        inspect(folder, ("text_encoder_3",))


def test_a_part_outside_of_the_folder_is_refused(folder: Path) -> None:
    edit(folder / "model_index.json", **{"../vae": ["diffusers", "AutoencoderKL"]})
    with pytest.raises(WeightsRefused, match="no name of a folder"):
        inspect(folder)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_what_each_pipeline_can_do(folder: Path, pipeline: str) -> None:
    edit(folder / "model_index.json", _class_name=pipeline)
    able = abilities(inspect(folder), replace(SETTINGS, loras=(("x", Path("x.safetensors")),)))
    distilled = abilities(inspect(folder), replace(SETTINGS, distilled=True))
    classic = pipeline.startswith(("StableDiffusionP", "StableDiffusionXL", "PixArt"))
    assert able.schedulers == (SCHEDULERS if classic else ())
    assert able.edits == (not pipeline.startswith(("PixArt", "Flux2")))
    assert able.masks == (able.edits and not pipeline.startswith("Latent"))
    assert able.negative_prompt == (not pipeline.startswith(("Flux", "Latent")))
    assert (able.guidance_limit, able.loras) == (None, ("x",))
    assert distilled.guidance_limit == (None if pipeline in ("FluxPipeline", "LatentConsistencyModelPipeline") else 1.0)
    assert not distilled.negative_prompt


def test_other_classes_are_refused(folder: Path) -> None:
    for name in ("StableVideoDiffusionPipeline", ["my_module", "MyPipeline"], None, "os.system"):
        edit(folder / "model_index.json", _class_name=name)
        with pytest.raises(WeightsRefused, match="StableDiffusionPipeline"):
            inspect(folder)


def test_parts_from_other_libraries_are_refused(folder: Path) -> None:
    edit(folder / "model_index.json", unet=["my_unet", "UNet"])
    with pytest.raises(WeightsRefused, match="my_unet"):
        inspect(folder)


def test_code_is_refused(folder: Path) -> None:
    edit(folder / "unet" / "config.json", auto_map={"AutoModel": "evil--model.Net"})
    with pytest.raises(WeightsRefused, match="auto_map"):
        inspect(folder)
    shutil.copy(DIGITS / "unet" / "config.json", folder / "unet" / "config.json")
    (folder / "unet" / "unet.py").write_text("print('hi')")
    with pytest.raises(WeightsRefused, match=r"unet/unet\.py"):
        inspect(folder)


def test_pickles_are_refused(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(WeightsRefused, match="safetensors"):
        inspect(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_broken_json_is_one_sentence(folder: Path, content: str) -> None:
    (folder / "model_index.json").write_text(content)
    with pytest.raises(WeightsRefused, match="Fetch the model again"):
        inspect(folder)


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused, match="not a diffusers folder"):
        inspect(tmp_path / "nothing")
