"""Does an engine make tokens? Asked with a request of one token, on its own route: /health alone can't tell an engine that hangs."""

from __future__ import annotations

import time
from typing import Any

import orjson

from services.gateway.backends import Backend
from services.gateway.upstream import UpstreamError

HEARTBEAT_ID = "rigserve-heartbeat"


def heartbeat_request(backend: Backend, chat: bool) -> tuple[str, dict[str, Any]]:
    """Route and body of the smallest request that makes the engine work."""
    if backend.kind == "image":
        size = f"{backend.image.width_px}x{backend.image.height_px}" if backend.image else None
        return "/v1/images/generations", {"model": backend.model_id, "prompt": "1", "n": 1, "steps": 1} | ({"size": size} if size else {})
    if backend.kind == "embedding":  # llama.cpp answers 501 when such a model is asked for text
        return "/v1/embeddings", {"model": backend.model_id, "input": "1"}
    if backend.kind == "rerank":
        return "/v1/rerank", {"model": backend.model_id, "query": "1", "documents": ["1"]}
    if chat:
        return "/v1/chat/completions", {"model": backend.model_id, "max_tokens": 1, "messages": [{"role": "user", "content": "1"}]}
    return "/v1/completions", {"model": backend.model_id, "max_tokens": 1, "prompt": "1"}


async def is_well(backend: Backend, timeout_s: float) -> bool:
    """Whether it answers within `timeout_s`, or at least answered someone meanwhile: busy is not hung. Any 4xx is an answer; a server that
    has no completions is asked for a chat."""
    began_s = time.monotonic()
    try:
        status = await _ask(backend, timeout_s, chat=False)
        if status in (404, 405) and backend.kind in ("text", None):
            status = await _ask(backend, timeout_s, chat=True)
    except (UpstreamError, TimeoutError):
        return backend.heard_s > began_s
    return status < 500


async def _ask(backend: Backend, timeout_s: float, chat: bool) -> int:
    path, body = heartbeat_request(backend, chat)
    status, _ = await backend.upstream.fetch("POST", path, orjson.dumps(body), timeout_s=timeout_s, request_id=HEARTBEAT_ID)
    return status


def models_of(body: bytes) -> frozenset[str]:
    """The ids that a `GET /v1/models` lists; none when it is no such list."""
    try:
        listed = orjson.loads(body)["data"]
        return frozenset(entry["id"] for entry in listed if isinstance(entry["id"], str))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return frozenset()
