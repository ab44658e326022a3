"""Each key has a prefix cache of its own inside vLLM: its salt goes into every block's hash. A client's own never gets there."""

from __future__ import annotations

from services.gateway.backends import Backend
from services.gateway.door import Caller
from services.sizing.types import Engine


def salted(body: bytes, caller: Caller | None, backend: Backend) -> bytes:
    """The JSON object `body` with the key's salt at its end, for vLLM; no other engine shares a cache between requests by content."""
    if caller is None or caller.salt is None or backend.engine is not Engine.VLLM:
        return body
    return body.rstrip()[:-1] + caller.salt
