"""The micro-benchmark of `rigserve probe`: what one CUDA card really does, as one line of JSON.

It runs as a script in an engine's own environment (torch with CUDA, nothing of ours), with CUDA_VISIBLE_DEVICES naming the card. Each
arithmetic figure comes from a kernel that is one instruction over and over, written in PTX so that no compiler can choose another.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

THREADS = 256
BLOCKS_PER_SM = 16
LANES = 8  # independent chains in each thread, so that latency is hidden
UNROLLED = 16
TARGET_MS = 40.0
REPEATS = 5
MATRIX_SIDE = 4096
COPY_BYTES = 256 * 2**20
PINNED_BYTES = 64 * 2**20
NO_TORCH, NO_CARD = 3, 4


@dataclass(frozen=True)
class Instruction:
    """`ptx` works on %0 (the chain) and the constants %1, %2; `operations` is what one execution counts for."""

    name: str
    kind: str
    start: str
    constants: tuple[str, str]
    ptx: str
    operations: int


# fma.rn and mul.rn + add.rn with their rounding written out are never fused or split by ptxas. Half: 0x3BFF is just under 1, 0x1000 tiny.
INSTRUCTIONS = (
    Instruction("fp32_fma_flops", "float", "threadIdx.x * 1e-3f", ("0.999f", "0.001f"), "fma.rn.f32 %0, %0, %1, %2;", 2),
    Instruction(
        "fp32_mul_add_flops", "float", "threadIdx.x * 1e-3f", ("0.999f", "0.001f"), "mul.rn.f32 %0, %0, %1; add.rn.f32 %0, %0, %2;", 2
    ),
    Instruction("hfma2_flops", "unsigned", "0x38003800u", ("0x3BFF3BFFu", "0x10001000u"), "fma.rn.f16x2 %0, %0, %1, %2;", 4),
    Instruction("dp4a_ops_per_s", "int", "(int)threadIdx.x", ("0x01020304", "0x04030201"), "dp4a.s32.s32 %0, %1, %2, %0;", 8),
)


def source_of(instruction: Instruction) -> str:
    """CUDA C of a kernel `loop(out, rounds)`: `rounds` x UNROLLED x LANES executions in each thread."""
    letter = "f" if instruction.kind == "float" else "r"
    first, second = instruction.constants
    chains = "\n".join(f"  {instruction.kind} x{lane} = {instruction.start} + {lane};" for lane in range(LANES))
    step = "\n".join(
        f'    asm volatile("{instruction.ptx}" : "+{letter}"(x{lane}) : "{letter}"(c1), "{letter}"(c2));' for lane in range(LANES)
    )
    total = " + ".join(f"x{lane}" for lane in range(LANES))
    return (
        f'extern "C" __global__ void loop({instruction.kind}* out, int rounds) {{\n'
        f"  {instruction.kind} c1 = {first}, c2 = {second};\n{chains}\n  for (int r = 0; r < rounds; ++r) {{\n"
        + "\n".join([step] * UNROLLED)
        + f"\n  }}\n  out[blockIdx.x * blockDim.x + threadIdx.x] = {total};\n}}\n"
    )


def executions(rounds: int, blocks: int) -> int:
    """How often a launch runs the instruction. Worked number: 10 rounds on 2 blocks: 10 x 16 x 8 x 256 x 2 = 655,360."""
    return rounds * UNROLLED * LANES * THREADS * blocks


def main() -> int:
    try:
        import torch
    except ImportError:
        print("torch is not installed in this environment", file=sys.stderr)
        return NO_TORCH
    if not torch.cuda.is_available():
        print("torch sees no CUDA card: is the driver loaded, and does its version suit this torch build?", file=sys.stderr)
        return NO_CARD
    figures: dict[str, Any] = {"name": torch.cuda.get_device_name(0), "total_bytes": torch.cuda.mem_get_info(0)[1]}
    figures |= {one.name: _or_none(one.name, partial(_rate, torch, one)) for one in INSTRUCTIONS}
    for name, measure in (("hgemm_flops", _hgemm), ("bandwidth_bytes_per_s", _copy), ("host_to_card_bytes_per_s", _upload)):
        figures[name] = _or_none(name, partial(measure, torch))
    print(json.dumps(figures))
    return 0


def _or_none(name: str, measure: Callable[[], float]) -> float | None:
    """A figure, or None with the reason on stderr: a card or a torch that can't do one thing may still do the rest."""
    try:
        return measure()
    except (RuntimeError, AttributeError, ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return None


def _rate(torch: Any, instruction: Instruction) -> float:
    kernel = torch.cuda._compile_kernel(source_of(instruction), "loop")
    blocks = torch.cuda.get_device_properties(0).multi_processor_count * BLOCKS_PER_SM
    kinds = {"float": torch.float32, "unsigned": torch.int32, "int": torch.int32}
    out = torch.empty(blocks * THREADS, dtype=kinds[instruction.kind], device="cuda")

    def launch(rounds: int) -> None:
        kernel(grid=(blocks, 1, 1), block=(THREADS, 1, 1), args=[out, rounds])

    trial_ms = max(_best_ms(torch, lambda: launch(8)), 0.01)
    rounds = max(8, min(100_000, int(8 * TARGET_MS / trial_ms)))
    return executions(rounds, blocks) * instruction.operations / (_best_ms(torch, lambda: launch(rounds)) / 1e3)


def _hgemm(torch: Any) -> float:
    left, right = (torch.ones((MATRIX_SIDE, MATRIX_SIDE), dtype=torch.float16, device="cuda") / MATRIX_SIDE for _ in range(2))
    return float(2 * MATRIX_SIDE**3 / (_best_ms(torch, lambda: torch.matmul(left, right)) / 1e3))


def _copy(torch: Any) -> float:
    """Read and written: twice the bytes."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return float(2 * COPY_BYTES / (_best_ms(torch, lambda: target.copy_(source)) / 1e3))


def _upload(torch: Any) -> float:
    source = torch.zeros(PINNED_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(PINNED_BYTES, dtype=torch.uint8, device="cuda")
    return float(PINNED_BYTES / (_best_ms(torch, lambda: target.copy_(source, non_blocking=True)) / 1e3))


def _best_ms(torch: Any, work: Callable[[], object]) -> float:
    """The shortest of some runs by the card's own clock, after one to warm up."""
    work()
    torch.cuda.synchronize()
    times = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return float(min(times))


if __name__ == "__main__":
    raise SystemExit(main())
