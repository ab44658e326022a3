"""Random-weight miniatures of every pipeline class that the engine may load. Runs in the diffusion environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

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
        sample_size=16, patch_size=1, in_channels=16, num_layers=1, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=32,
        caption_projection_dim=16, pooled_projection_dim=32, out_channels=16,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(16, shift_factor=0.1),
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


def latent_consistency(tokenizer: CLIPTokenizer) -> Any:
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1, cross_attention_dim=16, attention_head_dim=4,
        norm_num_groups=4, time_cond_proj_dim=8,
    )
    return LatentConsistencyModelPipeline(
        vae=vae(), text_encoder=clip(CLIPTextModel, len(tokenizer)), tokenizer=tokenizer, unet=unet, scheduler=LCMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )


def qwen(kind: Any, layers: int) -> Any:
    return kind(Qwen3Config(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, max_position_embeddings=600,
    ))


def qwen_words() -> Qwen2Tokenizer:
    """One word per byte."""
    alphabet = ["<|endoftext|>", *sorted(ByteLevel.alphabet())]
    words = Qwen2Tokenizer(vocab={piece: number for number, piece in enumerate(alphabet)}, merges=[])
    words.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return words


def flux2_klein() -> Any:
    transformer = Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )
    pictures = AutoencoderKLFlux2(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, norm_num_groups=4, sample_size=32,
    )
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=pictures, text_encoder=qwen(Qwen3ForCausalLM, 28), tokenizer=qwen_words(),
        transformer=transformer, is_distilled=True,
    )


def z_image() -> Any:
    transformer = ZImageTransformer2DModel(
        in_channels=16, dim=32, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16, axes_dims=[4, 4, 8],
        axes_lens=[1024, 64, 64],
    )
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae(16, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=qwen(Qwen3Model, 2), tokenizer=qwen_words(), transformer=transformer,
    )


def words() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(DIGITS / "tokenizer")


def makers() -> dict[str, Callable[[], Any]]:
    """One for each name in folder.PIPELINES; the weights are random, but the same each time when torch is seeded."""
    tokenizer = words()
    torch.manual_seed(0)
    return {
        "StableDiffusionPipeline": lambda: stable_diffusion(tokenizer),
        "StableDiffusionXLPipeline": lambda: stable_diffusion_xl(tokenizer),
        "LatentConsistencyModelPipeline": lambda: latent_consistency(tokenizer),
        "StableDiffusion3Pipeline": lambda: stable_diffusion_3(tokenizer),
        "PixArtAlphaPipeline": lambda: pixart(PixArtAlphaPipeline),
        "PixArtSigmaPipeline": lambda: pixart(PixArtSigmaPipeline),
        "FluxPipeline": lambda: flux(tokenizer),
        "Flux2KleinPipeline": flux2_klein,
        "ZImagePipeline": z_image,
    }
