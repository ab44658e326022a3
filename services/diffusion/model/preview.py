"""An unfinished picture: what the VAE makes of the latents between two steps."""

from __future__ import annotations

from typing import Any

import torch


def decoded(pipe: Any, latents: torch.Tensor) -> Any:
    """The pictures (batch, height, width, 3) as float32 in 0..1; None for pipelines whose latents are packed in a way of their own.

    It takes no more memory than the decode at the end of the job: nothing of a step is alive between two steps.
    """
    vae = pipe.vae
    if latents.ndim != 4 or latents.shape[1] != vae.config.latent_channels or getattr(vae.config, "latents_mean", None) is not None:
        return None
    upcast = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    if upcast:
        vae.to(torch.float32)
    try:
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        images = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor + shift, return_dict=False)[0]
    finally:
        if upcast:
            vae.to(torch.float16)
    return pipe.image_processor.postprocess(images, output_type="np")
