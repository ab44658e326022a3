"""Trace what image models keep alive while they work: .venvs/diffusion-cpu/bin/python models/trace_image_memory.py [NAME ...] [--out FILE]

Each part of a pipeline is built from its public configuration on torch's *meta* device (shapes without memory), checked by its parameter
count, and run once. A dispatch mode counts every storage that an operation makes and every one that dies, rounded to 512 bytes as torch's
CUDA allocator does. Two things that a GPU does otherwise than meta are put in: attention makes its output and no score matrix (flash or
memory-efficient kernels, which keep the heads last in memory), and a convolution holds a copy of its input in the layout of its kernel.
The same events are replayed through a model of the CUDA caching allocator, which loses some room to fragments.

`card` is the smallest memory with which that allocator gets through. With --out services/sizing/image_activations.yaml the sizing reads it.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import torch.nn.functional as F
import transformers
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROUND_BYTES = 512
MIB = 2**20


# --- counting ---------------------------------------------------------------------------------------------------------


class Ledger(TorchDispatchMode):
    """Live bytes of every storage made inside it, their peak, and the order of it all (+size, key) and (-size, key)."""

    def __init__(self, own: list[torch.Tensor]) -> None:
        super().__init__()
        self._known = {tensor.untyped_storage()._cdata for tensor in own}
        self._next = 0
        self.live_bytes = self.peak_bytes = 0
        self.peak_at = ""
        self.events: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._made(leaf, str(func))
        if func is torch.ops.aten.convolution.default:
            image = args[0]
            self._workspace(image.numel() * image.element_size(), f"{func} {tuple(image.shape)}")
        return out

    def _made(self, tensor: torch.Tensor, by: str) -> None:
        storage = tensor.untyped_storage()
        mark = storage._cdata
        if mark in self._known:
            return
        size = -(-storage.nbytes() // ROUND_BYTES) * ROUND_BYTES
        self._known.add(mark)
        key = self._grow(size, f"{by} {tuple(tensor.shape)}")
        weakref.finalize(storage, self._died, mark, key, size)

    def _grow(self, size: int, by: str) -> int:
        self._next += 1
        self.live_bytes += size
        self.events.append((size, self._next))
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_at = self.live_bytes, by
        return self._next

    def _died(self, mark: int, key: int, size: int) -> None:
        self._known.discard(mark)
        self._shrink(size, key)

    def _shrink(self, size: int, key: int) -> None:
        self.live_bytes -= size
        self.events.append((-size, key))

    def _workspace(self, size: int, by: str) -> None:
        self._shrink(size, self._grow(size, f"workspace of {by}"))


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """What a fused attention kernel allocates: its output, stored (batch, length, heads, width)."""
    batch, heads, length, _ = query.shape
    return query.new_empty((batch, length, heads, value.shape[-1])).transpose(1, 2)


@contextmanager
def fused_attention() -> Iterator[None]:
    real = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = attention  # type: ignore[assignment]
    torch.nn.functional.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = real


def run(part: torch.nn.Module, inputs: dict[str, Any], call: Callable[..., Any] | None = None) -> Ledger:
    """One pass of `part`; the inputs count as alive the whole time (the pipeline holds them)."""
    ledger = Ledger([*part.parameters(), *part.buffers()])
    for tensor in tree_leaves(inputs):
        if isinstance(tensor, torch.Tensor):
            ledger._made(tensor, "input")
    with torch.no_grad(), fused_attention(), ledger:
        out = (call or part)(**inputs)
    del out
    return ledger


# --- the caching allocator --------------------------------------------------------------------------------------------


@dataclass
class Allocator:
    """torch's CUDACachingAllocator in its default settings, as far as sizes go: two pools, best fit, split, merge.

    Segments stay reserved until the card is full; then those that are wholly free are given back, and MemoryError if that is not enough.
    """

    capacity_bytes: int
    reserved_bytes: int = 0
    _free: list[tuple[int, int, int]] = field(default_factory=list)  # (size, segment, offset); segments of the small pool are negative
    _used: dict[Any, tuple[int, int, int]] = field(default_factory=dict)
    _lengths: dict[int, int] = field(default_factory=dict)

    def replay(self, events: list[tuple[int, int]], times: int = 2) -> int:
        """The reserved bytes after so many passes of the same job. Raises MemoryError."""
        for turn in range(times):
            for size, key in events:
                if size > 0:
                    self._allocate(size, (turn, key))
                else:
                    self._release(self._used.pop((turn, key)))
        return self.reserved_bytes

    def _allocate(self, size: int, key: Any) -> None:
        small = size <= MIB
        fitting = [block for block in self._free if block[0] >= size and (block[1] < 0) == small]
        if fitting:
            block = min(fitting)
            self._free.remove(block)
        else:
            block = self._segment(2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB, small)
        length, segment, offset = block
        if length - size >= (ROUND_BYTES if small else MIB + 1):
            self._free.append((length - size, segment, offset + size))
            length = size
        self._used[key] = (length, segment, offset)

    def _segment(self, length: int, small: bool) -> tuple[int, int, int]:
        if self.reserved_bytes + length > self.capacity_bytes:
            for block in [block for block in self._free if self._lengths[block[1]] == block[0]]:
                self._free.remove(block)
                self.reserved_bytes -= block[0]
            if self.reserved_bytes + length > self.capacity_bytes:
                raise MemoryError
        self.reserved_bytes += length
        segment = (len(self._lengths) + 1) * (-1 if small else 1)
        self._lengths[segment] = length
        return length, segment, 0

    def _release(self, block: tuple[int, int, int]) -> None:
        size, segment, offset = block
        for other in [other for other in self._free if other[1] == segment]:
            if other[2] + other[0] == offset or offset + size == other[2]:
                self._free.remove(other)
                size, offset = size + other[0], min(offset, other[2])
        self._free.append((size, segment, offset))


def smallest_card_bytes(events: list[tuple[int, int]]) -> int:
    """The least memory with which the allocator gets through the job twice, to 4 MiB: tensors and what is split between them."""
    low, high = 0, Allocator(2**50).replay(events)
    while high - low > 4 * MIB:
        middle = (low + high) // 2
        try:
            Allocator(middle).replay(events)
            high = middle
        except MemoryError:
            low = middle
    return high


# --- measuring --------------------------------------------------------------------------------------------------------

SIDES_PX = (512, 1024, 2048)


def affine(part: torch.nn.Module, inputs: Callable[[int, int], dict[str, Any]], call: Callable[..., Any] | None) -> dict[str, list[float]]:
    """live and card as [MiB per megapixel, MiB per image]: through 1024 and 2048 px, raised until no traced side lies above."""
    found: dict[int, tuple[float, float]] = {}
    for side in SIDES_PX:
        ledger = run(part, inputs(side, 1), call)
        found[side] = (ledger.peak_bytes / MIB, smallest_card_bytes(ledger.events) / MIB)
    lines = {}
    for index, name in enumerate(("live", "card")):
        slope = (found[2048][index] - found[1024][index]) / 3
        base = max(found[side][index] - slope * (side / 1024) ** 2 for side in SIDES_PX)
        lines[name] = [round(slope, 1), round(max(0.0, base), 1)]
    # Allocator noise at 512 px must not put the card's line below what tensors hold, at sizes below those traced either.
    lines["card"] = [max(pair) for pair in zip(lines["live"], lines["card"], strict=True)]
    return lines


def meta(build: Callable[[], torch.nn.Module], dtype: torch.dtype = torch.float16) -> torch.nn.Module:
    with torch.device("meta"):
        return build().to(dtype).eval()


def weights_of(part: torch.nn.Module) -> int:
    """Parameters and the buffers that a checkpoint stores, tied ones once."""
    stored = part.state_dict(keep_vars=True).values()
    return sum({id(tensor): tensor.numel() for tensor in stored}.values())


def fused_qkv_params(part: torch.nn.Module) -> int:
    """What fuse_qkv_projections() doubles: the query, key and value matrices of every attention."""
    wanted = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
    return sum(weights_of(module) for name, module in part.named_modules() if name.rsplit(".", 1)[-1] in wanted)


def fp8_kept_params(part: Any) -> int:
    """What enable_layerwise_casting() leaves at full width (norms with their modulation, patch and position embeddings). Changes `part`."""
    part.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float16)
    return sum(tensor.numel() for tensor in part.parameters() if tensor.dtype is not torch.float8_e4m3fn)


def trace(wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Every part of `trace_image_parts`, or those named."""
    from trace_image_parts import DECODERS, DENOISERS, ENCODERS, TILED

    found: dict[str, dict[str, Any]] = {"denoisers": {}, "decoders": {}, "encoders": {}}
    for name, (kind, pipelines, build, inputs) in DENOISERS.items():
        if not wanted or name in wanted:
            part = meta(build)
            row = {"kind": kind, "params": weights_of(part), "pipelines": list(pipelines), "qkv_params": fused_qkv_params(part)}
            found["denoisers"][name] = row | affine(part, inputs, None) | {"fp8_kept_params": fp8_kept_params(part)}
            told(name, found["denoisers"][name])
    for name, (build, inputs) in DECODERS.items():
        if not wanted or name in wanted:
            part = meta(build)
            row = {"params": weights_of(part)} | affine(part, inputs, lambda z, part=part: part.decode(z).sample)
            if name in TILED:
                part.enable_tiling()
                row["tiled"] = affine(part, inputs, lambda z, part=part: part.decode(z).sample)
            found["decoders"][name] = row
            told(name, row)
    for name, (build, inputs) in ENCODERS.items():
        if not wanted or name in wanted:
            part = meta(build)
            ledger = run(part, inputs)
            live_mib, card_mib = ledger.peak_bytes / MIB, smallest_card_bytes(ledger.events) / MIB
            row = {"params": weights_of(part), "live": round(live_mib, 1), "card": round(card_mib, 1)}
            found["encoders"][name] = row
            told(name, row)
    return found


def told(name: str, row: dict[str, Any]) -> None:
    sys.stdout.write(f"{name}: {row}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found = trace(set(chosen.names))
    source = (
        f"traced with diffusers {diffusers.__version__}, transformers {transformers.__version__} and torch "
        f"{torch.__version__.split('+')[0]} by models/trace_image_memory.py; MiB in 16 bit, [per megapixel, per image]"
    )
    if chosen.out is not None:
        text = yaml.safe_dump({"source": source} | found, sort_keys=False, default_flow_style=None, width=160)
        chosen.out.write_text("# Made by models/trace_image_memory.py, which says how; don't edit.\n" + text, encoding="utf8")


if __name__ == "__main__":
    main()
