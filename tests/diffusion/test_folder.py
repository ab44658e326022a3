"""What may be loaded: a diffusers folder of a known pipeline, with safetensors, without code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from services.diffusion.contract import WeightsRefused
from services.diffusion.folder import inspect

DIGITS = Path(__file__).parents[2] / "models" / "digits-sd"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DIGITS, tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_model_of_this_project_may_be_loaded(folder: Path) -> None:
    seen = inspect(folder)
    assert (seen.pipeline, seen.variant) == ("StableDiffusionPipeline", None)


def test_half_precision_files_are_found_by_their_suffix(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    assert inspect(folder).variant == "fp16"


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
