"""What a denoising step, a VAE decode and a text encode keep on the card beside weights: image_activations.yaml, traced, as bytes.

`live` is what tensors hold at the worst moment (torch.cuda.max_memory_allocated would say so); `card` is the smallest memory with which
torch's caching allocator gets through: what is split between blocks is lost to the job. A megapixel is 1024 x 1024 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

MIB = 2**20
MEGAPIXEL = 1024 * 1024
Measure = Literal["live", "card"]
# On top of what was traced (which counts a copy of each convolution's input, in the layout of its kernel) cuDNN asks for up to half a GiB.
# FLUX.1's decode took 2.41, 8.05, 16.07 and 30.1 GiB at 1, 4, 8 and 16 images (image-025 to -028): 1.88 an image, and this.
CUDNN_WORKSPACE_BYTES = 512 * MIB
# A decoded picture waits for the others of its batch, and once more while they are put together: 3 channels each.
_PICTURE_VALUES = 2 * 3


@dataclass(frozen=True, slots=True)
class Area:
    """How much is worked on at once: `images` pictures of so many megapixels, computed in `dtype_bytes`."""

    megapixels: float
    images: int
    dtype_bytes: float


@dataclass(frozen=True, slots=True)
class Line:
    """MiB in 16 bit: so many for each megapixel, and so many for each image."""

    per_megapixel_mib: float
    per_image_mib: float

    def of(self, area: Area) -> float:
        """Bytes. Worked number: FLUX.1's step, live, 1024 x 1024: 412.5 + 55.5 = 468 MiB."""
        return area.images * area.dtype_bytes / 2 * MIB * (self.per_megapixel_mib * area.megapixels + self.per_image_mib)


@cache
def _raw() -> Any:
    return yaml.safe_load((files("services.sizing") / "image_activations.yaml").read_text(encoding="utf8"))


def step_bytes(pipeline: str, kind: str, params: int, area: Area, measure: Measure) -> float:
    """One pass of the denoiser; classifier-free guidance works on twice the images at once.

    1. Architectures of the same pipeline class, where one was traced: the one nearest in parameters.
    2. Else those of the same kind (unet or transformer): the one nearest in parameters.
    """
    traced = _raw()["denoisers"]
    same = {name: row for name, row in traced.items() if pipeline in row["pipelines"]}  # 1
    chosen = _nearest(same, params) if same else _denoiser(kind, params)  # 2
    return Line(*chosen[measure]).of(area)


def decode_bytes(params: int, area: Area, measure: Measure, *, sliced: bool = False, tiled: bool = False) -> float:
    """The VAE's decode, by the decoder nearest in parameters; `sliced` decodes one image after another, `tiled` also in tiles of 512 px.

    Worked numbers, live: 1024 x 1024 in 16 bit with FLUX.1's VAE: 1,920.5 MiB + 512 MiB of workspace = 2.38 GiB (2.41 measured); four of
    them in fp32: 15.5 GiB (15.2 measured with SDXL).
    """
    row = _nearest(_raw()["decoders"], params)
    at_once = Area(area.megapixels, 1, area.dtype_bytes) if sliced or tiled else area
    kept = (area.images - at_once.images) * area.megapixels * MEGAPIXEL * _PICTURE_VALUES * area.dtype_bytes
    worked, most = Line(*row[measure]).of(at_once), at_once.images * at_once.megapixels
    if tiled and "tiled" in row and Line(*row["tiled"][measure]).of(at_once) < worked:
        worked, most = Line(*row["tiled"][measure]).of(at_once), 0.25
    return worked + kept + CUDNN_WORKSPACE_BYTES * min(1.0, most)


def encode_bytes(params: int, dtype_bytes: float, measure: Measure) -> float:
    """One prompt through the text encoder nearest in parameters, at its full length. Worked number: T5-XXL, 512 tokens, live: 88 MiB."""
    return float(_nearest(_raw()["encoders"], params)[measure] * MIB * dtype_bytes / 2)


def qkv_params(kind: str, params: int) -> int:
    """The query, key and value matrices of a denoiser, which fuse_qkv_projections() keeps twice. Worked number: FLUX.1: 2,152,378,368."""
    return int(_denoiser(kind, params)["qkv_params"])


def fp8_kept_share(kind: str, params: int) -> float:
    """The share that layerwise casting to fp8 leaves in 16 bit. Worked number: FLUX.1: 3,247,664,192 of 11,901,408,320."""
    row = _denoiser(kind, params)
    return float(row["fp8_kept_params"] / row["params"])


def _denoiser(kind: str, params: int) -> Mapping[str, Any]:
    traced = _raw()["denoisers"]
    return _nearest({name: row for name, row in traced.items() if row["kind"] == kind} or traced, params)


def _nearest(rows: Mapping[str, Mapping[str, Any]], params: int) -> Mapping[str, Any]:
    return min(rows.values(), key=lambda row: abs(math.log(max(params, 1) / row["params"])))
