"""Rows as load generators write them, for tests that need a whole result."""

from __future__ import annotations

from typing import Any

from loadtest.record import Record, to_row

START = 1000.0


def stream(at_s: float, ttft_s: float = 0.2, itl_s: float = 0.02, tokens: int = 11, **more: Any) -> dict[str, Any]:
    """A streamed chat that was answered whole."""
    last = ttft_s + itl_s * (tokens - 1)
    given: dict[str, Any] = {
        "ending": "ok", "status": 200, "streamed": True, "first_s": ttft_s, "last_s": last, "end_s": last, "chunks": tokens,
        "output_tokens": tokens, "prompt_tokens": 7, "tokens_source": "usage", "wanted_tokens": tokens, "finish": "length", "card": "GPU-1",
    }  # fmt: skip
    return to_row(Record("chat_stream", START + at_s, **(given | more)))


def started() -> dict[str, Any]:
    return {"type": "started", "unix_s": START}


def idle(at_s: float, lag_s: float = 0.001) -> dict[str, Any]:
    return {"type": "generator", "generator": 0, "unix_s": START + at_s, "lags_s": [lag_s] * 20, "cpu_percent": 10.0}
