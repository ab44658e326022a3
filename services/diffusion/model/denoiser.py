"""Where a pipeline keeps the part that is run at each step."""

from __future__ import annotations

from typing import Any

import torch


def denoiser_of(pipe: Any) -> torch.nn.Module:
    """Its UNet or its transformer."""
    return pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer
