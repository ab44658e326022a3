"""Draws pictures with digits-sd through plain diffusers. Runs in the diffusion environment (torch, diffusers).

    python tests/models/draw_digits.py REQUEST.json OUT.npz

REQUEST holds {"weights", "prompts", "seeds", "steps", "guidance", "negative_prompt"}; OUT gets `pictures`, uint8 (n, height, width, 3).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

BATCH = 50


def load(weights: str | Path) -> StableDiffusionPipeline:
    torch.set_num_threads(1)
    pipe = StableDiffusionPipeline.from_pretrained(weights, local_files_only=True, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(
    pipe: StableDiffusionPipeline,
    prompts: list[str],
    seeds: list[int],
    steps: int,
    guidance: float,
    negative_prompt: str | None = None,
    size_px: int | None = None,
) -> np.ndarray:
    """uint8 (n, height, width, 3). Each picture has its own seed, so it does not depend on the batch it was drawn in."""
    parts = []
    for start in range(0, len(prompts), BATCH):
        some = prompts[start : start + BATCH]
        parts.append(
            pipe(
                some,
                negative_prompt=None if negative_prompt is None else [negative_prompt] * len(some),
                generator=[torch.Generator().manual_seed(seed) for seed in seeds[start : start + BATCH]],
                num_inference_steps=steps,
                guidance_scale=guidance,
                height=size_px,
                width=size_px,
                output_type="np",
            ).images
        )
    return (np.concatenate(parts) * 255).round().astype(np.uint8)


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf8"))
    np.savez(sys.argv[2], pictures=draw(load(request.pop("weights")), **request))


if __name__ == "__main__":
    main()
