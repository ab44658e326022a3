"""Which model a measured run is about: from its `arch` field, from the catalogue, or from geometries.yaml, by name."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from services.sizing.catalogue import load_catalogue
from services.sizing.checkpoint import CheckpointError
from services.sizing.checkpoint_config import geometry_of_config
from services.sizing.types import TextGeometry

# Words of a model's name that say how it was tuned or packed, not what shape it has.
_NOT_SHAPE = re.compile(
    r"\b(instruct|chat|it|hf|base|awq|gptq|gguf|int[348]|[348]-?bits?|bnb|nf4|unsloth|fp8|fp16|bf16|nvfp4|mxfp4|w[48]a(?:16|8)|ct|qat|quantized|"
    r"dynamic|class|shape|family|checkpoint|solidrust|meta|languageonly|autoround|iq\d_\w+|u?d?-?q\d(?:_[01k])?(?:_[smlx]+)?|mtp|with|g\d+|"
    r"thinking|\d{4}|default|tag|gemm|gemv|f16|dequantized|ptpc|block)\b"
)
# How a family is called in config.json, by what its name starts with; the first match wins.
_FAMILIES: tuple[tuple[str, str, str], ...] = (
    (r"qwen2\.5-vl|qwen2-vl", "Qwen2_5_VLForConditionalGeneration", "qwen2_5_vl"),
    (r"qwen3\.[5-9].*a\d+b", "Qwen3_5MoeForCausalLM", "qwen3_5_moe"),
    (r"qwen3\.[5-9]", "Qwen3_5ForCausalLM", "qwen3_5"),
    (r"qwen3.*a\d+b", "Qwen3MoeForCausalLM", "qwen3_moe"),
    (r"qwen3", "Qwen3ForCausalLM", "qwen3"),
    (r"qwen|qwq|deepseek-r1-distill-qwen", "Qwen2ForCausalLM", "qwen2"),
    (r"gemma-?3", "Gemma3ForConditionalGeneration", "gemma3"),
    (r"gemma-?2", "Gemma2ForCausalLM", "gemma2"),
    (r"mixtral", "MixtralForCausalLM", "mixtral"),
    (r"mistral|ministral|vistral", "MistralForCausalLM", "mistral"),
    (r"phi-?3|phi-?4", "Phi3ForCausalLM", "phi3"),
    (r"glm-?4", "Glm4ForCausalLM", "glm4"),
    (r"command-?r", "CohereForCausalLM", "cohere"),
    (r"deepseek-v3|deepseek-r1", "DeepseekV3ForCausalLM", "deepseek_v3"),
    (r"deepseek-v2", "DeepseekV2ForCausalLM", "deepseek_v2"),
    (r"", "LlamaForCausalLM", "llama"),
)
_WINDOW_PATTERN = re.compile(r"(\d+)\s*local\s*:\s*(\d+)\s*global")
_LAYER_LISTS = ("layer_types", "layers_block_type", "mlp_layer_types")
_MOST_POSITIONS = 2**24
_FILES = ("geometries.yaml", "geometries_families.yaml", "geometries_others.yaml")
_SIZE = re.compile(r"(?<![a-z0-9.])(?:\d+x)?\d+(?:\.\d+)?[bm](?![a-z0-9])")


class CaseError(ValueError):
    """A case that can't be answered; the message is the sentence for its error line."""


@dataclass(frozen=True, slots=True)
class CasePipeline:
    """A text-to-image pipeline by name: parameters of each component, how it samples and decodes, and the 16-bit type that it is run in."""

    components: dict[str, int]
    uses_cfg: bool = True
    vae_upcasts: bool = False
    dtype: str = "float16"


@dataclass(frozen=True, slots=True)
class VisionProfile:
    """What vLLM's profile run does with a vision tower: patches through it, and what each takes at its widest moment.

    bytes = patches x ((matrices x intermediate + 3 x hidden) x 2 + pixels of a patch in fp32 and 16 bit + what the text model is handed).
    """

    patches: int
    tokens_per_image: int
    hidden: int
    intermediate: int
    mlp_matrices: int
    patch_values: int
    output_values: int
    per_sequence: bool
    rotary: bool = False

    @property
    def bytes_per_image(self) -> float:
        mlp = 2.0 * (self.mlp_matrices * self.intermediate + 3 * self.hidden)
        # Rotary towers turn queries and keys in fp32: residual, norm and qkv in 16 bit (10 bytes) and four fp32 copies (16) for each value.
        attention = 26.0 * self.hidden if self.rotary else 0.0
        return self.patches * (max(mlp, attention) + 6.0 * self.patch_values + 2.0 * self.output_values)

    @property
    def kept_bytes_per_image(self) -> float:
        """What stays while the text model runs."""
        return self.patches * 2.0 * self.output_values


def plain_name(name: str) -> str:
    """A model's name without owner, packing and tuning. Worked: "unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit" -> "llama-3.1-8b"."""
    last = name.lower().split(" (")[0].rsplit("/", 1)[-1].replace("_", "-").replace(" ", "-")
    # \b does not part "q4-k-m" from its dashes, so words are matched between dashes.
    parted = _NOT_SHAPE.sub(" ", re.sub(r"-", " ", last).replace(" k ", "_k_"))
    return re.sub(r"[^a-z0-9.]+", "-", parted).strip("-.")


@cache
def _raw() -> Any:
    own, *others = (yaml.safe_load((files("services.sizing") / name).read_text(encoding="utf8")) for name in _FILES)
    return own | {"text": own["text"] + [row for other in others for row in other["text"]]}


def vision_profile(name: str) -> VisionProfile | None:
    """How the vision tower of a model is profiled; None for text models and towers without figures."""
    plain = plain_name(name)
    for row in _raw()["text"]:
        if "vision" in row and plain in row["names"]:
            return VisionProfile(**row["vision"])
    return None


@cache
def _tables() -> tuple[dict[str, TextGeometry], dict[str, CasePipeline]]:
    raw = _raw()
    texts: dict[str, TextGeometry] = {}
    for model in load_catalogue().models:
        if model.text is not None:
            texts |= {plain_name(name): model.text for name in (model.id, *model.aliases)}
    for row in raw["text"]:
        if "same_as" in row:
            geometry = texts[row["same_as"]]
        else:
            geometry = replace(geometry_of_config(row["config"]), vision_params=row.get("vision_params", 0))
        texts |= {plain_name(name): geometry for name in row["names"] if plain_name(name) not in texts}
    images = {
        name: CasePipeline(row["components"], row.get("uses_cfg", True), row.get("vae_upcasts", False), row.get("dtype", "float16"))
        for row in raw["image"] for name in row["names"]
    }  # fmt: skip
    return texts, images


def known_geometry(name: str) -> TextGeometry | None:
    """1. The model of that name. 2. The one whose whole name is part of it ("Hermes-3-Llama-3.1-8B": a tuned Llama-3.1-8B), the longest of
    several, unless the name says another size than that model's.
    """
    texts, plain = _tables()[0], plain_name(name)
    # 1
    if plain in texts:
        return texts[plain]
    # 2
    sizes = set(_SIZE.findall(plain.replace("-", " ")))
    inside = [
        known for known in texts
        if f"-{known}-" in f"-{plain}-" and len(known) >= 5 and sizes <= set(_SIZE.findall(known.replace("-", " ")))
    ]  # fmt: skip
    return texts[max(inside, key=len)] if inside else None


def text_geometry(name: str, arch: Any) -> TextGeometry:
    """The geometry of a text case. Raises CaseError when neither `arch` nor the name tells."""
    known = known_geometry(name) if arch is None else _tables()[0].get(plain_name(name))
    if arch is None:
        if known is None:
            raise CaseError(f'The model "{name[:80]}" is not known; give its config.json values as "arch".')
        return known
    if not isinstance(arch, dict):
        raise CaseError('"arch" must be an object with config.json values.')
    geometry = _of_arch(plain_name(name), arch)
    if known is not None and known.num_experts and not geometry.num_experts:
        return known  # an `arch` that leaves the experts out is not the whole model
    # Vision towers are not in `arch`; the name tells of them.
    return replace(geometry, vision_params=known.vision_params) if known is not None else geometry


def _plain_value(value: Any) -> Any:
    """A number that is written as text ("4096"), as a number."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,12}", value) else value


def _of_arch(name: str, arch: dict[str, Any]) -> TextGeometry:
    architecture, family = next((a, f) for pattern, a, f in _FAMILIES if re.match(pattern, name))
    config: dict[str, Any] = {"architectures": [architecture], "model_type": family}
    inner = arch.get("text_config")
    arch = arch | inner if isinstance(inner, dict) else arch
    config |= {key: _plain_value(value) for key, value in arch.items() if value is not None and not isinstance(value, list | dict)}
    config |= {key: arch[key] for key in _LAYER_LISTS if isinstance(arch.get(key), list)}
    config.setdefault("max_position_embeddings", 8192)
    if "sliding_window" not in arch:
        config["use_sliding_window"] = False
    pattern = _WINDOW_PATTERN.search(str(config.pop("sliding_pattern", "")))
    if pattern:
        config["sliding_window_pattern"] = min(int(pattern[1]) + int(pattern[2]), 1000)
    if config.pop("qkv_bias", False):
        config["attention_bias"] = True
    try:
        geometry = geometry_of_config(config, "arch")
    except CheckpointError as error:
        raise CaseError(str(error)) from error
    if geometry.max_position_embeddings > _MOST_POSITIONS:
        raise CaseError(f"arch: max_position_embeddings {geometry.max_position_embeddings} is beyond any model.")
    return geometry


def image_pipeline(name: str) -> CasePipeline:
    """The pipeline of an image case, by the longest known name inside the model's name that no further version digit follows ("flux" is
    not in "FLUX.2"). Raises CaseError.
    """
    plain = re.sub(r"[^a-z0-9.]+", "-", name.lower())
    found = [known for known in _tables()[1] if re.search(rf"{re.escape(known)}(?!\.?\d)", plain)]
    if not found:
        raise CaseError(f'The image model "{name[:80]}" is not known.')
    return _tables()[1][max(found, key=len)]
