"""The parts that trace_image_memory.py builds: public configurations (as in each repository's config.json) and the inputs of one pass.

A denoiser's inputs are for `images` images of a square side in pixels, without the second half of classifier-free guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
import transformers

Inputs = Callable[[int, int], dict[str, Any]]
Build = Callable[[], torch.nn.Module]


def empty(*shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.empty(*shape, device="meta", dtype=dtype)


# --- U-Nets -----------------------------------------------------------------------------------------------------------


def unet(cross: int, extra: Callable[[int], dict[str, Any]] = lambda images: {}, **config: Any) -> tuple[Build, Inputs]:
    def inputs(side_px: int, images: int) -> dict[str, Any]:
        sample = empty(images, 4, side_px // 8, side_px // 8)
        return {"sample": sample, "timestep": empty(images), "encoder_hidden_states": empty(images, 77, cross), **extra(images)}

    return lambda: diffusers.UNet2DConditionModel(cross_attention_dim=cross, **config), inputs


def sdxl_unet(**config: Any) -> tuple[Build, Inputs]:
    return unet(
        2048, lambda images: {"added_cond_kwargs": {"text_embeds": empty(images, 1280), "time_ids": empty(images, 6)}},
        sample_size=128, block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20), use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816, **config,
    )  # fmt: skip


# --- transformers -----------------------------------------------------------------------------------------------------


def sd3(heads: int, **config: Any) -> tuple[Build, Inputs]:
    def inputs(side_px: int, images: int) -> dict[str, Any]:
        return {"hidden_states": empty(images, 16, side_px // 8, side_px // 8), "encoder_hidden_states": empty(images, 333, 4096),
                "pooled_projections": empty(images, 2048), "timestep": empty(images)}  # fmt: skip

    def build() -> torch.nn.Module:
        return diffusers.SD3Transformer2DModel(
            sample_size=128, patch_size=2, in_channels=16, out_channels=16, joint_attention_dim=4096, pooled_projection_dim=2048,
            attention_head_dim=64, num_attention_heads=heads, caption_projection_dim=64 * heads, **config,
        )  # fmt: skip

    return build, inputs


def packed(channels: int, text: tuple[int, int], axes: int, **more: tuple[int, ...]) -> Inputs:
    """Inputs of the FLUX kind: a list of 16 x 16 px patches, text of (tokens, width), positions of `axes` numbers."""

    def inputs(side_px: int, images: int) -> dict[str, Any]:
        patches = (side_px // 16) ** 2
        plain = {"hidden_states": empty(images, patches, channels), "encoder_hidden_states": empty(images, *text),
                 "timestep": empty(images), "img_ids": empty(patches, axes), "txt_ids": empty(text[0], axes)}  # fmt: skip
        return plain | {name: empty(images, *shape) for name, shape in more.items()}

    return inputs


def latent(channels: int, shrink_px: int, text: tuple[int, int], masked: torch.dtype | None = None, **more: Any) -> Inputs:
    """Inputs of the PixArt kind: a latent picture, text of (tokens, width), and its mask."""

    def inputs(side_px: int, images: int) -> dict[str, Any]:
        plain: dict[str, Any] = {"hidden_states": empty(images, channels, side_px // shrink_px, side_px // shrink_px),
                                 "encoder_hidden_states": empty(images, *text), "timestep": empty(images)}  # fmt: skip
        if masked is not None:
            plain["encoder_attention_mask"] = empty(images, text[0], dtype=masked)
        return plain | {name: empty(images, *value) if isinstance(value, tuple) else value for name, value in more.items()}

    return inputs


def pixart() -> torch.nn.Module:
    return diffusers.PixArtTransformer2DModel(
        num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8, num_layers=28, cross_attention_dim=1152,
        sample_size=128, patch_size=2, caption_channels=4096, attention_bias=True, norm_elementwise_affine=False, norm_eps=1e-6,
        use_additional_conditions=False,
    )  # fmt: skip


def z_image_inputs(side_px: int, images: int) -> dict[str, Any]:
    pictures = [empty(16, 1, side_px // 8, side_px // 8) for _ in range(images)]
    return {"x": pictures, "t": empty(images), "cap_feats": [empty(512, 2560) for _ in range(images)]}


def qwen_inputs(side_px: int, images: int) -> dict[str, Any]:
    side = side_px // 16
    return {"hidden_states": empty(images, side * side, 64), "encoder_hidden_states": empty(images, 512, 3584),
            "encoder_hidden_states_mask": None, "timestep": empty(images), "img_shapes": [[(1, side, side)]] * images}  # fmt: skip


SD, XL, SD3 = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline"), ("StableDiffusionXLPipeline",), ("StableDiffusion3Pipeline",)
SMALL = {"sample_size": 64, "attention_head_dim": 8, "layers_per_block": 1}
DENOISERS: dict[str, tuple[str, tuple[str, ...], Build, Inputs]] = {
    "sd-1.5": ("unet", SD, *unet(768, sample_size=64, attention_head_dim=8)),
    "sd-2.1": ("unet", SD, *unet(1024, sample_size=96, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True)),
    "small-sd": ("unet", SD, *unet(768, mid_block_type="UNetMidBlock2DCrossAttn", **SMALL)),
    "tiny-sd": ("unet", SD, *unet(768, block_out_channels=(320, 640, 1280), down_block_types=("CrossAttnDownBlock2D",) * 3,
                                  up_block_types=("CrossAttnUpBlock2D",) * 3, mid_block_type=None, **SMALL)),
    "sdxl": ("unet", XL, *sdxl_unet(transformer_layers_per_block=(1, 2, 10))),
    "ssd-1b": ("unet", XL, *sdxl_unet(transformer_layers_per_block=[[1, 1], [2, 2], [4, 4]], mid_block_type="UNetMidBlock2D",
                                      reverse_transformer_layers_per_block=[[4, 4, 10], [2, 1, 1], [1, 1, 1]])),
    "segmind-vega": ("unet", XL, *sdxl_unet(transformer_layers_per_block=[[1, 1], [1, 1], [2, 2]], mid_block_type="UNetMidBlock2D",
                                            reverse_transformer_layers_per_block=[[2, 2, 2], [1, 1, 1], [1, 1, 1]])),
    "sd3-medium": ("transformer", SD3, *sd3(24, num_layers=24, pos_embed_max_size=192)),
    "sd3.5-medium": ("transformer", SD3, *sd3(24, num_layers=24, pos_embed_max_size=384, qk_norm="rms_norm",
                                              dual_attention_layers=tuple(range(13)))),
    "sd3.5-large": ("transformer", SD3, *sd3(38, num_layers=38, pos_embed_max_size=192, qk_norm="rms_norm")),
    "flux.1": ("transformer", ("FluxPipeline",), lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True),
               packed(64, (512, 4096), 3, pooled_projections=(768,), guidance=())),
    "flux.2-klein-4b": ("transformer", ("Flux2KleinPipeline",), lambda: diffusers.Flux2Transformer2DModel(
        num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680, guidance_embeds=False),
        lambda side_px, images: packed(128, (512, 7680), 4)(side_px, images) | {"guidance": None}),
    "chroma": ("transformer", ("ChromaPipeline",), lambda: diffusers.ChromaTransformer2DModel(), packed(64, (512, 4096), 3)),
    "pixart": ("transformer", ("PixArtSigmaPipeline", "PixArtAlphaPipeline"), pixart,
               latent(4, 8, (300, 4096), torch.float16, added_cond_kwargs={"resolution": None, "aspect_ratio": None})),
    "sana-1.6b": ("transformer", ("SanaPipeline",), lambda: diffusers.SanaTransformer2DModel(),
                  latent(32, 32, (300, 2304), torch.float16)),
    "auraflow": ("transformer", ("AuraFlowPipeline",), lambda: diffusers.AuraFlowTransformer2DModel(), latent(4, 8, (256, 2048))),
    "cogview4-6b": ("transformer", ("CogView4Pipeline",), lambda: diffusers.CogView4Transformer2DModel(
        num_layers=28, num_attention_heads=32, attention_head_dim=128, text_embed_dim=4096),
        latent(16, 8, (1024, 4096), original_size=(2,), target_size=(2,), crop_coords=(2,))),
    "qwen-image": ("transformer", ("QwenImagePipeline",), lambda: diffusers.QwenImageTransformer2DModel(), qwen_inputs),
    "z-image": ("transformer", ("ZImagePipeline",), lambda: diffusers.ZImageTransformer2DModel(), z_image_inputs),
}  # fmt: skip


# --- decoders and text encoders ---------------------------------------------------------------------------------------


def kl_f8(channels: int, quant: bool = True) -> torch.nn.Module:
    return diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=channels, sample_size=512,
        use_quant_conv=quant, use_post_quant_conv=quant,
    )  # fmt: skip


def dc_ae_f32() -> torch.nn.Module:
    return diffusers.AutoencoderDC(
        in_channels=3, latent_channels=32, attention_head_dim=32, encoder_block_types=("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
        decoder_block_types=("ResBlock",) * 3 + ("EfficientViTBlock",) * 3, encoder_block_out_channels=(128, 256, 512, 512, 1024, 1024),
        decoder_block_out_channels=(128, 256, 512, 512, 1024, 1024), encoder_layers_per_block=(2, 2, 2, 3, 3, 3),
        decoder_layers_per_block=(3,) * 6, encoder_qkv_multiscales=((), (), (), (5,), (5,), (5,)),
        decoder_qkv_multiscales=((), (), (), (5,), (5,), (5,)), upsample_block_type="interpolate", downsample_block_type="Conv",
        decoder_norm_types="rms_norm", decoder_act_fns="silu",
    )  # fmt: skip


def latents(channels: int, shrink_px: int, frames: tuple[int, ...] = ()) -> Inputs:
    return lambda side_px, images: {"z": empty(images, channels, *frames, side_px // shrink_px, side_px // shrink_px)}


DECODERS: dict[str, tuple[Build, Inputs]] = {
    "kl-f8": (lambda: kl_f8(4), latents(4, 8)),
    "kl-f8-16": (lambda: kl_f8(16, quant=False), latents(16, 8)),
    "taesd": (lambda: diffusers.AutoencoderTiny(), latents(4, 8)),
    "dc-ae-f32": (dc_ae_f32, latents(32, 32)),
    "qwen-image": (lambda: diffusers.AutoencoderKLQwenImage(), latents(16, 8, (1,))),
}
TILED = ("kl-f8", "kl-f8-16")


def tokens(count: int) -> dict[str, Any]:
    return {"input_ids": empty(1, count, dtype=torch.int64)}


def clip(hidden: int, layers: int, heads: int, projection: int) -> torch.nn.Module:
    config = transformers.CLIPTextConfig(
        hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers, num_attention_heads=heads, projection_dim=projection,
    )  # fmt: skip
    return transformers.CLIPTextModelWithProjection(config) if projection != 512 else transformers.CLIPTextModel(config)


def t5_xxl() -> torch.nn.Module:
    return transformers.T5EncoderModel(transformers.T5Config(
        d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu", vocab_size=32128,
    ))  # fmt: skip


def qwen3_4b() -> torch.nn.Module:
    return transformers.Qwen3Model(transformers.Qwen3Config(
        hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        vocab_size=151936, use_cache=False,
    ))  # fmt: skip


ENCODERS: dict[str, tuple[Build, Any]] = {
    "clip-l": (lambda: clip(768, 12, 12, 512), tokens(77)),
    "open-clip-h": (lambda: clip(1024, 23, 16, 512), tokens(77)),
    "open-clip-g": (lambda: clip(1280, 32, 20, 1280), tokens(77)),
    "t5-xxl": (t5_xxl, tokens(512)),
    "qwen3-4b": (qwen3_4b, tokens(512) | {"attention_mask": {"full_attention": None}}),
}
