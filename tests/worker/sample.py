"""Cards, placements and orders for the tests of this room: one card per class that the launchers treat differently."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from services.sizing.types import (
    Card,
    Engine,
    EngineChoice,
    FitReport,
    Host,
    ImageGeometry,
    MemoryBill,
    ModelSpec,
    Placement,
    Plan,
    TextWorkload,
    Verdict,
    Workload,
)
from services.worker.engines.order import Order

GIB = 2**30
MIB = 2**20
TOKEN = "tok-3mFz0vB2secret"
HOST = Host(8 * GIB, 6 * GIB, "Celeron G5905", 2, ("sse4_2",), "x86_64")

P106 = Card("GPU-p106", "P106-100", "nvidia", 6075 * MIB, compute_capability="6.1", spec="P106-100 6GB")
GTX1660S = Card("GPU-1660s", "NVIDIA GeForce GTX 1660 SUPER", "nvidia", 6144 * MIB, compute_capability="7.5", spec="GTX 1660 Super 6GB")
RTX3060TI = Card("GPU-3060ti", "NVIDIA GeForce RTX 3060 Ti", "nvidia", 8 * GIB, compute_capability="8.6", spec="RTX 3060 Ti 8GB")
CMP50HX = Card("GPU-50hx", "NVIDIA CMP 50HX", "nvidia", 10 * GIB, compute_capability="7.5", spec="CMP 50HX")
RX580 = Card("0000:03:00.0", "AMD Radeon RX 580 Series", "amd", 8 * GIB, gfx="gfx803", pci_address="0000:03:00.0", index=0)
CPU = Card("sim-0", "Simulated CPU card", "cpu", 4 * GIB, index=0, simulated=True)

CHAT = ModelSpec("small-chat", "Small", "chat", "apache-2.0", None, (), aliases=("small",), tool_parser="hermes")
IMAGE = ModelSpec("sd", "SD", "image", "licence", None, (),
                  image=ImageGeometry("StableDiffusionPipeline", (), 512, 8, default_steps=25, default_guidance_scale=7.5))
BILL = MemoryBill(int(0.25 * GIB), 512 * MIB, 128 * MIB, 256 * MIB, 0, 64 * MIB)


def placement(
    card: Card,
    engine: Engine = Engine.LLAMACPP,
    *,
    dtype: str = "float16",
    workload: Workload | None = None,
    bill: MemoryBill | None = BILL,
    model_id: str = "small-chat",
    quant: str = "Q4_K_M",
    ident: str = "small-0",
    choice: EngineChoice | None = None,
) -> Placement:
    chosen = choice or EngineChoice(engine, f"{engine.value}-env", dtype)
    work = workload or TextWorkload(2048, 2)
    report = FitReport(model_id, card.id, card.name, card.simulated, Verdict.FITS, "fits", "v", quant, chosen, work, bill,
                       bill.total_bytes if bill else None, card.total_bytes)
    return Placement(ident, card.id, model_id, "v", chosen, work, report)


def plan(card: Card, *placements: Placement) -> Plan:
    return Plan(1, HOST, (card,), placements)


def order(card: Card, where: Placement, **change: object) -> Order:
    base = Order(
        placement=where, card=card, host=HOST, model=CHAT, weights=Path("/w/model.gguf"), engine_host="127.0.0.1", engine_port=9101,
        token=TOKEN, token_file=Path("/run/token"), state_dir=Path("/run/state"), project=Path("/project"),
        engine_python=Path("/env/bin/python"),
    )
    return replace(base, **change)  # type: ignore[arg-type]
