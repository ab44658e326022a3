"""Is this a diffusers folder that may be loaded? Read from its JSON and its file names, before torch is imported.

Nothing that can run code is ever opened: no pickles, no Python of the repository, no pipeline class that is not on the list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.diffusion.contract import WeightsRefused

PIPELINES = (
    "FluxPipeline",
    "PixArtAlphaPipeline",
    "PixArtSigmaPipeline",
    "StableDiffusion3Pipeline",
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
)
# The libraries that model_index.json may take its parts from. `stable_diffusion` is how the safety checker's module is named there.
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
# Parts with tensors; every other part (tokenizers, schedulers, image processors) is JSON and text.
WEIGHTLESS = ("scheduler", "feature_extractor")


@dataclass(frozen=True, slots=True)
class PipelineFolder:
    """A folder that has been looked at. `variant` is the weights' name suffix (fp16) when there is no plain form of them."""

    path: Path
    pipeline: str
    variant: str | None


def inspect(path: Path) -> PipelineFolder:
    """Look at the folder; WeightsRefused with what to do when it must not or can't be loaded.

    1. no model_index.json -> not a diffusers folder.  2. a pipeline class that is not on the list -> refused.
    3. a part from a library that is not on the list -> refused.  4. Python files, or a config with auto_map -> refused.
    5. a part with weights but without safetensors -> refused.  6. otherwise it may be loaded.
    """
    # 1.
    if not (path / "model_index.json").is_file():
        raise WeightsRefused(f"{path} is not a diffusers folder: it has no model_index.json. Name the folder that holds it.")
    index = _json(path / "model_index.json")
    # 2.
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise WeightsRefused(f"{path} is a {str(pipeline)[:100]}; this engine runs {', '.join(PIPELINES)}.")
    # 3.
    parts = list(_parts(index))
    for name, library in parts:
        if library not in LIBRARIES:
            raise WeightsRefused(f"the part '{name}' of {path} comes from {library[:100]!r}, code that this engine never loads.")
    # 4.
    _refuse_code(path)
    # 5.
    weighty = [path / name for name, _ in parts if _has_weights(path / name)]
    for part in weighty:
        if not any(part.glob("*.safetensors")):
            raise WeightsRefused(f"{part} has no safetensors weights. Pickles can run code and are never opened: fetch the safetensors.")
    # 6.
    return PipelineFolder(path, str(pipeline), _variant(weighty))


def _parts(index: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, library) of each part that the pipeline has; [null, null] is a part left out."""
    for name, value in index.items():
        if isinstance(value, list) and len(value) == 2 and value != [None, None]:
            yield name, str(value[0])


def _has_weights(part: Path) -> bool:
    return (part / "config.json").is_file() and part.name not in WEIGHTLESS and not part.name.startswith("tokenizer")


def _refuse_code(path: Path) -> None:
    scripts = sorted(p.relative_to(path).as_posix() for p in path.rglob("*.py"))
    if scripts:
        raise WeightsRefused(f"{path} carries Python code ({scripts[0]}), which this engine never runs. Remove it or choose another model.")
    for config in path.rglob("*config.json"):
        if "auto_map" in _json(config):
            raise WeightsRefused(f"{config} names Python code of its repository (auto_map), which this engine never runs.")


def _variant(parts: list[Path]) -> str | None:
    """`fp16` when some part has its weights under that suffix only; diffusers takes the plain form of the others by itself."""
    for part in parts:
        names = [p.name for p in part.glob("*.safetensors")]
        if names and all(".fp16." in name for name in names):
            return "fp16"
    return None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsRefused(f"{path} can't be read as JSON ({type(error).__name__}). Fetch the model again.") from None
    if not isinstance(value, dict):
        raise WeightsRefused(f"{path} does not hold a JSON object. Fetch the model again.")
    return value
