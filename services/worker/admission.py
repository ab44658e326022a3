"""The last look at memory before an engine starts: is what the plan counted on still there?"""

from __future__ import annotations

from dataclasses import dataclass

from services.hardware.host import ram_available_bytes
from services.hardware.memory import DeviceMemory, device_memory
from services.sizing.types import Card, MemoryBill, Placement, Plan
from services.sizing.units import gib


@dataclass(frozen=True, slots=True)
class Free:
    """Bytes that this placement may take of its card now; None where it can't be measured. `source` says how it was found."""

    free_bytes: int | None
    used_bytes: int | None
    source: str


def measure(plan: Plan, placement: Placement, card: Card) -> Free:
    """Ask the card (NVML, amdgpu) or, for a simulated one, its budget and the host's RAM. Raises CardLostError."""
    if card.vendor == "cpu":
        return simulated_free(plan, placement, card, ram_available_bytes())
    return device_free(device_memory(card.id))


def simulated_free(plan: Plan, placement: Placement, card: Card, available_bytes: int | None) -> Free:
    """The budget less the bills of the other placements that always stay on the card, and no more than the host's available RAM. Those on
    demand are not counted: the gateway has them unloaded where there is no room for both."""
    others = [
        p.report.bill.total_bytes for p in plan.placements
        if p.card_id == card.id and p.id != placement.id and p.report.bill and not p.on_demand
    ]  # fmt: skip
    left_bytes = card.total_bytes - sum(others)
    if available_bytes is not None and available_bytes < left_bytes:
        return Free(available_bytes, None, "available RAM of this host")
    return Free(left_bytes, None, f"budget {gib(card.total_bytes)} less {gib(sum(others))} of {len(others)} other placement(s)")


def device_free(memory: DeviceMemory | None) -> Free:
    if memory is None:
        return Free(None, None, "the driver doesn't tell")
    return Free(memory.free_bytes, memory.used_bytes, f"{gib(memory.used_bytes)} of {gib(memory.total_bytes)} in use by all programs")


def refusal(placement: Placement, card: Card, free: Free) -> str | None:
    """Why the engine must not start, with the arithmetic; None when it may (also when nothing could be measured).

    Worked number: a bill of 6.00 GiB with 5.50 GiB free is refused, 0.50 GiB short.
    """
    bill = placement.report.bill
    if bill is None or free.free_bytes is None or bill.total_bytes <= free.free_bytes:
        return None
    return (
        f"not started: {placement.model_id} ({placement.variant_id}) needs {gib(bill.total_bytes)} on {card.name} ({_lines(bill)}), "
        f"{gib(free.free_bytes)} are free ({free.source}): {gib(bill.total_bytes - free.free_bytes)} short. "
        f"Free the memory and POST /restart, or make the plan again."
    )


def _lines(bill: MemoryBill) -> str:
    lines = (("weights", bill.weights_bytes), ("KV cache", bill.kv_cache_bytes), ("activations", bill.activation_bytes),
             ("engine", bill.engine_bytes), ("graphs", bill.graphs_bytes), ("reserve", bill.reserve_bytes),
             ("measured beyond that", bill.measured_extra_bytes))
    return " + ".join(f"{name} {gib(size)}" for name, size in lines if size)
