"""Small values of the shared types for the tests of this room."""

from __future__ import annotations

from services.sizing.types import (
    Card,
    Engine,
    EngineChoice,
    FitReport,
    Hint,
    Host,
    ImageWorkload,
    MemoryBill,
    PcieLink,
    Placement,
    Plan,
    Refusal,
    Speed,
    TextWorkload,
    Verdict,
)

GIB = 2**30
HOST = Host(16 * GIB, 12 * GIB, "Celeron G3930", 2, ("sse4_2",), "x86_64")
CARD = Card("GPU-1", "NVIDIA GeForce RTX 3060 Ti", "nvidia", 8 * GIB, link=PcieLink(1, 1))
CHOICE = EngineChoice(Engine.VLLM, "vllm-cuda", "float16", reasons=("Because.",))
BILL = MemoryBill(4 * GIB, GIB, GIB // 2, GIB // 4, 0, GIB // 8)


def report(**change: object) -> FitReport:
    fields: dict[str, object] = {
        "model_id": "m", "card_id": CARD.id, "card_name": CARD.name, "simulated": False, "verdict": Verdict.FITS, "reason": "5.9 of 8",
        "variant_id": "awq", "choice": CHOICE, "workload": TextWorkload(4096, 8), "bill": BILL, "need_bytes": BILL.total_bytes,
        "have_bytes": 8 * GIB, "headroom_bytes": 8 * GIB - BILL.total_bytes, "largest": TextWorkload(8192, 8), "speed": Speed(50.5),
        "hints": (Hint("shorter context", "m", workload=TextWorkload(2048, 8)),),
    }
    return FitReport(**{**fields, **change})  # type: ignore[arg-type]


def plan() -> Plan:
    text = Placement("m-0", CARD.id, "m", "awq", CHOICE, TextWorkload(4096, 8), report())
    small = MemoryBill(GIB // 8, 0, GIB // 8, 0, 0, 0)
    image = Placement(
        "i-0", CARD.id, "i", "fp16", CHOICE, ImageWorkload(512, 768, 2),
        report(variant_id="fp16", bill=small, workload=ImageWorkload(512, 768, 2), largest=None, hints=()),
    )
    refusal = Refusal("big", (report(verdict=Verdict.DOES_NOT_FIT, bill=None, choice=None),))
    return Plan(1, HOST, (CARD,), (text, image), (refusal,), ("made by hand",))
