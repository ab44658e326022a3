"""Builds a random-weight miniature of every pipeline class that the engine may load, loads it through the engine's own code and
generates. Runs in the diffusion environment, as a process: `python -m tests.diffusion.tiny_pipelines FOLDER` prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]

import torch  # noqa: E402
from diffusers import (  # noqa: E402
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker  # noqa: E402
from transformers import (  # noqa: E402
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from services.diffusion.__main__ import parse  # noqa: E402
from services.diffusion.contract import ImageJob, JobStopped, Step  # noqa: E402
from services.diffusion.folder import inspect  # noqa: E402
from services.diffusion.model.loading import load  # noqa: E402
from services.diffusion.model.painter import DiffusersPainter  # noqa: E402

DIGITS = Path(__file__).parents[2] / "models" / "digits-sd"


def vae(latent_channels: int = 4, **more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels, norm_num_groups=4, sample_size=32, **more,
    )


def clip(kind: type, words: int) -> Any:
    return kind(CLIPTextConfig(
        vocab_size=words, hidden_size=16, projection_dim=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    ))


def t5(words: int, width: int = 16) -> T5EncoderModel:
    return T5EncoderModel(T5Config(vocab_size=words, d_model=width, d_ff=16, d_kv=8, num_layers=1, num_heads=2))


def stable_diffusion(tokenizer: CLIPTokenizer) -> Any:
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1, cross_attention_dim=16, attention_head_dim=4,
        norm_num_groups=4,
    )
    return StableDiffusionPipeline(
        vae=vae(), text_encoder=clip(CLIPTextModel, len(tokenizer)), tokenizer=tokenizer, unet=unet, scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )


def stable_diffusion_xl(tokenizer: CLIPTokenizer) -> Any:
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1, cross_attention_dim=32, attention_head_dim=4,
        norm_num_groups=4, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16, use_linear_projection=True,
    )
    return StableDiffusionXLPipeline(
        vae=vae(force_upcast=True), text_encoder=clip(CLIPTextModel, len(tokenizer)), tokenizer=tokenizer,
        text_encoder_2=clip(CLIPTextModelWithProjection, len(tokenizer)), tokenizer_2=tokenizer, unet=unet,
        scheduler=EulerDiscreteScheduler(),
    )


def stable_diffusion_3(tokenizer: CLIPTokenizer) -> Any:
    words = T5Tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=32,
        caption_projection_dim=16, pooled_projection_dim=32, out_channels=4,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(shift_factor=0.1),
        text_encoder=clip(CLIPTextModelWithProjection, len(tokenizer)), tokenizer=tokenizer,
        text_encoder_2=clip(CLIPTextModelWithProjection, len(tokenizer)), tokenizer_2=tokenizer,
        text_encoder_3=t5(len(words), width=32), tokenizer_3=words,
        feature_extractor=None, image_encoder=None,
    )


def pixart(kind: Any) -> Any:
    words = T5Tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=16, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2, caption_channels=16, in_channels=4,
        cross_attention_dim=16, out_channels=8, norm_type="ada_norm_single",
    )
    return kind(tokenizer=words, text_encoder=t5(len(words)), vae=vae(), transformer=transformer, scheduler=DPMSolverMultistepScheduler())


def flux(tokenizer: CLIPTokenizer) -> Any:
    words = T5Tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip(CLIPTextModel, len(tokenizer)), tokenizer=tokenizer, text_encoder_2=t5(len(words)), tokenizer_2=words,
        transformer=transformer,
    )


def painter_of(folder: Path, *flags: str) -> DiffusersPainter:
    settings = parse([*f"--weights {folder} --model-id tiny --max-width-px 32 --max-height-px 32 --native-px 32 --max-batch 2".split(), *flags])
    return load(settings, inspect(folder))


def try_out(folder: Path) -> dict[str, Any]:
    """Load and generate as the engine does: 3 images in batches of 2, the middle one alone, and a job stopped after one step."""
    painter = painter_of(folder)
    step_s: list[Step] = []
    job = ImageJob("a photo of the digit seven", "blurry", 32, 16, 3, 3.0, (7, 8, 9))
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
        "times_positive": min(made.encode_s, made.denoise_s, made.vae_s) > 0,
    }


def blackened(target: Path, tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """Stable Diffusion as its makers ship it, with a safety checker; this one dislikes everything."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 16}
    checker = StableDiffusionSafetyChecker(CLIPConfig(
        text_config={**small, "vocab_size": 100}, vision_config={**small, "image_size": 32, "patch_size": 16}, projection_dim=16,
    ))
    checker.concept_embeds_weights.data.fill_(-10)  # the score that an image may reach before it is blackened
    pipe = stable_diffusion(tokenizer)
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
    tokenizer = CLIPTokenizer.from_pretrained(DIGITS / "tokenizer")
    torch.manual_seed(0)
    makers = {
        "StableDiffusionPipeline": lambda: stable_diffusion(tokenizer),
        "StableDiffusionXLPipeline": lambda: stable_diffusion_xl(tokenizer),
        "StableDiffusion3Pipeline": lambda: stable_diffusion_3(tokenizer),
        "PixArtAlphaPipeline": lambda: pixart(PixArtAlphaPipeline),
        "PixArtSigmaPipeline": lambda: pixart(PixArtSigmaPipeline),
        "FluxPipeline": lambda: flux(tokenizer),
    }
    results = {}
    for name, make in makers.items():
        make().save_pretrained(target / name, safe_serialization=True)
        results[name] = try_out(target / name)
    results["blackened"] = blackened(target / "blackened", tokenizer)
    results["foreign errors"] = foreign_errors(target / "StableDiffusionPipeline")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
