"""The last look at memory: refused with the arithmetic when the plan's bytes are not there."""

from __future__ import annotations

from services.hardware.memory import DeviceMemory
from services.worker.admission import Free, device_free, refusal, simulated_free
from tests.worker.sample import BILL, CPU, GIB, MIB, RTX3060TI, placement, plan


def test_the_worked_number() -> None:
    bill = type(BILL)(4 * GIB, GIB, GIB // 2, GIB // 4, 0, GIB // 4)
    where = placement(RTX3060TI, bill=bill)
    sentence = refusal(where, RTX3060TI, device_free(DeviceMemory(8 * GIB, int(2.5 * GIB), int(5.5 * GIB))))
    assert sentence is not None
    for part in ("6.00 GiB on NVIDIA GeForce RTX 3060 Ti", "weights 4.00 GiB + KV cache 1.00 GiB", "5.50 GiB are free", "0.50 GiB short",
                 "2.50 GiB of 8.00 GiB in use by all programs"):
        assert part in sentence
    assert "graphs" not in sentence
    assert refusal(where, RTX3060TI, device_free(DeviceMemory(8 * GIB, 2 * GIB, 6 * GIB))) is None


def test_unknown_memory_is_no_reason_to_refuse() -> None:
    free = device_free(None)
    assert free == Free(None, None, "the driver doesn't tell")
    assert refusal(placement(RTX3060TI), RTX3060TI, free) is None


def test_a_simulated_card_is_shared_by_its_placements() -> None:
    mine, other = placement(CPU), placement(CPU, ident="image-0")
    shared = plan(CPU, mine, other)
    free = simulated_free(shared, mine, CPU, 64 * GIB)
    assert free.free_bytes == CPU.total_bytes - BILL.total_bytes
    assert "1 other placement" in free.source


def test_a_simulated_card_has_no_more_than_the_host() -> None:
    mine = placement(CPU)
    free = simulated_free(plan(CPU, mine), mine, CPU, 100 * MIB)
    assert (free.free_bytes, free.source) == (100 * MIB, "available RAM of this host")
    sentence = refusal(mine, CPU, free)
    assert sentence is not None
    assert "available RAM of this host" in sentence
