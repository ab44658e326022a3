"""A checkpoint that is in no catalogue as a `ModelSpec`, so that the same questions can be asked about it."""

from __future__ import annotations

from collections.abc import Iterator

from services.sizing.checkpoint import Checkpoint, CheckpointError
from services.sizing.gguf_mix import mix_of
from services.sizing.params import count_params
from services.sizing.quant import UnknownQuantError, parse_scheme
from services.sizing.types import ModelKind, ModelSpec, TextGeometry, Variant, WeightSource

MADE_BY_LLAMACPP = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M")
_GENERATES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
_ENCODES = ("Bert", "Roberta", "NomicBert", "ModernBert", "Gte", "MPNet", "gemma-embedding")
_STORED = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F8_E4M3": "fp8"}


def model_of(checkpoint: Checkpoint, name: str, source: WeightSource) -> ModelSpec:
    """The model that the headers describe, called `name`, with the exact bytes that they say.

    1. No geometry (weights without their config.json): refused, nothing could be computed.
    2. A pipeline is an image model, an encoder an embedding model, anything else chats.
    3. Its variants: the files as they are; of plain 16- or 32-bit weights also what an engine makes of them while loading (bnb-nf4) and,
       of text models, the GGUF files that llama.cpp's own tools would make of them, computed from the geometry.
    Raises CheckpointError, also for a quantization that no rule describes.
    """
    # 1
    if checkpoint.text is None and checkpoint.image is None:
        raise CheckpointError(f"{name}: no config.json beside the weights, and no model_index.json; give the model's whole folder.")
    # 2
    kind: ModelKind = "image" if checkpoint.image is not None else _kind(checkpoint.text)
    # 3
    quant = _checked(checkpoint.quant or _stored(checkpoint), checkpoint, name)
    stored = Variant(
        "as-stored", checkpoint.format, quant, source, weight_bytes=checkpoint.weight_bytes, file_bytes=checkpoint.file_bytes,
        figures_source="the checkpoint's own tensor list",
    )  # fmt: skip
    return ModelSpec(
        name, name, kind, "unknown", _params(checkpoint), (stored, *_makeable(stored, kind)), text=checkpoint.text,
        image=checkpoint.image, figures_source=stored.figures_source,
    )  # fmt: skip


def _makeable(stored: Variant, kind: ModelKind) -> Iterator[Variant]:
    """What plain weights can become on this machine. Their sizes are computed; only the stored files have exact ones."""
    if stored.format == "gguf" or stored.quant not in ("bf16", "fp16", "fp32"):
        return
    if kind != "embedding":
        figures = "the same files, quantized by the engine while loading"
        yield Variant("bnb-nf4", stored.format, "bnb-nf4", stored.source, file_bytes=stored.file_bytes, figures_source=figures)
    for quant in () if kind == "image" else MADE_BY_LLAMACPP:
        figures = "a GGUF that llama.cpp's tools would make of the files, computed from the geometry"
        yield Variant(f"{quant.lower()}-made", "gguf", quant, WeightSource("converted", converted_from=stored.id), figures_source=figures)


def _kind(text: TextGeometry | None) -> ModelKind:
    assert text is not None
    encodes = text.architecture.startswith(_ENCODES) or (text.architecture.endswith("Model") and not text.architecture.endswith(_GENERATES))
    return "embedding" if encodes else "chat"


def _stored(checkpoint: Checkpoint) -> str:
    """The type that most bytes have."""
    bytes_of: dict[str, int] = {}
    for tensor in checkpoint.tensors:
        bytes_of[tensor.dtype] = bytes_of.get(tensor.dtype, 0) + tensor.size_bytes
    most = max(bytes_of, key=lambda dtype: bytes_of[dtype], default="unknown")
    return _STORED.get(most, most)


def _checked(quant: str, checkpoint: Checkpoint, name: str) -> str:
    try:
        if checkpoint.format == "gguf":
            mix_of(quant)
        else:
            parse_scheme(quant)
    except UnknownQuantError as error:
        raise CheckpointError(f"{name}: {error}") from None
    return quant


def _params(checkpoint: Checkpoint) -> int | None:
    """Parameters: counted from the geometry where the weights are packed, else the tensors' own elements."""
    if checkpoint.format == "gguf" or checkpoint.text is None or checkpoint.quant in (None, "bf16", "fp16", "fp32"):
        return sum(tensor.elements for tensor in checkpoint.tensors)
    return count_params(checkpoint.text)
