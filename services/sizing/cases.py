"""Measured runs as questions: one case (a JSON object) in, one answer (a JSON object) out. Never an exception, whatever the case holds."""

from __future__ import annotations

from typing import Any

from services.sizing.case_engines import accounting_of
from services.sizing.case_fields import Case, text
from services.sizing.case_geometry import CaseError, text_geometry
from services.sizing.case_image import image_case
from services.sizing.case_quant import gguf_type
from services.sizing.case_text import autoawq_case, exllama_case, llamacpp_case, transformers_case
from services.sizing.case_vllm import vllm_case
from services.sizing.quant import UnknownQuantError

QUANTITIES = ("verdict", "weights_gib", "activation_peak_gib", "kv_available_gib", "kv_tokens", "total_peak_gib")
_TEXT = {"vllm": vllm_case, "llama.cpp": llamacpp_case, "autoawq": autoawq_case, "exllama": exllama_case,
         "transformers": transformers_case}  # fmt: skip


def evaluate(case: dict[str, Any]) -> dict[str, Any]:
    """The report of one case, or {"id", "error"}. `measured`, `notes` and `quote` are never read.

    The keys are those of QUANTITIES, sizes in GiB, null where a figure has no meaning or can't be known (no card size: no verdict).
    """
    identity = case.get("id")
    identity = identity if isinstance(identity, str | int | float) and not isinstance(identity, bool) else None
    try:
        answer = _answer(case)
    except (CaseError, UnknownQuantError) as error:
        return {"id": identity, "error": str(error)}
    except (ValueError, OverflowError, ZeroDivisionError, KeyError) as error:
        return {"id": identity, "error": f"the values of this case do not go together ({type(error).__name__}: {str(error)[:200]})."}
    ordered = {name: _rounded(answer.get(name)) for name in QUANTITIES}
    extra = {name: _rounded(value) for name, value in answer.items() if name not in ordered}
    return {"id": identity, **ordered, **extra}


def _answer(case: Case) -> dict[str, object]:
    """1. A pipeline, a resolution, kind "image" or an engine for images: an image run. 2. Else by engine."""
    accounting = accounting_of(text(case, "engine", "vllm"))
    name = text(case, "model")
    if not name:
        raise CaseError('"model" is missing.')
    # 1
    if accounting == "image" or case.get("kind") == "image" or case.get("pipeline") is not None or case.get("resolution") is not None:
        return image_case(case)
    # 2
    if accounting != "vllm" and gguf_type(text(case, "quant")) is not None:
        accounting = "llama.cpp"  # text-generation-webui and its like load GGUF files with llama.cpp
    return _TEXT[accounting](case, text_geometry(name, case.get("arch")))


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value
