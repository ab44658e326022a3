"""How many requests an engine has in hand, from its own /metrics. Pure: text in, number out."""

from __future__ import annotations

import re

from services.sizing.types import Engine

# The gauges whose sum is what runs and what waits (vLLM: vllm/v1/metrics/loggers.py; llama.cpp: tools/server/server-context.cpp;
# diffusion: services/diffusion/metrics.py, where one gauge counts both).
GAUGES: dict[Engine, tuple[str, ...]] = {
    Engine.VLLM: ("vllm:num_requests_running", "vllm:num_requests_waiting"),
    Engine.LLAMACPP: ("llamacpp:requests_processing", "llamacpp:requests_deferred"),
    Engine.DIFFUSERS: ("rigserve_diffusion_queue_depth",),
}
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{.*\})? ([0-9.eE+]+)(?: -?\d+)?$", re.MULTILINE)


def requests_in_flight(engine: Engine, exposition: str) -> int | None:
    """The sum of the engine's gauges over all label sets; None when one of them is not there or is no number.

    `exposition`: Prometheus' text format.
    Worked number: vllm:num_requests_running{engine="0"} 2.0 and vllm:num_requests_waiting{engine="0"} 1.0 are 3.
    """
    found: dict[str, float] = {}
    for name, value in _SAMPLE.findall(exposition):
        if name in GAUGES[engine]:
            try:
                found[name] = found.get(name, 0.0) + float(value)
            except ValueError:
                return None
    return round(sum(found.values())) if len(found) == len(GAUGES[engine]) else None
