"""One small file per engine: (Order) -> Launch. Adding an engine is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from services.sizing.types import Engine
from services.worker.engines import diffusion, llamacpp, vllm
from services.worker.engines.order import Launch, Order

LAUNCHERS: dict[Engine, Callable[[Order], Launch]] = {
    Engine.VLLM: vllm.launch,
    Engine.LLAMACPP: llamacpp.launch,
    Engine.DIFFUSERS: diffusion.launch,
}


def launch(order: Order) -> Launch:
    """How to start the engine that the plan chose. Raises LaunchError when the placement can't be started as it is."""
    return LAUNCHERS[order.placement.choice.engine](order)
