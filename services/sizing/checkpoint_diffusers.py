"""A diffusers folder: model_index.json names the parts, each part's safetensors headers say what it weighs.

Worked number: Stable Diffusion 1.5's three parts (UNet 859,520,964 + CLIP-L 123,060,480 + VAE 83,653,863 parameters) in fp16 are
2,132,470,614 bytes.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from services.sizing.checkpoint import PICKLED, SPLIT, Checkpoint, CheckpointError, Files, TensorInfo, parts_of, reader_of
from services.sizing.checkpoint_json import MAX_CONFIG_BYTES, parse_object, whole
from services.sizing.checkpoint_safetensors import read_safetensors
from services.sizing.types import ImageComponent, ImageGeometry

ComponentRole = Literal["denoiser", "text_encoder", "vae", "other"]
INDEX = "model_index.json"
# Weights that are looked up or added, not multiplied: bitsandbytes leaves them alone although they are matrices.
_LOOKED_UP = ("token_embedding", "position_embedding", "embed_tokens", "relative_attention_bias", "shared.weight", "pos_embed")
_NOT_LOADED = ("safety_checker", "image_encoder")
_VARIANT = re.compile(r"\.(fp16|bf16|non_ema)(?=[.-])")


def is_diffusers(sizes: dict[str, int]) -> bool:
    return INDEX in sizes


def read_diffusers(files: Files, sizes: dict[str, int]) -> Checkpoint:
    """Every part that is loaded (the safety checker is not); the fp16 files where both kinds are there. Raises CheckpointError."""
    index = _json(files, sizes, INDEX)
    components, tensors, file_bytes = [], [], 0
    for name in sorted(index):
        if not _is_part(index[name]) or name in _NOT_LOADED:
            continue
        weights = _weight_files(sizes, name)
        if not weights:
            continue
        part = [info for path in weights for info in read_safetensors(reader_of(files, path), path, sizes[path], name)]
        tensors += part
        file_bytes += sum(sizes[path] for path in weights)
        components.append(ImageComponent(name, role_of(name), sum(info.elements for info in part), _linear_params(part)))
    if not any(part.role == "denoiser" for part in components):
        raise CheckpointError(f"{INDEX}: no unet or transformer with safetensors weights in this folder; a pipeline needs one.")
    image = _geometry(files, sizes, str(index.get("_class_name", ""))[:120], tuple(components))
    return Checkpoint("diffusers", tuple(tensors), file_bytes, _dtype(tensors), image=image)


def role_of(name: str) -> ComponentRole:
    if name in ("unet", "transformer", "prior"):
        return "denoiser"
    if name.startswith("text_encoder"):
        return "text_encoder"
    return "vae" if name in ("vae", "vqvae") else "other"


def _is_part(entry: Any) -> bool:
    """A part is written as [library, class]; both null means: left out."""
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(word, str) for word in entry)


def _weight_files(sizes: dict[str, int], part: str) -> list[str]:
    """The safetensors of one part: one precision only, its sharded form only when no single file is there."""
    found = [path for path in sizes if path.startswith(f"{part}/") and path.count("/") == 1]
    weights = [path for path in found if path.endswith(".safetensors")]
    if not weights and any(path.endswith(PICKLED) for path in found):
        raise CheckpointError(f"{part}: the weights are pickles (.bin, .pt), which can run code when opened; safetensors are needed.")
    for wanted in (".fp16.", "plain"):
        chosen = [path for path in weights if (wanted in path if wanted != "plain" else not _VARIANT.search(path))]
        if chosen:
            single = [path for path in chosen if not SPLIT.search(path)]
            return single[:1] or parts_of(sizes, chosen[0])
    return sorted(weights)


def _linear_params(part: list[TensorInfo]) -> int:
    return sum(
        info.elements
        for info in part
        if len(info.shape) == 2 and info.name.endswith(".weight") and not any(word in info.name for word in _LOOKED_UP)
    )


def _dtype(tensors: list[TensorInfo]) -> str | None:
    bytes_of: dict[str, int] = {}
    for tensor in tensors:
        bytes_of[tensor.dtype] = bytes_of.get(tensor.dtype, 0) + tensor.size_bytes
    most = max(bytes_of, key=lambda dtype: bytes_of[dtype]) if bytes_of else ""
    return {"F16": "fp16", "BF16": "bf16", "F32": "fp32"}.get(most)


def _json(files: Files, sizes: dict[str, int], name: str) -> dict[str, Any]:
    if name not in sizes:
        return {}
    return parse_object(reader_of(files, name)(0, MAX_CONFIG_BYTES + 1), name)


def _geometry(files: Files, sizes: dict[str, int], pipeline: str, components: tuple[ImageComponent, ...]) -> ImageGeometry:
    denoiser_name = next(part.name for part in components if part.role == "denoiser")
    denoiser, vae = _json(files, sizes, f"{denoiser_name}/config.json"), _json(files, sizes, "vae/config.json")
    blocks = vae.get("block_out_channels")
    scale_px = 2 ** (min(len(blocks), 8) - 1) if isinstance(blocks, list) and blocks else 8
    sample = whole(denoiser, "sample_size", f"{denoiser_name}/config.json") or 128
    # FLUX and SD3.5-turbo have the guidance distilled in; the doubled batch of classifier-free guidance is all the others' habit.
    distilled = pipeline.startswith("Flux")
    # A patch of 2 latents to a token makes a side a multiple of twice the VAE's factor.
    patch = whole(denoiser, "patch_size", f"{denoiser_name}/config.json") or (2 if distilled else 1)
    return ImageGeometry(
        pipeline=pipeline or "DiffusionPipeline",
        components=components,
        native_px=min(sample * scale_px, 65536),
        multiple_px=max(8, scale_px * max(1, min(patch, 16))),  # diffusers' pipelines ask for a multiple of 8 whatever the VAE
        uses_cfg=not distilled,
        # Only the SDXL pipelines look at force_upcast; where a VAE's config leaves it out, diffusers takes it as true.
        vae_upcasts=pipeline.startswith("StableDiffusionXL") and vae.get("force_upcast") is not False,
    )
