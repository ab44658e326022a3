"""A diffusers pipeline of a real shape with zeros for weights. Runs in the diffusion environment, from the repository's root:

    PYTHONPATH=.:models python -m tests.gpu.dummy_pipeline sd-1.5 FOLDER

The parts are built on torch's meta device from the public configurations of models/trace_image_parts.py, so nothing is computed and nothing
downloaded. `tiny` is a miniature for the CPU.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import trace_image_parts as parts
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from transformers import CLIPTextModel, CLIPTokenizer

from tests.diffusion import tiny_models
from tests.gpu.sparse import write_safetensors

TOKENIZER = Path(__file__).parents[2] / "models" / "digits-sd" / "tokenizer"
PROMPT_TOKENS = 77


def sd15() -> dict[str, Any]:
    return {"unet": parts.DENOISERS["sd-1.5"][2](), "text_encoder": parts.clip(768, 12, 12, 512), "vae": parts.kl_f8(4)}


def sdxl() -> dict[str, Any]:
    vae = parts.kl_f8(4)
    vae.register_to_config(force_upcast=True, scaling_factor=0.13025)
    return {"unet": parts.DENOISERS["sdxl"][2](), "text_encoder": parts.clip(768, 12, 12, 512),
            "text_encoder_2": parts.clip(1280, 32, 20, 1280), "vae": vae}  # fmt: skip


def tiny() -> dict[str, Any]:
    made = tiny_models.stable_diffusion(tiny_models.words())
    return {"unet": made.unet, "text_encoder": made.text_encoder, "vae": made.vae}


SHAPES: dict[str, tuple[str, type, Callable[[], dict[str, Any]]]] = {
    "sd-1.5": ("StableDiffusionPipeline", DDIMScheduler, sd15),
    "sdxl": ("StableDiffusionXLPipeline", EulerDiscreteScheduler, sdxl),
    "tiny": ("StableDiffusionPipeline", DDIMScheduler, tiny),
}


def write(name: str, folder: Path) -> None:
    pipeline, scheduler, build = SHAPES[name]
    with torch.device("meta"):
        made = build()
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {"_class_name": pipeline, "scheduler": ["diffusers", scheduler.__name__]}
    scheduler().save_pretrained(folder / "scheduler")
    for part, module in made.items():
        library = "transformers" if part.startswith("text_encoder") else "diffusers"
        index[part] = [library, type(module).__name__]
        (folder / part).mkdir(exist_ok=True)
        module.save_config(folder / part) if library == "diffusers" else module.config.save_pretrained(folder / part)
        file = "model.safetensors" if library == "transformers" else "diffusion_pytorch_model.safetensors"
        shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
        write_safetensors(folder / part / file, shapes, "F16")
        if library == "transformers":
            _tokenizer(folder / part.replace("text_encoder", "tokenizer"), module)
            index[part.replace("text_encoder", "tokenizer")] = ["transformers", "CLIPTokenizer"]
    if pipeline == "StableDiffusionPipeline":
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf8")


def _tokenizer(folder: Path, encoder: CLIPTextModel) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    tokenizer.model_max_length = min(PROMPT_TOKENS, encoder.config.max_position_embeddings)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
