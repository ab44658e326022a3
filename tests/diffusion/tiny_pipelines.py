"""Loads every miniature of tiny_models through the engine's own code and generates with it. Runs in the diffusion environment, as a
process: `python -m tests.diffusion.tiny_pipelines FOLDER` prints one JSON object.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers import StableDiffusionPipeline  # noqa: E402
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import CLIPConfig, CLIPImageProcessor  # noqa: E402

from services.diffusion.__main__ import parse  # noqa: E402
from services.diffusion.contract import Edit, ImageJob, JobStopped, Output, Picture, Step  # noqa: E402
from services.diffusion.folder import abilities, inspect  # noqa: E402
from services.diffusion.model.loading import load  # noqa: E402
from services.diffusion.model.painter import DiffusersPainter  # noqa: E402
from services.wire.images import format_of  # noqa: E402
from tests.diffusion.tiny_models import makers, stable_diffusion, words  # noqa: E402


def settings_of(folder: Path, *flags: str) -> Any:
    return parse([*f"--weights {folder} --model-id tiny --max-width-px 32 --max-height-px 32 --native-px 32 --max-batch 2".split(), *flags])


def painter_of(folder: Path, *flags: str) -> DiffusersPainter:
    settings = settings_of(folder, *flags)
    return load(settings, inspect(folder))


def paint(painter: DiffusersPainter, job: ImageJob, steps: list[Step] | None = None) -> list[bytes]:
    return [made.data for made in painter.generate(job, (steps if steps is not None else []).append, lambda: False).pictures]


def pixels(data: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def try_out(folder: Path) -> dict[str, Any]:
    """Load and generate as the engine does: 3 images in batches of 2, the middle one alone, and a job stopped after one step."""
    painter = painter_of(folder)
    able = abilities(inspect(folder), settings_of(folder))
    step_s: list[Step] = []
    job = ImageJob("a photo of the digit seven", "blurry" if able.negative_prompt else None, 32, 16, 3, 3.0, (7, 8, 9))
    made = painter.generate(job, step_s.append, lambda: False)
    again = painter.generate(job, step_s.append, lambda: False)
    calls = 0

    def stop_after_one_step() -> bool:
        nonlocal calls
        calls += 1
        return calls > 1

    with contextlib.suppress(JobStopped):
        painter.generate(job, step_s.append, stop_after_one_step)
        calls = -1  # it was not stopped
    return {
        "seeds": [p.seed for p in made.pictures],
        "sizes": [(int.from_bytes(p.data[16:20], "big"), int.from_bytes(p.data[20:24], "big")) for p in made.pictures],
        "distinct": len({p.data for p in made.pictures}),
        "repeats": [p.data for p in made.pictures] == [p.data for p in again.pictures],
        "denoise_steps": made.denoise_steps,
        "callbacks": len(step_s),
        "stop_asked": calls,
        "told": [(step.done, step.total) for step in step_s[:6]],
        "edits": edits(painter, job) if able.edits else None,
        "masks": masks(painter, job) if able.masks else None,
        "times_positive": min(made.encode_s, made.denoise_s, made.vae_s) > 0,
    }


def edits(painter: DiffusersPainter, job: ImageJob) -> dict[str, Any]:
    """From a picture, weakly and strongly, with unfinished pictures on the way."""
    before = paint(painter, job)
    start = Image.new("RGB", (job.width_px, job.height_px), "orange")
    weak, strong = (replace(job, steps=4, seeds=(1, 2, 3), edit=Edit(start, None, strength)) for strength in (0.25, 1.0))
    weak_steps: list[Step] = []
    made, far = paint(painter, weak, weak_steps), paint(painter, strong)
    partials: list[Step] = []
    one = replace(strong, seeds=(1,), output=Output("webp", 80, 2))
    last = paint(painter, one, partials)
    return {
        "repeats": made == paint(painter, weak),
        "strength_matters": bool(np.abs(pixels(made[0]) - pixels(far[0])).max() > 0),
        "steps_per_image": len(weak_steps) / 3,
        "text_as_before": paint(painter, job) == before,
        "formats": sorted({str(format_of(p.data)) for p in shown(partials)} | {str(format_of(last[0]))}),
        "partials": len(shown(partials)),
    }


def shown(steps: list[Step]) -> list[Picture]:
    return [step.partial for step in steps if step.partial is not None]


def masks(painter: DiffusersPainter, job: ImageJob) -> dict[str, Any]:
    """The right half is painted anew; the left half is the picture's, to the last bit."""
    start = Image.fromarray(np.random.default_rng(0).integers(0, 256, (job.height_px, job.width_px, 3), dtype=np.uint8))
    half = Image.new("L", start.size)
    half.paste(255, (job.width_px // 2, 0, job.width_px, job.height_px))
    masked = replace(job, seeds=(4, 5, 6), edit=Edit(start, half, 1.0))
    made = paint(painter, masked)
    middle = job.width_px // 2
    return {
        "kept": all((pixels(data)[:, :middle] == np.asarray(start)[:, :middle]).all() for data in made),
        "painted": all((pixels(data)[:, middle:] != np.asarray(start)[:, middle:]).any() for data in made),
        "repeats": made == paint(painter, masked),
    }


def schedulers(folder: Path) -> dict[str, Any]:
    """Every name of the list makes a picture of its own, twice the same, and leaves the model's own scheduler as it was."""
    painter = painter_of(folder)
    job = ImageJob("seven", None, 32, 32, 4, 3.0, (1, 2))
    own = paint(painter, job)
    made = {name: paint(painter, replace(job, scheduler=name)) for name in abilities(inspect(folder), settings_of(folder)).schedulers}
    return {
        "names": len(made),
        "distinct": len({data for pair in made.values() for data in pair}),
        "repeats": all(paint(painter, replace(job, scheduler=name)) == pair for name, pair in made.items()),
        "own_again": paint(painter, job) == own,
    }


def blackened(target: Path) -> dict[str, Any]:
    """Stable Diffusion as its makers ship it, with a safety checker; this one dislikes everything."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 16}
    checker = StableDiffusionSafetyChecker(CLIPConfig(
        text_config={**small, "vocab_size": 100}, vision_config={**small, "image_size": 32, "patch_size": 16}, projection_dim=16,
    ))
    checker.concept_embeds_weights.data.fill_(-10)  # the score that an image may reach before it is blackened
    pipe = stable_diffusion(words())
    StableDiffusionPipeline(
        **{**pipe.components, "safety_checker": checker, "feature_extractor": CLIPImageProcessor(crop_size=32, size={"shortest_edge": 32})}
    ).save_pretrained(target, safe_serialization=True)
    job = ImageJob("seven", None, 32, 32, 1, 3.0, (1, 2))
    without = painter_of(target).generate(job, lambda _: None, lambda: False)
    assert [p.filtered for p in without.pictures] == [False, False], "a safety checker that no bill counts is loaded only when asked for"
    made = painter_of(target, "--safety-checker").generate(job, lambda _: None, lambda: False)
    return {"filtered": [p.filtered for p in made.pictures], "distinct": len({p.data for p in made.pictures})}


def foreign_errors(folder: Path) -> dict[str, str]:
    """What becomes of the errors of torch, and of an output that is no number; the job after each must work."""
    painter = painter_of(folder)
    job = ImageJob("seven", None, 32, 32, 1, 3.0, (1,))
    fine = painter.generate(job, lambda _: None, lambda: False).pictures
    seen = {}
    for name, error in {
        "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
        "python": MemoryError(),
        "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        "device": torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ..."),
        "other": RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    }.items():
        with mock.patch.object(painter._pipe.unet, "forward", side_effect=error):
            seen[name] = ending(lambda: painter.generate(job, lambda _: None, lambda: False))
    decode = painter._pipe.vae.decode
    with mock.patch.object(painter._pipe.vae, "decode", lambda *a, **k: (decode(*a, **k)[0] * float("nan"),)):
        seen["nan"] = ending(lambda: painter.generate(job, lambda _: None, lambda: False))
    seen["afterwards"] = "the same" if painter.generate(job, lambda _: None, lambda: False).pictures == fine else "something else"
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    seen["cut"] = ending(lambda: painter_of(folder))
    return seen


def ending(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - which one it is, is the question
        return type(error).__name__
    return "none"


def main() -> None:
    target = Path(sys.argv[1])
    results: dict[str, Any] = {}
    for name, make in makers().items():
        make().save_pretrained(target / name, safe_serialization=True)
        results[name] = try_out(target / name)
    results["blackened"] = blackened(target / "blackened")
    results["schedulers"] = {name: schedulers(target / name) for name in ("StableDiffusionPipeline", "StableDiffusionXLPipeline")}
    results["foreign errors"] = foreign_errors(target / "StableDiffusionPipeline")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
